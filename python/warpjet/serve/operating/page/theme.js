// Dark or light before the first paint: what was chosen here, else what the system asks for. A classic script, so that
// it runs before the body is shown.
"use strict";
(() => {
  const system = matchMedia("(prefers-color-scheme: light)");
  const chosen = () => { try { return localStorage.getItem("warpjet.theme"); } catch { return null; } };
  const apply = () => {
    document.documentElement.dataset.theme = chosen() || (system.matches ? "light" : "dark");
    document.dispatchEvent(new Event("theme"));
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem("warpjet.theme", other); } catch { /* then it lasts as long as the page */ }
      document.documentElement.dataset.theme = other;
      document.dispatchEvent(new Event("theme"));
    });
  });
})();
