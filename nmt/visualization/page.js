"use strict";

// The page: which sentence is open, and what is chosen in it.

const LIST_STEPS = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

class Page {
  constructor(data) {
    this.data = data;
    this.heads = new Map();
    this.views = [];
    this.unselect();
    this.found = [...data.sentences.keys()];
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
    else document.getElementById("position").value = NO_SENTENCE;
  }

  /** A line of the list. Tab reaches the open one alone. */
  item(sentence) {
    const number = make("span", { class: "number" }, String(sentence.line));
    const { source_language, language } = this.data.systems[0];
    const text = make("span", { class: "text", dir: "auto", lang: source_language ?? language }, sentence.source);
    return make("li", {}, make("button", { type: "button", title: sentence.source, tabindex: -1 }, number, text));
  }

  /** Opens the line that the address ends with, `#12`, or the first. */
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
      const look = sentence.looks[number];
      if (!look) return make("section", { class: "system" }, make("h2", {}, system.name), make("p", {}, NO_LOOK));
      const view = new View(this, number, look);
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

  /** Draws what depends on the width of the window. */
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
    const place = this.found.indexOf(this.current) + 1;
    const among = this.found.length === all ? `${all}` : `${this.found.length} found of ${all}`;
    document.getElementById("position").value = this.found.length ? `${place || "–"} / ${among}` : "nothing found";
  }

  step(by) {
    const place = this.found.indexOf(this.current) + by;
    const next = this.found[Math.max(0, Math.min(this.found.length - 1, place))];
    if (next !== undefined && next !== this.current) this.open(next);
  }

  filter() {
    this.found = matching(this.data.sentences, this.search.value);
    const kept = new Set(this.found);
    this.items.forEach((item, index) => { item.hidden = !kept.has(index); });
    if (this.found.length && !kept.has(this.current)) this.open(this.found[0]);
    else this.count();
  }

  /** Keys in the list open what they lead to. */
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

  /** Pins a selection, which is then shown whatever is pointed at; the same one again, or null, unpins it. */
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

if (typeof document !== "undefined") new Page(JSON.parse(document.getElementById("data").textContent));
