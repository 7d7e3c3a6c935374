"use strict";

// Attention between words as tables: differences of two systems, and alignment links by hand.

/** Returns the attention of a pair between words: their texts, and the weights [target][source], without end symbols. */
function wordAttention(attention, head = -1) {
  const [source, target] = [attention.source_pieces, attention.target_pieces];
  const [sourceNumbers, targetNumbers] = [unitNumbers(source, "words"), unitNumbers(target, "words")];
  const merged = mergedWeights(weightsOf(attention, head), sourceNumbers, targetNumbers);
  const [sourceWords, targetWords] = [wordsOf(source), wordsOf(target)];
  const across = sourceNumbers.at(-1) + 1;
  const rows = targetWords.map((_, row) => sourceWords.map((_, column) => merged[row * across + column]));
  return { source: sourceWords, target: targetWords, rows };
}

/** Returns the links [source, target] of each target word to the source word of its largest weight. */
function strongestLinks({ rows }) {
  return rows.flatMap((row, target) => {
    const most = Math.max(...row);
    return most > 0 ? [[row.indexOf(most), target]] : [];
  });
}

/**
 * Returns precision, recall and alignment error rate of links against sure and possible gold links (Och and Ney 2003);
 * the possible ones contain the sure ones. A rate without a denominator is null.
 */
function alignmentScores(links, sure, possible) {
  const count = (gold) => links.filter((link) => gold.has(link)).length;
  const [inSure, inPossible] = [count(sure), count(possible)];
  const total = links.length + sure.size;
  return {
    precision: links.length ? inPossible / links.length : null,
    recall: sure.size ? inSure / sure.size : null,
    error: total ? 1 - (inSure + inPossible) / total : null,
  };
}

/** Makes a table of words: source words across, target words down. `cell(row, column)` returns a <td>. */
function wordTable(source, target, cell, languages, settings = {}) {
  const heading = make("tr", {}, make("td", { class: "corner" }));
  source.forEach((word) => heading.append(make("th", { scope: "col", lang: languages[0] }, make("bdi", {}, label(word)))));
  const body = make("tbody");
  target.forEach((word, row) => {
    const line = make("tr", {}, make("th", { scope: "row", lang: languages[1] }, make("bdi", {}, label(word))));
    source.forEach((_, column) => line.append(cell(row, column)));
    body.append(line);
  });
  return make("table", { class: "words-table", ...settings }, make("thead", {}, heading), body);
}

/** Shows the difference of the attention of two systems: of the target words that both have, for each source word. */
class DifferenceView {
  constructor(page, views) {
    this.page = page;
    this.systems = views;
    this.pair = [0, 1];
    this.table = make("div", { class: "table-frame", tabindex: 0, role: "group", "aria-label": "Difference of attention" });
    this.note = make("p", { class: "legend" });
    this.element = make("section", { class: "system difference-view", "aria-label": "Difference" }, make("h2", {}, "Difference"));
    if (views.length > 2) this.element.append(this.choice());
    this.element.append(this.table, this.note);
    this.refresh();
  }

  choice() {
    const selects = [0, 1].map((side) => {
      const select = make("select", { "aria-label": side ? "Second system" : "First system" });
      this.systems.forEach(({ number }, index) => select.append(make("option", { value: index }, this.page.data.systems[number].name)));
      select.value = this.pair[side];
      select.addEventListener("change", () => {
        this.pair[side] = Number(select.value);
        this.refresh();
      });
      return select;
    });
    return make("p", { class: "pair" }, selects[0], " and ", selects[1]);
  }

  refresh() {
    const views = this.pair.map((index) => this.systems[index]);
    const [one, other] = views.map(({ attention, head }) => wordAttention(attention, Math.max(head, MEAN)));
    const names = views.map(({ number }) => this.page.data.systems[number].name);
    if (one.source.join(" ") !== other.source.join(" ")) {
      this.table.replaceChildren();
      this.note.textContent = "The two systems split the source into different words.";
      return;
    }
    const rows = commonWords(one.target, other.target);
    const system = this.page.data.systems[views[0].number];
    const cell = (row, column) => {
      const value = other.rows[rows[row][1]][column] - one.rows[rows[row][0]][column];
      const text = `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2).replace(/^0/, "")}`;
      const element = make("td", { class: value < 0 ? "less" : "more", "data-column": column }, Math.abs(value) < 0.005 ? "" : text);
      element.style.setProperty("--share", SCALES[this.page.scale](Math.min(1, Math.abs(value))).toFixed(3));
      return element;
    };
    const words = rows.map(([index]) => one.target[index]);
    this.table.replaceChildren(wordTable(one.source, words, cell, [system.source_language, system.target_language]));
    this.note.replaceChildren(
      make("span", { class: "more swatch" }), " more weight in ", make("bdi", {}, names[1]), ", ", make("span", { class: "less swatch" }),
      " more in ", make("bdi", {}, names[0]), `. The rows are the ${rows.length} words that both translations have in the same order.`,
    );
  }

  fit() {
    this.refresh();
  }

  /** Marks the column of a chosen source word. */
  paint(selection) {
    const word = selection?.view?.wordOfUnit && selection.side === "source" ? selection.view.wordOfUnit[selection.index] : -1;
    this.table.querySelectorAll("td[data-column]").forEach((cell) => cell.classList.toggle("chosen", Number(cell.dataset.column) === word));
  }
}

/** Shows the attention between words, the model's links, and links made by hand, with their error rate. */
class LinksView {
  constructor(page, number, attention, sentence) {
    const system = page.data.systems[number];
    this.page = page;
    this.words = wordAttention(attention);
    this.links = attention.links ?? strongestLinks(this.words);
    this.own = new Set(this.links.map((link) => link.join("-")));
    const kind = attention.links ? "" : " (largest weight of each target word)";
    this.sentence = sentence;
    // The links belong to the words: two systems with the same ones share them.
    sentence.gold ??= {};
    const key = JSON.stringify([this.words.source, this.words.target]);
    this.gold = sentence.gold[key] ??= new Map((sentence.given ?? []).map(([source, target, sure]) => [`${source}-${target}`, sure ? "sure" : "possible"]));
    this.cells = [];
    this.scores = make("p", { class: "scores", role: "status" });
    this.text = make("textarea", { rows: 2, readonly: "", "aria-label": "Links in the Pharaoh format", spellcheck: "false" });
    const table = wordTable(
      this.words.source, this.words.target, (row, column) => this.cell(row, column),
      [system.source_language, system.target_language], { role: "grid", "aria-label": "Alignment links" },
    );
    table.addEventListener("keydown", (event) => this.walk(event));
    const fromModel = button("Start from the model’s links", () => {
      this.gold.clear();
      for (const [source, target] of this.links) this.gold.set(`${source}-${target}`, "sure");
      this.refresh();
    });
    const clear = button("Clear", () => { this.gold.clear(); this.refresh(); });
    this.element = make(
      "section", { class: "system links-view", "aria-label": system.name },
      make("h2", {}, system.name, make("span", { class: "mechanism" }, mechanismName(system.mechanism))),
      make("p", { class: "legend" }, "Click a cell for a sure link ", make("span", { class: "sample sure" }, "■"), ", again for a possible one ",
        make("span", { class: "sample" }, "□"), ", again for none. ", make("span", { class: "sample" }, "○"), ` is a link of the model${kind}; the background is its attention.`),
      make("div", { class: "table-frame" }, table), this.scores, make("div", { class: "actions" }, fromModel, clear),
      make("label", { class: "pharaoh" }, "Links (source-target, from 0; p is possible)", this.text),
    );
    this.refresh();
  }

  cell(row, column) {
    const isLink = this.own.has(`${column}-${row}`);
    const mark = make("span", { "aria-hidden": "true" });
    const element = make("td", { role: "gridcell", tabindex: row || column ? -1 : 0, class: isLink ? "model-link" : undefined }, mark);
    element.style.setProperty("--weight", SCALES[this.page.scale](Math.min(1, this.words.rows[row][column])).toFixed(3));
    element.addEventListener("click", () => this.turn(row, column));
    (this.cells[row] ??= [])[column] = { element, mark, isLink };
    return element;
  }

  /** Goes from no link to a sure one, a possible one, and none. */
  turn(row, column) {
    const key = `${column}-${row}`;
    const next = { undefined: "sure", sure: "possible" }[this.gold.get(key)];
    if (next) this.gold.set(key, next);
    else this.gold.delete(key);
    for (const view of this.page.views) view.refresh();
  }

  walk(event) {
    const at = this.cells.flatMap((cells, row) => cells.map(({ element }, column) => ({ element, row, column })))
      .find(({ element }) => element === event.target);
    if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "Enter" || event.key === " ") this.turn(at.row, at.column);
    else if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const next = by && this.cells[at.row + by[0]]?.[at.column + by[1]];
    if (!next) return;
    at.element.tabIndex = -1;
    next.element.tabIndex = 0;
    next.element.focus();
  }

  refresh() {
    this.cells.forEach((cells, row) => cells.forEach(({ element, mark, isLink }, column) => {
      const kind = this.gold.get(`${column}-${row}`);
      mark.textContent = { sure: "■", possible: "□" }[kind] ?? (isLink ? "○" : "");
      mark.className = kind ?? "";
      const [source, target] = [this.words.source[column], this.words.target[row]];
      const states = [kind && `${kind} link`, isLink && "link of the model", `weight ${this.words.rows[row][column].toFixed(2)}`];
      element.setAttribute("aria-label", `${label(source)} – ${label(target)}: ${states.filter(Boolean).join(", ")}`);
    }));
    const [sure, possible] = [new Set(), new Set()];
    for (const [link, kind] of this.gold) {
      possible.add(link);
      if (kind === "sure") sure.add(link);
    }
    const { precision, recall, error } = alignmentScores(this.links.map((link) => link.join("-")), sure, possible);
    const percent = (rate) => (rate === null ? "–" : `${(100 * rate).toFixed(1)} %`);
    this.scores.replaceChildren(
      "Alignment error rate ", make("b", {}, this.gold.size ? percent(error) : "–"), `, precision ${percent(this.gold.size ? precision : null)}, recall ${percent(recall)}; `,
      `${this.links.length} links of the model, ${sure.size} sure and ${possible.size - sure.size} possible by hand`,
    );
    const order = [...this.gold].map(([link, kind]) => [...link.split("-").map(Number), kind]).sort((one, other) => one[1] - other[1] || one[0] - other[0]);
    this.text.value = order.map(([source, target, kind]) => `${source}${kind === "sure" ? "-" : "p"}${target}`).join(" ");
  }

  fit() {}

  paint() {}
}
