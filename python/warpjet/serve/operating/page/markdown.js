// Markdown as elements, for a text that grows: a block is made once when the next one begins; only the last is made
// again. Nothing of the text becomes markup: HTML in it is shown as it is written, and links are http, https or mailto.

import { copyButton, el } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])[ \t]+(?=\S)/;
const HEADING = /^(#{1,6})[ \t]+(?=\S)/;
const SAFE_LINK = /^(?:https?|mailto):/i;
const DEEPEST = 4; // emphasis inside emphasis

export class Markdown {
  constructor(node) {
    this.node = node;
    this.closed = 0; // where in the text the open block begins
    this.seen = 0;
    this.open = null; // the open block's element
    this.code = null; // {text: Text, from: offset} of an open code block
  }

  follow(text) {
    if (text.length === this.seen) return;
    this.seen = text.length;
    if (this.code && !text.slice(this.code.from).includes(this.code.fence)) {
      this.code.text.appendData(text.slice(this.code.from + this.code.text.length));
      return;
    }
    this.open?.remove();
    this.code = null;
    for (const block of blocks(text, this.closed)) {
      this.closed = block.start;
      this.open = this.node.appendChild(this.#element(block));
    }
  }

  #element(block) {
    const { kind, lines } = block;
    if (kind === "code") {
      const code = el("code", {}, block.text);
      if (block.unclosed) this.code = { text: code.firstChild, ...block.unclosed };
      const head = el("div", { class: "line" }, el("span", { class: "note" }, block.language), el("span", { class: "space" }),
        copyButton(() => code.textContent));
      return el("div", { class: "code" }, head, el("pre", { tabindex: 0 }, code));
    }
    if (kind === "heading") return el(`h${Math.min(6, block.level + 2)}`, {}, ...inline(block.text));
    if (kind === "rule") return el("hr");
    if (kind === "quote") return quote(lines);
    if (kind === "list") return list(lines);
    if (kind === "table") return table(lines);
    return el("p", {}, ...inline(lines.join("\n")));
  }
}

// The blocks of the text from an offset on: {kind, start, lines, ...}. Where a line ends a block never depends on
// later lines, so that a block followed by another is final.
function* blocks(text, from) {
  const lines = [];
  for (let at = from; at < text.length; ) {
    const end = text.indexOf("\n", at);
    lines.push({ at, text: text.slice(at, end < 0 ? text.length : end).replace(/\r$/, "") });
    at = end < 0 ? text.length : end + 1;
  }
  for (let i = 0; i < lines.length; ) {
    const { at: start, text: line } = lines[i];
    if (!line.trim()) {
      i++;
      continue;
    }
    const fence = FENCE.exec(line);
    if (fence) {
      const first = ++i;
      while (i < lines.length && !closes(lines[i].text, fence[1])) i++;
      const inside = lines.slice(first, i).map((one) => one.text);
      const block = { kind: "code", start, language: fence[2], text: inside.join("\n") };
      if (i < lines.length) i++;
      else if (inside.length) { // the line of the fence itself has ended
        block.unclosed = { from: lines[first].at, fence: fence[1] };
        block.text = text.slice(block.unclosed.from);
      }
      yield block;
      continue;
    }
    const heading = HEADING.exec(line);
    if (heading) {
      i++;
      yield { kind: "heading", start, level: heading[1].length, text: line.slice(heading[0].length).replace(/[ \t]#+[ \t]*$/, "") };
      continue;
    }
    if (isRule(line)) {
      i++;
      yield { kind: "rule", start };
      continue;
    }
    const kind = line.startsWith(">") ? "quote" : ITEM.test(line) ? "list" : isTable(line, lines[i + 1]?.text) ? "table" : "text";
    const first = i++;
    while (i < lines.length && stays(kind, lines, i, first)) i++;
    yield { kind, start, lines: lines.slice(first, i).map((one) => one.text) };
  }
}

function closes(line, fence) {
  const rest = line.trim();
  return rest.length >= fence.length && rest.startsWith(fence) && rest === fence[0].repeat(rest.length);
}

function isRule(line) {
  const marks = line.replace(/[ \t]/g, "");
  return marks.length > 2 && "-*_".includes(marks[0]) && marks === marks[0].repeat(marks.length);
}

function isTable(line, next) {
  return line.includes("|") && next !== undefined && next.includes("|") && next.includes("-") && /^[ \t|:-]+$/.test(next);
}

const isOrdered = (line) => /^ *\d/.test(line);

// Whether line i goes on with the block of this kind that begins at line `first`.
function stays(kind, lines, i, first) {
  const line = lines[i].text;
  if (kind === "table") return line.includes("|");
  if (kind === "quote") return line.startsWith(">");
  if (FENCE.test(line) && !/^ {2}/.test(line)) return false;
  if (kind === "list") {
    if (isRule(line)) return false;
    const item = ITEM.exec(line);
    if (item) return item[1].length > 1 || isOrdered(line) === isOrdered(lines[first].text);
    if (line.trim()) return Boolean(lines[i - 1].text.trim()) || /^ {2}/.test(line);
    const next = lines[i + 1]?.text;
    return next !== undefined && (ITEM.test(next) || /^ {2}\s*\S/.test(next));
  }
  return Boolean(line.trim()) && !HEADING.test(line) && !isRule(line) && !ITEM.test(line) && !line.startsWith(">");
}

function quote(lines) {
  const node = el("blockquote");
  new Markdown(node).follow(lines.map((line) => line.replace(/^> ?/, "").replace(/^>+/, "")).join("\n"));
  return node;
}

function list(lines) {
  const stack = []; // {indent, node, item, text}
  let top = null;
  const close = () => top.item.prepend(...inline(top.text.trim()));
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (!item) {
      top.text += `\n${line.trim()}`;
      continue;
    }
    const indent = item[1].length;
    if (top) close();
    while (stack.length > 1 && indent < top.indent) {
      stack.pop();
      top = stack.at(-1);
    }
    if (!top || indent > top.indent + 1) {
      const ordered = /\d/.test(item[2][0]);
      const node = el(ordered ? "ol" : "ul", ordered && parseInt(item[2]) !== 1 ? { start: parseInt(item[2]) } : {});
      top?.item.append(node);
      top = { indent, node };
      stack.push(top);
    }
    top.item = top.node.appendChild(el("li"));
    top.text = line.slice(item[0].length);
  }
  close();
  return stack[0].node;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, tag) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, ...inline(cell))));
  const head = el("thead", {}, row(lines[0], "th")), body = el("tbody", {}, ...lines.slice(2).map((line) => row(line, "td")));
  return el("div", { class: "table" }, el("table", {}, head, body));
}

const EMPHASIS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const isWord = (char) => char !== undefined && /[\p{L}\p{N}]/u.test(char);

// Text with code, emphasis and links, as nodes
function inline(text, depth = 0) {
  const nodes = [], missing = new Set(); // marks that no later one closes
  let plain = "", i = 0;
  const push = (node) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(node);
  };
  const find = (mark, from) => {
    if (missing.has(mark)) return -1;
    const at = text.indexOf(mark, from);
    if (at < 0) missing.add(mark);
    return at;
  };
  while (i < text.length) {
    const char = text[i];
    if (char === "\\" && /[!-/:-@[-`{-~]/.test(text[i + 1] ?? "")) {
      plain += text[i + 1];
      i += 2;
      continue;
    }
    if (char === "`") {
      let run = 1;
      while (text[i + run] === "`") run++;
      const mark = "`".repeat(run), end = find(mark, i + run);
      if (end > 0) {
        push(el("code", {}, text.slice(i + run, end)));
        i = end + run;
      } else {
        plain += mark;
        i += run;
      }
      continue;
    }
    if (char === "[") {
      const middle = find("](", i), end = middle < 0 ? -1 : find(")", middle);
      const target = end < 0 ? "" : text.slice(middle + 2, end);
      if (SAFE_LINK.test(target) && !/\s/.test(target) && !text.slice(i + 1, middle).includes("\n")) {
        push(el("a", { href: target, target: "_blank", rel: "noopener noreferrer" }, text.slice(i + 1, middle)));
        i = end + 1;
        continue;
      }
    }
    const [mark, tag] = EMPHASIS.find(([mark]) => text.startsWith(mark, i)) ?? [];
    if (mark && depth < DEEPEST && /\S/.test(text[i + mark.length] ?? " ") && !(mark[0] === "_" && isWord(text[i - 1]))) {
      const end = find(mark, i + mark.length + 1);
      if (end > 0 && /\S/.test(text[end - 1]) && !(mark[0] === "_" && isWord(text[end + mark.length]))) {
        push(el(tag, {}, ...inline(text.slice(i + mark.length, end), depth + 1)));
        i = end + mark.length;
        continue;
      }
    }
    plain += mark ?? char;
    i += (mark ?? char).length;
  }
  if (plain) nodes.push(plain);
  return nodes;
}
