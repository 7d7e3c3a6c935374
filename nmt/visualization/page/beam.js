"use strict";

// A beam search as a tree that grows step by step, and what-if: other pieces, other attention weights.

const ROW_HEIGHT = 44;
const NODE_HEIGHT = 36;
const COLUMN_GAP = 44;
const TREE_MARGIN = 12;
const PLAY_MILLISECONDS = 550;
const START = "start";

/** Returns the indices of the nodes from the first piece to this node. */
function pathTo(nodes, index) {
  const path = [];
  for (let at = index; at > 0; at = nodes[at].parent) path.unshift(at);
  return path;
}

/** Returns the steps of nodes: the first node has step 0, a node of one piece step 1. */
function stepsOf(nodes) {
  const steps = [];
  nodes.forEach((node, index) => { steps[index] = index ? steps[node.parent] + 1 : 0; });
  return steps;
}

/**
 * Returns the nodes of each step from top to bottom. Children stand in the order of their parents, so that no two
 * branches cross; those of one parent in the order of their probability.
 */
function layersOf(nodes, showsPruned) {
  const steps = stepsOf(nodes);
  const layers = [[0]];
  const rows = [0];
  nodes.forEach((node, index) => {
    if (index && (node.kept || showsPruned)) (layers[steps[index]] ??= []).push(index);
  });
  for (const layer of layers.slice(1)) {
    layer.sort((one, other) => rows[nodes[one].parent] - rows[nodes[other].parent]
      || nodes[other].total - nodes[one].total);
    layer.forEach((index, row) => { rows[index] = row; });
  }
  return layers;
}

/** Returns the attention of a search's best hypothesis in the form that the attention view draws. */
function attentionOfTrace(trace) {
  const path = pathTo(trace.nodes, trace.best);
  const steps = path.map((index) => trace.nodes[trace.nodes[index].parent].expansion);
  if (!steps.length || !steps.every((step) => step?.weights)) return null;
  const heads = steps[0].weights.length;
  const bytes = [];
  for (let head = 0; head < heads; head++) {
    for (const { weights } of steps) bytes.push(...weights[head].map((each) => Math.round(255 * Math.min(1, each))));
  }
  const centers = steps[0].centers ? steps[0].centers.map((_, head) => steps.map((step) => step.centers[head])) : null;
  const pieces = path.map((index) => trace.nodes[index].piece);
  return {
    target: trace.text, source_pieces: trace.source_pieces, target_pieces: pieces.slice(0, -1),
    log_probability: trace.nodes[trace.best].total, heads, weights: btoa(String.fromCharCode(...bytes)), centers,
    half_width: trace.half_width ?? null, links: null,
  };
}

/** Returns weights in which one has this value and the others keep their shares of the rest. */
function withWeight(weights, index, value) {
  const rest = weights.reduce((sum, weight, at) => sum + (at === index ? 0 : weight), 0);
  return weights.map((weight, at) => {
    if (at === index) return value;
    return rest > 1e-9 ? (weight / rest) * (1 - value) : (1 - value) / (weights.length - 1);
  });
}

/** Shows a beam search of a system. */
class BeamView {
  constructor(page, number, trace) {
    this.page = page;
    this.number = number;
    this.system = page.data.systems[number];
    this.trace = trace;
    this.nodes = trace.nodes;
    this.steps = stepsOf(this.nodes);
    this.last = Math.max(...this.steps);
    this.best = new Set(pathTo(this.nodes, trace.best));
    this.shown = this.last;
    this.showsPruned = true;
    this.tree = make("div", { class: "tree", role: "group", "aria-label": "Beam search as a tree" });
    this.inspector = make("div", { class: "inspector" });
    this.equations = make("div", { class: "card equations" });
    this.element = make(
      "section", { class: "system beam", "aria-label": this.system.name },
      make("h2", {}, this.system.name, make("span", { class: "mechanism" }, mechanismName(this.system.mechanism))),
      this.summary(), this.controls(), this.tree, this.treeLegend(), this.inspector, this.equations,
    );
    const path = pathTo(this.nodes, trace.best);
    this.chosen = path[Math.min(page.searchStep, path.length - 1)] ?? 0;
    this.listen();
  }

  /** The translation, and what was changed to get it. */
  summary() {
    const { trace } = this;
    const line = make("p", { class: "translation", dir: "auto", lang: this.system.target_language }, trace.text);
    const box = make("div", { class: "summary" }, line);
    const changes = [];
    if (trace.prefix.length) changes.push("begins with ", make("bdi", {}, `“${textOf(trace.prefix)}”`));
    const positions = Object.keys(trace.changed ?? {}).map((position) => Number(position) + 1);
    if (positions.length) changes.push(`${changes.length ? ", " : ""}attention changed at step ${positions.join(", ")}`);
    if (trace.before !== undefined) {
      const words = make("p", { class: "difference", dir: "auto" });
      for (const { kind, word } of wordChanges(trace.before, trace.text)) {
        words.append(make({ same: "span", added: "ins", removed: "del" }[kind], {}, word), " ");
      }
      box.append(make("p", { class: "side" }, "compared with the translation before"), words);
    }
    if (changes.length) {
      const undo = button("back to the model’s own", () => this.page.ask({ number: this.number }), { class: "quiet" });
      box.append(make("p", { class: "changes" }, "What if: ", ...changes, " ", undo));
    }
    return box;
  }

  controls() {
    const slider = make("input", { type: "range", min: 1, max: this.last, value: this.shown, "aria-label": "Steps shown" });
    this.slider = slider;
    this.count = make("output", { class: "count" });
    this.player = button("▶ Play", () => this.play(), { class: "primary" });
    slider.addEventListener("input", () => { this.stop(); this.grow(Number(slider.value)); });
    const pruned = make("input", { type: "checkbox" });
    pruned.checked = this.showsPruned;
    pruned.addEventListener("change", () => {
      this.showsPruned = pruned.checked;
      this.fit();
    });
    return make(
      "div", { class: "controls" }, this.player,
      button("‹", () => { this.stop(); this.grow(this.shown - 1); }, { "aria-label": "One step less" }), slider,
      button("›", () => { this.stop(); this.grow(this.shown + 1); }, { "aria-label": "One step more" }), this.count,
      make("label", { class: "check" }, pruned, " pruned branches"),
    );
  }

  treeLegend() {
    return make(
      "p", { class: "legend" }, make("span", { class: "key best" }, "━"), " best translation; ",
      make("span", { class: "key" }, "─"), " kept in the beam of ", String(this.trace.beam_size), "; ",
      make("span", { class: "key pruned" }, "┄"), " pruned. A piece is coloured by its probability; ▁ starts a word; </s> ends the ",
      "translation, with its score.",
    );
  }

  listen() {
    const nodeOf = (event) => event.target.closest?.("[data-node]");
    this.tree.addEventListener("click", (event) => nodeOf(event) && this.choose(Number(nodeOf(event).dataset.node)));
    this.tree.addEventListener("pointerover", (event) => {
      if (nodeOf(event)) this.inspect(Number(nodeOf(event).dataset.node));
    });
    this.tree.addEventListener("pointerleave", () => this.inspect(this.chosen));
    this.tree.addEventListener("focusin", (event) => {
      if (nodeOf(event) && event.target.matches(":focus-visible")) this.choose(Number(nodeOf(event).dataset.node));
    });
    this.tree.addEventListener("keydown", (event) => {
      if (!nodeOf(event) || event.ctrlKey || event.metaKey || event.altKey) return;
      const to = this.neighbour(Number(nodeOf(event).dataset.node), event.key);
      if (to === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.choose(to);
      this.tree.querySelector(`[data-node="${to}"]`).focus();
    });
  }

  /** Returns the node that a key moves to. */
  neighbour(index, key) {
    const layer = this.layers[this.steps[index]];
    const row = layer.indexOf(index);
    const children = (this.layers[this.steps[index] + 1] ?? []).filter(
      (child) => this.nodes[child].parent === index && this.steps[child] <= this.shown,
    );
    const child = children.find((each) => this.best.has(each)) ?? children[0];
    const targets = {
      ArrowRight: child ?? index, ArrowLeft: Math.max(this.nodes[index].parent, Math.min(index, 1)),
      ArrowUp: layer[Math.max(0, row - 1)], ArrowDown: layer[Math.min(layer.length - 1, row + 1)],
      Home: layer[0], End: layer.at(-1), Enter: index, " ": index,
    };
    return targets[key];
  }

  /** Draws the tree, up to the step that is shown. */
  fit() {
    this.layers = layersOf(this.nodes, this.showsPruned);
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = "14px system-ui, sans-serif";
    const places = new Map();
    let x = TREE_MARGIN;
    const rows = Math.max(...this.layers.map((layer) => layer.length));
    for (const layer of this.layers) {
      const wide = Math.max(44, ...layer.map((index) => pen.measureText(this.pieceText(index)).width + 20));
      layer.forEach((index, row) => {
        const y = TREE_MARGIN + (row + (rows - layer.length) / 2) * ROW_HEIGHT;
        places.set(index, { x, y, width: wide });
      });
      x += wide + COLUMN_GAP;
    }
    this.places = places;
    const [width, height] = [x - COLUMN_GAP + TREE_MARGIN, rows * ROW_HEIGHT + 2 * TREE_MARGIN - 8];
    const svg = d3.select(this.tree).selectAll("svg").data([null]).join("svg").attr("width", width).attr("height", height);
    this.links = svg.selectAll("g.links").data([null]).join("g").attr("class", "links");
    this.marks = svg.selectAll("g.nodes").data([null]).join("g").attr("class", "nodes");
    this.grow(this.shown);
    this.choose(this.chosen);
  }

  pieceText(index) {
    return index ? label(this.nodes[index].piece) : START;
  }

  /** Shows the tree up to a step. */
  grow(step) {
    this.shown = Math.max(1, Math.min(this.last, step));
    this.slider.value = this.shown;
    this.count.value = `step ${this.shown} of ${this.last}`;
    const visible = this.layers.slice(0, this.shown + 1).flat();
    const link = d3.linkHorizontal().source(({ from }) => from).target(({ to }) => to).x(([x]) => x).y(([, y]) => y);
    const ends = (index) => {
      const [parent, child] = [this.places.get(this.nodes[index].parent), this.places.get(index)];
      const middle = NODE_HEIGHT / 2;
      return { from: [parent.x + parent.width, parent.y + middle], to: [child.x, child.y + middle] };
    };
    const kind = (index) => (this.best.has(index) ? "best" : this.nodes[index].kept ? "kept" : "pruned");
    this.links.selectAll("path").data(visible.filter((index) => index > 0), (index) => index).join("path")
      .attr("class", kind).attr("d", (index) => link(ends(index)))
      .attr("stroke-width", (index) => 1 + 4 * this.nodes[index].probability);
    const groups = this.marks.selectAll("g.node").data(visible, (index) => index).join((enter) => {
      const group = enter.append("g").attr("role", "button").attr("data-node", (index) => index).attr("tabindex", -1);
      group.append("rect").attr("height", NODE_HEIGHT).attr("rx", 7);
      group.append("text").attr("class", "label").attr("y", 15);
      group.append("text").attr("class", "number").attr("y", 29);
      return group;
    });
    groups.attr("class", (index) => `node ${index ? kind(index) : "first"}`)
      .attr("transform", (index) => `translate(${this.places.get(index).x} ${this.places.get(index).y})`)
      .attr("aria-label", (index) => this.spoken(index));
    groups.select("rect").attr("width", (index) => this.places.get(index).width)
      .style("--weight", (index) => (index ? this.nodes[index].probability : 0).toFixed(3));
    groups.select(".label").attr("x", (index) => this.places.get(index).width / 2).text((index) => this.pieceText(index))
      .attr("direction", (index) => (RIGHT_TO_LEFT.test(this.pieceText(index)) ? "rtl" : null));
    groups.select(".number").attr("x", (index) => this.places.get(index).width / 2).text((index) => this.numberText(index));
    if (!visible.includes(this.chosen)) this.choose(visible.filter((index) => this.best.has(index)).at(-1) ?? visible[0]);
    else this.markChosen();
    return visible;
  }

  numberText(index) {
    if (!index) return "";
    const { probability, score } = this.nodes[index];
    return score === null || score === undefined ? probabilityText(probability) : `${probabilityText(probability)} ∑ ${score.toFixed(2)}`;
  }

  spoken(index) {
    if (!index) return "start of the translation";
    const { piece, probability, kept, score } = this.nodes[index];
    const state = this.best.has(index) ? "in the best translation" : kept ? "kept" : "pruned";
    const ended = score === null || score === undefined ? "" : `, ended with score ${score.toFixed(2)}`;
    return `${label(piece)}, step ${this.steps[index]}, probability ${probabilityText(probability)}, ${state}${ended}`;
  }

  play() {
    if (this.timer) {
      this.stop();
      return;
    }
    if (this.shown === this.last) this.grow(1);
    this.player.textContent = "❚❚ Pause";
    this.timer = setInterval(() => {
      if (!this.element.isConnected || this.shown >= this.last) {
        this.stop();
        return;
      }
      this.grow(this.shown + 1);
      const newest = this.layers[this.shown].find((index) => this.best.has(index)) ?? this.layers[this.shown][0];
      this.choose(newest);
      const place = this.places.get(newest);
      this.tree.scrollTo({ left: place.x + place.width - this.tree.clientWidth + 2 * COLUMN_GAP });
    }, PLAY_MILLISECONDS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.player.textContent = "▶ Play";
  }

  /** Chooses a node: the inspector and the equations show the step that predicted it. */
  choose(index) {
    this.chosen = index;
    if (index) this.page.searchStep = this.steps[index] - 1;
    this.markChosen();
    this.inspect(index);
    const step = this.stepOf(index);
    this.equations.hidden = !step?.weights;
    if (step?.weights) showEquations(this.equations, this, step);
  }

  markChosen() {
    for (const node of this.tree.querySelectorAll("[data-node]")) {
      const isChosen = Number(node.dataset.node) === this.chosen;
      node.classList.toggle("chosen", isChosen);
      node.setAttribute("aria-pressed", isChosen);
      node.setAttribute("tabindex", isChosen ? 0 : -1);
    }
  }

  /** Returns the node whose expansion predicted this one; the first node stands for its own. */
  predictor(index) {
    return index ? this.nodes[index].parent : 0;
  }

  stepOf(index) {
    return this.nodes[this.predictor(index)].expansion;
  }

  /** Shows the most probable pieces and the attention weights of the step that predicted a node. */
  inspect(index) {
    if (this.inspected === index) return;
    this.inspected = index;
    const before = this.predictor(index);
    const prefix = pathTo(this.nodes, before).map((each) => this.nodes[each].piece);
    const step = this.stepOf(index);
    if (!step) {
      this.inspector.replaceChildren(make("p", { class: "hint" }, "This step is not recorded."));
      return;
    }
    this.inspector.replaceChildren(
      this.topPieces(index, prefix, step), ...(step.weights ? [this.weightSliders(prefix, step)] : []),
    );
  }

  topPieces(index, prefix, step) {
    const list = make("ol", { class: "top" });
    for (const [piece, probability] of step.top) {
      const bar = make("span", { class: "bar" });
      bar.style.setProperty("--share", probability);
      const isChosen = index > 0 && this.nodes[index].piece === piece;
      const item = button("", () => this.continueWith(prefix, piece), {
        "aria-pressed": isChosen, title: "Continue with this piece",
        "aria-label": `${label(piece)}, probability ${probabilityText(probability)}: continue with it`,
      });
      item.append(make("bdi", { class: "name" }, label(piece)), bar, make("span", { class: "value" }, probabilityText(probability)));
      list.append(make("li", {}, item));
    }
    const after = prefix.length ? ["after ", make("bdi", { lang: this.system.target_language }, `“${textOf(prefix.slice(-6))}”`)] : ["at the start"];
    return make(
      "div", { class: "card", role: "group", "aria-label": "Most probable pieces" },
      make("h3", {}, `Step ${prefix.length + 1}: the ten most probable pieces `, ...after), list,
      make("p", { class: "hint" }, "What if? Click another piece to continue with it."),
    );
  }

  continueWith(prefix, piece) {
    if (piece === END) {
      this.page.notify("</s> ends the translation; nothing follows it.");
      return;
    }
    this.page.ask({ number: this.number, prefix: [...prefix, piece], step: prefix.length });
  }

  /** Sliders for the attention weights of a step: the mean of its heads. */
  weightSliders(prefix, step) {
    const sources = [...this.trace.source_pieces, END];
    const own = sources.map((_, at) => step.weights.reduce((sum, head) => sum + head[at], 0) / step.weights.length);
    let weights = own.slice();
    const rows = sources.map((piece, at) => {
      const range = make("input", { type: "range", min: 0, max: 100, step: 1, "aria-label": `weight of ${label(piece)}` });
      const value = make("span", { class: "value" });
      const name = button(label(piece), () => change(at, 1), { class: "name", title: "Attend to this piece alone", dir: "auto" });
      range.addEventListener("input", () => change(at, range.valueAsNumber / 100));
      return { row: make("li", {}, name, range, value), range, value };
    });
    const apply = button("Continue with these weights", () => this.page.ask({
      number: this.number, prefix, weights: { [prefix.length]: weights }, step: prefix.length,
    }), { class: "primary", disabled: "" });
    const reset = button("Reset", () => { weights = own.slice(); show(false); }, { disabled: "" });
    const show = (isChanged) => {
      rows.forEach(({ range, value }, at) => {
        range.value = Math.round(100 * weights[at]);
        range.style.setProperty("--share", Math.min(1, weights[at]));
        value.textContent = weights[at].toFixed(2);
      });
      apply.disabled = reset.disabled = !isChanged;
    };
    const change = (at, value) => {
      weights = withWeight(weights, at, value);
      show(true);
    };
    show(false);
    return make(
      "div", { class: "card", role: "group", "aria-label": "Attention weights of this step" },
      make("h3", {}, `Step ${prefix.length + 1}: attention weights`),
      make("ol", { class: "sliders", lang: this.system.source_language }, ...rows.map(({ row }) => row)),
      make("p", { class: "hint" }, "What if? Drag a weight, or click a source piece to attend to it alone."),
      make("div", { class: "actions" }, apply, reset),
    );
  }

  /** Nothing is selected across views. */
  paint() {}
}

/** Returns the words of two texts in order, those that only one has marked: by their longest common subsequence. */
function wordChanges(before, after) {
  const [old, now] = [before.split(/\s+/).filter(Boolean), after.split(/\s+/).filter(Boolean)];
  const changes = [];
  let [at, to] = [0, 0];
  for (const [one, other] of commonWords(old, now)) {
    while (at < one) changes.push({ kind: "removed", word: old[at++] });
    while (to < other) changes.push({ kind: "added", word: now[to++] });
    changes.push({ kind: "same", word: now[to++] });
    at += 1;
  }
  while (at < old.length) changes.push({ kind: "removed", word: old[at++] });
  while (to < now.length) changes.push({ kind: "added", word: now[to++] });
  return changes;
}

/** Returns the index pairs of a longest common subsequence of two lists of words. */
function commonWords(one, other) {
  const lengths = Array.from({ length: one.length + 1 }, () => new Uint16Array(other.length + 1));
  for (let row = one.length - 1; row >= 0; row--) {
    for (let column = other.length - 1; column >= 0; column--) {
      lengths[row][column] = one[row] === other[column]
        ? lengths[row + 1][column + 1] + 1 : Math.max(lengths[row + 1][column], lengths[row][column + 1]);
    }
  }
  const pairs = [];
  let [row, column] = [0, 0];
  while (row < one.length && column < other.length) {
    if (one[row] === other[column]) pairs.push([row++, column++]);
    else if (lengths[row + 1][column] >= lengths[row][column + 1]) row += 1;
    else column += 1;
  }
  return pairs;
}
