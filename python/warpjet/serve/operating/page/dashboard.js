// The engine's side of the page: listens to /live while it is in sight, draws when something changed.

import { $, duration, el, number } from "./dom.js";
import { ink as readInk, setTheme } from "./colours.js";
import { call, events } from "./api.js";
import { EngineState, share } from "./engine.js";
import { Timeline } from "./timeline.js";
import { BlockGrid } from "./blocks.js";
import { area, band, dots } from "./charts.js";

const MOST_SEQUENCES = 512; // that a snapshot tells of
const RETRY_MS = [500, 1000, 2000, 4000];

export class Dashboard {
  constructor(onColours) {
    this.state = new EngineState();
    this.onColours = onColours;
    this.chosen = null; // engine's id of the request that the pointer is on
    this.dirty = true;
    this.frames = 0;
    this.connected = false;
    this.drawnVersion = -1;
    const view = this;
    this.timeline = new Timeline($("timeline"), this.state, {
      get chosen() { return view.chosen; },
      touch: () => this.touch(),
      pause: (on) => this.pause(on),
      zoom: (factor) => this.zoom(factor),
    });
    this.blocks = new BlockGrid($("blocks"), this.state, this.timeline.view);
    this.#controls();
    this.#theme();
    document.addEventListener("theme", () => this.#theme());
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#leave() : this.#listen()));
    document.addEventListener("key", () => { this.#leave(); this.#listen(); });
    new ResizeObserver(() => this.touch()).observe($("engine"));
    this.#listen();
  }

  touch() {
    this.dirty = true;
    if (!this.frame) this.frame = requestAnimationFrame((now) => this.#draw(now));
  }

  choose(id) {
    if (this.chosen === id) return;
    this.chosen = id;
    this.touch();
  }

  pause(on) {
    this.timeline.pause(on);
    $("pause").setAttribute("aria-pressed", String(on));
    $("pause").textContent = on ? "Resume" : "Pause";
  }

  // factor null: automatic
  zoom(factor) {
    if (factor === null) this.timeline.auto = true;
    else this.timeline.zoomBy(factor);
    $("zoom-auto").setAttribute("aria-pressed", String(this.timeline.auto));
    this.touch();
  }

  #controls() {
    $("pause").addEventListener("click", () => this.pause(!this.timeline.paused));
    $("zoom-in").addEventListener("click", () => this.zoom(1.5));
    $("zoom-out").addEventListener("click", () => this.zoom(1 / 1.5));
    $("zoom-auto").addEventListener("click", () => this.zoom(null));
    this.#hover(this.timeline);
    this.#hover(this.blocks);
  }

  #hover(part) {
    const canvas = part.canvas, tip = $("tip");
    const leave = () => { tip.hidden = true; this.choose(null); };
    canvas.addEventListener("pointerleave", leave);
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect(), hit = part.at(event.clientX - box.left, event.clientY - box.top);
      const lines = part.describe(hit);
      if (!lines) return leave();
      tip.replaceChildren(...lines.filter(Boolean).map((line) => el("div", {}, line)));
      tip.hidden = false;
      const { clientX: x, clientY: y } = event, { offsetWidth: width, offsetHeight: height } = tip;
      tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
      tip.style.top = `${y + 18 + height > innerHeight ? y - height - 12 : y + 18}px`;
      this.choose(hit.request ? hit.request.id : null);
    });
  }

  #theme() {
    setTheme(document.documentElement.dataset.theme);
    this.ink = readInk();
    this.drawnVersion = -1;
    this.onColours();
    this.touch();
  }

  #leave() {
    this.listening?.abort();
    this.listening = null;
  }

  async #listen() {
    if (this.listening || document.hidden) return;
    const listening = (this.listening = new AbortController());
    for (let tries = 0; !listening.signal.aborted; tries++) {
      try {
        this.#status("wait", "connecting");
        const response = await call("live", { signal: listening.signal });
        for await (const { event, data } of events(response)) {
          if (event === "error") throw new Error(JSON.parse(data).message);
          tries = 0;
          this.state.apply(JSON.parse(data), performance.now());
          if (!this.connected) this.#status("on", "live");
          this.onColours();
          this.touch();
        }
        if (!listening.signal.aborted) this.#status("off", "the server closed the view");
      } catch (error) {
        if (listening.signal.aborted || error.name === "AbortError") break;
        if (error.status === 401 || error.status === 403) {
          this.#status("off", "API key needed");
          document.dispatchEvent(new Event("refused"));
          if (this.listening === listening) this.listening = null;
          return;
        }
        this.#status("off", error.status === 0 ? "server not reached" : error.message || "connection lost");
      }
      await new Promise((done) => setTimeout(done, RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]));
    }
  }

  #status(kind, text) {
    if (this.connected && kind !== "on") {
      this.connected = false;
      this.state.lose();
      this.touch();
    }
    this.connected = kind === "on";
    $("status").dataset.state = kind;
    $("status").lastElementChild.textContent = text;
  }

  #draw(now) {
    this.frame = 0;
    const dt = Math.min(100, now - (this.lastFrame ?? now - 16));
    this.lastFrame = now;
    const fresh = this.drawnVersion !== this.state.version;
    const moving = this.timeline.advance(dt);
    if (this.dirty || moving || fresh) this.timeline.draw(this.ink, dt);
    if (this.dirty || fresh) this.blocks.draw(this.ink, now);
    else if (this.blocks.flashing.length) this.blocks.flash(this.ink, now);
    if (fresh) this.#figures();
    this.drawnVersion = this.state.version;
    this.dirty = false;
    this.frames++;
    if (moving || this.blocks.flashing.length) this.frame ||= requestAnimationFrame((t) => this.#draw(t));
    else this.lastFrame = undefined;
  }

  #figures() {
    const { state, ink } = this;
    const set = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
    if (!this.connected) {
      for (const id of ["running", "waiting", "rate", "step", "kv", "hits"]) set(`f-${id}`, "–");
      for (const id of ["running", "waiting", "step"]) set(`f-${id}-note`, "");
      $("m-kv").value = $("m-hits").value = 0;
      set("summary", "The engine is not connected.");
    } else this.#numbers(set);
    area($("c-rate"), state.rates, ink);
    dots($("c-ttft"), state.ttft, ink);
    band($("c-itl"), state.itl, ink);
  }

  #numbers(set) {
    const { state } = this, { info } = state, counts = state.count();
    const total = Math.max(1, info.kv_blocks), used = (100 * counts.held) / total, hits = 100 * state.hits;
    const more = info.sequences?.length >= MOST_SEQUENCES ? "+" : "";
    set("f-running", number(state.running.length) + (state.waiting.length ? "" : more));
    set("f-running-note", info.max_num_seqs ? `of ${number(info.max_num_seqs)}` : "");
    set("f-waiting", number(state.waiting.length) + more);
    const prompt = state.waiting.reduce((sum, r) => sum + r.prompt - r.computed, 0);
    set("f-waiting-note", state.waiting.length ? `${number(prompt)} tokens to read` : "queue is empty");
    set("f-rate", number(state.rate));
    set("f-step", number(Math.max(0, state.step)));
    const each = duration(state.stepUs / 1000);
    if (state.stepUs) set("f-step-note", `${each} each, ${number(state.stepsPerSecond)}/s`);
    set("f-kv", `${used < 10 ? used.toFixed(1) : Math.round(used)}%`);
    set("f-hits", `${Math.round(hits)}%`);
    $("m-kv").value = used;
    $("m-hits").value = hits;
    const blocks = `${number(counts.held)} held, ${number(counts.cached)} cached of ${number(info.kv_blocks)}`;
    if (info.kv_blocks) set("blocks-note", `${blocks}, ${info.block_size} tokens each`);
    const ttft = state.ttft.map((v) => v.ms), itl = state.itl.slice(-50);
    if (ttft.length) set("ttft-note", `p50 ${duration(share(ttft, 0.5))}, p95 ${duration(share(ttft, 0.95))}`);
    if (itl.length) {
      const [p50, p99] = [share(itl.map((v) => v.p50), 0.5), share(itl.map((v) => v.p99), 0.9)];
      set("itl-note", `p50 ${duration(p50)}, p99 ${duration(p99)}`);
    }
    if (state.version % 20) return;
    const requests = `${state.running.length} requests running, ${state.waiting.length} waiting`;
    const use = `${Math.round(used)} percent of the KV cache in use`;
    set("summary", `${requests}, ${number(state.rate)} tokens per second, ${use}.`);
  }
}

