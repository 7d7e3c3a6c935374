"use strict";

// The equations of attention with the numbers of a step, for the mechanism in use.

/** Names of mechanisms as their papers have them, from the choices of `model.attention`. */
function mechanismName(mechanism) {
  if (!mechanism) return "";
  const scores = { additive: "additive", concat: "concat", dot: "dot", general: "general", scaled_dot: "scaled dot" };
  const windows = { local_monotonic: ", local, monotonic", local_predictive: ", local, predictive", global: "" };
  const wirings = { bahdanau: "Bahdanau", luong: "Luong", conditional: "conditional GRU", gnmt: "GNMT" };
  const heads = mechanism.heads > 1 ? `, ${mechanism.heads} heads` : "";
  const coverage = mechanism.coverage === "none" ? "" : `, ${mechanism.coverage} coverage`;
  const latent = mechanism.alignment === "latent" ? ", latent alignment" : "";
  const score = mechanism.score === "none" ? "no attention" : `${scores[mechanism.score] ?? mechanism.score} score`;
  const window = windows[mechanism.window] ?? `, ${mechanism.window}`;
  return `${wirings[mechanism.wiring] ?? mechanism.wiring}, ${score}${window}${heads}${coverage}${latent}`;
}

function math(tag, ...children) {
  const element = document.createElementNS(MATH, tag);
  element.append(...children);
  return element;
}

const mi = (name) => math("mi", name);
const bold = (name) => {
  const element = mi(name);
  element.setAttribute("class", "vector");
  return element;
};
const mo = (sign) => math("mo", sign);
const mn = (number) => math("mn", String(number));
const mrow = (...parts) => math("mrow", ...parts);
const sub = (base, ...index) => math("msub", base, mrow(...index));
const sup = (base, ...power) => math("msup", base, mrow(...power));
const frac = (top, bottom) => math("mfrac", top, bottom);
const bracket = (...parts) => mrow(mo("("), ...parts, mo(")"));
const transposed = (vector) => sup(vector, mo("⊤"));
const apply = (name, ...parts) => mrow(math("mi", name), bracket(...parts));
const sumOver = (index) => math("munder", mo("∑"), mi(index));
const formula = (...parts) => {
  const element = math("math", mrow(...parts));
  element.setAttribute("class", "formula");
  element.setAttribute("displaystyle", "true");
  return element;
};
const minus = () => mrow(mi("i"), mo("−"), mn(1));
const annotation = (index = "j") => sub(bold("h"), mi(index));
const scoreSymbol = (index = "j") => sub(mi("e"), mi("i"), mi(index));
const weightSymbol = (index = "j") => sub(mi("α"), mi("i"), mi(index));

/** The query: the state before the step (Bahdanau), or after the recurrence (Luong). */
function querySymbol(mechanism) {
  return sub(bold("s"), mechanism.query === "previous" ? minus() : mi("i"));
}

/** Returns the formula of the score e_ij. */
function scoreFormula(mechanism) {
  const query = () => querySymbol(mechanism);
  const [W, U, v] = [() => sub(bold("W"), mi("a")), () => sub(bold("U"), mi("a")), () => transposed(sub(bold("v"), mi("a")))];
  const extra = mechanism.coverage === "none" ? [] : [mo("+"), sub(bold("C"), mi("a")), sub(bold("k"), minus(), mi("j"))];
  const formulas = {
    additive: () => [v(), apply("tanh", W(), query(), mo("+"), U(), annotation(), mo("+"), sub(bold("b"), mi("a")), ...extra)],
    concat: () => [v(), apply("tanh", W(), mo("["), query(), mo(";"), annotation(), mo("]"), ...extra)],
    dot: () => [transposed(query()), annotation()],
    general: () => [transposed(query()), W(), annotation()],
    scaled_dot: () => [frac(mrow(transposed(query()), annotation()), math("msqrt", mi("d")))],
    cosine: () => [sub(mi("β"), mi("i")), apply("cos", W(), query(), mo(","), annotation())],
    location: () => [sub(bracket(W(), query()), mi("j"))],
    mean: () => [mn(0)],
  };
  const parts = formulas[mechanism.score] ?? (() => [apply("score", query(), mo(","), annotation())]);
  return formula(scoreSymbol(), mo("="), ...parts());
}

function weightFormula(mechanism) {
  const normal = mechanism.normalizer === "softmax" ? "" : mechanism.normalizer.replace("entmax15", "1.5-entmax");
  const exponential = (index) => apply("exp", scoreSymbol(index));
  const parts = normal
    ? [sub(apply(normal, sub(bold("e"), mi("i"))), mi("j"))]
    : [frac(exponential("j"), mrow(sumOver("k"), exponential("k")))];
  if (mechanism.window === "local_predictive") {
    const distance = sup(bracket(mi("j"), mo("−"), sub(mi("p"), mi("i"))), mn(2));
    parts.push(mo("·"), apply("exp", mo("−"), frac(distance, mrow(mn(2), sup(mi("σ"), mn(2))))));
  }
  return formula(weightSymbol(), mo("="), ...parts);
}

function windowFormula(mechanism) {
  const center = sub(mi("p"), mi("i"));
  if (mechanism.window === "local_monotonic") return formula(center, mo("="), mi("i"));
  if (mechanism.window !== "local_predictive") return null;
  const inner = mrow(transposed(sub(bold("v"), mi("p"))), apply("tanh", sub(bold("W"), mi("p")), querySymbol(mechanism)));
  return formula(center, mo("="), mi("S"), mo("·"), apply("σ", inner));
}

function contextFormula() {
  return formula(sub(bold("c"), mi("i")), mo("="), sumOver("j"), weightSymbol(), annotation());
}

function outputFormula(mechanism) {
  const [piece, before] = [sub(mi("y"), mi("i")), sub(mi("y"), mo("<"), mi("i"))];
  const left = [mi("p"), bracket(piece, mo("|"), before, mo(","), mi("x")), mo("=")];
  if (mechanism.alignment === "latent") {
    return formula(...left, sumOver("j"), weightSymbol(), mi("p"), bracket(piece, mo("|"), before, mo(","), annotation()));
  }
  return formula(...left, apply("softmax", bold("W"), sub(bold("t"), mi("i")), mo("+"), bold("b")));
}

/** Returns the numbers of a packed matrix, row by row. */
function unpacked({ rows, columns, scale, values }) {
  const bytes = atob(values);
  const row = (number) => Array.from({ length: columns }, (_, column) => {
    const byte = bytes.charCodeAt(number * columns + column);
    return scale * (byte > 127 ? byte - 256 : byte);
  });
  return Array.from({ length: rows }, (_, number) => row(number));
}

/** Draws vectors as the columns of a picture: blue is negative, orange positive, full at `most`. */
function strip(vectors, most, settings = {}) {
  const height = vectors[0].length;
  const canvas = make("canvas", { width: vectors.length, height, role: "img", ...settings });
  const image = new ImageData(vectors.length, height);
  vectors.forEach((vector, column) => vector.forEach((value, row) => {
    const color = value < 0 ? [0, 114, 178] : [213, 94, 0];
    image.data.set([...color, Math.round(255 * Math.min(1, Math.abs(value) / most))], 4 * (row * vectors.length + column));
  }));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const largestOf = (vectors) => Math.max(1e-9, ...vectors.flat().map(Math.abs));

/** Draws a vector as a horizontal strip with its length. */
function vectorRow(symbol, vector, words) {
  const name = make("span", { class: "symbol" }, symbol);
  const rows = vector.map((value) => [value]);
  const norm = Math.hypot(...vector);
  return make(
    "div", { class: "vector-row" }, name, strip(rows, largestOf([vector]), { class: "wide", "aria-label": words }),
    make("span", { class: "value" }, `${vector.length} numbers, length ${norm.toFixed(2)}`),
  );
}

/** Shows the equations of a step: the formulas, and below each its numbers for every source piece. */
function showEquations(container, view, step) {
  const mechanism = view.system.mechanism;
  if (!mechanism) {
    container.hidden = true;
    return;
  }
  const { trace, page } = view;
  const sources = [...trace.source_pieces, END];
  const head = Math.min(view.head ?? 0, step.weights.length - 1);
  const [weights, scores] = [step.weights[head], step.scores?.[head]];
  const center = step.centers?.[head];
  const position = pathTo(view.nodes, view.predictor(view.chosen)).length + 1;
  const strongest = weights.indexOf(Math.max(...weights));
  const annotations = trace.annotations ? unpacked(trace.annotations) : null;
  const parts = [make("h3", {}, `The equations of step ${position}: `, mechanismName(mechanism))];
  parts.push(...otherSystems(view));
  if (step.weights.length > 1) {
    parts.push(radios("head", `equation head ${view.number}`, step.weights.map((_, each) => [each, String(each + 1)]), head, (each) => {
      view.head = each;
      showEquations(container, view, step);
      container.querySelectorAll(".choice input")[each].focus();
    }));
  }
  if (step.query) {
    const meaning = mechanism.query === "previous" ? "decoder state before this step" : "decoder state of this step";
    parts.push(vectorRow(formula(querySymbol(mechanism)), unpacked(step.query)[0], meaning));
  }
  if (center !== undefined) parts.push(windowText(mechanism, center, trace, sources));
  parts.push(make(
    "div", { class: "numbers", tabindex: 0, role: "group", "aria-label": "Numbers of each source piece" },
    numbersTable({ mechanism, sources, annotations, scores, weights, center, strongest, trace }),
  ));
  parts.push(substitution(mechanism, sources, scores, weights, strongest, position));
  if (step.context) parts.push(vectorRow(contextFormula(), unpacked(step.context)[0], "context"));
  parts.push(outputNumbers(mechanism, step, view));
  container.replaceChildren(...parts);
}

/** Buttons for the same source with another loaded mechanism. */
function otherSystems(view) {
  const { systems } = view.page.data;
  if (systems.length < 2) return [];
  const buttons = systems.map((system, number) => button(
    mechanismName(system.mechanism) || system.name, () => view.page.showBeam(number),
    { "aria-pressed": number === view.number, title: system.name },
  ));
  return [make("div", { class: "mechanisms", role: "group", "aria-label": "Mechanism" }, ...buttons)];
}

function windowText(mechanism, center, trace, sources) {
  const [first, last] = windowOf(center, trace.half_width, sources.length) ?? [null, null];
  const range = first === null ? "outside of the sentence" : `pieces ${first + 1} to ${last + 1}`;
  const text = make("p", { class: "window-text" });
  const own = windowFormula(mechanism);
  if (own) text.append(own);
  text.append(` = ${(center + 1).toFixed(2)}, counted from 1; D = ${trace.half_width}: the window has `, make("b", {}, range));
  if (mechanism.window === "local_predictive") text.append(`; σ = D/2 = ${(trace.half_width / 2).toFixed(1)}`);
  return text;
}

/** A table with a column for each source piece: h_j, e_ij, the Gaussian of a predicted window, and α_ij. */
function numbersTable({ mechanism, sources, annotations, scores, weights, center, strongest, trace }) {
  const heading = make("tr", {}, make("th", { scope: "col" }, "source piece"));
  sources.forEach((piece, at) => heading.append(make(
    "th", { scope: "col", class: at === strongest ? "strongest" : undefined }, make("bdi", {}, label(piece)), make("sub", {}, at + 1),
  )));
  const body = make("tbody");
  const row = (name, symbols, cells, kind) => body.append(
    make("tr", { class: kind }, make("th", { scope: "row" }, make("span", { class: "caption" }, name), symbols), ...cells),
  );
  if (annotations) {
    const most = largestOf(annotations);
    row("annotation", formula(annotation()), annotations.map((vector, at) => make(
      "td", {}, strip([vector], most, { class: "tall", "aria-label": `annotation ${at + 1}, length ${Math.hypot(...vector).toFixed(2)}` }),
    )), "annotations");
  }
  if (scores) {
    const finite = scores.filter((score) => score !== null);
    const [low, high] = [Math.min(0, ...finite), Math.max(0, ...finite)];
    const range = Math.max(1e-9, high - low);
    row("score", scoreFormula(mechanism), scores.map((score) => {
      if (score === null) return make("td", { class: "outside" }, "–");
      return make("td", {}, barOf(Math.abs(score) / range, score < 0 ? "negative" : "positive"), signed(score, 2));
    }), "scores");
  }
  if (mechanism.window === "local_predictive") {
    const spread = 2 * (trace.half_width / 2) ** 2;
    const distance = sup(bracket(mi("j"), mo("−"), sub(mi("p"), mi("i"))), mn(2));
    row("nearness to the centre", formula(apply("exp", mo("−"), frac(distance, mrow(mn(2), sup(mi("σ"), mn(2)))))), sources.map((_, at) => {
      const value = Math.exp(-((at - center) ** 2) / spread);
      return make("td", {}, barOf(value, "gaussian"), value.toFixed(2));
    }), "gaussian");
  }
  row("weight", weightFormula(mechanism), weights.map((weight, at) => make(
    "td", { class: at === strongest ? "strongest" : undefined }, barOf(weight, "weight"), weight.toFixed(3),
  )), "alphas");
  return make("table", { class: "equation-table" }, make("thead", {}, heading), body);
}

function barOf(share, kind) {
  const bar = make("span", { class: `column ${kind}` });
  bar.style.setProperty("--share", Math.max(0, Math.min(1, share)).toFixed(3));
  return bar;
}

/** The weight of the strongest source piece, with its numbers put into the formula. */
function substitution(mechanism, sources, scores, weights, at, position) {
  const text = make("p", { class: "substitution" });
  const left = [sub(mi("α"), mn(position), mo(","), mn(at + 1)), mo("=")];
  const plain = scores && mechanism.normalizer === "softmax" && mechanism.window === "global" && scores[at] !== null;
  if (plain) {
    const finite = scores.filter((score) => score !== null);
    const most = Math.max(...finite);
    const total = finite.reduce((sum, score) => sum + Math.exp(score - most), 0) * Math.exp(most);
    text.append(formula(
      ...left, frac(apply("exp", mn(signed(scores[at], 2))), mrow(sumOver("k"), apply("exp", sub(mi("e"), mn(position), mo(","), mi("k"))))),
      mo("="), frac(mn(compact(Math.exp(scores[at]))), mn(compact(total))), mo("="), mn((Math.exp(scores[at]) / total).toFixed(3)),
    ));
  } else {
    text.append(formula(...left, mn(weights[at].toFixed(3))));
  }
  text.append(" for ", make("bdi", {}, label(sources[at])), ", the largest");
  return text;
}

/** Writes a number with a minus sign that is as wide as a digit. */
function signed(value, digits) {
  return value.toFixed(digits).replace("-", "−");
}

/** Writes a number with three significant digits. */
function compact(value) {
  if (!Number.isFinite(value)) return "∞";
  return value >= 1e5 || value < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

function outputNumbers(mechanism, step, view) {
  const list = make("ol", { class: "outputs" });
  for (const [piece, probability] of step.top.slice(0, 5)) {
    const bar = make("span", { class: "bar" });
    bar.style.setProperty("--share", probability);
    const isChosen = view.chosen > 0 && view.nodes[view.chosen].piece === piece;
    list.append(make("li", { class: isChosen ? "chosen" : undefined }, make("bdi", { class: "name" }, label(piece)), bar,
      make("span", { class: "value" }, probabilityText(probability))));
  }
  return make("div", { class: "output-row" }, outputFormula(mechanism), list);
}
