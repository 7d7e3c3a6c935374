"use strict";

// Elements, selection and text: what the views of the page share.

const SVG = "http://www.w3.org/2000/svg";
const MATH = "http://www.w3.org/1998/Math/MathML";
const LONGEST_LABEL = 24;
const WORD_START = "\u2581";
const END = "</s>";

function make(tag, settings = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function draw(tag, settings = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(settings)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Makes a button with a text and an action. */
function button(text, action, settings = {}) {
  const element = make("button", { type: "button", ...settings }, text);
  element.addEventListener("click", action);
  return element;
}

/** Makes radio buttons in a fieldset; `choices` are [value, text] pairs, `choose` gets the chosen value. */
function radios(legend, name, choices, chosen, choose) {
  const field = make("fieldset", { class: "choice" }, make("legend", {}, legend));
  for (const [value, text] of choices) {
    const input = make("input", { type: "radio", name, value });
    input.checked = value === chosen;
    input.addEventListener("change", () => choose(value));
    field.append(make("label", {}, input, " ", text));
  }
  return field;
}

/**
 * Makes the elements of a container that match `selector` selectable by pointer, touch and keyboard.
 * `selectionOf(element)` returns the selection to show. Tab reaches the element that last had focus.
 * `next(element, key)` returns the element that a key moves to, undefined for other keys.
 */
function selectable(container, selector, page, selectionOf, next) {
  const elementOf = (event) => event.target.closest(selector);
  container.addEventListener("pointerover", (event) => {
    if (elementOf(event)) page.point(selectionOf(elementOf(event)));
  });
  container.addEventListener("pointerleave", () => page.point(null));
  container.addEventListener("click", (event) => {
    if (elementOf(event)) page.pin(selectionOf(elementOf(event)));
  });
  container.addEventListener("focusin", (event) => {
    container.querySelector('[tabindex="0"]').tabIndex = -1;
    event.target.tabIndex = 0;
    // A click gives focus too, but pins: an unpinned selection must not stay shown.
    page.focus(event.target.matches(":focus-visible") ? selectionOf(event.target) : null);
  });
  container.addEventListener("focusout", () => page.focus(null));
  container.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      page.pin(selectionOf(event.target));
    } else {
      const element = next(event.target, event.key);
      if (!element) return;
      element.focus();
    }
    event.preventDefault();
    event.stopPropagation();
  });
}

/** Whether text in this element runs from right to left. */
function isRightToLeft(element) {
  return getComputedStyle(element).direction === "rtl";
}

/** Marks an element as chosen, and as pinned. */
function mark(element, isChosen, isPinned) {
  element.classList.toggle("chosen", isChosen);
  element.setAttribute("aria-selected", isPinned);
}

/** Shortens a piece or a word for a label: a symbol of the user may be a paragraph. */
function label(piece) {
  const characters = [...piece];
  return characters.length > LONGEST_LABEL ? `${characters.slice(0, LONGEST_LABEL - 1).join("")}…` : piece;
}

/** Returns the text of pieces. */
function textOf(pieces) {
  return pieces.join("").replaceAll(WORD_START, " ").trim();
}

/** Returns the number of the word of each piece; a word begins at `▁`. */
function wordsOfPieces(pieces) {
  let word = -1;
  return pieces.map((piece, index) => {
    if (index === 0 || piece.startsWith(WORD_START)) word += 1;
    return word;
  });
}

/** Returns the words of a side, the end symbol not counted. */
function wordsOf(pieces) {
  const words = [];
  const numbers = wordsOfPieces(pieces);
  pieces.forEach((piece, index) => { words[numbers[index]] = (words[numbers[index]] ?? "") + piece; });
  return words.map((word) => word.replaceAll(WORD_START, " ").trim() || WORD_START);
}

/** Returns a probability for people: more digits where it is small. */
function probabilityText(value) {
  if (value >= 0.995) return value >= 0.99995 ? "1.00" : value.toFixed(3);
  return value >= 0.01 ? value.toFixed(2) : value >= 0.0005 ? value.toFixed(3) : "<0.001";
}
