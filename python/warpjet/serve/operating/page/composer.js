// Where a message is written: the box grows with its text, Enter sends, Escape stops, Up and Down recall what was said.

import { $ } from "./dom.js";

export class Composer {
  // on: {send(text) -> whether it was sent, stop(), said() -> earlier messages of the chat, oldest first}
  constructor(on) {
    this.on = on;
    this.text = $("text");
    this.recalled = 0; // how many messages back the box shows; 0: what is being written
    this.#listen();
    if (!matchMedia("(pointer: coarse)").matches) this.focus(); // a touch keyboard would cover half of the page
  }

  focus() {
    this.text.focus();
  }

  // Which of the two buttons there are. The focus never stays on one that goes.
  show({ stop, send }) {
    const lost = document.activeElement === $("stop") && !stop;
    $("stop").hidden = !stop;
    $("send").hidden = !send;
    if (lost) this.focus();
  }

  #set(text) {
    this.text.value = text;
    this.#fit();
  }

  #fit() {
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight + 2}px`; // the style sheet says how high at most
  }

  #listen() {
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.text.value.trim();
      if (!text || !this.on.send(text)) return;
      this.recalled = 0;
      this.#set("");
    });
    $("stop").addEventListener("click", () => this.on.stop());
    this.text.addEventListener("input", () => {
      this.recalled = 0;
      this.#fit();
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        $("composer").requestSubmit();
      } else if (event.key === "ArrowUp") this.#recall(event, 1);
      else if (event.key === "ArrowDown") this.#recall(event, -1);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.defaultPrevented && !$("stop").hidden) this.on.stop();
    });
  }

  // Only from an empty box or a recalled message: elsewhere the arrows move in the text.
  #recall(event, step) {
    if (this.text.value && !this.recalled) return;
    const said = this.on.said(), to = this.recalled + step;
    if (to < 0 || to > said.length) return;
    event.preventDefault();
    this.recalled = to;
    this.#set(to ? said.at(-to) : "");
  }
}
