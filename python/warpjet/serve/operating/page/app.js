// Starts the page and binds what both sides share: the key, the model, the views of a narrow screen.

import { $ } from "./dom.js";
import { apiKey, read } from "./api.js";
import { Dashboard } from "./dashboard.js";
import { Chat } from "./chat.js";

let chat = null;
const dashboard = new Dashboard(() => chat?.touch());
chat = new Chat(dashboard);

async function loadModels() {
  try {
    chat.setModels((await read("v1/models")).data);
  } catch (error) {
    if (error.status === 401 || error.status === 403) askForKey();
    else setTimeout(loadModels, 3000);
  }
}

function showKey(on) {
  $("key-form").hidden = !on;
  $("key-button").setAttribute("aria-expanded", String(on));
  if (on) $("key").focus();
}

function askForKey() {
  const note = $("key-form").querySelector(".note");
  note.textContent = apiKey.get() ? "The server does not take this key." : "This server wants an API key.";
  note.classList.add("error");
  if ($("key-form").hidden) showKey(true);
}

$("key").value = apiKey.get();
$("key-button").addEventListener("click", () => showKey($("key-form").hidden));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const note = $("key-form").querySelector(".note");
  note.textContent = "Kept for this tab only and sent to this server only.";
  note.classList.remove("error");
  showKey(false);
  apiKey.set($("key").value.trim());
  loadModels();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("key-form").hidden) return;
  event.preventDefault(); // it closes the form and stops no answer
  showKey(false);
}, { capture: true });
document.addEventListener("refused", askForKey);

function show(view) {
  document.body.dataset.view = view;
  $("view-chat").setAttribute("aria-pressed", String(view === "chat"));
  $("view-engine").setAttribute("aria-pressed", String(view === "engine"));
  dashboard.touch();
}
$("view-chat").addEventListener("click", () => show("chat"));
$("view-engine").addEventListener("click", () => show("engine"));

loadModels();

// What a test, or a curious person, may read.
window.warpjet = {
  get connected() { return dashboard.connected; },
  get step() { return dashboard.state.step; },
  get running() { return dashboard.state.running.length; },
  get waiting() { return dashboard.state.waiting.length; },
  get widestStep() { return dashboard.state.widest; },
  get joined() { return dashboard.state.runs.some((run) => run.prefill && run.decode); },
  get blocks() { return dashboard.blocks.drawn; },
  get timeline() { return dashboard.timeline.drawn; },
  get firstTokens() { return dashboard.state.ttft.length; },
  get frames() { return dashboard.frames; },
  get chats() {
    const linked = (c) => dashboard.state.byTag.has(c.tag); // its request is known in the live view
    return chat.list.map((c) => ({ title: c.title, busy: c.busy, messages: c.messages.length, linked: linked(c) }));
  },
};
