// The KV pool as a grid, a cell for each block in the order of memory: the colour of the request that holds it, stripes
// of those that share it, a ghost of the last one's colour while it is only cached.

import { calm, number, surface } from "./dom.js";
import { colour } from "./colours.js";
import { isHeld } from "./engine.js";

const FLASH_MS = 450;
const MAX_STRIPES = 4;
const MIN_CELL = 4, MAX_CELL = 32;

export class BlockGrid {
  constructor(canvas, state, view) {
    Object.assign(this, { canvas, state, view });
    this.layout = null;
    this.drawn = { held: 0, shared: 0, cached: 0, free: 0, owners: {} };
    this.flashing = []; // places of blocks that were taken a moment ago
  }

  draw(ink, nowMs) {
    const s = surface(this.canvas);
    if (!s) return;
    const { g, width, height } = s, { pool, taken } = this.state;
    g.clearRect(0, 0, width, height);
    this.drawn = { held: 0, shared: 0, cached: 0, free: 0, owners: {} };
    this.flashing = [];
    if (!pool.length) return;
    const { cell, columns, each } = (this.layout = fit(pool.length, width, height));
    const size = cell - (cell >= 8 ? 1.5 : cell >= 5 ? 1 : 0.5);
    for (let i = 0; i * each < pool.length; i++) {
      const block = each === 1 ? i : busiest(pool, i * each, Math.min(pool.length, (i + 1) * each));
      const place = { block, x: (i % columns) * cell, y: Math.floor(i / columns) * cell, size };
      this.#cell(g, ink, place, this.drawn);
      if (nowMs - taken[block] < FLASH_MS && isHeld(pool[block]) && !calm.matches) this.flashing.push(place);
    }
    this.flash(ink, nowMs);
  }

  // Draws what was taken a moment ago, brighter the newer. Returns whether there is more to come.
  flash(ink, nowMs) {
    const g = this.canvas.getContext("2d");
    for (const place of this.flashing) {
      const age = (nowMs - this.state.taken[place.block]) / FLASH_MS;
      g.clearRect(place.x, place.y, place.size, place.size);
      this.#cell(g, ink, place, null);
      if (age >= 1) continue;
      g.globalAlpha = 0.6 * (1 - age) ** 2;
      g.fillStyle = "#fff";
      g.fillRect(place.x, place.y, place.size, place.size);
      g.globalAlpha = 1;
    }
    this.flashing = this.flashing.filter(({ block }) => nowMs - this.state.taken[block] < FLASH_MS);
    return this.flashing.length > 0;
  }

  #cell(g, ink, { block, x, y, size }, drawn) {
    const value = this.state.pool[block], last = this.state.lastOwner[block];
    if (value === 0) {
      if (drawn) drawn.free++;
      g.fillStyle = ink.track;
      g.fillRect(x, y, size, size);
    } else if (value === 255) {
      if (drawn) drawn.cached++;
      g.fillStyle = last < 0 ? ink.raised : colour(last).ghost;
      g.fillRect(x, y, size, size);
    } else this.#held(g, ink, { block, x, y, size }, drawn);
  }

  #held(g, ink, { block, x, y, size }, drawn) {
    const { chosen } = this.view, holders = this.state.owners[block], value = this.state.pool[block];
    if (drawn) {
      drawn.held++;
      if (value > 1) drawn.shared++;
      for (const { id } of holders || []) drawn.owners[id] = (drawn.owners[id] || 0) + 1;
    }
    if (!holders) {
      g.fillStyle = ink.dim;
      g.fillRect(x, y, size, size);
      return;
    }
    if (chosen !== null && !holders.some((request) => request.id === chosen)) g.globalAlpha = 0.16;
    const all = holders.length === 1 ? [holders[0].colour] : [...new Set(holders.map((request) => request.colour))];
    const stripes = Math.min(MAX_STRIPES, all.length);
    for (let k = 0; k < stripes; k++) {
      g.fillStyle = colour(all[k]).solid;
      if (stripes === 1) g.fillRect(x, y, size, size);
      else slanted(g, x, y, size, k / stripes, (k + 1) / stripes);
    }
    if (stripes === 1 && value > 1) { // samples of one request share it
      g.fillStyle = ink.panel;
      g.fillRect(x + size * 0.36, y + size * 0.36, size * 0.28, size * 0.28);
    }
    g.globalAlpha = 1;
  }

  at(x, y) {
    if (!this.layout) return null;
    const { cell, columns, each } = this.layout;
    const column = Math.floor(x / cell), block = (Math.floor(y / cell) * columns + column) * each;
    if (column >= columns || block >= this.state.pool.length) return null;
    const chosen = each === 1 ? block : busiest(this.state.pool, block, Math.min(this.state.pool.length, block + each));
    const holders = this.state.owners[chosen];
    return { block: chosen, holders, request: holders && holders.length ? holders[0] : null };
  }

  describe(hit) {
    if (!hit) return null;
    const value = this.state.pool[hit.block];
    const lines = [`Block ${number(hit.block)} · ${this.state.info.block_size} tokens`];
    if (value === 0) lines.push("free");
    else if (value === 255) lines.push("cached: nobody holds it, the next with this prefix may");
    else {
      lines.push(value === 1 ? "held by one sequence" : `shared by ${value === 254 ? "254 or more" : value} sequences`);
      const ids = [...new Set(hit.holders?.map((request) => `#${request.id}`))];
      lines.push(ids.slice(0, 8).join(" ") + (ids.length > 8 ? " …" : ""));
    }
    return lines;
  }
}

// The largest cells that show all blocks; where that would be too small, a cell stands for `each` blocks.
function fit(blocks, width, height) {
  for (let each = 1; ; each++) {
    const cells = Math.ceil(blocks / each);
    let cell = Math.min(MAX_CELL, Math.sqrt((width * height) / cells));
    while (cell >= MIN_CELL && Math.ceil(cells / Math.floor(width / cell)) * cell > height) cell -= 0.25;
    if (cell >= MIN_CELL) return { cell, columns: Math.floor(width / cell), each };
  }
}

// Of several blocks, the one that tells most: held before cached before free
function busiest(pool, from, to) {
  let best = from, rank = -1;
  for (let block = from; block < to; block++) {
    const value = pool[block], r = value === 0 ? 0 : value === 255 ? 1 : 2 + value;
    if (r > rank) { rank = r; best = block; }
  }
  return best;
}

// The part of a square between two of its diagonals, from and to in 0..1
function slanted(g, x, y, size, from, to) {
  const points = [];
  const edge = (t) => {
    const along = (t <= 0.5 ? 2 * t : 2 * t - 1) * size;
    return t <= 0.5 ? [[x + along, y], [x, y + along]] : [[x + size, y + along], [x + along, y + size]];
  };
  const [a, b] = edge(from), [c, d] = edge(to);
  points.push(a);
  if (from < 0.5 && to > 0.5) points.push([x + size, y]);
  points.push(c, d);
  if (from < 0.5 && to > 0.5) points.push([x, y + size]);
  points.push(b);
  g.beginPath();
  points.forEach(([px, py], i) => (i ? g.lineTo(px, py) : g.moveTo(px, py)));
  g.fill();
}
