// The server's API: the key, errors that a person can read, and Server-Sent Events over fetch, since EventSource sends
// no headers.

const KEY = "warpjet.key";

export const apiKey = {
  get: () => { try { return sessionStorage.getItem(KEY) || ""; } catch { return ""; } },
  set: (value) => {
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch { /* no storage: no key */ }
    document.dispatchEvent(new Event("key"));
  },
};

export class ApiError extends Error {
  constructor(status, message, param) {
    super(message);
    this.status = status; // 0: the server was not reached
    this.param = param;
  }
}

// Over HTTP/1.1 a browser opens six connections to a server, and as many again for requests without cookies. Nothing
// here needs cookies but, perhaps, a proxy: so those come first, and what would wait for a connection goes without.
const FEW = 5;
let open = 0;
const crowded = () => open >= FEW && !/^h[23]/.test(performance.getEntriesByType("navigation")[0]?.nextHopProtocol);

// A response with status 2xx; its events() must be read, to the end or until a break. Raises ApiError, or AbortError
// when `signal` says so.
export async function call(path, { body, signal } = {}) {
  const headers = {};
  const key = apiKey.get();
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  const credentials = crowded() ? "omit" : "same-origin";
  let response;
  if (credentials !== "omit") open++;
  try {
    const sent = body ? { method: "POST", body: JSON.stringify(body) } : {};
    response = await fetch(path, { ...sent, headers, signal, credentials, cache: "no-store" });
    response.done = once(() => { if (credentials !== "omit") open--; });
  } catch (error) {
    if (credentials !== "omit") open--;
    if (error.name === "AbortError") throw error;
    if (/[^\x20-\xff]/.test(key)) throw new ApiError(401, "The API key holds characters that no key has.");
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

// The JSON of a GET.
export async function read(path) {
  const response = await call(path);
  try {
    return await response.json();
  } finally {
    response.done();
  }
}

function once(act) {
  let done = false;
  return () => { if (!done) { done = true; act(); } };
}

async function refusal(response) {
  let error = {};
  try { error = (await response.json()).error || {}; } catch { /* not JSON: the status says enough */ }
  response.done();
  const given = typeof error.message === "string" && error.message;
  let message = given || `The server answered ${response.status}.`;
  const wait = response.headers.get("retry-after");
  if (wait) message += ` Try again in ${wait} s.`;
  return new ApiError(response.status, message, error.param);
}

// The events of a response, one {event, data} each; data still text.
export async function* events(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let rest = "", event = "message", data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event, data: data.join("\n") };
          event = "message";
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line.startsWith("event:")) event = line.slice(6).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
    response.done();
  }
}

// What the engine's live view knows a request by: CRC-32 of its request id.
export function tagOf(name) {
  let crc = ~0;
  for (const byte of new TextEncoder().encode(name)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
