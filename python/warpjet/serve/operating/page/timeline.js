// The batch as a picture: columns are steps, rows are lanes of the batch, "now" is at the right, and right of it waits
// the queue. A prefill chunk is a hatched block with its tokens; decode is a bar, cut into cells where there is room.
//
// Steps that change the batch keep a width that can be seen; between them, a decode step is as wide as its rate allows,
// so that the picture moves at a speed that eyes follow at 20 steps a second as at 4,000.

import { calm, duration, number, surface } from "./dom.js";
import { AXIS, PILL, SPACE, TOKENS, TOP, paint } from "./timeline_paint.js";

const CELL = 9; // px of a decode step at zoom 1
const PX_PER_S = 90; // how fast decode steps may move, and those that change the batch besides
const BURST_APART_US = 1.5e6; // nothing ran for so long: another burst
const LAG_MS = 240; // what came at once is shown over this time
const MIN_LANES = 8, MAX_LANE = 36;
const queueWidth = (width) => (width < 500 ? 84 : 112);

export class Timeline {
  constructor(canvas, state, view) {
    Object.assign(this, { canvas, state, view });
    this.auto = true;
    this.zoom = 1; // of decode steps
    this.wide = 1; // of steps that change something
    this.paused = false;
    this.scroll = 0; // px back from now
    this.hidden = 0; // px that came and are not shown yet
    this.marker = { run: null, count: 0 };
    this.frozen = null;
    this.laneHeight = MAX_LANE;
    this.hits = []; // {run, x, width} as drawn
    this.drawn = { columns: 0, rows: 0, prefills: 0 };
    this.#listen();
  }

  pause(on) {
    this.paused = on;
    this.frozen = null;
    if (on) {
      const runs = this.state.runs;
      this.frozen = runs.slice(0, -1);
      if (runs.length) this.frozen.push({ ...runs.at(-1) });
    } else this.scroll = 0;
    this.view.touch();
  }

  zoomBy(factor) {
    this.auto = false;
    this.zoom = Math.min(3, Math.max(0.004, this.zoom * factor));
    this.wide = Math.min(1, Math.max(0.3, Math.sqrt(this.zoom)));
    this.view.touch();
  }

  #width(run) {
    if (run.gap) return 14 * Math.max(this.wide, 0.4);
    const decode = run.count * CELL * this.zoom;
    if (run.prefill) return Math.max(decode, this.wide * (16 + 3.2 * Math.sqrt(Math.max(run.chunk, 1))));
    return Math.max(decode, 4 * this.wide);
  }

  // Moves what moves by dt ms. Returns whether it is still moving.
  advance(dt) {
    const before = `${this.zoom} ${this.wide} ${this.hidden} ${this.laneHeight}`;
    if (this.auto && !this.paused) this.#follow(dt);
    this.hidden += this.#arrived();
    if (calm.matches || this.paused) this.hidden = 0;
    else this.hidden *= Math.exp(-dt / LAG_MS);
    if (this.hidden < 0.3) this.hidden = 0;
    return before !== `${this.zoom} ${this.wide} ${this.hidden} ${this.laneHeight}`;
  }

  // Width of what was pushed since the last frame
  #arrived() {
    const runs = this.state.runs, newest = runs.at(-1), { run: seen, count } = this.marker;
    this.marker = { run: newest, count: newest ? newest.count : 0 };
    let width = 0;
    for (let i = runs.length - 1; i >= 0 && width < 4000; i--) {
      if (runs[i] === seen) {
        const whole = this.#width(seen);
        return width + whole - this.#width({ ...seen, count });
      }
      width += this.#width(runs[i]);
    }
    return seen ? width : 0;
  }

  // The zoom at which the last seconds move at PX_PER_S; once nothing moves, the last burst fills the picture.
  #follow(dt) {
    const runs = this.state.runs, width = this.canvas.clientWidth, room = Math.max(200, width - queueWidth(width));
    if (!runs.length) return;
    const idle = this.state.idle, seconds = 4;
    const until = idle ? runs.at(-1).startUs + runs.at(-1).us : this.state.info.now_us;
    let decode = 0, changes = 0, last = until;
    for (let i = runs.length - 1; i >= 0; i--) {
      const run = runs[i];
      const endUs = run.startUs + run.us;
      if (!run.gap && (idle ? last - endUs > BURST_APART_US : endUs < until - seconds * 1e6)) break;
      if (!run.gap) last = run.startUs;
      if (run.prefill) changes += 16 + 3.2 * Math.sqrt(run.chunk);
      else if (run.gap) changes += 14;
      else {
        const inside = idle ? 1 : Math.min(1, (run.startUs + run.us - until + seconds * 1e6) / Math.max(1, run.us));
        decode += run.count * CELL * inside;
      }
      if (idle && decode + changes > 400000) break;
    }
    const space = idle ? room * 0.9 : PX_PER_S * seconds;
    const wide = Math.min(1, Math.max(0.12, (idle ? space * 0.6 : space * 1.9) / Math.max(changes, 1)));
    const left = idle ? Math.max(space - changes * wide, space * 0.3) : space;
    const zoom = Math.min(1, Math.max(0.004, left / Math.max(decode, 1)));
    const ease = (from, to) => {
      if (calm.matches) return to;
      const next = from * (to / from) ** (1 - Math.exp(-dt / (to < from ? 250 : 900)));
      return Math.abs(next / to - 1) < 0.01 ? to : next;
    };
    this.zoom = ease(this.zoom, zoom);
    this.wide = ease(this.wide, wide);
  }

  draw(ink, dt) {
    const s = surface(this.canvas);
    if (!s) return;
    const { g, width, height } = s;
    const now = width - queueWidth(width), bottom = height - AXIS - TOKENS - SPACE;
    const columns = this.#columns(now), lanes = this.#lanes(columns), { chosen } = this.view;
    const target = Math.min(MAX_LANE, (bottom - TOP) / lanes);
    const there = calm.matches || Math.abs(target - this.laneHeight) < 0.05;
    this.laneHeight += (target - this.laneHeight) * (there ? 1 : Math.min(1, dt / 160));
    paint(g, {
      ink, width, height, now, bottom, columns, lanes,
      lane: this.laneHeight,
      cell: CELL * this.zoom,
      waiting: this.state.waiting,
      present: this.paused || this.scroll ? null : this.state.lanes,
      paused: this.paused,
      faded: (request) => chosen !== null && chosen !== request.id,
    });
    this.drawn = { columns: columns.length, rows: lanes, prefills: columns.filter((c) => c.run.prefill).length };
    this.hits = columns;
  }

  // What is in sight, left to right
  #columns(now) {
    const runs = this.frozen || this.state.runs, columns = [];
    let x = now + this.hidden + this.scroll;
    for (let i = runs.length - 1; i >= 0 && x > 0; i--) {
      const width = this.#width(runs[i]);
      x -= width;
      if (x < now) columns.push({ run: runs[i], x, width });
    }
    this.farthest = x > 0; // nothing older
    return columns.reverse();
  }

  #lanes(columns) {
    let lanes = MIN_LANES;
    for (const { run } of columns) for (const row of run.rows) if (row.lane >= lanes) lanes = row.lane + 1;
    return lanes;
  }

  // {run, row | null} under a point, or {request} of the queue, or null
  at(x, y) {
    const now = this.canvas.clientWidth - queueWidth(this.canvas.clientWidth);
    if (x > now + 8) {
      const request = this.state.waiting[Math.floor((y - TOP) / PILL)];
      return request && y > TOP ? { request } : null;
    }
    const column = this.hits.find((c) => x >= c.x && x < c.x + c.width);
    if (!column) return null;
    const lane = Math.floor((y - TOP) / this.laneHeight);
    const row = column.run.rows.find((r) => r.lane === lane) || null;
    const { count } = column.run, inside = Math.floor(((x - column.x) / column.width) * count);
    const step = column.run.step + Math.min(count - 1, inside);
    return { run: column.run, row, step, request: row && row.request };
  }

  describe(hit) {
    if (!hit) return null;
    if (!hit.run) return [`#${hit.request.id} is ${hit.request.state}`, `${number(hit.request.prompt)} prompt tokens`];
    const { run, row, step } = hit;
    if (run.gap) return [`${number(run.gap)} steps not shown`, "faster than this page looks"];
    const decodes = run.rows.filter((r) => !r.prefill).length, chunks = run.rows.length - decodes;
    const lines = [`Step ${number(step)} · ${duration(run.us / run.count / 1000)}`];
    const parts = [decodes && `${decodes} decode`, chunks && `${chunks} prefill (${number(run.prefill)} tokens)`];
    lines.push(parts.filter(Boolean).join(" + "));
    if (row) {
      const r = row.request;
      const name = `#${r.id}${r.sample ? `.${r.sample}` : ""}`;
      const position = row.start + (row.prefill ? 0 : step - run.step);
      lines.push(`${name}: ${row.prefill ? `prefill of ${number(row.count)}` : "decode"}, position ${number(position)}`);
      const cached = r.cached ? `, ${number(r.cached)} from cache` : "";
      lines.push(`${number(r.prompt)} prompt + ${number(r.output)} output tokens${cached}`);
      if (r.done) lines.push(`ended: ${r.done.reason}, after ${duration(r.done.ms)}`);
    }
    return lines;
  }

  #scrollBy(px) {
    if (!this.paused) this.view.pause(true);
    this.scroll = Math.max(0, this.farthest && px > 0 ? this.scroll : this.scroll + px);
    this.view.touch();
  }

  #listen() {
    const c = this.canvas;
    let from = null;
    c.addEventListener("pointerdown", (e) => { from = { x: e.clientX, moved: false }; });
    c.addEventListener("pointermove", (e) => {
      if (!from || !(e.buttons & 1)) return;
      if (!from.moved && Math.abs(e.clientX - from.x) < 6) return;
      from.moved = true;
      this.#scrollBy(e.clientX - from.x);
      from.x = e.clientX;
    });
    addEventListener("pointerup", () => { from = null; });
    c.addEventListener("wheel", (e) => {
      if (e.ctrlKey) this.view.zoom(Math.exp(-e.deltaY / 200));
      else if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) this.#scrollBy(-e.deltaX);
      else return;
      e.preventDefault();
    }, { passive: false });
    c.addEventListener("keydown", (e) => {
      const act = {
        " ": () => this.view.pause(!this.paused),
        ArrowLeft: () => this.#scrollBy(80),
        ArrowRight: () => this.#scrollBy(-80),
        "+": () => this.view.zoom(1.5),
        "=": () => this.view.zoom(1.5),
        "-": () => this.view.zoom(1 / 1.5),
        0: () => this.view.zoom(null),
      }[e.key];
      if (!act || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      act();
    });
  }
}
