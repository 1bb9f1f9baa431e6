// The chat's side of the page: tabs, the conversation in sight or the eight side by side, the settings.

import { $, el } from "./dom.js";
import { colour } from "./colours.js";
import { Conversation } from "./conversation.js";
import { Composer } from "./composer.js";
import { loadChats, saveChats } from "./kept.js";
import { MessageView, briefLine } from "./message.js";

const SUGGESTIONS = [
  "Tell me a story about a fox who learns to share.",
  "What is 7 plus 5?",
  "Explain in-flight batching in two sentences.",
];
// What the eight are asked: one system prompt, so that they share its blocks; questions short and long.
const SYSTEM =
  "You are a friendly story teller. Answer in plain words that a child understands. Give every story a beginning, a " +
  "middle and an end, let the animals speak, keep the sentences short, and end with a lesson that follows from it.";
const NAMES = ["Mia", "Tom", "Ivy", "Finn", "Ada", "Leo", "Nora", "Sam", "Tess", "Milo", "Ruby", "Max", "Zoe"];
const SUBJECTS = [
  "a fox and a crow",
  "a small boat in a big storm",
  "two friends who build a bridge",
  "an owl who cannot sleep",
  "a bear and a jar of honey",
  "a girl who finds a map",
  "a clever mouse in a library",
  "a dragon who is afraid of the dark",
  "a tree that wanted to travel",
  "a king without a crown",
  "a frog who sings too loud",
  "the last snow of the winter",
];
const DETAILS = [
  "",
  " Let it rain.",
  " Put a lost letter, a wooden door, a blue lamp and an old clock in it, and let each of them matter before the end.",
  " It happens in one night, in a town by the sea where everybody knows everybody and nobody has seen the sun.",
];

// Makes `box` hold exactly these nodes; does nothing when it does.
function fill(box, nodes) {
  const same = nodes.length === box.children.length && nodes.every((node, i) => node === box.children[i]);
  if (!same) box.replaceChildren(...nodes);
}

export class Chat {
  constructor(dashboard) {
    this.dashboard = dashboard;
    this.models = [];
    this.list = [];
    this.current = null; // null: all of them, side by side
    this.views = new Map(); // message -> MessageView
    this.cards = new Map(); // conversation -> elements
    this.keeping = false;
    this.sent = 0;
    this.unsaved = false;
    this.composer = new Composer({
      send: (text) => this.#send(text),
      stop: () => this.stop(),
      said: () => (this.current?.messages ?? []).filter((m) => m.role === "user").map((m) => m.content),
    });
    for (const kept of loadChats()) this.#take(Conversation.from(kept));
    this.open(this.list.at(-1) ?? this.#add());
    this.#listen();
  }

  setModels(models) {
    this.models = models;
    const select = $("model");
    select.replaceChildren(...models.map((model) => el("option", { value: model.id }, model.id)));
    select.disabled = models.length < 2;
    this.#render();
  }

  open(conversation) {
    this.current = conversation;
    this.#render();
    $("log").scrollTop = $("log").scrollHeight;
  }

  #add() {
    return this.#take(new Conversation(""));
  }

  #take(conversation) {
    conversation.onchange = () => {
      this.touch();
      this.#keepChats();
      if (conversation === this.current && conversation.latest.role === "assistant") this.#say(conversation);
    };
    this.list.push(conversation);
    return conversation;
  }

  // For those who listen to the page: that an answer began and how it ended, not each of its tokens.
  #say({ busy, latest }) {
    const said = busy ? "Answering" : latest.error ? "" : `Answered with ${latest.stats.tokens} tokens`;
    if ($("said").textContent !== said) $("said").textContent = said;
  }

  // Saves the chats soon, and once however many tokens come until then. The eight at once are a show: they are not kept.
  #keepChats() {
    if (this.unsaved) return;
    this.unsaved = true;
    setTimeout(() => this.#save(), 300);
  }

  #save() {
    if (!this.unsaved) return;
    this.unsaved = false;
    saveChats(this.list.filter((c) => c.messages.length && !c.burst).map((c) => c.toJSON()));
  }

  touch() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#render();
    });
  }

  // What the fields say, or null after telling which is wrong
  options() {
    const sampling = {};
    for (const id of ["temperature", "top_p", "max_tokens", "seed"]) {
      const field = $(id);
      if (!field.checkValidity()) {
        $("settings").open = true;
        field.reportValidity();
        return null;
      }
      if (field.value !== "") sampling[id] = Number(field.value);
    }
    let tools = null;
    const field = $("tools");
    field.setCustomValidity("");
    if (field.value.trim()) {
      try {
        tools = JSON.parse(field.value);
        if (!Array.isArray(tools)) throw new Error("it is not a list");
      } catch (error) {
        $("settings").open = true;
        field.setCustomValidity(`This is not a JSON list of tools: ${error.message}`);
        field.reportValidity();
        return null;
      }
    }
    return { sampling, tools, system: $("system").value.trim(), model: $("model").value || undefined };
  }

  submit(text) {
    const options = this.options();
    if (!options) return;
    const conversation = this.current || this.#add();
    if (conversation.busy) return;
    this.current = conversation;
    conversation.send(text, options);
    $("log").scrollTop = $("log").scrollHeight;
  }

  // Eight chats in the same moment, side by side
  burst() {
    const options = this.options();
    if (!options) return;
    options.system ||= SYSTEM;
    const old = this.list.filter((c) => c.burst && !c.busy);
    this.list = this.list.filter((c) => !old.includes(c));
    for (let i = 0; i < 8; i++) this.#next(this.#add(), options);
    this.open(null);
    document.dispatchEvent(new Event("watch"));
  }

  async #next(conversation, options) {
    const n = this.sent++;
    conversation.burst = true;
    conversation.messages = [];
    const name = NAMES[Math.floor(Math.random() * NAMES.length)];
    conversation.title = `${name} and ${SUBJECTS[n % SUBJECTS.length]}`;
    const detail = DETAILS[(n * 7) % DETAILS.length];
    await conversation.send(`Tell me a story about ${conversation.title}.${detail}`, options);
    const { error, stats } = conversation.latest;
    if (this.keeping && !error && stats.finish !== "stopped" && this.list.includes(conversation)) {
      await new Promise((done) => setTimeout(done, 120 + Math.random() * 500));
      if (this.keeping) return this.#next(conversation, options);
    } else if (error) this.#keep(false);
  }

  #keep(on) {
    this.keeping = on;
    $("keep").setAttribute("aria-pressed", String(on));
    if (on && !this.list.some((c) => c.burst && c.busy)) this.burst();
  }

  stop() {
    this.#keep(false);
    for (const conversation of this.current ? [this.current] : this.list) conversation.stop();
  }

  // Whether the text was sent
  #send(text) {
    if (this.current?.busy || !this.options()) return false;
    this.submit(text);
    return true;
  }

  #retry() {
    const options = this.options();
    if (options) this.current?.retry(options);
  }

  #listen() {
    addEventListener("pagehide", () => this.#save());
    $("tools").addEventListener("input", () => $("tools").setCustomValidity(""));
    $("new").addEventListener("click", () => {
      this.open(this.list.find((c) => !c.messages.length) || this.#add());
      this.composer.focus();
    });
    $("burst").addEventListener("click", () => this.burst());
    $("keep").addEventListener("click", () => this.#keep(!this.keeping));
  }

  // Colour index of a conversation's latest request as the live view draws it, or -1
  #colour(conversation) {
    const { state } = this.dashboard, id = conversation.tag === null ? undefined : state.byTag.get(conversation.tag);
    return id === undefined ? -1 : (state.colours.get(id) ?? -1);
  }

  #paint(node, conversation) {
    const index = this.#colour(conversation);
    const paint = index < 0 ? "" : colour(index).solid;
    if (node.dataset.paint !== paint) {
      node.dataset.paint = paint;
      node.style.setProperty("--own", paint || "var(--faint)");
    }
  }

  #render() {
    this.#tabs();
    const busy = this.current ? this.current.busy : this.list.some((c) => c.busy);
    this.composer.show({ stop: busy || this.keeping, send: !this.current?.busy });
    const log = $("log"), atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    log.classList.toggle("grid", !this.current);
    if (this.current) this.#conversation(log);
    else this.#grid(log);
    if (this.current && atEnd) log.scrollTop = log.scrollHeight;
  }

  #tabs() {
    const begun = this.list.filter((c) => c.messages.length);
    const shown = begun.length ? this.list.filter((c) => c.messages.length || c === this.current) : [];
    const wanted = [...(shown.length > 1 ? [null] : []), ...shown];
    this.tabs ||= new Map();
    const nodes = wanted.map((c) => {
      let node = this.tabs.get(c);
      if (!node) {
        const dot = el("i", { "aria-hidden": "true" });
        node = el("button", { type: "button", class: "tab", onclick: () => this.open(c) }, dot, el("span"));
        this.tabs.set(c, node);
      }
      const title = c ? c.title || "Empty chat" : "All";
      if (node.lastChild.textContent !== title) node.lastChild.textContent = title;
      node.setAttribute("aria-pressed", String(c === this.current));
      node.classList.toggle("busy", Boolean(c && c.busy));
      if (c) this.#paint(node, c);
      return node;
    });
    for (const c of this.tabs.keys()) if (!wanted.includes(c)) this.tabs.delete(c);
    fill($("tabs"), nodes);
  }

  #conversation(log) {
    const conversation = this.current;
    if (!conversation.messages.length) {
      if (log.firstChild?.className === "empty" && log.firstChild.dataset.models === String(this.models.length)) return;
      const name = this.models.length ? this.models[0].id : "the model";
      const button = (text) => el("button", { type: "button", class: "ghost", onclick: () => this.submit(text) }, text);
      log.replaceChildren(
        el("div", { class: "empty", "data-models": this.models.length }, el("h2", {}, `Talk to ${name}`),
          el("p", {}, "Or send eight at once and watch the engine take them all into one running batch."),
          el("div", { class: "suggestions" }, ...SUGGESTIONS.map(button))),
      );
      return;
    }
    const nodes = conversation.messages.map((message) => {
      let view = this.views.get(message);
      if (!view) {
        view = new MessageView(message, { results: () => this.submit(null), retry: () => this.#retry() });
        this.views.set(message, view);
      }
      const latest = message === conversation.latest;
      view.update({ busy: conversation.busy && latest, latest });
      if (latest) this.#paint(view.node, conversation);
      return view.node;
    });
    fill(log, nodes);
  }

  #grid(log) {
    const nodes = this.list.filter((c) => c.messages.length).map((c) => {
      let card = this.cards.get(c);
      if (!card) {
        const text = el("p"), foot = el("small"), title = el("b");
        const node = el("button", { type: "button", class: "card", onclick: () => this.open(c) }, title, text, foot);
        node.addEventListener("pointerenter", () => this.#point(c));
        node.addEventListener("pointerleave", () => this.dashboard.choose(null));
        this.cards.set(c, (card = { node, text, foot, title }));
      }
      const { content, reasoning, calls, error, stats } = c.latest;
      card.title.textContent = c.title;
      card.text.textContent = error || (content || reasoning || calls.map((one) => one.name).join(" ")).slice(-260);
      card.foot.textContent = briefLine(stats, c.busy);
      card.node.classList.toggle("busy", c.busy);
      card.node.classList.toggle("failed", Boolean(error));
      this.#paint(card.node, c);
      return card.node;
    });
    for (const c of this.cards.keys()) if (!this.list.includes(c)) this.cards.delete(c);
    fill(log, nodes);
  }

  #point(conversation) {
    const id = this.dashboard.state.byTag.get(conversation.tag);
    this.dashboard.choose(id === undefined ? null : id);
  }
}
