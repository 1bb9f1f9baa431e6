// The batch as a picture: columns are steps, rows are lanes of the batch, "now" is at the right, and right of it waits the
// queue. A prefill chunk is a hatched block with its tokens; decode is a bar, cut into cells where there is room.
//
// Steps that change the batch keep a width that can be seen; between them, a decode step is as wide as its rate allows, so
// that the picture moves at a speed that eyes follow at 20 steps a second as at 4,000.

import { calm, duration, number, surface } from "./dom.js";
import { colour } from "./colours.js";

const CELL = 9; // px of a decode step at zoom 1
const PX_PER_S = 90; // how fast decode steps may move, and those that change the batch besides
const LAG_MS = 240; // what came at once is shown over this time
const TOP = 26, AXIS = 18, TOKENS = 44, SPACE = 6;
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
      if (!run.gap && (idle ? last - (run.startUs + run.us) > 8e5 : run.startUs + run.us < until - seconds * 1e6)) break;
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
    const wide = Math.min(1, Math.max(0.12, (idle ? space * 0.6 : space * 1.3) / Math.max(changes, 1)));
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
    g.clearRect(0, 0, width, height);
    const columns = this.#columns(now);
    const lanes = this.#lanes(columns);
    const target = Math.min(MAX_LANE, (bottom - TOP) / lanes);
    this.laneHeight = calm.matches || Math.abs(target - this.laneHeight) < 0.05 ? target : this.laneHeight + (target - this.laneHeight) * Math.min(1, dt / 160);
    const h = this.laneHeight;
    const pitch = { h, gap: h > 10 ? 3 : h > 5 ? 1 : h > 3 ? 0.5 : 0 };

    g.fillStyle = ink.track;
    if (h > 3) for (let lane = 0; TOP + (lane + 1) * h <= bottom + 1 && lane < Math.max(lanes, MIN_LANES); lane++) g.fillRect(0, TOP + lane * h + pitch.gap / 2, now, h - pitch.gap);
    g.save();
    g.beginPath();
    g.rect(0, 0, now, height);
    g.clip();
    this.#bars(g, columns, pitch);
    this.#cuts(g, columns, ink, bottom);
    this.#prefills(g, columns, pitch, ink);
    this.#tokens(g, columns, ink, height - AXIS - TOKENS, height - AXIS);
    this.#axis(g, columns, ink, now, height);
    this.#joins(g, columns, pitch, ink, now);
    g.restore();
    if (!this.paused && !this.scroll) this.#names(g, ink, now, pitch);
    this.#now(g, ink, now, bottom, height);
    this.#queue(g, ink, now, width, bottom);
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

  #faded(request) {
    const chosen = this.view.chosen;
    return chosen !== null && chosen !== request.id;
  }

  // Decode, and the ground of everything: one bar for as long as a request keeps its lane without a break
  #bars(g, columns, { h, gap }) {
    const open = [];
    const close = (bar) => {
      g.globalAlpha = this.#faded(bar.request) ? 0.16 : 1;
      g.fillStyle = bar.gap ? colour(bar.request.colour).soft : colour(bar.request.colour).solid;
      const y = TOP + bar.lane * h + gap / 2, tall = Math.max(h - gap, 0.8), wide = bar.end - bar.x;
      if (h > 7 && wide > 4) {
        g.beginPath();
        g.roundRect(bar.x, y, wide, tall, 2.5);
        g.fill();
      } else g.fillRect(bar.x, y, Math.max(wide, 0.6), tall);
    };
    for (let i = 0; i < columns.length; i++) {
      const { run, x, width } = columns[i];
      if (run.gap) { // who was there before and after was there between
        const after = columns[i + 1];
        if (after) for (const row of after.run.rows) if (open[row.lane]?.request === row.request && open[row.lane].end >= x - 0.01) {
          close(open[row.lane]);
          close({ request: row.request, lane: row.lane, x, end: x + width, gap: true });
          open[row.lane] = null;
        }
        continue;
      }
      for (const row of run.rows) {
        const bar = open[row.lane];
        if (row.prefill) {
          if (bar) close(bar);
          open[row.lane] = null;
        } else if (bar && bar.request === row.request && Math.abs(bar.end - x) < 0.01) bar.end = x + width;
        else {
          if (bar) close(bar);
          open[row.lane] = { request: row.request, lane: row.lane, x, end: x + width };
        }
      }
    }
    for (const bar of open) if (bar) close(bar);
    g.globalAlpha = 1;
  }

  // The cuts that make cells of bars
  #cuts(g, columns, ink, bottom) {
    const cell = CELL * this.zoom;
    g.fillStyle = ink.panel;
    for (const { run, x, width } of columns) {
      if (run.gap) continue;
      g.globalAlpha = width > 5 ? 0.8 : 0.35;
      g.fillRect(x - 0.5, TOP, 1, bottom - TOP);
      if (run.prefill || cell < 2.5) continue;
      g.globalAlpha = Math.min(1, (cell - 2.5) / 3);
      for (let k = 1; k < run.count; k++) g.fillRect(x + (k * width) / run.count - 0.5, TOP, 1, bottom - TOP);
    }
    g.globalAlpha = 1;
  }

  #prefills(g, columns, { h, gap }, ink) {
    const tall = Math.max(h - gap, 0.8);
    g.font = `600 ${Math.min(12, h * 0.55)}px ${ink.mono}`;
    g.textAlign = "center";
    g.textBaseline = "middle";
    for (const { run, x, width } of columns) {
      if (!run.prefill) continue;
      for (const row of run.rows) {
        if (!row.prefill) continue;
        const c = colour(row.request.colour), y = TOP + row.lane * h + gap / 2, wide = Math.max(width - 1.5, 0.8);
        g.globalAlpha = this.#faded(row.request) ? 0.2 : 1;
        g.fillStyle = ink.panel;
        g.fillRect(x + 0.7, y, wide, tall);
        if (h > 7 && wide > 7) {
          g.fillStyle = c.hatch(g);
          g.strokeStyle = c.solid;
          g.lineWidth = 1.2;
          g.beginPath();
          g.roundRect(x + 1.3, y + 0.6, wide - 1.2, tall - 1.2, 2.5);
          g.fill();
          g.stroke();
        } else {
          g.fillStyle = c.soft;
          g.fillRect(x + 0.7, y, wide, tall);
          g.fillStyle = c.solid;
          g.fillRect(x + 0.7, y, Math.min(1.5, wide), tall);
        }
        const label = String(row.count);
        if (h >= 13 && wide > label.length * 7.4 + 8) {
          const half = label.length * 3.9 + 4;
          g.fillStyle = ink.panel;
          g.beginPath();
          g.roundRect(x + 0.7 + wide / 2 - half, y + tall * 0.17, half * 2, tall * 0.66, 3);
          g.fill();
          g.fillStyle = c.solid;
          g.fillText(label, x + 0.7 + wide / 2, y + tall / 2 + 0.5);
        }
      }
    }
    g.globalAlpha = 1;
  }

  // Tokens of each step, on a scale of powers of two: decode below, prefill on top
  #tokens(g, columns, ink, top, bottom) {
    const room = bottom - top, scale = room / Math.log2(1 + Math.max(256, ...columns.map(({ run }) => run.prefill + run.decode / Math.max(1, run.count))));
    g.fillStyle = ink.line;
    g.fillRect(0, bottom - 0.5, 4000, 1);
    for (const { run, x, width } of columns) {
      if (run.gap) continue;
      const decode = Math.log2(1 + run.rows.filter((row) => !row.prefill).length) * scale;
      const all = Math.log2(1 + run.prefill + run.rows.filter((row) => !row.prefill).length) * scale;
      const wide = width > 3 ? width - 1 : width;
      g.fillStyle = ink.faint;
      g.fillRect(x, bottom - decode, wide, decode);
      if (run.prefill) {
        g.fillStyle = ink.accent;
        g.fillRect(x, bottom - all, wide, all - decode);
      }
    }
  }

  // Who joins, written over the step in which it does
  #joins(g, columns, { gap }, ink, now) {
    g.font = `600 10px ${ink.mono}`;
    g.textAlign = "left";
    g.textBaseline = "middle";
    let free = 0;
    for (const { run, x } of columns) {
      const joins = run.rows.filter((row) => row.joins);
      if (!joins.length) continue;
      const { request, lane } = joins[0], label = `+#${request.id}${joins.length > 1 ? ` +${joins.length - 1}` : ""}`;
      const wide = label.length * 6.2;
      if (x < free || x < 0 || x + wide > now - 40) continue;
      g.globalAlpha = this.#faded(request) ? 0.25 : 1;
      g.fillStyle = colour(request.colour).solid;
      g.fillText(label, x + 4, TOP / 2 - 1);
      g.globalAlpha *= 0.4;
      g.fillRect(x + 0.4, TOP / 2 - 6, 1.2, TOP / 2 + 6 + lane * this.laneHeight + gap / 2);
      free = x + wide + 12;
    }
    g.globalAlpha = 1;
  }

  #axis(g, columns, ink, now, height) {
    g.font = `500 10px ${ink.mono}`;
    g.textAlign = "left";
    g.textBaseline = "alphabetic";
    let free = 0;
    for (const { run, x } of columns) {
      if (run.gap || x < free || x > now - 50) continue;
      g.fillStyle = ink.line;
      g.fillRect(x, height - AXIS, 1, 4);
      g.fillStyle = ink.dim;
      g.fillText(number(run.step), x + 3, height - 4);
      free = x + 92;
    }
    for (const { run, x, width } of columns) {
      if (!run.gap) continue;
      g.fillStyle = ink.faint;
      for (let y = TOP + 2; y < height - AXIS - TOKENS - SPACE; y += 7) g.fillRect(x + width / 2 - 0.75, y, 1.5, 2.5);
    }
  }

  // Who is in the batch now, at the right end of its lane
  #names(g, ink, now, { h, gap }) {
    if (h < 16) return;
    g.font = `600 ${Math.min(11, h * 0.5)}px ${ink.mono}`;
    g.textAlign = "right";
    g.textBaseline = "middle";
    for (const request of this.state.lanes) {
      if (!request || request.state !== "running") continue;
      const label = `#${request.id}`, half = label.length * 6.8 + 9, y = TOP + request.lane * h;
      g.globalAlpha = this.#faded(request) ? 0.25 : 1;
      g.fillStyle = ink.panel;
      g.beginPath();
      g.roundRect(now - half - 5, y + gap / 2 + 2, half, h - gap - 4, 3);
      g.fill();
      g.fillStyle = colour(request.colour).solid;
      g.fillText(label, now - 9, y + h / 2 + 0.5);
    }
    g.globalAlpha = 1;
  }

  #now(g, ink, now, bottom, height) {
    g.fillStyle = this.paused || this.scroll ? ink.faint : ink.accent;
    g.fillRect(now - 0.75, TOP - 8, 1.5, height - TOP - AXIS + 8);
    g.font = `600 10px ${ink.sans}`;
    g.textBaseline = "middle";
    g.textAlign = "right";
    g.fillText(this.paused ? "paused" : "now", now - 6, TOP / 2 - 1);
    g.textAlign = "left";
    g.font = `500 10px ${ink.sans}`;
    g.fillStyle = ink.dim;
    g.fillText("tokens", now + 12, height - AXIS - TOKENS + 8);
    g.fillText("in the step", now + 12, height - AXIS - TOKENS + 21);
    g.fillText("step", now + 12, height - 8);
  }

  #queue(g, ink, now, width, bottom) {
    const left = now + 12, waiting = this.state.waiting, pill = 20, wide = width - left - 2;
    g.textAlign = "left";
    g.textBaseline = "middle";
    g.font = `600 10px ${ink.sans}`;
    g.fillStyle = ink.dim;
    g.fillText(waiting.length ? `queue: ${waiting.length}` : "queue", left, TOP / 2 - 1);
    if (!waiting.length) {
      g.font = `400 10px ${ink.sans}`;
      g.fillStyle = ink.faint;
      g.fillText("empty", left, TOP + 8);
      return;
    }
    const fit = Math.max(1, Math.floor((bottom - TOP) / (pill + 4)) - 1);
    g.font = `600 10.5px ${ink.mono}`;
    waiting.slice(0, fit).forEach((request, i) => {
      const c = colour(request.colour), y = TOP + i * (pill + 4);
      g.globalAlpha = this.#faded(request) ? 0.25 : 1;
      g.fillStyle = c.ghost;
      g.strokeStyle = c.solid;
      g.lineWidth = 1;
      g.beginPath();
      g.roundRect(left + 0.5, y + 0.5, wide - 1, pill - 1, 4);
      g.fill();
      g.stroke();
      g.fillStyle = c.solid;
      g.fillText(`#${request.id}`, left + 7, y + pill / 2 + 0.5);
      g.textAlign = "right";
      g.fillStyle = ink.dim;
      g.fillText(String(request.prompt), left + wide - 7, y + pill / 2 + 0.5);
      g.textAlign = "left";
    });
    g.globalAlpha = 1;
    if (waiting.length > fit) {
      g.fillStyle = ink.dim;
      g.font = `500 10.5px ${ink.sans}`;
      g.fillText(`and ${waiting.length - fit} more`, left, TOP + fit * (pill + 4) + 9);
    }
  }

  // {run, row | null} under a point, or {request} of the queue, or null
  at(x, y) {
    const now = this.canvas.clientWidth - queueWidth(this.canvas.clientWidth);
    if (x > now + 8) {
      const request = this.state.waiting[Math.floor((y - TOP) / 24)];
      return request && y > TOP ? { request } : null;
    }
    const column = this.hits.find((c) => x >= c.x && x < c.x + c.width);
    if (!column) return null;
    const lane = Math.floor((y - TOP) / this.laneHeight);
    const row = column.run.rows.find((r) => r.lane === lane) || null;
    const step = column.run.step + Math.min(column.run.count - 1, Math.floor(((x - column.x) / column.width) * column.run.count));
    return { run: column.run, row, step, request: row && row.request };
  }

  describe(hit) {
    if (!hit) return null;
    if (!hit.run) return [`#${hit.request.id} waits`, `${number(hit.request.prompt)} prompt tokens`];
    const { run, row, step } = hit;
    if (run.gap) return [`${number(run.gap)} steps not shown`, "faster than this page looks"];
    const decodes = run.rows.filter((r) => !r.prefill).length, chunks = run.rows.length - decodes;
    const lines = [`Step ${number(step)} · ${duration(run.us / run.count / 1000)}`];
    lines.push([decodes && `${decodes} decode`, chunks && `${chunks} prefill (${number(run.prefill)} tokens)`].filter(Boolean).join(" + "));
    if (row) {
      const r = row.request;
      lines.push(`#${r.id}${r.sample ? `.${r.sample}` : ""}: ${row.prefill ? `prefill of ${number(row.count)}, from position ${number(row.start)}` : `decode, position ${number(row.start + step - run.step)}`}`);
      lines.push(`${number(r.prompt)} prompt + ${number(r.output)} output tokens${r.cached ? `, ${number(r.cached)} from cache` : ""}`);
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
      const act = { " ": () => this.view.pause(!this.paused), ArrowLeft: () => this.#scrollBy(80), ArrowRight: () => this.#scrollBy(-80),
        "+": () => this.view.zoom(1.5), "=": () => this.view.zoom(1.5), "-": () => this.view.zoom(1 / 1.5), 0: () => this.view.zoom(null) }[e.key];
      if (!act || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      act();
    });
  }
}
