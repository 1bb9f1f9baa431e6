// One chat: its messages, and the answer that streams in. No DOM.
//
// A message: {role: "user", content} or {role: "assistant", content, reasoning, calls, error, stats}, where a call is
// {id, name, arguments, result} and stats are {sent, first, last: ms, tokens, prompt, cached, finish}.

import { ApiError, call, events, tagOf } from "./api.js";

let made = 0;

export class Conversation {
  constructor(title) {
    this.number = ++made;
    this.title = title;
    this.messages = [];
    this.tag = null; // what /live calls its latest request
    this.controller = null;
    this.onchange = () => {};
  }

  // A conversation from what toJSON() gave.
  static from({ title, messages }) {
    const conversation = new Conversation(title);
    conversation.messages = messages;
    for (const { role, error, stats } of messages)
      if (role === "assistant" && !error) stats.finish ??= "reload";
    return conversation;
  }

  toJSON() {
    return { title: this.title, messages: this.messages };
  }

  get busy() {
    return this.controller !== null;
  }

  get latest() {
    return this.messages.at(-1);
  }

  stop() {
    this.controller?.abort();
  }

  // Drops the latest answer and asks for another.
  retry(options) {
    if (this.busy || this.latest?.role !== "assistant") return;
    this.messages.pop();
    this.send(null, options);
  }

  // Sends text (null: only the results of tool calls) and streams the answer into a new message. Never throws: what
  // goes wrong is the message's error.
  async send(text, options) {
    if (this.busy) return;
    if (text !== null) {
      if (!this.title) this.title = text.replace(/\s+/g, " ").slice(0, 60);
      this.messages.push({ role: "user", content: text });
    }
    const answer = { role: "assistant", content: "", reasoning: "", calls: [], error: null,
      stats: { sent: performance.now(), first: 0, last: 0, tokens: 0, prompt: 0, cached: 0, finish: null } };
    const name = `page-${random()}`;
    const body = { ...options.sampling, model: options.model, messages: this.#wire(options.system), stream: true,
      stream_options: { include_usage: true }, request_id: name };
    if (options.tools) body.tools = options.tools;
    this.messages.push(answer);
    this.tag = tagOf(name);
    this.controller = new AbortController();
    this.onchange();
    try {
      const response = await call("v1/chat/completions", { body, signal: this.controller.signal });
      let done = false;
      for await (const { data } of events(response)) {
        if (data === "[DONE]") {
          done = true;
          break;
        }
        this.#take(answer, JSON.parse(data));
        this.onchange();
      }
      if (!done && !answer.stats.finish) throw new ApiError(0, "The connection ended before the answer did.");
    } catch (error) {
      if (error.name === "AbortError") answer.stats.finish = "stopped";
      else {
        answer.error = error instanceof ApiError ? error.message : `The answer could not be read: ${error.message}`;
        if (error.status === 401 || error.status === 403) document.dispatchEvent(new Event("refused"));
      }
    }
    this.controller = null;
    this.onchange();
  }

  #take(answer, chunk) {
    if (chunk.error) throw new ApiError(500, chunk.error.message || "The server failed.");
    const now = performance.now(), { stats } = answer, choice = chunk.choices && chunk.choices[0];
    if (chunk.usage) {
      stats.tokens = chunk.usage.completion_tokens ?? stats.tokens;
      stats.prompt = chunk.usage.prompt_tokens ?? 0;
      stats.cached = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
    if (!choice) return;
    const delta = choice.delta || {}, reasoning = delta.reasoning ?? delta.reasoning_content;
    if (delta.content || reasoning || delta.tool_calls) {
      stats.first ||= now;
      stats.last = now;
      if (!chunk.usage) stats.tokens++;
    }
    if (typeof delta.content === "string") answer.content += delta.content;
    if (typeof reasoning === "string") answer.reasoning += reasoning;
    for (const piece of delta.tool_calls || []) {
      const one = (answer.calls[piece.index ?? 0] ||= { id: "", name: "", arguments: "", result: "" });
      if (piece.id) one.id = piece.id;
      if (piece.function?.name) one.name = piece.function.name;
      one.arguments += piece.function?.arguments ?? "";
    }
    if (choice.finish_reason) stats.finish = choice.finish_reason;
  }

  // The messages as the API takes them; an answer that failed is left out with what it answered.
  #wire(system) {
    const wire = system ? [{ role: "system", content: system }] : [];
    for (const message of this.messages) {
      if (message.role === "user") wire.push({ role: "user", content: message.content });
      else if (message.calls.length) {
        const one = (c) => ({ id: c.id, type: "function", function: { name: c.name, arguments: c.arguments } });
        wire.push({ role: "assistant", content: message.content || null, tool_calls: message.calls.map(one) });
        for (const c of message.calls) wire.push({ role: "tool", tool_call_id: c.id, content: c.result });
      } else if (message.content) wire.push({ role: "assistant", content: message.content });
      else if (wire.at(-1)?.role === "user") wire.pop();
    }
    return wire;
  }
}

// {rate: tokens/s | 0, ttft: ms | 0} of an answer's stats
export function speed({ sent, first, last, tokens }) {
  const whole = last - first < 5; // it came at once: there is no rate between its tokens
  const rate = tokens > 1 ? ((tokens - 1) * 1000) / (last - (whole ? sent : first)) : 0;
  return { ttft: first ? first - sent : 0, rate };
}

function random() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
