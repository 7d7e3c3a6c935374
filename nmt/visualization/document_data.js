"use strict";

// What the page reads from its data; needs no document.

const NO_LOOK = "No word.";
const NO_SENTENCE = "no documents";

/** How much ink a document's sentences and words get, from 0 to 1: figure 5 of Yang 2016, full for the largest. */
function inksOf(look) {
  const words = look.sentences.map(({ weight, weights }) => weights.map((each) => Math.sqrt(weight) * each));
  const most = Math.max(1e-9, ...words.map((row) => Math.max(0, ...row)));
  const mostOfSentence = Math.max(1e-9, ...look.sentences.map(({ weight }) => weight));
  return {
    sentences: look.sentences.map(({ weight }) => weight / mostOfSentence),
    words: words.map((row) => row.map((value) => value / most)),
  };
}

/** The largest of the weights of a sentence, with their words. */
function largestWords({ words, weights }, count = 5) {
  return weights
    .map((weight, index) => ({ weight, word: words[index] }))
    .filter(({ weight }) => weight >= 0.01)
    .sort((one, other) => other.weight - one.weight)
    .slice(0, count);
}

/** The numbers of the documents with this text, or of this label. */
function matching(documents, query) {
  const wanted = query.trim().toLocaleLowerCase();
  const has = (text) => text.toLocaleLowerCase().includes(wanted);
  return [...documents.keys()].filter((index) =>
    documents[index].looks.some(
      (look) => has(look.label) || look.sentences.some(({ words }) => has(words.join(" "))),
    ),
  );
}
