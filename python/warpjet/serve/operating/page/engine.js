// What the page knows of the engine: snapshots in; requests, runs of steps, blocks and rates out. No drawing.
//
// A request has a colour from when it is first seen and a lane (a row of the batch) while it runs: a lane that one
// leaves is taken by the next. A run is one step, or several in a row that did the same: decode the same requests.

const KEEP_RUNS = 6000;
const KEEP_ROWS = 300000;
const KEEP_REQUESTS = 4000;
const RATE_WINDOW_US = 1.5e6;
const SAMPLES_PER_ID = 65536;
// gap: steps that were not seen; count: steps that are one here; prefill, decode, chunk: tokens of a step
const NO_RUN = { gap: 0, step: 0, count: 1, rows: [], prefill: 0, decode: 0, chunk: 0, us: 0, startUs: 0 };

export const keyOf = (id, sample) => id * SAMPLES_PER_ID + sample;

export class EngineState {
  constructor() {
    this.version = 0; // grows with every snapshot
    this.restart();
  }

  restart() {
    this.step = -1;
    this.info = { block_size: 0, kv_blocks: 0, max_model_len: 0, max_num_seqs: 0 };
    this.requests = new Map(); // key -> request
    this.colours = new Map(); // id -> colour index
    this.byTag = new Map(); // tag of a request id -> engine's id
    this.runs = [];
    this.rowCount = 0;
    this.lanes = []; // lane -> the request that has it, or null
    this.pool = new Uint8Array(0);
    this.owners = []; // block -> null | requests that hold it
    this.lastOwner = []; // block -> colour index of who had it last
    this.taken = new Float64Array(0); // block -> ms when somebody took it
    this.running = []; // requests
    this.waiting = [];
    this.ttft = []; // {ms, colour}
    this.itl = []; // {p50, p99}, one a snapshot
    this.rates = []; // tokens/s, one a snapshot
    this.window = []; // {us, tokens, steps} of the last RATE_WINDOW_US
    this.prompts = []; // {cached, total} of the latest requests
    this.startedUs = 0;
    this.rate = this.stepsPerSecond = this.stepUs = 0;
    this.widest = 0; // most rows that a step had
    this.version++;
  }

  // One event of /live. nowMs: this page's clock, for what fades.
  apply(snapshot, nowMs) {
    if (snapshot.step < this.step) this.restart(); // another engine answers
    const first = this.step < 0;
    this.info = snapshot;
    this.startedUs ||= snapshot.now_us;
    for (const [id, tag] of Object.entries(snapshot.names || {})) this.byTag.set(tag, Number(id));
    this.#sequences(snapshot.sequences);
    this.#steps(snapshot, first);
    this.#ends(snapshot);
    this.#blocks(snapshot, nowMs);
    this.#measure(snapshot);
    this.step = snapshot.step;
    this.version++;
  }

  // The server is not reached: what ran may run no more. What was seen stays.
  lose() {
    this.running = [];
    this.waiting = [];
    this.owners.fill(null);
    this.rate = this.stepsPerSecond = 0;
    this.version++;
  }

  get idle() {
    return this.running.length === 0 && this.waiting.length === 0;
  }

  // Colour index of an engine's id: samples of a request share it.
  colourOf(id) {
    let index = this.colours.get(id);
    if (index === undefined) {
      index = this.nextColour = (this.nextColour ?? -1) + 1;
      this.colours.set(id, index);
    }
    return index;
  }

  #request(id, sample) {
    const key = keyOf(id, sample);
    let request = this.requests.get(key);
    if (!request) {
      request = { key, id, sample, colour: this.colourOf(id), state: "waiting", done: null, blocks: [],
        prompt: 0, computed: 0, output: 0, cached: 0, lane: -1, lastUs: 0, fresh: true };
      this.requests.set(key, request);
      this.#forget();
    }
    return request;
  }

  #forget() {
    if (this.requests.size <= KEEP_REQUESTS) return;
    for (const [key, request] of this.requests) {
      if (this.requests.size <= KEEP_REQUESTS * 0.75) break;
      if (request.done) this.requests.delete(key);
    }
    const alive = new Set();
    for (const request of this.requests.values()) alive.add(request.id);
    for (const id of this.colours.keys()) if (!alive.has(id)) this.colours.delete(id);
    for (const [tag, id] of this.byTag) if (!alive.has(id)) this.byTag.delete(tag);
  }

  #sequences(sequences) {
    this.running = [];
    this.waiting = [];
    for (const s of sequences) {
      const request = this.#request(s.id, s.sample);
      Object.assign(request, s);
      (s.state === "running" ? this.running : this.waiting).push(request);
    }
  }

  #steps(snapshot, first) {
    const alive = new Set();
    for (const s of snapshot.sequences) alive.add(keyOf(s.id, s.sample));
    const last = new Map(); // key -> its last step here
    for (const step of snapshot.steps) for (const row of step.rows) last.set(keyOf(row[0], row[1]), step.step);

    const leave = (ended) => {
      for (const request of this.lanes) if (request && ended(request)) this.lanes[request.lane] = null;
    };
    leave(({ key }) => !alive.has(key) && !last.has(key));
    let previous = this.step;
    for (const step of snapshot.steps) {
      const missed = first && previous < 0 ? 0 : step.step - previous - 1;
      if (missed > 0) this.#push({ ...NO_RUN, gap: missed, step: previous + 1, count: missed });
      this.#step(step, missed);
      leave(({ key }) => !alive.has(key) && last.get(key) === step.step);
      previous = step.step;
    }
    leave(({ key }) => !alive.has(key));
  }

  #step({ step, us, start_us, rows }, missed) {
    const endUs = start_us + us;
    const run = { ...NO_RUN, step, us, startUs: start_us, rows: [] };
    let tokens = 0;
    const gaps = [];
    for (const [id, sample, start, count] of rows) {
      const request = this.#request(id, sample);
      const joins = request.lane < 0 || this.lanes[request.lane] !== request;
      if (joins) this.#enter(request);
      // A count of 0 begins with what another sample of its request computed.
      const prefill = count > 0 && (start < request.prompt || count > 1 || (request.fresh && !request.prompt));
      if (request.fresh && this.step >= 0 && sample === 0)
        this.prompts.push({ cached: start, total: Math.max(request.prompt, start + count) });
      request.fresh = false;
      const emits = !prefill || start + count >= request.prompt;
      if (emits) {
        tokens++;
        if (request.lastUs && !missed) gaps.push((endUs - request.lastUs) / 1000);
        request.lastUs = endUs;
      }
      run.rows.push({ request, lane: request.lane, prefill, count, start, joins: joins && this.step >= 0 });
      if (prefill) {
        run.prefill += count;
        run.chunk = Math.max(run.chunk, count);
      } else run.decode += count;
    }
    this.widest = Math.max(this.widest, rows.length);
    this.window.push({ us: start_us, endUs, tokens, steps: 1 + missed, gaps, rows: rows.length });
    if (!this.#extend(run)) this.#push(run);
  }

  // A lane for a request that joins: the lowest that is free.
  #enter(request) {
    let lane = this.lanes.indexOf(null);
    if (lane < 0) lane = this.lanes.length;
    this.lanes[lane] = request;
    request.lane = lane;
  }

  #extend(run) {
    const last = this.runs.at(-1);
    if (!last || last.gap || run.prefill || last.prefill || last.rows.length !== run.rows.length) return false;
    if (run.startUs - (last.startUs + last.us) > 3e5) return false; // idle between: keep them apart
    for (let i = 0; i < run.rows.length; i++)
      if (run.rows[i].request !== last.rows[i].request || run.rows[i].lane !== last.rows[i].lane) return false;
    last.count++;
    last.us = run.startUs + run.us - last.startUs;
    return true;
  }

  #push(run) {
    this.runs.push(run);
    this.rowCount += run.rows.length;
    if (this.runs.length <= KEEP_RUNS && this.rowCount <= KEEP_ROWS) return;
    const dropped = this.runs.splice(0, this.runs.length >> 2);
    for (const old of dropped) this.rowCount -= old.rows.length;
  }

  #ends(snapshot) {
    for (const [id, , ms] of snapshot.first_tokens) this.ttft.push({ ms, colour: this.colourOf(id) });
    this.ttft.splice(0, this.ttft.length - 96);
    for (const [id, sample, step, reason, output, ms] of snapshot.finished) {
      const request = this.requests.get(keyOf(id, sample));
      const done = { step, reason, output, ms };
      if (request) Object.assign(request, { done, output, blocks: [], state: "finished" });
    }
    this.prompts.splice(0, this.prompts.length - 64);
  }

  #blocks(snapshot, nowMs) {
    const pool = decode(snapshot.pool);
    if (pool.length !== this.pool.length) {
      this.pool = pool.slice();
      this.taken = new Float64Array(pool.length);
      this.lastOwner = new Array(pool.length).fill(-1);
      this.owners = new Array(pool.length).fill(null);
    }
    const owners = new Array(pool.length).fill(null);
    for (const list of [this.running, this.waiting])
      for (const request of list)
        for (const block of request.blocks) (owners[block] ||= []).push(request);
    for (let block = 0; block < pool.length; block++) {
      const owner = owners[block] && owners[block][0];
      if (isHeld(pool[block]) && !isHeld(this.pool[block])) this.taken[block] = nowMs;
      if (owner) this.lastOwner[block] = owner.colour;
      else if (pool[block] === 0) this.lastOwner[block] = -1;
    }
    this.pool = pool;
    this.owners = owners;
  }

  #measure(snapshot) {
    const from = snapshot.now_us - RATE_WINDOW_US;
    const recent = this.window.filter((entry) => entry.endUs > from);
    const fresh = this.window.filter((entry) => !entry.counted);
    for (const entry of fresh) entry.counted = true;
    this.window = recent;
    let tokens = 0, steps = 0;
    for (const entry of recent) {
      tokens += entry.tokens * entry.steps;
      steps += entry.steps;
    }
    const seconds = Math.max(1, Math.min(RATE_WINDOW_US, snapshot.now_us - this.startedUs) / 1e6);
    this.rate = tokens / seconds;
    this.stepsPerSecond = steps / seconds;
    this.rates.push(this.rate);
    this.rates.splice(0, this.rates.length - 240);
    if (fresh.length) this.stepUs = share(fresh.map((entry) => entry.endUs - entry.us), 0.5);
    const gaps = fresh.flatMap((entry) => entry.gaps);
    if (gaps.length) {
      this.itl.push({ p50: share(gaps, 0.5), p99: share(gaps, 0.99) });
      this.itl.splice(0, this.itl.length - 240);
    }
  }

  // {free, cached, held, shared}: how many blocks are so
  count() {
    const counts = { free: 0, cached: 0, held: 0, shared: 0 };
    for (const value of this.pool) {
      if (value === 0) counts.free++;
      else if (value === 255) counts.cached++;
      else {
        counts.held++;
        if (value > 1) counts.shared++;
      }
    }
    return counts;
  }

  // Share of the latest prompts' tokens that were in the cache, 0 to 1
  get hits() {
    let cached = 0, total = 0;
    for (const prompt of this.prompts) {
      cached += prompt.cached;
      total += prompt.total;
    }
    return total ? cached / total : 0;
  }
}

// The value below which this share of the values lies; values must not be empty
export function share(values, part) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
}

export const isHeld = (value) => value !== 0 && value !== 255;

function decode(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
