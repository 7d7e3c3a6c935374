"use strict";

// A sentence pair with its attention weights.

const RIGHT_TO_LEFT = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;
const UPRIGHT = /^[\u2581\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303f\uff00-\uff60]+$/u;
const LARGEST_CELL = 22;
/** Every row and column has room for its label. */
const SMALLEST_CELL = 12;
const LARGEST_TEXT = 13.6;
const HINT = "Point at a piece, or tap it, to see its attention weights.";
const MEAN = -1;
const ALL_HEADS = -2;
/** Weights at which colours are at half of their strength: 0.25 for the square root, 0.5 for a linear scale. */
const SCALES = { root: Math.sqrt, linear: (weight) => weight };

/** Returns weights that are stored in bytes. */
function bytesOf(text) {
  return Float32Array.from(atob(text), (byte) => byte.charCodeAt(0) / 255);
}

/** Returns the weights of a head, or the mean over all heads for -1: [target * sources], from 0 to 1. */
function weightsOf(attention, head) {
  const all = bytesOf(attention.weights);
  const size = all.length / attention.heads;
  const heads = head < 0 ? [...Array(attention.heads).keys()] : [head];
  const weights = new Float32Array(size);
  for (const number of heads) {
    for (let index = 0; index < size; index++) {
      weights[index] += all[number * size + index] / heads.length;
    }
  }
  return weights;
}

/** Returns the weights between a piece and every piece of the other side. */
function weightsOfPiece(weights, sources, side, index) {
  if (side === "target") return Array.from(weights.subarray(index * sources, (index + 1) * sources));
  return Array.from({ length: weights.length / sources }, (_, row) => weights[row * sources + index]);
}

/** Returns the first and last source position within `halfWidth` of the center, or null if there is none. */
function windowOf(center, halfWidth, sources) {
  const first = Math.max(0, Math.ceil(center - halfWidth));
  const last = Math.min(sources - 1, Math.floor(center + halfWidth));
  return first <= last ? [first, last] : null;
}

/** Returns the largest weights with their pieces. */
function largest(weights, pieces, count = 5) {
  return weights
    .map((weight, index) => ({ weight, piece: pieces[index] }))
    .filter(({ weight }) => weight >= 0.01)
    .sort((one, other) => other.weight - one.weight)
    .slice(0, count);
}

/** Whether a sentence has this text on either side. */
function sentenceMatches(sentence, matches) {
  return matches(sentence.source) || sentence.attention.some((each) => each && matches(each.target));
}

/** Returns the units of a side, its end symbol last: pieces, or words with a `▁` before each. */
function unitsOf(pieces, level) {
  if (level === "pieces") return [...pieces, END];
  return [...wordsOf(pieces).map((word) => (word === WORD_START ? word : WORD_START + word)), END];
}

/** Returns the number of the unit of each piece, the end symbol included. */
function unitNumbers(pieces, level) {
  const numbers = level === "pieces" ? pieces.map((_, index) => index) : wordsOfPieces(pieces);
  return [...numbers, (numbers.at(-1) ?? -1) + 1];
}

/** Returns the weights between units [target * sources]: the sum over a source unit, the mean over a target unit. */
function mergedWeights(weights, sourceNumbers, targetNumbers) {
  const [across, down] = [sourceNumbers.at(-1) + 1, targetNumbers.at(-1) + 1];
  const merged = new Float32Array(across * down);
  const counts = new Float32Array(down);
  targetNumbers.forEach((row, target) => {
    counts[row] += 1;
    sourceNumbers.forEach((column, source) => {
      merged[row * across + column] += weights[target * sourceNumbers.length + source];
    });
  });
  return merged.map((value, index) => value / counts[Math.floor(index / across)]);
}

/** The previous sentences of a side, with the weights of a unit to them. */
class ContextView {
  /** `units` are the numbers of the units of the side's pieces. */
  constructor(page, number, context, units) {
    const { side, lines, sentences, words } = context;
    const system = page.data.systems[number];
    const pieces = lines.map((line) => page.data.sentences.find((each) => each.line === line).attention[number][`${side}_pieces`]);
    const weights = bytesOf(sentences);
    this.side = side;
    this.isShared = weights.length === lines.length;
    const own = this.isShared ? [0] : units;
    this.weights = mergedWeights(weights, lines.map((_, index) => index), own);
    this.words = words.map((each, index) => mergedWeights(bytesOf(each), unitNumbers(pieces[index], page.level), own));
    const named = lines.map((line, index) => {
      const all = unitsOf(pieces[index], page.level);
      const glued = all.map((unit, at) => at + 1 < all.length && !unit.startsWith(WORD_START));
      return { name: `line ${line}`, words: all.map((unit) => unit.replaceAll(WORD_START, " ").trim() || WORD_START), glued };
    });
    this.text = new WeightedSentences(named, system[`${side}_language`], "cell");
    const kind = side === "source" ? "sources" : "translations";
    const table = make("div", { role: "table", "aria-label": `previous ${kind} of ${system.name}` });
    table.append(...this.text.rows);
    const same = this.isShared ? ", with the same weights for every piece" : "";
    this.element = make("div", { class: "context" }, make("p", { class: "side" }, `previous ${kind}${same}`), table);
  }

  /** Returns the weights of the selected unit; null if it has none. */
  weightsOf(selection) {
    if (!this.isShared && selection?.side !== this.side) return null;
    const index = this.isShared ? 0 : selection.index;
    const count = this.words.length;
    return this.words.map((words, at) => {
      const size = this.text.sentences[at].words.length;
      return { weight: this.weights[index * count + at], weights: [...words.subarray(index * size, (index + 1) * size)] };
    });
  }

  show(selection) {
    this.text.show(this.weightsOf(selection));
  }

  /** Returns text and elements with the largest weights of the selected unit: one sentence and three of its words. */
  read(selection) {
    const weighted = this.weightsOf(selection);
    if (!weighted) return [];
    const index = weighted.reduce((best, { weight }, at) => (weight > weighted[best].weight ? at : best), 0);
    const { name, words } = this.text.sentences[index];
    const most = largest(weighted[index].weights, words, 3);
    const parts = most.flatMap(({ weight, piece }, rank) => [rank ? ", " : ": ", make("bdi", {}, label(piece)), ` ${weight.toFixed(2)}`]);
    return [`; context: ${name}, weight ${weighted[index].weight.toFixed(2)}`, ...parts];
  }
}

/** Shows the attention of a system in a sentence pair. */
class AttentionView {
  constructor(page, number, attention) {
    const system = page.data.systems[number];
    this.page = page;
    this.number = number;
    this.attention = attention;
    const { level } = page;
    const sides = { source: attention.source_pieces, target: attention.target_pieces };
    this.pieces = { source: unitsOf(sides.source, level), target: unitsOf(sides.target, level) };
    this.units = { source: unitNumbers(sides.source, level), target: unitNumbers(sides.target, level) };
    this.words = wordsOf(sides.source);
    this.wordOfUnit = level === "pieces" ? [...wordsOfPieces(sides.source), this.words.length] : this.pieces.source.map((_, index) => index);
    this.spans = { source: [], target: [] };
    this.cross = draw("g");
    this.readout = make("p", { class: "readout", role: "status", "data-hint": HINT });
    this.matrix = make("div", { class: "weights", tabindex: 0, role: "group", "aria-label": "Attention matrix" });
    // Arrow keys scroll a wide matrix.
    this.matrix.addEventListener("keydown", (event) => event.key.startsWith("Arrow") && event.stopPropagation());
    this.element = make("section", { class: "system", "aria-label": system.name }, make("h2", {}, system.name, make("span", { class: "mechanism" }, mechanismName(system.mechanism))));
    const [sources, targets] = [sides.source.length + 1, sides.target.length + 1];
    const perPiece = (attention.log_probability / targets).toFixed(2);
    this.element.append(
      make(
        "p", { class: "facts" }, `log-probability ${attention.log_probability.toFixed(2)}, ${perPiece} per piece; `,
        `${sources} source and ${targets} target pieces, end symbols included`,
      ),
    );
    this.contexts = (attention.context ?? []).map((context) => new ContextView(page, number, context, this.units[context.side]));
    if (attention.context && !this.contexts.length) {
      this.element.append(make("p", { class: "facts" }, "The first sentence of its document has no context."));
    }
    for (const side of ["source", "target"]) {
      this.element.append(...this.contexts.filter((each) => each.side === side).map(({ element }) => element));
      this.element.append(this.row(side, system[`${side}_language`]));
    }
    this.element.append(this.readout);
    if (attention.heads > 1) this.element.append(this.headChoice());
    this.element.append(this.matrix);
    if (attention.centers && level === "pieces") this.element.append(this.legend());
    if (this.contexts.length) this.element.append(WeightedSentences.legend("context"));
    this.choose(attention.heads > 1 ? page.heads.get(number) ?? MEAN : 0);
  }

  headChoice() {
    const heads = Array.from({ length: this.attention.heads }, (_, head) => [head, String(head + 1)]);
    const choices = [[MEAN, "mean"], ...heads, [ALL_HEADS, "all"]];
    return radios("head", `head of ${this.number}`, choices, this.page.heads.get(this.number) ?? MEAN, (head) => {
      this.page.heads.set(this.number, head);
      this.choose(head);
      this.page.fit();
    });
  }

  /** Makes the pieces of a side, as running text. */
  row(side, language) {
    const name = `${side} of ${this.page.data.systems[this.number].name}`;
    const row = make("div", {
      class: "pieces", dir: "auto", lang: language,
      role: "listbox", "aria-orientation": "horizontal", "aria-label": name,
    });
    this.pieces[side].forEach((piece, index, all) => {
      const isEnd = index === all.length - 1;
      const word = isEnd ? piece : piece.replaceAll(WORD_START, " ").trim();
      if (index > 0 && (isEnd || piece.startsWith(WORD_START))) row.append(" ");
      const span = make(isEnd ? "bdi" : "span", {
        class: isEnd ? "piece end" : "piece", role: "option", "data-index": index, tabindex: index ? -1 : 0,
      });
      span.append(word || WORD_START);
      if (isEnd) span.dir = "ltr";
      this.spans[side].push(span);
      row.append(span);
      if (!isEnd && index + 1 < all.length && piece.endsWith(WORD_START) && word) row.append(" ");
    });
    selectable(
      row, ".piece", this.page, (span) => ({ view: this, side, index: Number(span.dataset.index) }),
      (span, key) => this.next(side, Number(span.dataset.index), key, isRightToLeft(row)),
    );
    return make("div", {}, make("p", { class: "side" }, side), row);
  }

  /** Returns the piece that a key moves to. */
  next(side, index, key, rightToLeft) {
    const forward = rightToLeft ? -1 : 1;
    const last = this.spans[side].length - 1;
    const targets = { ArrowLeft: index - forward, ArrowRight: index + forward, Home: 0, End: last };
    return key in targets ? this.spans[side][Math.max(0, Math.min(last, targets[key]))] : undefined;
  }

  legend() {
    const line = make("p", { class: "legend" });
    const width = ` ± ${this.attention.half_width}; `;
    line.append(make("span", { class: "window" }, "▭"), " window, p", make("sub", {}, "t"), width);
    line.append(make("span", { class: "center" }, "●"), " p", make("sub", {}, "t"));
    return line;
  }

  /** Selects the weights of a head, or the mean over all; `fit` draws them. */
  choose(head) {
    this.head = head;
    this.weights = this.weightsOfHead(head);
    this.centers = this.attention.centers && head >= 0 && this.page.level === "pieces" ? this.attention.centers[head] : null;
  }

  weightsOfHead(head) {
    const weights = weightsOf(this.attention, Math.max(head, MEAN));
    return this.page.level === "pieces" ? weights : mergedWeights(weights, this.units.source, this.units.target);
  }

  /** Draws the matrix as wide as there is room. It scrolls where its cells would become too small. */
  fit() {
    if (this.head === ALL_HEADS) {
      this.drawHeads();
      return;
    }
    this.grid = null;
    const [source, target] = [this.pieces.source.map(label), this.pieces.target.map(label)];
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = `${LARGEST_TEXT}px system-ui, sans-serif`;
    const widest = Math.max(...target.map((text) => pen.measureText(text).width)) + 10;
    const room = Math.floor((this.matrix.clientWidth - widest) / source.length);
    const cell = Math.max(SMALLEST_CELL, Math.min(LARGEST_CELL, room));
    const size = Math.max(9, Math.min(LARGEST_TEXT, cell * 0.62));
    pen.font = `${size}px system-ui, sans-serif`;
    const long = (text) => (UPRIGHT.test(text) ? text.length * size : pen.measureText(text).width);
    const top = Math.ceil(Math.max(...source.map(long))) + 8;
    const left = Math.ceil(Math.max(...target.map((text) => pen.measureText(text).width))) + 8;
    const [width, height] = [source.length * cell, target.length * cell];

    const canvas = make("canvas", { width: source.length, height: target.length });
    Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    const image = new ImageData(source.length, target.length);
    this.weights.forEach((weight, index) => {
      image.data[index * 4 + 3] = Math.round(255 * SCALES[this.page.scale](weight));
    });
    canvas.getContext("2d").putImageData(image, 0, 0);

    const svg = draw("svg", {
      width: left + width + 2, height: top + height + 2, "font-size": size, role: "img",
      "aria-label": "Attention matrix, source pieces across and target pieces down",
    });
    const cells = draw("g", { transform: `translate(${left} ${top})` });
    cells.append(draw("rect", { class: "border", width, height }));
    source.forEach((text, index) => cells.append(this.sourceLabel(text, index, (index + 0.5) * cell)));
    target.forEach((text, index) => cells.append(this.targetLabel(text, index, (index + 0.5) * cell)));
    if (this.centers) this.drawWindows(cells, cell);
    this.cross = draw("g");
    cells.append(this.cross);
    svg.append(cells);
    this.cell = cell;
    svg.addEventListener("pointermove", (event) => this.page.point(this.rowAt(event, canvas)));
    svg.addEventListener("click", (event) => this.page.pin(this.rowAt(event, canvas)));
    svg.addEventListener("pointerleave", () => this.page.point(null));
    this.matrix.replaceChildren(make("div", { class: "frame" }, canvas, svg));
  }

  /** Draws the matrices of all heads side by side, linked: a row that is pointed at is marked in each. */
  drawHeads() {
    const [across, down] = [this.pieces.source.length, this.pieces.target.length];
    const cell = Math.max(4, Math.min(12, Math.floor(220 / across)));
    this.grid = Array.from({ length: this.attention.heads }, (_, head) => {
      const canvas = make("canvas", { width: across, height: down });
      const image = new ImageData(across, down);
      this.weightsOfHead(head).forEach((weight, index) => {
        image.data[index * 4 + 3] = Math.round(255 * SCALES[this.page.scale](weight));
      });
      canvas.getContext("2d").putImageData(image, 0, 0);
      Object.assign(canvas.style, { width: `${across * cell}px`, height: `${down * cell}px` });
      const line = make("span", { class: "line" });
      const frame = make("span", { class: "small-frame" }, canvas, line);
      const show = button("", () => this.element.querySelectorAll(".choice input")[head + 1].click(), { class: "small", title: `Show head ${head + 1} alone` });
      show.append(frame, make("span", {}, `head ${head + 1}`));
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect();
        const [column, index] = [Math.floor((event.clientX - box.left) / cell), Math.floor((event.clientY - box.top) / cell)];
        this.page.point(index >= 0 && index < down ? { view: this, side: "target", index, column } : null);
      });
      canvas.addEventListener("pointerleave", () => this.page.point(null));
      return { show, line, cell };
    });
    this.matrix.replaceChildren(make("div", { class: "head-grid" }, ...this.grid.map(({ show }) => show)));
  }

  sourceLabel(text, index, x) {
    const isEnd = index === this.pieces.source.length - 1;
    if (UPRIGHT.test(text)) {
      const settings = { transform: `translate(${x} -4)`, "text-anchor": "end", "writing-mode": "vertical-rl" };
      return draw("text", settings, text);
    }
    const rightToLeft = RIGHT_TO_LEFT.test(text);
    return draw("text", {
      transform: `translate(${x} -4) rotate(-90)`, "dominant-baseline": "central", class: isEnd ? "end" : "",
      direction: rightToLeft ? "rtl" : "ltr", "text-anchor": rightToLeft ? "end" : "start",
    }, text);
  }

  targetLabel(text, index, y) {
    const isEnd = index === this.pieces.target.length - 1;
    const rightToLeft = RIGHT_TO_LEFT.test(text);
    return draw("text", {
      x: -4, y, "dominant-baseline": "central", class: isEnd ? "end" : "",
      direction: rightToLeft ? "rtl" : "ltr", "text-anchor": rightToLeft ? "start" : "end",
    }, text);
  }

  drawWindows(cells, cell) {
    this.centers.forEach((center, row) => {
      const window = windowOf(center, this.attention.half_width, this.pieces.source.length);
      if (window) {
        const [first, last] = window;
        const box = { x: first * cell, y: row * cell, width: (last - first + 1) * cell, height: cell };
        cells.append(draw("rect", { class: "window", ...box }));
      }
      if (center > -0.5 && center < this.pieces.source.length - 0.5) {
        const circle = { cx: (center + 0.5) * cell, cy: (row + 0.5) * cell, r: Math.max(2, cell / 6) };
        cells.append(draw("circle", { class: "center", ...circle }));
      }
    });
  }

  /** Returns the target piece and the column under the pointer. */
  rowAt(event, canvas) {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.cell);
    const row = Math.floor((event.clientY - box.top) / this.cell);
    const { source, target } = this.pieces;
    const inside = column >= 0 && column < source.length && row >= 0 && row < target.length;
    return inside ? { view: this, side: "target", index: row, column } : null;
  }

  /** Shows a selection, which may be in another view: a source piece that both have is shown in both. */
  paint(selection) {
    let chosen = selection;
    if (selection && selection.view !== this) {
      chosen = selection.side === "source" ? this.sameSource(selection) : null;
    }
    for (const side of ["source", "target"]) {
      const others = chosen && chosen.side !== side ? this.weightsOf(chosen) : null;
      this.spans[side].forEach((span, index) => {
        span.style.setProperty("--weight", others ? SCALES[this.page.scale](others[index]).toFixed(3) : 0);
        const isChosen = Boolean(chosen) && chosen.side === side && chosen.index === index;
        mark(span, isChosen, isChosen && this.page.pinned === selection);
        span.classList.remove("window", "center");
      });
    }
    this.cross.replaceChildren();
    for (const { line } of this.grid ?? []) line.hidden = true;
    for (const each of this.contexts) each.show(chosen);
    this.readout.replaceChildren();
    if (!chosen) return;
    if (chosen.side === "target" && this.centers) this.paintWindow(this.centers[chosen.index]);
    this.paintCross(chosen);
    this.read(chosen);
  }

  /** Returns the selection of the same source piece here, or of the first piece of its word; null for another source. */
  sameSource(selection) {
    const { view } = selection;
    const same = (one, other) => one.length === other.length && one.every((each, index) => each === other[index]);
    if (same(this.pieces.source, view.pieces.source)) return selection;
    if (!same(this.words, view.words)) return null;
    return { ...selection, index: this.wordOfUnit.indexOf(view.wordOfUnit[selection.index]) };
  }

  weightsOf({ side, index }) {
    return weightsOfPiece(this.weights, this.pieces.source.length, side, index);
  }

  paintWindow(center) {
    const window = windowOf(center, this.attention.half_width, this.pieces.source.length);
    if (window) this.spans.source.slice(window[0], window[1] + 1).forEach((span) => span.classList.add("window"));
    this.spans.source[Math.round(center)]?.classList.add("center");
  }

  paintCross({ side, index, column }) {
    if (this.grid) {
      for (const { line, cell } of this.grid) {
        line.hidden = false;
        Object.assign(line.style, side === "target"
          ? { top: `${index * cell}px`, left: 0, height: `${cell}px`, width: "100%" }
          : { left: `${index * cell}px`, top: 0, width: `${cell}px`, height: "100%" });
      }
      return;
    }
    const [across, down] = [this.pieces.source.length * this.cell, this.pieces.target.length * this.cell];
    const row = { x: 0, y: index * this.cell, width: across, height: this.cell };
    const line = { x: (column ?? index) * this.cell, y: 0, width: this.cell, height: down };
    if (side === "target") this.cross.append(draw("rect", { class: "cross", ...row }));
    if (side === "source" || column !== undefined) this.cross.append(draw("rect", { class: "cross", ...line }));
  }

  read({ side, index, column }) {
    const other = side === "target" ? "source" : "target";
    const weights = this.weightsOf({ side, index });
    const name = (piece) => make("bdi", {}, label(piece));
    const parts = [this.page.pinned ? "pinned: " : "", name(this.pieces[side][index])];
    parts.push(side === "target" ? " attended to " : " was attended to by ");
    if (column !== undefined) parts.push(name(this.pieces.source[column]), ` ${weights[column].toFixed(2)}; most at `);
    const most = largest(weights, this.pieces[other]);
    most.forEach(({ weight, piece }, index) => parts.push(index ? ", " : "", name(piece), ` ${weight.toFixed(2)}`));
    if (!most.length) parts.push("nothing");
    this.readout.append(...parts, ...this.contexts.flatMap((each) => each.read({ side, index })));
  }
}
