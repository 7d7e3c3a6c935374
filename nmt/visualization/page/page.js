"use strict";

// The page: a list of items, the open one in one of its views, the selection in it, and what the page asks a server.

const LIST_STEPS = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
const TABS = { attention: "Attention", beam: "Beam search", alignment: "Alignment" };
const ORDERS = { line: "in order", mistakes: "mistakes first", unsure: "least confident first", sure: "most confident first" };
const EMPTY = { translations: "No translation.", documents: "No word." };
const NONE = { translations: "no sentences", documents: "no documents" };
const MOST_MODELS = 4;

/** Returns the indices of the items with this text. */
function matching(data, query) {
  const text = query.trim().toLocaleLowerCase();
  const matches = (part) => part.toLocaleLowerCase().includes(text);
  const test = data.kind === "documents" ? documentMatches : sentenceMatches;
  return [...data.sentences.keys()].filter((index) => test(data.sentences[index], matches));
}

class Page {
  constructor(data) {
    this.data = data;
    this.heads = new Map();
    this.level = "pieces";
    this.scale = "root";
    this.views = [];
    this.beamNumber = 0;
    this.searchStep = 0;
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
    this.setUpViews();
    if (data.sentences.length) this.follow();
    else this.welcome();
  }

  welcome() {
    document.getElementById("position").value = NONE[this.data.kind];
    if (!this.data.server) return;
    const { source_language: from, target_language: to } = this.data.systems[0];
    document.getElementById("systems").append(make(
      "section", { class: "system" }, make("h2", {}, `From ${from} to ${to}`),
      make("p", {}, "Type a sentence above. Its beam search grows here as a tree, step by step, with the attention of each step and "
        + "the equations behind it. Then ask what if: another piece, other weights, another source."),
    ));
  }

  /** Makes the tabs, the order of documents, and the form for a sentence, as far as this page has them. */
  setUpViews() {
    const { data } = this;
    if (data.kind === "documents") {
      const order = document.getElementById("order");
      const hasTruth = data.sentences.some(({ attention }) => attention[0].true_label != null);
      for (const [value, text] of Object.entries(ORDERS)) {
        if (value !== "mistakes" || hasTruth) order.append(make("option", { value }, text));
      }
      order.hidden = false;
      order.addEventListener("change", () => this.arrange(order.value));
      return;
    }
    const hasBeams = data.server || data.sentences.some(({ beams }) => beams?.some(Boolean));
    this.tabs = Object.keys(TABS).filter((tab) => tab !== "beam" || hasBeams);
    this.tab = data.server ? "beam" : "attention";
    const bar = document.getElementById("tabs");
    for (const tab of this.tabs) {
      bar.append(button(TABS[tab], () => this.choose(tab), { role: "tab", id: `tab-${tab}`, "aria-controls": "systems" }));
    }
    bar.addEventListener("keydown", (event) => this.walkTabs(event));
    bar.hidden = false;
    document.getElementById("systems").setAttribute("role", "tabpanel");
    this.setUpTools();
    if (data.server) this.setUpForm();
    this.markTab();
  }

  setUpTools() {
    const again = (name) => (value) => {
      this[name] = value;
      this.show();
    };
    document.getElementById("tools").append(
      radios("show", "level", [["pieces", "pieces"], ["words", "words"]], this.level, again("level")),
      radios("colours", "scale", [["root", "square root"], ["linear", "linear"]], this.scale, again("scale")),
    );
  }

  setUpForm() {
    const form = document.getElementById("ask");
    form.hidden = false;
    const models = document.getElementById("models");
    const { systems } = this.data;
    if (systems.length > 1) {
      const field = make("fieldset", { class: "choice" }, make("legend", {}, "models"));
      systems.forEach((system, number) => {
        const box = make("input", { type: "checkbox", name: "model", value: number });
        box.checked = number < MOST_MODELS;
        field.append(make("label", {}, box, " ", system.name));
      });
      models.append(field);
    }
    this.source = document.getElementById("source");
    this.source.lang = systems[0].source_language;
    this.target = document.getElementById("target");
    this.target.lang = systems[0].target_language;
    this.target.addEventListener("input", () => {
      document.getElementById("translate").textContent = this.target.value.trim() ? "Show this translation" : "Translate";
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    for (const field of [this.source, this.target]) {
      field.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.shiftKey) return;
        event.preventDefault();
        this.submit();
      });
    }
  }

  chosenModels() {
    const boxes = [...document.querySelectorAll("#models input")];
    const chosen = boxes.filter((box) => box.checked).map((box) => Number(box.value));
    return (boxes.length ? chosen : [0]).slice(0, MOST_MODELS);
  }

  /** Shows the text of the form as a new sentence: as every chosen model translates it, or with a given translation. */
  async submit() {
    const [source, target] = [this.source, this.target].map(({ value }) => value.split(/\s+/).filter(Boolean).join(" "));
    const models = this.chosenModels();
    if (!source) return this.notify("Type a sentence first.");
    if (!models.length) return this.notify("Choose a model first.");
    const before = this.data.sentences[this.current];
    const none = this.data.systems.map(() => null);
    const sentence = { line: this.data.sentences.length + 1, source, attention: none.slice(), beams: none.slice() };
    if (target) {
      const pairs = await this.busy(Promise.all(models.map((number) => this.pair({ number, source, target }))));
      if (!pairs) return undefined;
      pairs.forEach((pair, index) => { sentence.attention[models[index]] = pair; });
      if (this.tab === "beam") this.tab = "alignment";
    } else {
      const traces = await this.busy(Promise.all(models.map((number) => this.steps({ number, source }))));
      if (!traces) return undefined;
      traces.forEach((trace, index) => {
        const earlier = before?.beams?.[models[index]];
        const isEdited = earlier && before.source !== source;
        this.put(sentence, models[index], isEdited ? { ...trace, before: earlier.text } : trace);
      });
      if (!models.includes(this.beamNumber)) [this.beamNumber] = models;
    }
    this.data.sentences.push(sentence);
    const item = this.item(sentence);
    this.items.push(item);
    this.list.append(item);
    this.search.value = "";
    this.markTab();
    this.matches = [...this.data.sentences.keys()];
    this.items.forEach((each) => { each.hidden = false; });
    this.open(this.items.length - 1);
    return undefined;
  }

  put(sentence, number, trace) {
    sentence.beams ??= this.data.systems.map(() => null);
    sentence.beams[number] = trace;
    sentence.attention[number] = attentionOfTrace(trace);
  }

  /** Asks a model to decode the open sentence again, with given pieces or attention weights. */
  async ask({ number, prefix = [], weights = {}, step = 0 }) {
    const sentence = this.data.sentences[this.current];
    if (!this.data.server) {
      const name = this.data.systems[number].name;
      return this.notify(`This file shows recorded data. For another continuation start nmt-serve --model ${name}, which serves this page with a model.`);
    }
    const trace = await this.busy(this.steps({ number, source: sentence.source, prefix, weights }));
    if (!trace) return undefined;
    const changed = Object.keys(weights).length > 0 || prefix.length > 0;
    this.put(sentence, number, { ...trace, changed: weights, before: changed ? sentence.beams[number]?.text : undefined });
    this.searchStep = step;
    this.show();
    return undefined;
  }

  steps({ number, source, prefix = [], weights = {} }) {
    const model = this.data.systems[number].name;
    const beam_size = Number(document.getElementById("beam").value) || 5;
    return this.post(this.data.server.steps, { model, source, beam_size, prefix, weights });
  }

  pair({ number, source, target }) {
    return this.post(this.data.server.pair, { model: this.data.systems[number].name, source, target });
  }

  async post(path, content) {
    const headers = { "Content-Type": "application/json" };
    const key = document.getElementById("key").value;
    if (key) headers.Authorization = `Bearer ${key}`;
    const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(content) });
    const body = await answer.json().catch(() => null);
    if (answer.status === 401) document.getElementById("key-label").hidden = false;
    if (!answer.ok) throw new Error(body?.error ?? `the server says ${answer.status}`);
    if (!body) throw new Error("the model has nothing to show for it");
    return body;
  }

  /** Waits for an answer, and shows that it does; shows a mistake and returns null. */
  async busy(promise) {
    document.body.classList.add("busy");
    this.notify("");
    try {
      return await promise;
    } catch (error) {
      this.notify(`No answer: ${error.message}.`);
      return null;
    } finally {
      document.body.classList.remove("busy");
    }
  }

  notify(text) {
    const notice = document.getElementById("notice");
    notice.hidden = !text;
    notice.textContent = text;
  }

  /** Makes a line of the list. Tab reaches the open one alone. */
  item(sentence) {
    const number = make("span", { class: "number" }, String(sentence.line));
    const { source_language, language } = this.data.systems[0];
    const text = make("span", { class: "text", dir: "auto", lang: source_language ?? language }, sentence.source);
    const name = make("button", { type: "button", title: sentence.source, tabindex: -1 }, number, text);
    const truth = this.data.kind === "documents" ? sentence.attention[0].true_label : null;
    if (truth != null && truth !== sentence.attention[0].label) {
      name.append(make("span", { class: "wrong", title: "wrong label" }, "✗"));
    }
    return make("li", {}, name);
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
    this.searchStep = 0;
    this.notify("");
    this.show();
    const sentence = this.data.sentences[index];
    const item = this.items[index].firstChild;
    item.setAttribute("aria-current", "true");
    item.tabIndex = 0;
    this.reveal(item);
    if (location.hash !== `#${sentence.line}`) location.replace(`#${sentence.line}`);
    this.count();
    if (this.source) this.source.value = sentence.source;
  }

  /** Shows the open item in the chosen view. */
  show() {
    this.unselect();
    for (const view of this.views) view.stop?.();
    const sentence = this.data.sentences[this.current];
    if (!sentence) return;
    const shown = { documents: () => this.documents(sentence), attention: () => this.attention(sentence),
      beam: () => this.beam(sentence), alignment: () => this.alignment(sentence) };
    const sections = shown[this.data.kind === "documents" ? "documents" : this.tab]();
    document.getElementById("systems").replaceChildren(...sections);
    this.fit();
  }

  documents(sentence) {
    this.views = [new DocumentView(this, 0, sentence.attention[0])];
    return this.views.map(({ element }) => element);
  }

  attention(sentence) {
    this.views = [];
    const sections = this.data.systems.map((system, number) => {
      const attention = sentence.attention[number];
      if (!attention) return this.data.server ? "" : this.empty(system);
      const view = new AttentionView(this, number, attention);
      this.views.push(view);
      return view.element;
    });
    if (this.views.length > 1) {
      const difference = new DifferenceView(this, this.views.slice());
      this.views.push(difference);
      sections.push(difference.element);
    }
    return sections;
  }

  empty(system) {
    return make("section", { class: "system" }, make("h2", {}, system.name), make("p", {}, EMPTY[this.data.kind]));
  }

  beam(sentence) {
    const beams = sentence.beams ?? [];
    const number = beams[this.beamNumber] ? this.beamNumber : beams.findIndex(Boolean);
    this.views = number >= 0 ? [new BeamView(this, number, beams[number])] : [];
    if (this.views.length) return [this.views[0].element];
    const names = this.data.systems.map(({ name }) => `--model ${name}`).join(" ");
    const text = this.data.server
      ? "This translation was given: there was no search for it."
      : `The search for this line is not recorded. nmt-serve ${names} serves this page with a model, which can translate it again.`;
    return [make("section", { class: "system" }, make("p", {}, text))];
  }

  /** Shows the beam search of another system, for the same source. */
  async showBeam(number) {
    this.beamNumber = number;
    const sentence = this.data.sentences[this.current];
    if (!sentence.beams?.[number]) {
      await this.ask({ number, step: this.searchStep });
      return;
    }
    this.show();
  }

  alignment(sentence) {
    this.views = sentence.attention.flatMap((attention, number) => (attention ? [new LinksView(this, number, attention, sentence)] : []));
    return this.views.map(({ element }) => element);
  }

  choose(tab) {
    this.tab = tab;
    this.markTab();
    this.show();
  }

  markTab() {
    for (const tab of this.tabs) {
      const element = document.getElementById(`tab-${tab}`);
      element.setAttribute("aria-selected", tab === this.tab);
      element.tabIndex = tab === this.tab ? 0 : -1;
    }
    document.getElementById("systems").setAttribute("aria-labelledby", `tab-${this.tab}`);
    document.getElementById("tools").hidden = this.tab !== "attention";
  }

  walkTabs(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.choose(this.tabs[(this.tabs.indexOf(this.tab) + by + this.tabs.length) % this.tabs.length]);
    document.getElementById(`tab-${this.tab}`).focus();
  }

  /** Draws all that depends on the width of the window. */
  fit() {
    for (const view of this.views) view.fit();
    this.repaint();
  }

  /** Scrolls the list, and not the page. */
  reveal(item) {
    const nav = this.list.parentElement;
    const [seen, box] = [nav.getBoundingClientRect(), item.getBoundingClientRect()];
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
    const kept = new Set(matching(this.data, this.search.value));
    this.matches = (this.order ?? [...this.data.sentences.keys()]).filter((index) => kept.has(index));
    this.items.forEach((item, index) => { item.hidden = !kept.has(index); });
    if (this.matches.length && !kept.has(this.current)) this.open(this.matches[0]);
    else this.count();
  }

  /** Sorts the list, and opens its first line. */
  arrange(order) {
    this.order = documentOrder(this.data.sentences, order);
    this.list.append(...this.order.map((index) => this.items[index]));
    this.filter();
    if (this.matches.length) this.open(this.matches[0]);
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
    } else if (event.target.matches?.("input, textarea, select")) {
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

// Tests and the curious find the page by this name.
if (typeof document !== "undefined") globalThis.playground = new Page(JSON.parse(document.getElementById("data").textContent));
