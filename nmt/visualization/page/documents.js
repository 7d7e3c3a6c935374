"use strict";

// Sentences with the weight of each in the margin, and that of each word as its background; a classified document.

const SHOWN_LABELS = 10;
const DOCUMENT_HINT = "Point at a word or at a weight in the margin, or tap it.";

/** Returns the colour strength of sentences and words, from 0 to 1 (Yang 2016, figure 5), 1 for the largest. */
function inksOf(sentences) {
  const words = sentences.map(({ weight, weights }) => weights.map((each) => Math.sqrt(weight) * each));
  const most = Math.max(1e-9, ...words.map((row) => Math.max(0, ...row)));
  const mostOfSentence = Math.max(1e-9, ...sentences.map(({ weight }) => weight));
  return {
    sentences: sentences.map(({ weight }) => weight / mostOfSentence),
    words: words.map((row) => row.map((value) => value / most)),
  };
}

/** Returns the largest weights of a sentence with their words. */
function largestWords({ words, weights }, count = 5) {
  return weights
    .map((weight, index) => ({ weight, word: words[index] }))
    .filter(({ weight }) => weight >= 0.01)
    .sort((one, other) => other.weight - one.weight)
    .slice(0, count);
}

/** Rows of sentences, `{ name, words, glued }`: the weight in the margin, then the words. A glued word follows without a space. */
class WeightedSentences {
  constructor(sentences, language, cellRole) {
    this.sentences = sentences;
    this.cells = [];
    this.rows = sentences.map((sentence, index) => this.row(sentence, index, language, cellRole));
  }

  row({ words, glued }, index, language, cellRole) {
    const cells = [];
    const cell = (role, kind, content) => {
      const tag = content === END ? "bdi" : "span";
      const dir = content === END ? "ltr" : undefined;
      cells.push(make(tag, { class: kind, role, dir, "data-cell": `${index} ${cells.length}` }, content));
      return cells.at(-1);
    };
    const margin = cell("rowheader", "margin", "");
    const text = make("span", { class: "words", dir: "auto", lang: language });
    words.forEach((word, column) => {
      text.append(column && !glued?.[column] ? " " : "", cell(cellRole, "word", word));
    });
    if (!words.length) text.append(make("span", { class: "empty" }, "(empty)"));
    this.cells.push(cells);
    return make("div", { class: "sentence", role: "row" }, margin, text);
  }

  /** Shows weights, `{ weight, weights }` of each sentence; null shows none. */
  show(weighted) {
    const inks = weighted && inksOf(weighted);
    this.cells.forEach(([margin, ...words], index) => {
      const weight = weighted?.[index].weight.toFixed(2);
      const { name } = this.sentences[index];
      margin.textContent = weight ?? "–";
      margin.setAttribute("aria-label", weight ? `${name}, weight ${weight}` : name);
      margin.style.setProperty("--ink-share", inks ? inks.sentences[index].toFixed(3) : 0);
      words.forEach((word, column) => {
        word.style.setProperty("--ink-share", inks ? inks.words[index][column].toFixed(3) : 0);
      });
    });
  }

  /** Explains the colours; `whole` is what the sentences are. */
  static legend(whole) {
    const sentence = make("span", { class: "margin" }, "0.25");
    const word = make("span", { class: "word" }, "word");
    for (const sample of [sentence, word]) sample.style.setProperty("--ink-share", 1);
    return make(
      "p", { class: "legend" }, sentence, ` weight of a sentence in the ${whole}, p`, make("sub", {}, "s"), "; ", word,
      " √p", make("sub", {}, "s"), " · p", make("sub", {}, "w"), ", where p", make("sub", {}, "w"),
      ` is the weight of the word in its sentence. Each colour is full for the largest value of the ${whole}.`,
    );
  }
}

/** Whether a document has this text or label. */
function documentMatches(item, matches) {
  return item.attention.some(
    (each) => matches(each.label) || matches(each.true_label ?? "")
      || each.sentences.some(({ words }) => matches(words.join(" "))),
  );
}

/** Returns the indices of documents in an order: of their lines, mistakes first, or the least or most confident first. */
function documentOrder(documents, order) {
  const indices = [...documents.keys()];
  const confidence = (index) => documents[index].attention[0].probabilities[0]?.[1] ?? 0;
  const isWrong = (index) => {
    const { label, true_label } = documents[index].attention[0];
    return true_label != null && true_label !== label;
  };
  const keys = {
    mistakes: (index) => (isWrong(index) ? -1 - confidence(index) : 1 - confidence(index)),
    unsure: confidence,
    sure: (index) => -confidence(index),
  };
  const key = keys[order];
  return key ? indices.sort((one, other) => key(one) - key(other) || one - other) : indices;
}

/** Shows the attention of a classifier in a document. */
class DocumentView {
  constructor(page, number, attention) {
    const system = page.data.systems[number];
    this.page = page;
    this.attention = attention;
    const named = attention.sentences.map(({ words }, index) => ({ name: `sentence ${index + 1}`, words }));
    const text = new WeightedSentences(named, system.language, "gridcell");
    text.show(attention.sentences);
    ({ rows: this.rows, cells: this.cells } = text);
    for (const cell of this.cells.flat()) cell.tabIndex = -1;
    this.readout = make("p", { class: "readout", role: "status", "data-hint": DOCUMENT_HINT });
    this.element = make("section", { class: "system", "aria-label": system.name }, make("h2", {}, attention.label, ...this.verdict()));
    const grid = make("div", { class: "document", role: "grid", "aria-readonly": true, "aria-label": "sentences" });
    grid.append(...this.rows);
    this.element.append(this.labels(), this.readout, grid, WeightedSentences.legend("document"));
    if (this.cells.length) this.cells[0][0].tabIndex = 0;
    selectable(grid, ".margin, .word", page, (cell) => this.selectionOf(cell), (cell, key) => this.next(cell, key));
  }

  /** Returns a selection: a sentence, whose cell is the first of its row, or a word, whose index is `column`. */
  selectionOf(cell) {
    const [index, column] = cell.dataset.cell.split(" ").map(Number);
    return { view: this, index, column: column ? column - 1 : undefined };
  }

  /** Returns the cell that a key moves to: left and right by words, up and down by sentences. */
  next(cell, key) {
    const [index, column] = cell.dataset.cell.split(" ").map(Number);
    const row = this.cells[index];
    const near = (cells) => cells?.[Math.min(column, cells.length - 1)];
    const [before, after] = [this.cells[index - 1], this.cells[index + 1]];
    const back = row[column - 1] ?? before?.at(-1) ?? cell;
    const on = row[column + 1] ?? after?.[0] ?? cell;
    const flipped = isRightToLeft(this.rows[index].lastChild);
    return {
      ArrowLeft: flipped ? on : back, ArrowRight: flipped ? back : on,
      ArrowUp: near(before), ArrowDown: near(after), Home: row[0], End: row.at(-1),
    }[key];
  }

  /** Nothing depends on the width of the window. */
  fit() {}

  /** Whether the label is the true one, if that is known. */
  verdict() {
    const { label, true_label: truth } = this.attention;
    if (truth === null || truth === undefined) return [];
    if (truth === label) return [make("span", { class: "verdict right" }, "✓ right")];
    return [make("span", { class: "verdict wrong" }, "✗ wrong: it is ", make("bdi", {}, truth))];
  }

  labels() {
    const list = make("dl", { class: "labels" });
    for (const [label, probability] of this.attention.probabilities.slice(0, SHOWN_LABELS)) {
      const bar = make("span", { class: "bar" });
      bar.style.setProperty("--share", probability);
      list.append(make("dt", {}, make("bdi", {}, label)), make("dd", {}, bar, ` ${probability.toFixed(3)}`));
    }
    return list;
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
    const sentence = this.attention.sentences[index];
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
    most.forEach(({ weight, word }, rank) => parts.push(rank ? ", " : "", name(word), ` ${weight.toFixed(2)}`));
    if (!most.length) parts.push("nothing");
    this.readout.append(...parts);
  }
}
