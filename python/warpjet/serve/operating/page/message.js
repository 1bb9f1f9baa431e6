// A message as elements. update() adds what came; text only ever grows, so that is all that an answer in flow costs.

import { copyButton, duration, el, number } from "./dom.js";
import { speed } from "./conversation.js";
import { Markdown } from "./markdown.js";

const FINISH = {
  length: "stopped at max tokens",
  stopped: "stopped by you",
  tool_calls: "calls tools",
  abort: "aborted by the server",
  reload: "cut by a reload of the page",
  error: "failed in the engine",
};

// A text node that follows a growing string
class Flow {
  constructor(node) {
    this.text = node.appendChild(document.createTextNode(""));
  }
  follow(text) {
    const shown = this.text.length;
    if (text.length > shown) this.text.appendData(text.slice(shown));
  }
}

export class MessageView {
  // on: {results, retry}, called when the results of calls are returned and when the answer is wanted again
  constructor(message, on) {
    this.message = message;
    this.on = on;
    this.calls = [];
    if (message.role === "user") {
      const body = el("div", { class: "body" }, message.content);
      this.node = el("article", { class: "message user", "aria-label": "You" }, body);
      return;
    }
    const thought = el("div", { class: "body" });
    this.thinking = el("details", { class: "thinking", hidden: true }, el("summary", {}, "Reasoning"), thought);
    this.body = el("div", { class: "body" });
    this.tools = el("div", { class: "calls" });
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.foot = el("p", { class: "stats" });
    this.retry = el("button", { type: "button", class: "ghost small" }, "Retry");
    this.retry.addEventListener("click", () => on.retry());
    this.copy = copyButton(() => message.content);
    this.actions = el("div", { class: "actions" }, this.copy, this.retry);
    const parts = [this.thinking, this.body, this.tools, this.error, this.foot, this.actions];
    this.node = el("article", { class: "message model", "aria-label": "Model" }, ...parts);
    this.reasoning = new Flow(thought);
    this.content = new Markdown(this.body);
    this.update({ busy: false, latest: false });
  }

  // busy: it is being answered; latest: nothing follows it
  update({ busy, latest }) {
    const m = this.message;
    if (m.role === "user") return;
    this.node.classList.toggle("busy", busy);
    this.thinking.hidden = !m.reasoning;
    this.thinking.firstChild.textContent = busy && !m.content ? "Thinking…" : "Reasoning";
    this.reasoning.follow(m.reasoning);
    this.content.follow(m.content);
    this.#showCalls(busy);
    this.error.hidden = !m.error;
    if (m.error && this.error.textContent !== m.error) this.error.textContent = m.error;
    const foot = statsLine(m.stats, busy);
    if (this.foot.textContent !== foot) this.foot.textContent = foot;
    this.actions.hidden = busy;
    this.copy.hidden = !m.content;
    this.retry.hidden = !latest;
  }

  #showCalls(busy) {
    const { calls } = this.message;
    for (let i = this.calls.length; i < calls.length; i++) {
      const name = el("b"), code = el("code");
      const result = el("input", { "aria-label": "Result", placeholder: "result, to be returned to the model" });
      result.addEventListener("input", () => { calls[i].result = result.value; });
      const head = el("div", { class: "line" }, el("span", { class: "note" }, "calls "), name);
      this.calls.push({ name, flow: new Flow(code) });
      this.tools.append(el("div", { class: "call" }, head, el("pre", {}, code), result));
    }
    calls.forEach((call, i) => {
      if (this.calls[i].name.textContent !== call.name) this.calls[i].name.textContent = call.name;
      this.calls[i].flow.follow(call.arguments);
    });
    if (calls.length && !busy && !this.button) {
      this.button = el("button", { class: "ghost", type: "button" }, "Return results");
      this.button.addEventListener("click", () => {
        this.button.remove();
        this.on.results();
      });
      this.tools.append(this.button);
    }
  }
}

// The same in half the words, for a card
export function briefLine(stats, busy) {
  const { rate, ttft } = speed(stats);
  return ttft ? `${duration(ttft)} · ${number(rate)} tok/s` : busy ? "waiting" : FINISH[stats.finish] || "";
}

export function statsLine(stats, busy) {
  const { rate, ttft } = speed(stats), parts = [];
  if (ttft) parts.push(`first token ${duration(ttft)}`);
  if (rate) parts.push(`${number(rate)} tok/s`);
  if (stats.tokens) parts.push(`${number(stats.tokens)} tokens`);
  if (stats.cached) parts.push(`${number(stats.cached)} of ${number(stats.prompt)} prompt tokens from cache`);
  if (!busy && FINISH[stats.finish]) parts.push(FINISH[stats.finish]);
  return parts.join(" · ") || (busy ? "waiting for the first token" : "");
}
