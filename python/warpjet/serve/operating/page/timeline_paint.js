// The timeline's picture from what is in sight. Pure drawing: a scene in, pixels out.
//
// scene: {ink, width, height, now, bottom: px; columns: {run, x, width}, left to right; lanes, lane: px of one; cell: px
// of a decode step; waiting: requests; present: lane -> request, or null while it is not now that is shown; paused;
// faded(request)}.

import { number } from "./dom.js";
import { colour } from "./colours.js";

export const TOP = 26, AXIS = 18, TOKENS = 44, SPACE = 6, PILL = 24;

export function paint(g, scene) {
  const { width, height, now, lane } = scene;
  scene.gap = lane > 10 ? 3 : lane > 5 ? 1 : lane > 3 ? 0.5 : 0;
  scene.tall = Math.max(lane - scene.gap, 0.8);
  scene.y = (index) => TOP + index * lane + scene.gap / 2;
  g.clearRect(0, 0, width, height);
  tracks(g, scene);
  g.save();
  g.beginPath();
  g.rect(0, 0, now, height);
  g.clip();
  bars(g, scene);
  cuts(g, scene);
  prefills(g, scene);
  gaps(g, scene);
  tokens(g, scene);
  axis(g, scene);
  joins(g, scene);
  g.restore();
  if (!scene.columns.length) nothing(g, scene);
  if (scene.present) names(g, scene);
  presentLine(g, scene);
  queue(g, scene);
}

function type(g, weight, size, family, align = "left") {
  g.font = `${weight} ${size}px ${family}`;
  g.textAlign = align;
  g.textBaseline = "middle";
}

function box(g, x, y, width, height, radius) {
  g.beginPath();
  g.roundRect(x, y, width, height, radius);
}

function tracks(g, { ink, now, bottom, lanes, lane, tall, y }) {
  if (lane <= 3) return;
  g.fillStyle = ink.track;
  for (let i = 0; i < lanes && y(i) + tall <= bottom + 2; i++) g.fillRect(0, y(i), now, tall);
}

// Decode: one bar for as long as a request keeps its lane without a break
function bars(g, { columns, lane, tall, y, faded }) {
  const open = [];
  const close = (bar, soft = false) => {
    const c = colour(bar.request.colour), wide = bar.end - bar.x;
    g.globalAlpha = faded(bar.request) ? 0.16 : 1;
    g.fillStyle = soft ? c.soft : c.solid;
    if (lane > 7 && wide > 4) {
      box(g, bar.x, y(bar.lane), wide, tall, 2.5);
      g.fill();
    } else g.fillRect(bar.x, y(bar.lane), Math.max(wide, 0.6), tall);
  };
  columns.forEach(({ run, x, width }, i) => {
    if (run.gap) { // who was there before and after was there between
      for (const { request, lane: at } of columns[i + 1]?.run.rows ?? []) {
        if (open[at]?.request !== request || open[at].end < x - 0.01) continue;
        close(open[at]);
        close({ request, lane: at, x, end: x + width }, true);
        open[at] = null;
      }
      return;
    }
    for (const { request, lane: at, prefill } of run.rows) {
      const bar = open[at];
      if (!prefill && bar && bar.request === request && Math.abs(bar.end - x) < 0.01) {
        bar.end = x + width;
        continue;
      }
      if (bar) close(bar);
      open[at] = prefill ? null : { request, lane: at, x, end: x + width };
    }
  });
  for (const bar of open) if (bar) close(bar);
  g.globalAlpha = 1;
}

// The cuts that make cells of bars
function cuts(g, { ink, columns, bottom, cell }) {
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

function prefills(g, { ink, columns, lane, tall, y, faded }) {
  type(g, 600, Math.min(12, lane * 0.55), ink.mono, "center");
  for (const { run, x, width } of columns) {
    if (!run.prefill) continue;
    const left = x + 0.7, wide = Math.max(width - 1.5, 0.8);
    for (const { request, lane: at, prefill, count } of run.rows) {
      if (!prefill) continue;
      const c = colour(request.colour), top = y(at);
      g.globalAlpha = faded(request) ? 0.2 : 1;
      g.fillStyle = ink.panel;
      g.fillRect(left, top, wide, tall);
      if (lane > 7 && wide > 7) {
        g.fillStyle = c.hatch(g);
        g.strokeStyle = c.solid;
        g.lineWidth = 1.2;
        box(g, left + 0.6, top + 0.6, wide - 1.2, tall - 1.2, 2.5);
        g.fill();
        g.stroke();
      } else {
        g.fillStyle = c.soft;
        g.fillRect(left, top, wide, tall);
        g.fillStyle = c.solid;
        g.fillRect(left, top, Math.min(1.5, wide), tall);
      }
      const label = String(count), half = label.length * 3.7 + 2.5;
      if (lane < 13 || wide < half * 2 + 1) continue;
      g.fillStyle = ink.panel;
      box(g, left + wide / 2 - half, top + tall * 0.17, half * 2, tall * 0.66, 3);
      g.fill();
      g.fillStyle = c.solid;
      g.fillText(label, left + wide / 2, top + tall / 2 + 0.5);
    }
  }
  g.globalAlpha = 1;
}

// Steps that went by unseen
function gaps(g, { ink, columns, bottom }) {
  g.fillStyle = ink.faint;
  for (const { run, x, width } of columns) {
    if (run.gap) for (let at = TOP + 2; at < bottom; at += 7) g.fillRect(x + width / 2 - 0.75, at, 1.5, 2.5);
  }
}

// Tokens of each step, on a scale of powers of two: decode below, prefill on top
function tokens(g, { ink, columns, now, height }) {
  const bottom = height - AXIS, most = Math.max(256, ...columns.map(({ run }) => run.prefill + run.decode));
  const scale = TOKENS / Math.log2(1 + most);
  g.fillStyle = ink.line;
  g.fillRect(0, bottom - 0.5, now, 1);
  for (const { run, x, width } of columns) {
    if (run.gap) continue;
    const decode = Math.log2(1 + run.decode) * scale, all = Math.log2(1 + run.decode + run.prefill) * scale;
    const wide = width > 3 ? width - 1 : width;
    g.fillStyle = ink.faint;
    g.fillRect(x, bottom - decode, wide, decode);
    g.fillStyle = ink.accent;
    if (run.prefill) g.fillRect(x, bottom - all, wide, all - decode);
  }
}

function axis(g, { ink, columns, now, height }) {
  type(g, 500, 10, ink.mono);
  let free = 0;
  for (const { run, x } of columns) {
    if (run.gap || x < free || x > now - 50) continue;
    g.fillStyle = ink.line;
    g.fillRect(x, height - AXIS, 1, 4);
    g.fillStyle = ink.dim;
    g.fillText(number(run.step), x + 3, height - 8);
    free = x + 92;
  }
}

// Who joins, written over the step in which it does
function joins(g, { ink, columns, now, y, faded }) {
  type(g, 600, 10, ink.mono);
  let free = 0;
  for (const { run, x } of columns) {
    const joining = run.rows.filter((row) => row.joins);
    if (!joining.length) continue;
    const { request, lane } = joining[0], more = joining.length > 1 ? ` +${joining.length - 1}` : "";
    const label = `+#${request.id}${more}`, wide = label.length * 6.2;
    if (x < free || x < 0 || x + wide > now - 40) continue;
    g.globalAlpha = faded(request) ? 0.25 : 1;
    g.fillStyle = colour(request.colour).solid;
    g.fillText(label, x + 4, TOP / 2 - 1);
    g.globalAlpha *= 0.4;
    g.fillRect(x + 0.4, TOP / 2 - 6, 1.2, y(lane) - TOP / 2 + 6);
    free = x + wide + 12;
  }
  g.globalAlpha = 1;
}

// Who is in the batch now, at the right end of its lane
function names(g, { ink, now, present, lane, tall, y, faded }) {
  if (lane < 16) return;
  type(g, 600, Math.min(11, lane * 0.5), ink.mono, "right");
  for (const request of present) {
    if (!request || request.state !== "running") continue;
    const label = `#${request.id}`, wide = label.length * 6.8 + 9, top = y(request.lane);
    g.globalAlpha = faded(request) ? 0.25 : 1;
    g.fillStyle = ink.panel;
    box(g, now - wide - 5, top + 2, wide, tall - 4, 3);
    g.fill();
    g.fillStyle = colour(request.colour).solid;
    g.fillText(label, now - 9, top + tall / 2 + 0.5);
  }
  g.globalAlpha = 1;
}

function presentLine(g, { ink, now, height, present, paused }) {
  g.fillStyle = present ? ink.accent : ink.faint;
  g.fillRect(now - 0.75, TOP - 8, 1.5, height - TOP - AXIS + 8);
  type(g, 600, 10, ink.sans, "right");
  g.fillStyle = present ? ink.accentText : ink.dim;
  g.fillText(paused ? "paused" : "now", now - 6, TOP / 2 - 1);
  type(g, 500, 10, ink.sans);
  g.fillStyle = ink.dim;
  g.fillText("tokens", now + 12, height - AXIS - TOKENS + 8);
  g.fillText("in the step", now + 12, height - AXIS - TOKENS + 21);
  g.fillText("step", now + 12, height - 8);
}

// Who waits, next first
function queue(g, { ink, now, width, bottom, waiting, faded }) {
  const left = now + 12, wide = width - left - 2, fit = Math.max(1, Math.floor((bottom - TOP) / PILL) - 1);
  type(g, 600, 10, ink.sans);
  g.fillStyle = ink.dim;
  g.fillText(`queue: ${waiting.length}`, left, TOP / 2 - 1);
  waiting.slice(0, fit).forEach((request, i) => {
    const c = colour(request.colour), top = TOP + i * PILL, middle = top + PILL / 2 - 1.5;
    g.globalAlpha = faded(request) ? 0.25 : 1;
    g.fillStyle = c.ghost;
    g.strokeStyle = c.solid;
    g.lineWidth = 1;
    box(g, left + 0.5, top + 0.5, wide - 1, PILL - 5, 4);
    g.fill();
    g.stroke();
    type(g, 600, 10.5, ink.mono);
    g.fillStyle = c.solid;
    g.fillText(`#${request.id}`, left + 7, middle);
    g.textAlign = "right";
    g.fillStyle = ink.dim;
    g.fillText(String(request.prompt), left + wide - 7, middle);
  });
  g.globalAlpha = 1;
  type(g, 500, 10.5, ink.sans);
  g.fillStyle = ink.dim;
  if (waiting.length > fit) g.fillText(`and ${waiting.length - fit} more`, left, TOP + fit * PILL + 9);
}

function nothing(g, { ink, now, bottom }) {
  type(g, 500, 13, ink.sans, "center");
  g.fillStyle = ink.dim;
  const text = "Nothing has run since this page looked. Each step will appear here.";
  g.fillText(text, now / 2, (TOP + bottom) / 2, now - 20);
}
