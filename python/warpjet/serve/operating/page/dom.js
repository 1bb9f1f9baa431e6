// Elements from data. Text goes in as text nodes, never as markup: what a model writes is not trusted.

export const $ = (id) => document.getElementById(id);

// el("button", {class: "ghost", type: "button", onclick: f}, "Stop", node, ...)
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
export const number = (value) => grouped.format(value);

// 3.2 µs, 8.1 ms, 1.25 s
export function duration(ms) {
  if (!(ms > 0)) return "–";
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

// A button that copies what text() says. Without a secure context there is no clipboard API, so a selection serves.
export function copyButton(text) {
  const button = el("button", { type: "button", class: "ghost small" }, "Copy");
  button.addEventListener("click", async () => {
    let copied = true;
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      const field = document.body.appendChild(el("textarea", { class: "hidden" }));
      field.value = text();
      field.select();
      copied = document.execCommand("copy");
      field.remove();
    }
    button.textContent = copied ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

export const calm = matchMedia("(prefers-reduced-motion: reduce)");

// A canvas in device pixels, drawn in CSS pixels. Returns null while it is not shown.
export function surface(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width || !height) return null;
  const ratio = Math.min(window.devicePixelRatio || 1, 3);
  const w = Math.round(width * ratio), h = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const g = canvas.getContext("2d");
  g.setTransform(w / width, 0, 0, h / height, 0, 0);
  return { g, width, height, ratio };
}
