"use strict";

// What all pages draw with.

const SVG = "http://www.w3.org/2000/svg";
const LONGEST_LABEL = 24;

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

/**
 * Makes the elements in a container selectable by pointer, touch and keyboard: `selectionOf(element)` is what the page
 * shows of one that matches `selector`. Tab reaches one of them, the last that had focus; `next(element, key)` is
 * the one that a key leads to, undefined for a key that has no meaning there.
 */
function selectable(container, selector, page, selectionOf, next) {
  const found = (event) => event.target.closest(selector);
  container.addEventListener("pointerover", (event) => {
    if (found(event)) page.point(selectionOf(found(event)));
  });
  container.addEventListener("pointerleave", () => page.point(null));
  container.addEventListener("click", (event) => {
    if (found(event)) page.pin(selectionOf(found(event)));
  });
  container.addEventListener("focusin", (event) => {
    container.querySelector('[tabindex="0"]').tabIndex = -1;
    event.target.tabIndex = 0;
    // A click gives focus too, but pins: what it unpins is not shown any longer.
    page.focus(event.target.matches(":focus-visible") ? selectionOf(event.target) : null);
  });
  container.addEventListener("focusout", () => page.focus(null));
  container.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      page.pin(selectionOf(event.target));
    } else {
      const reached = next(event.target, event.key);
      if (!reached) return;
      reached.focus();
    }
    event.preventDefault();
    event.stopPropagation();
  });
}

/** Whether text in this element runs from right to left. */
function isRightToLeft(element) {
  return getComputedStyle(element).direction === "rtl";
}

/** Marks what is chosen among elements, and what is pinned. */
function mark(element, isChosen, isPinned) {
  element.classList.toggle("chosen", isChosen);
  element.setAttribute("aria-selected", isPinned);
}

/** A piece or a word where there is little room: one of the user's own may be a paragraph. */
function label(piece) {
  const characters = [...piece];
  return characters.length > LONGEST_LABEL ? `${characters.slice(0, LONGEST_LABEL - 1).join("")}…` : piece;
}
