// A colour for each request: hues a golden angle apart, so that neighbours differ, as light as suits the theme.

const GOLDEN_ANGLE = 137.508;
const THEMES = {
  dark: { lightness: [0.79, 0.7, 0.84], chroma: 0.135 },
  light: { lightness: [0.64, 0.55, 0.7], chroma: 0.15 },
};

function oklch(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180), b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((x) => Math.round(255 * Math.min(1, Math.max(0, x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055))));
}

let theme = "dark";
let made = [];

// {solid, soft (a third of it), ghost (barely there), ink (text on solid), hatch(g): a pattern}
export function colour(index) {
  return (made[index] ||= make(index));
}

export function setTheme(name) {
  theme = name;
  made = [];
}

function make(index) {
  const { lightness, chroma } = THEMES[theme];
  const rgb = oklch(lightness[index % 3], chroma, (30 + index * GOLDEN_ANGLE) % 360);
  const rgba = (alpha) => `rgba(${rgb}, ${alpha})`;
  return {
    solid: `rgb(${rgb})`,
    soft: rgba(theme === "dark" ? 0.3 : 0.26),
    ghost: rgba(theme === "dark" ? 0.2 : 0.24),
    ink: theme === "dark" ? "#0b0d12" : "#ffffff",
    pattern: null,
    hatch(g) {
      return (this.pattern ||= hatch(g, rgba));
    },
  };
}

function hatch(g, rgba) {
  const size = 6, tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const t = tile.getContext("2d");
  t.fillStyle = rgba(theme === "dark" ? 0.3 : 0.22);
  t.fillRect(0, 0, size, size);
  t.strokeStyle = rgba(theme === "dark" ? 0.62 : 0.55);
  t.lineWidth = 1.5;
  for (const shift of [-size, 0, size]) {
    t.beginPath();
    t.moveTo(shift - 1, size + 1);
    t.lineTo(shift + size + 1, -1);
    t.stroke();
  }
  return g.createPattern(tile, "repeat");
}

// The page's own colours, from its style sheet.
export function ink() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  const names = ["text", "dim", "faint", "line", "panel", "track", "raised", "accent", "mono", "sans"];
  const found = Object.fromEntries(names.map((name) => [name, read(`--${name}`)]));
  return { ...found, accentText: read("--accent-text") };
}
