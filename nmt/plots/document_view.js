"use strict";

// A document as a model sees it.

const SHOWN_LABELS = 10;

class View {
  constructor(page, number, look) {
    const system = page.data.systems[number];
    this.page = page;
    this.look = look;
    this.inks = inksOf(look);
    this.rows = look.sentences.map((sentence, index) => this.row(sentence, index, system.language));
    this.readout = make("p", { class: "readout", role: "status" });
    this.element = make("section", { class: "system", "aria-label": system.name }, make("h2", {}, look.label));
    this.element.append(this.labels(), this.readout, make("div", { class: "document" }, ...this.rows), this.legend());
    this.element.addEventListener("pointerleave", () => page.select(null));
    this.element.addEventListener("focusout", () => page.select(null));
  }

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
    const margin = make("span", { class: "margin" }, sentence.weight.toFixed(2));
    margin.style.setProperty("--ink", this.inks.sentences[index].toFixed(3));
    const text = make("span", { class: "words", dir: "auto", lang: language });
    sentence.words.forEach((word, place) => {
      if (place) text.append(" ");
      const span = make("span", { class: "word" }, word);
      span.style.setProperty("--ink", this.inks.words[index][place].toFixed(3));
      span.addEventListener("pointerenter", () => this.page.select({ view: this, side: place, index }));
      text.append(span);
    });
    const row = make("div", { class: "sentence", tabindex: 0 }, margin, text);
    const choose = () => this.page.select({ view: this, side: "sentence", index });
    margin.addEventListener("pointerenter", choose);
    row.addEventListener("focus", choose);
    row.addEventListener("click", () => this.page.hold({ view: this, side: "sentence", index }));
    return row;
  }

  legend() {
    const sentence = make("span", { class: "margin" }, "0.25");
    sentence.style.setProperty("--ink", 1);
    const word = make("span", { class: "word" }, "word");
    word.style.setProperty("--ink", 1);
    return make(
      "p", { class: "legend" }, sentence, " weight of a sentence in the document, p", make("sub", {}, "s"), "; ", word,
      " √p", make("sub", {}, "s"), " p", make("sub", {}, "w"), ", p", make("sub", {}, "w"),
      " being the weight of a word in its sentence; both inks are full for the largest of the document",
    );
  }

  paint(chosen) {
    this.rows.forEach((row, index) => row.classList.toggle("chosen", Boolean(chosen) && chosen.index === index));
    this.readout.replaceChildren();
    if (!chosen) return;
    const sentence = this.look.sentences[chosen.index];
    const name = (word) => make("bdi", {}, word);
    const parts = [`sentence ${chosen.index + 1}, weight ${sentence.weight.toFixed(4)}: `];
    if (chosen.side !== "sentence") {
      parts.push(name(sentence.words[chosen.side]), ` ${sentence.weights[chosen.side].toFixed(4)}; most at `);
    }
    const most = largestWords(sentence);
    most.forEach(({ weight, word }, place) => parts.push(place ? ", " : "", name(word), ` ${weight.toFixed(2)}`));
    if (!most.length) parts.push("nothing");
    this.readout.append(...parts);
  }
}
