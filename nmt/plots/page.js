"use strict";

// The page: which sentence is open, and what is chosen in it.

class Page {
  constructor(data) {
    this.data = data;
    this.heads = new Map();
    this.views = [];
    this.held = null;
    this.hovered = null;
    this.found = [...data.sentences.keys()];
    this.current = 0;
    this.list = document.getElementById("list");
    this.search = document.getElementById("search");
    this.items = data.sentences.map((sentence) => this.item(sentence));
    this.list.append(...this.items);
    this.list.addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (item) this.open(this.items.indexOf(item));
    });
    document.getElementById("previous").addEventListener("click", () => this.step(-1));
    document.getElementById("next").addEventListener("click", () => this.step(1));
    this.search.addEventListener("input", () => this.filter());
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.follow());
    if (data.sentences.length) this.follow();
    else document.getElementById("position").value = NO_SENTENCE;
  }

  item(sentence) {
    const number = make("span", { class: "number" }, String(sentence.line));
    const text = make("span", { class: "text", dir: "auto" }, sentence.source);
    return make("li", {}, make("button", { type: "button", title: sentence.source }, number, text));
  }

  /** The line that the address ends with, `#12`, or the first. */
  follow() {
    const line = Number(location.hash.slice(1));
    this.open(Math.max(0, this.data.sentences.findIndex((sentence) => sentence.line === line)));
  }

  open(index) {
    const before = this.items[this.current].firstChild;
    before.removeAttribute("aria-current");
    this.current = index;
    this.held = this.hovered = null;
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
    const button = this.items[index].firstChild;
    button.setAttribute("aria-current", "true");
    button.scrollIntoView({ block: "nearest" });
    if (location.hash !== `#${sentence.line}`) location.replace(`#${sentence.line}`);
    this.count();
  }

  count() {
    const all = this.data.sentences.length;
    const place = this.found.indexOf(this.current) + 1;
    const among = this.found.length === all ? `${all}` : `${this.found.length} found of ${all}`;
    document.getElementById("position").value = this.found.length ? `${place || "–"} / ${among}` : "nothing found";
  }

  step(by) {
    const place = this.found.indexOf(this.current);
    const next = place < 0 ? this.found[0] : this.found[place + by];
    if (next !== undefined) this.open(next);
  }

  filter() {
    this.found = matching(this.data.sentences, this.search.value);
    const kept = new Set(this.found);
    this.items.forEach((item, index) => { item.hidden = !kept.has(index); });
    if (this.found.length && !kept.has(this.current)) this.open(this.found[0]);
    else this.count();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      this.hold(null);
      document.activeElement?.blur();
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

  select(selection) {
    this.hovered = selection;
    this.repaint();
  }

  hold(selection) {
    const same = this.held && selection && ["view", "side", "index"].every((name) => this.held[name] === selection[name]);
    this.held = same ? null : selection;
    this.repaint();
  }

  repaint() {
    for (const view of this.views) view.paint(this.hovered ?? this.held);
  }
}

if (typeof document !== "undefined") new Page(JSON.parse(document.getElementById("data").textContent));
