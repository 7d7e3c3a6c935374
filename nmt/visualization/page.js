"use strict";

// A list of items, the open one, and the selection in it. The views of a page are made from the functions below.

const SVG = "http://www.w3.org/2000/svg";
const LONGEST_LABEL = 24;
const LIST_STEPS = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

class Page {
  constructor(data) {
    this.data = data;
    this.heads = new Map();
    this.views = [];
    this.unselect();
    this.matches = [...data.sentences.keys()];
    this.current = -1;
    this.list = document.getElementById("list");
    this.search = document.getElementById("search");
    this.items = data.sentences.map((sentence) => this.item(sentence));
    this.list.append(...this.items);
    this.list.addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (item) this.open(this.items.indexOf(item));
    });
    this.list.addEventListener("keydown", (event) => this.walk(event));
    document.getElementById("previous").addEventListener("click", () => this.step(-1));
    document.getElementById("next").addEventListener("click", () => this.step(1));
    this.search.addEventListener("input", () => this.filter());
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.follow());
    addEventListener("resize", () => this.fit());
    if (data.sentences.length) this.follow();
    else document.getElementById("position").value = NO_ITEMS;
  }

  /** Makes a line of the list. Tab reaches the open one alone. */
  item(sentence) {
    const number = make("span", { class: "number" }, String(sentence.line));
    const { source_language, language } = this.data.systems[0];
    const text = make("span", { class: "text", dir: "auto", lang: source_language ?? language }, sentence.source);
    return make("li", {}, make("button", { type: "button", title: sentence.source, tabindex: -1 }, number, text));
  }

  /** Opens the line that the address names, as in `#12`, or the first. */
  follow() {
    const line = Number(location.hash.slice(1));
    const index = Math.max(0, this.data.sentences.findIndex((sentence) => sentence.line === line));
    if (index !== this.current) this.open(index);
  }

  open(index) {
    const before = this.items[this.current]?.firstChild;
    before?.removeAttribute("aria-current");
    before?.setAttribute("tabindex", -1);
    this.current = index;
    this.unselect();
    const sentence = this.data.sentences[index];
    this.views = [];
    const sections = this.data.systems.map((system, number) => {
      const attention = sentence.attention[number];
      if (!attention) {
        return make("section", { class: "system" }, make("h2", {}, system.name), make("p", {}, NO_CONTENT));
      }
      const view = new View(this, number, attention);
      this.views.push(view);
      return view.element;
    });
    document.getElementById("systems").replaceChildren(...sections);
    this.fit();
    const button = this.items[index].firstChild;
    button.setAttribute("aria-current", "true");
    button.tabIndex = 0;
    this.reveal(button);
    if (location.hash !== `#${sentence.line}`) location.replace(`#${sentence.line}`);
    this.count();
  }

  /** Draws all that depends on the width of the window. */
  fit() {
    for (const view of this.views) view.fit();
    this.repaint();
  }

  /** Scrolls the list, and not the page. */
  reveal(button) {
    const nav = this.list.parentElement;
    const [seen, box] = [nav.getBoundingClientRect(), button.getBoundingClientRect()];
    nav.scrollTop += Math.min(0, box.top - seen.top) + Math.max(0, box.bottom - seen.bottom);
  }

  count() {
    const all = this.data.sentences.length;
    const position = this.matches.indexOf(this.current) + 1;
    const among = this.matches.length === all ? `${all}` : `${this.matches.length} found of ${all}`;
    document.getElementById("position").value = this.matches.length ? `${position || "–"} / ${among}` : "nothing found";
  }

  step(by) {
    const index = this.matches.indexOf(this.current) + by;
    const next = this.matches[Math.max(0, Math.min(this.matches.length - 1, index))];
    if (next !== undefined && next !== this.current) this.open(next);
  }

  filter() {
    this.matches = matching(this.data.sentences, this.search.value);
    const kept = new Set(this.matches);
    this.items.forEach((item, index) => { item.hidden = !kept.has(index); });
    if (this.matches.length && !kept.has(this.current)) this.open(this.matches[0]);
    else this.count();
  }

  /** Opens the line that a key in the list moves to. */
  walk(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in LIST_STEPS)) return;
    event.preventDefault();
    this.step(LIST_STEPS[event.key]);
    this.items[this.current].firstChild.focus();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      this.pin(null);
      if (event.target === this.search) this.search.blur();
    } else if (event.target instanceof HTMLInputElement) {
      if (event.target === this.search && event.key === "Enter") this.step(1);
    } else if (event.key === "/") {
      event.preventDefault();
      this.search.focus();
    } else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      this.step(event.key === "ArrowLeft" ? -1 : 1);
    }
  }

  unselect() {
    this.pinned = this.pointed = this.focused = null;
  }

  point(selection) {
    this.pointed = selection;
    this.repaint();
  }

  focus(selection) {
    this.focused = selection;
    this.repaint();
  }

  /** Pins a selection, which stays shown while others are pointed at. The same one again, or null, unpins it. */
  pin(selection) {
    const names = ["view", "side", "index", "column"];
    const same = this.pinned && selection && names.every((name) => this.pinned[name] === selection[name]);
    this.pinned = same ? null : selection;
    this.repaint();
  }

  repaint() {
    for (const view of this.views) view.paint(this.pinned ?? this.pointed ?? this.focused);
  }
}

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

if (typeof document !== "undefined") new Page(JSON.parse(document.getElementById("data").textContent));
