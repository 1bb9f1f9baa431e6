// Sparklines: an area for a rate, dots for times to first token, a line in a band for times between tokens.

import { surface } from "./dom.js";
import { colour } from "./colours.js";

function nothing({ g, width, height }, ink) {
  g.fillStyle = ink.dim;
  g.font = `500 11.5px ${ink.mono}`;
  g.textAlign = "center";
  g.textBaseline = "middle";
  g.fillText("no requests yet", width / 2, height / 2);
}

export function area(canvas, values, ink) {
  const s = surface(canvas);
  if (!s) return;
  const { g, width, height } = s;
  g.clearRect(0, 0, width, height);
  if (values.length < 2) return;
  const top = Math.max(1, ...values) * 1.1, dx = width / 239, x0 = width - (values.length - 1) * dx;
  g.beginPath();
  values.forEach((value, i) => g.lineTo(x0 + i * dx, height - 1 - (value / top) * (height - 3)));
  g.strokeStyle = ink.accent;
  g.lineWidth = 1.5;
  g.lineJoin = "round";
  g.stroke();
  g.lineTo(width, height);
  g.lineTo(x0, height);
  const fade = g.createLinearGradient(0, 0, 0, height);
  g.fillStyle = fade;
  g.globalAlpha = 0.28;
  fade.addColorStop(0, ink.accent);
  fade.addColorStop(1, "transparent");
  g.fill();
  g.globalAlpha = 1;
}

// values: {ms, colour}, oldest first
export function dots(canvas, values, ink, room = 96) {
  const s = surface(canvas);
  if (!s) return;
  const { g, width, height } = s;
  g.clearRect(0, 0, width, height);
  const scale = grid(g, width, height, Math.max(0, ...values.map((v) => v.ms)), ink);
  if (!values.length) nothing(s, ink);
  const dx = (width - 10) / room, x0 = width - 6 - (values.length - 1) * dx;
  values.forEach(({ ms, colour: index }, i) => {
    const x = x0 + i * dx, y = scale(ms), c = colour(index);
    g.fillStyle = c.soft;
    g.fillRect(x - 0.75, y, 1.5, height - y);
    g.fillStyle = c.solid;
    g.beginPath();
    g.arc(x, y, 2.6, 0, 7);
    g.fill();
  });
}

// values: {p50, p99}, oldest first
export function band(canvas, values, ink) {
  const s = surface(canvas);
  if (!s) return;
  const { g, width, height } = s;
  g.clearRect(0, 0, width, height);
  const scale = grid(g, width, height, Math.max(0, ...values.map((v) => v.p99)), ink);
  if (!values.length) nothing(s, ink);
  if (values.length < 2) return;
  const dx = width / 239, x0 = width - (values.length - 1) * dx;
  g.beginPath();
  values.forEach((v, i) => g.lineTo(x0 + i * dx, scale(v.p99)));
  for (let i = values.length - 1; i >= 0; i--) g.lineTo(x0 + i * dx, scale(values[i].p50));
  g.fillStyle = ink.accent;
  g.globalAlpha = 0.22;
  g.fill();
  g.globalAlpha = 1;
  g.beginPath();
  values.forEach((v, i) => g.lineTo(x0 + i * dx, scale(v.p50)));
  g.strokeStyle = ink.accent;
  g.lineWidth = 1.6;
  g.lineJoin = "round";
  g.stroke();
}

// A line at a round number of ms below the top. Returns ms -> y.
function grid(g, width, height, most, ink) {
  const top = Math.max(most * 1.12, 1e-6);
  const power = 10 ** Math.floor(Math.log10(top / 1.4));
  const line = most ? [5, 2, 1].map((k) => k * power).find((v) => v < top / 1.25) : 0;
  const scale = (ms) => height - 1 - (ms / top) * (height - 4);
  g.fillStyle = ink.line;
  g.fillRect(0, height - 1, width, 1);
  if (line) {
    g.fillRect(0, Math.round(scale(line)), width, 1);
    g.fillStyle = ink.dim;
    g.font = `500 10px ${ink.mono}`;
    g.textAlign = "left";
    g.textBaseline = "bottom";
    const label = line >= 1000 ? `${line / 1000} s` : line >= 1 ? `${line} ms` : `${Math.round(line * 1000)} µs`;
    g.fillText(label, 0, Math.round(scale(line)) - 1);
  }
  return scale;
}
