"use strict";

// What the page reads from its data; needs no document.

const NO_LOOK = "No translation.";
const NO_SENTENCE = "no sentences";

/** Weights of one head, or the mean over all for head -1: [target * sources], from 0 to 1. */
function weightsOf(look, head) {
  const text = atob(look.weights);
  const size = text.length / look.heads;
  const heads = head < 0 ? [...Array(look.heads).keys()] : [head];
  const weights = new Float32Array(size);
  for (const number of heads) {
    for (let place = 0; place < size; place++) {
      weights[place] += text.charCodeAt(number * size + place) / 255 / heads.length;
    }
  }
  return weights;
}

/** What a piece looked at, or was looked at by: a weight for every piece of the other side. */
function weightsOfPiece(weights, sources, side, index) {
  if (side === "target") return Array.from(weights.subarray(index * sources, (index + 1) * sources));
  return Array.from({ length: weights.length / sources }, (_, row) => weights[row * sources + index]);
}

/** First and last source position within `halfWidth` of the center; null where there is none. */
function windowOf(center, halfWidth, sources) {
  const first = Math.max(0, Math.ceil(center - halfWidth));
  const last = Math.min(sources - 1, Math.floor(center + halfWidth));
  return first <= last ? [first, last] : null;
}

/** The largest of the weights, with the pieces they belong to. */
function largest(weights, pieces, count = 5) {
  return weights
    .map((weight, index) => ({ weight, piece: pieces[index] }))
    .filter(({ weight }) => weight >= 0.01)
    .sort((one, other) => other.weight - one.weight)
    .slice(0, count);
}

/** The numbers of the sentences with this text on either side. */
function matching(sentences, query) {
  const wanted = query.trim().toLocaleLowerCase();
  const has = (text) => text.toLocaleLowerCase().includes(wanted);
  return [...sentences.keys()].filter(
    (index) => has(sentences[index].source) || sentences[index].looks.some((look) => look && has(look.target)),
  );
}
