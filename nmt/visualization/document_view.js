"use strict";

// A document as a model sees it.

const SHOWN_LABELS = 10;
const HINT = "Point at a word or at a weight in the margin, or tap it.";

/** The attention of a classifier in one document. */
class View {
  constructor(page, number, look) {
    const system = page.data.systems[number];
    this.page = page;
    this.look = look;
    this.inks = inksOf(look);
    this.cells = [];
    this.rows = look.sentences.map((sentence, index) => this.row(sentence, index, system.language));
    this.readout = make("p", { class: "readout", role: "status", "data-hint": HINT });
    this.element = make("section", { class: "system", "aria-label": system.name }, make("h2", {}, look.label));
    const grid = make("div", { class: "document", role: "grid", "aria-readonly": true, "aria-label": "sentences" });
    grid.append(...this.rows);
    this.element.append(this.labels(), this.readout, grid, this.legend());
    if (this.cells.length) this.cells[0][0].tabIndex = 0;
    selectable(grid, ".margin, .word", page, (cell) => this.selectionOf(cell), (cell, key) => this.next(cell, key));
  }

  /** A sentence, whose cell is the first of its row, or a word, whose `column` is its number in the sentence. */
  selectionOf(cell) {
    const [index, place] = cell.dataset.place.split(" ").map(Number);
    return { view: this, index, column: place ? place - 1 : undefined };
  }

  /** The cell that a key leads to: left and right through the text, up and down from sentence to sentence. */
  next(cell, key) {
    const [index, place] = cell.dataset.place.split(" ").map(Number);
    const row = this.cells[index];
    const near = (cells) => cells?.[Math.min(place, cells.length - 1)];
    const [before, after] = [this.cells[index - 1], this.cells[index + 1]];
    const back = row[place - 1] ?? before?.at(-1) ?? cell;
    const on = row[place + 1] ?? after?.[0] ?? cell;
    const flipped = isRightToLeft(this.rows[index].lastChild);
    return {
      ArrowLeft: flipped ? on : back, ArrowRight: flipped ? back : on,
      ArrowUp: near(before), ArrowDown: near(after), Home: row[0], End: row.at(-1),
    }[key];
  }

  /** Nothing depends on the width of the window. */
  fit() {}

  labels() {
    const list = make("dl", { class: "labels" });
    for (const [label, probability] of this.look.probabilities.slice(0, SHOWN_LABELS)) {
      const bar = make("span", { class: "bar" });
      bar.style.setProperty("--share", probability);
      list.append(make("dt", {}, make("bdi", {}, label)), make("dd", {}, bar, ` ${probability.toFixed(3)}`));
    }
    return list;
  }

  /** A sentence: its weight in the margin, its words, each on a ground of its own. */
  row(sentence, index, language) {
    const cells = [];
    const cell = (role, name, ink, text, label) => {
      const place = `${index} ${cells.length}`;
      const element = make("span", { class: name, role, tabindex: -1, "data-place": place, "aria-label": label }, text);
      element.style.setProperty("--ink-share", ink.toFixed(3));
      cells.push(element);
      return element;
    };
    const weight = sentence.weight.toFixed(2);
    const spoken = `sentence ${index + 1}, weight ${weight}`;
    const margin = cell("rowheader", "margin", this.inks.sentences[index], weight, spoken);
    const text = make("span", { class: "words", dir: "auto", lang: language });
    sentence.words.forEach((word, place) => {
      text.append(place ? " " : "", cell("gridcell", "word", this.inks.words[index][place], word));
    });
    if (!sentence.words.length) text.append(make("span", { class: "empty" }, "(empty)"));
    this.cells.push(cells);
    return make("div", { class: "sentence", role: "row" }, margin, text);
  }

  legend() {
    const sentence = make("span", { class: "margin" }, "0.25");
    const word = make("span", { class: "word" }, "word");
    for (const sample of [sentence, word]) sample.style.setProperty("--ink-share", 1);
    return make(
      "p", { class: "legend" }, sentence, " weight of a sentence in the document, p", make("sub", {}, "s"), "; ", word,
      " √p", make("sub", {}, "s"), " · p", make("sub", {}, "w"), ", where p", make("sub", {}, "w"),
      " is the weight of the word in its sentence. Each colour is full for the largest value of the document.",
    );
  }

  paint(chosen) {
    for (const element of this.marked ?? []) {
      element.classList.remove("chosen");
      element.removeAttribute("aria-selected");
    }
    this.marked = [];
    this.readout.replaceChildren();
    if (!chosen) return;
    const { index, column } = chosen;
    const sentence = this.look.sentences[index];
    const cell = this.cells[index][column === undefined ? 0 : column + 1];
    this.marked = [this.rows[index], cell];
    this.rows[index].classList.add("chosen");
    mark(cell, true, this.page.pinned === chosen);
    const name = (word) => make("bdi", {}, label(word));
    const parts = [this.page.pinned ? "pinned: " : "", `sentence ${index + 1}, weight ${sentence.weight.toFixed(4)}: `];
    if (column !== undefined) {
      parts.push(name(sentence.words[column]), ` ${sentence.weights[column].toFixed(4)}; most at `);
    }
    const most = largestWords(sentence);
    most.forEach(({ weight, word }, place) => parts.push(place ? ", " : "", name(word), ` ${weight.toFixed(2)}`));
    if (!most.length) parts.push("nothing");
    this.readout.append(...parts);
  }
}
