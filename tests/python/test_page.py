"""The page at /: in a real browser against a real server, and its files and feed without one."""

import asyncio
import base64
import itertools
import json
import re
import shutil
import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import Server
from waiting import PATIENCE_S, until

pytest.importorskip("httptools", reason="the page needs warpjet[server]")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PAGE = Path(__file__).parents[2] / "python" / "warpjet" / "serve" / "operating" / "page"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--max-num-seqs", "16", "--max-num-batched-tokens", "64", "--api-key", "good") as one:
        one.http.headers["authorization"] = "Bearer good"
        yield one


@pytest.fixture(scope="module")
def quiet() -> Iterator[Server]:
    """One that no browser watches."""
    with Server("--api-key", "good") as one:
        one.http.headers["authorization"] = "Bearer good"
        yield one


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    browser.set_script_timeout(PATIENCE_S)
    browser.set_page_load_timeout(PATIENCE_S)
    yield browser
    browser.quit()


class Page:
    """The page in a tab, with the good key."""

    def __init__(self, browser: Any, url: str, key: str = "good") -> None:
        self.browser = browser
        browser.get(url)
        self.js(
            "sessionStorage.clear(); localStorage.clear(); sessionStorage.setItem('warpjet.key', arguments[0])", key
        )
        browser.refresh()
        browser.get_log("browser")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def get(self, name: str) -> Any:
        """A value of window.warpjet."""
        return self.js(f"return window.warpjet.{name}")

    def find(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def until(self, what: Callable[[], Any]) -> Any:
        """The first true value of what(), or a failure."""
        try:
            return until(what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.errors()}") from None

    def ask(self, text: str, **fields: Any) -> None:
        """Sends a message with these settings."""
        for name, value in fields.items():
            self.js("document.getElementById(arguments[0]).value = arguments[1]", name, str(value))
        self.js("document.getElementById('text').value = arguments[0]", text)
        self.find("send").click()

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Page]:
    one = Page(chromium, server.url)
    one.until(lambda: one.get("connected"))
    yield one
    assert one.errors() == []


ANSWER = "return document.querySelector('.message.model > .body')?.textContent || ''"


# What an answer says reaches the page in pieces of a few characters, however much a busy server sent together, each
# after the one before it was shown.
PIECE_BY_PIECE = """const real = window.fetch, text = new TextEncoder();
const frame = () => new Promise(requestAnimationFrame);
const small = (event) => {
  const chunk = event.startsWith('data: {') ? JSON.parse(event.slice(6)) : {};
  const [choice] = chunk.choices ?? [];
  if (!choice?.delta.content) return [event];
  return choice.delta.content.match(/[^]{1,8}/gu).map((content) => {
    const choices = [{...choice, delta: {...choice.delta, content}}];
    return `data: ${JSON.stringify({...chunk, choices})}\\n\\n`;
  });
};
window.fetch = async (path, options) => {
  const answer = await real(path, options);
  if (!path.endsWith('completions')) return answer;
  const pieces = (await answer.text()).split(/(?<=\\n\\n)/).flatMap(small);
  return new Response(new ReadableStream({async pull(stream) {
    stream.enqueue(text.encode(pieces.shift()));
    if (!pieces.length) stream.close();
    await frame();
    await frame();
  }}));
};"""


def test_an_answer_is_shown_as_it_streams(page: Page) -> None:
    page.js(PIECE_BY_PIECE)
    page.js(
        """window.seen = new Set();
        new MutationObserver(() => {
          const body = document.querySelector('.message.model > .body');
          if (body && body.textContent) window.seen.add(body.textContent.length);
        }).observe(document.getElementById('log'), {subtree: true, childList: true, characterData: true});"""
    )
    page.ask("Tell me a long story about a fox and a crow.", max_tokens=60)
    page.until(lambda: page.get("chats")[0]["messages"] == 2 and not page.get("chats")[0]["busy"])
    page.until(lambda: len(page.js(ANSWER)) > 40)
    assert page.js("return window.seen.size") > 3
    stats = page.js("return document.querySelector('.message.model .stats').textContent")
    assert re.search(r"first token .+ m?s · [\d,.]+ tok/s · \d+ tokens", stats), stats


def test_blocks_appear_with_their_owner_and_go_at_the_end(page: Page, server: Server) -> None:
    page.until(lambda: page.get("blocks")["free"] > 0)
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            server.complete(max_tokens=900, ignore_eos=True)

    client = threading.Thread(target=keep_asking)
    client.start()
    try:
        owners = page.until(lambda: page.get("blocks")["owners"])
        assert all(count >= 1 for count in owners.values())
        page.until(lambda: page.get("timeline")["columns"] > 0)
    finally:
        stop.set()
        client.join()
    page.until(lambda: page.get("blocks")["held"] == 0 and page.get("running") == 0)
    assert page.get("blocks")["cached"] > 0, "what the answers computed stays cached"


def _requests_unread(port: int) -> int:
    """Connections to this port whose server has bytes to read."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[1].split(":")[1], 16) == port and int(row[4].split(":")[1], 16) > 0 for row in rows)


def test_eight_at_once_share_steps_and_their_system_prompt(page: Page, server: Server) -> None:
    page.js(
        """window.shared = 0;
        setInterval(() => { window.shared = Math.max(window.shared, window.warpjet.blocks.shared); }, 10);"""
    )
    page.js("document.getElementById('max_tokens').value = 400")
    server.process.send_signal(signal.SIGSTOP)
    try:  # however slow the browser is, the server reads the eight in one moment
        page.find("keep").click()
        page.until(lambda: _requests_unread(server.port) >= 8)
    finally:
        server.process.send_signal(signal.SIGCONT)
    page.until(lambda: page.get("widestStep") >= 7)  # more than a browser's six connections
    page.until(lambda: page.get("joined"))  # a step that read a prompt for one and decoded for another
    page.until(lambda: page.js("return window.shared") >= 2)  # blocks that several requests held
    page.find("keep").click()
    page.until(lambda: not any(chat["busy"] for chat in page.get("chats")))
    assert page.js("return document.querySelectorAll('.card').length") == 8
    assert page.js("return [...document.querySelectorAll('.card p')].every((p) => p.textContent.length)")
    page.until(lambda: sum(chat["linked"] for chat in page.get("chats")) == 8)  # each knows its row of the timeline


def test_stop_cancels_the_request(page: Page, server: Server) -> None:
    before = server.aborts()
    page.js(  # an answer of a minute, so that it cannot end by itself before the button is pressed
        """const real = window.fetch;
        window.fetch = (path, options) => {
          const long = options.body && {...JSON.parse(options.body), n: 16, ignore_eos: true};
          return real(path, long ? {...options, body: JSON.stringify(long)} : options);
        };"""
    )
    page.js(
        """window.stopper = setInterval(() => {
          const body = document.querySelector('.message.model > .body');
          if (body && body.textContent) { clearInterval(window.stopper); document.getElementById('stop').click(); }
        }, 1);"""
    )
    page.ask("Tell me a long story about a fox and a crow.", max_tokens=700)
    page.until(lambda: page.get("chats")[0]["messages"] == 2 and not page.get("chats")[0]["busy"])
    page.until(
        lambda: "stopped by you" in page.js("return document.querySelector('.message.model .stats').textContent")
    )
    assert server.idle() and server.aborts() == before + 16


def test_a_wrong_key_is_told_and_a_right_one_helps(chromium: Any, server: Server) -> None:
    page = Page(chromium, server.url, key="bad")
    page.until(lambda: page.find("key-form").is_displayed())
    assert "does not take this key" in page.find("key-form").text
    page.ask("Hello")
    error = page.until(lambda: page.js("return document.querySelector('.message .error')?.textContent"))
    assert "API key is needed" in error
    page.find("key").clear()
    page.find("key").send_keys("good")
    page.find("key").submit()
    page.until(lambda: page.get("connected"))
    page.ask("What is 7 plus 5?")
    page.until(lambda: page.get("chats")[0]["messages"] == 4 and not page.get("chats")[0]["busy"])
    assert page.js("return localStorage.length") == 0, "the key is not kept longer than the tab"
    assert all("401" in message for message in page.errors())


def test_an_error_of_the_server_is_shown_with_its_reason(page: Page) -> None:
    page.ask("Hello " * 3000, max_tokens=16)
    error = page.until(lambda: page.js("return document.querySelector('.message .error')?.textContent"))
    assert "1024" in error
    assert all("400" in message for message in page.errors())


def test_what_a_model_writes_is_text(page: Page) -> None:
    page.js(
        """window.fetch = async () => {
          const call = {index: 0, id: 'c', function: {name: '<u>f</u>', arguments: '{"a": 1}'}};
          const content = '<img src=x onerror="window.hurt=1"><b>bold</b>';
          const delta = {content, reasoning: '<i>deep</i>', tool_calls: [call]};
          const piece = {choices: [{index: 0, delta, finish_reason: 'tool_calls'}]};
          return new Response('data: ' + JSON.stringify(piece) + '\\r\\n\\r\\ndata: [DONE]\\n\\n');
        };"""
    )
    page.ask("Hello")
    page.until(lambda: "<img" in page.js(ANSWER))
    assert (
        page.js(
            "return document.querySelectorAll('.message img, .message b:not(.call b), .message i, .message u').length"
        )
        == 0
    )
    assert page.js("return document.querySelector('.thinking').open") is False, "reasoning is folded"
    assert page.js("return document.querySelector('.thinking .body').textContent") == "<i>deep</i>"
    assert page.js("return document.querySelector('.call').textContent").startswith('calls <u>f</u>{"a": 1}')
    assert not page.js("return window.hurt")


def test_dark_and_light_both_have_contrast(page: Page) -> None:
    seen = set()
    for _ in range(2):
        theme = page.js("return document.documentElement.dataset.theme")
        seen.add(theme)
        for text in ("--text", "--dim", "--accent-text", "--bad"):
            for ground in ("--bg", "--panel", "--raised"):
                assert _contrast(page, text, ground) >= 4.5, (theme, text, ground)
        page.find("theme").click()
    assert seen == {"dark", "light"}


def _contrast(page: Page, text: str, ground: str) -> float:
    """WCAG's ratio of two colours of the style sheet."""

    def luminance(name: str) -> float:
        rgb = page.js(
            """const probe = document.body.appendChild(document.createElement('i'));
            probe.style.color = `var(${arguments[0]})`;
            const rgb = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
            probe.remove();
            return rgb;""",
            name,
        )
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(text), luminance(ground)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_timeline_pauses_zooms_and_tells_what_is_under_the_pointer(page: Page, server: Server) -> None:
    server.complete(max_tokens=200, ignore_eos=True)
    page.until(lambda: page.get("timeline")["columns"] > 0)
    from selenium.webdriver import ActionChains, Keys

    timeline = page.find("timeline")
    timeline.send_keys(Keys.SPACE)
    assert page.find("pause").get_attribute("aria-pressed") == "true"
    page.find("zoom-in").click()
    assert page.find("zoom-auto").get_attribute("aria-pressed") == "false"
    steps = page.get("step")
    server.complete(max_tokens=20, ignore_eos=True)
    page.until(lambda: page.get("step") > steps)
    right_end = timeline.size["width"] // 2 - 130
    moves = itertools.cycle(range(0, 100, 5))

    def told() -> bool:
        above = -timeline.size["height"] // 2 + 40
        ActionChains(page.browser).move_to_element_with_offset(timeline, right_end - next(moves), above).perform()
        return "Step" in page.find("tip").text

    page.until(told)
    timeline.send_keys(Keys.SPACE)
    assert page.find("pause").get_attribute("aria-pressed") == "false"


def test_a_phone_shows_one_side_at_a_time(page: Page) -> None:
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        for view, other in (("chat", "engine"), ("engine", "chat")):
            page.find(f"view-{view}").click()
            assert page.find(view).is_displayed() and not page.find(other).is_displayed()
            assert page.js("return document.documentElement.scrollWidth") <= 390
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# Endless answers: a test says what streams in, piece by piece, without an engine.
FAKE = """window.answer = (pieces, end) => {
  const choices = (delta, finish_reason) => [{index: 0, delta, finish_reason}];
  const line = (...choice) => `data: ${JSON.stringify({choices: choices(...choice)})}\\n\\n`;
  const text = new TextEncoder();
  window.fetch = async (path, {signal}) => new Response(new ReadableStream({start(stream) {
    signal.addEventListener('abort', () => stream.error(new DOMException('', 'AbortError')));
    for (const content of pieces) stream.enqueue(text.encode(line({content}, null)));
    if (!end) return;
    stream.enqueue(text.encode(line({}, 'stop') + 'data: [DONE]\\n\\n'));
    stream.close();
  }}));
};
window.answer(arguments[0], arguments[1]);"""


@pytest.mark.parametrize("width", [360, 390, 1024, 1280, 1440])
def test_nothing_is_wider_than_its_column(page: Page, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    too_wide = """const column = document.getElementById('chat').getBoundingClientRect();
        const outside = [...document.querySelectorAll('#chat *')]
          .filter((e) => !e.closest('.tabs, pre, .table, .hidden'))
          .filter((e) => e.getBoundingClientRect().right > column.right + 0.5).map((e) => e.outerHTML.slice(0, 80));
        const whole = document.documentElement;
        return [...outside, ...(whole.scrollWidth > whole.clientWidth ? ['the page'] : [])];"""
    try:
        assert page.js(too_wide) == [], "idle"
        long = "unbroken" * 60
        table = "|" + f" {'cell' * 12} |" * 6
        page.js(FAKE, [f"{long} `{long}`\n\n```python\n{long}\n```\n{table}\n{'|--' * 6}|\n{table}"], False)
        page.ask(long)
        page.until(lambda: page.js("return document.querySelectorAll('.message td').length") == 6)
        assert page.find("stop").is_displayed() and not page.find("send").is_displayed(), "Stop is where Send was"
        assert page.js(too_wide) == [], "busy"
        page.find("stop").click()
        page.until(lambda: page.find("send").is_displayed())
        assert page.js(too_wide) == [], "stopped"
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


MARKDOWN = """# Title
Plain **bold** and *slanted* `code *x*` ~~gone~~ snake_case_name 2 * 3 * 4 \\*kept\\*
second line [site](https://warpjet.test/a) [bad](javascript:hurt)

```python
def f(x):
    return "*" * x  # <b>
```

- one
  - inner **x**
- two
3. three

| a | b |
|---|---|
| 1 | `2` |

> quoted
> more

---
~~~
open fence `"""


def test_markdown_becomes_elements_whole_or_piece_by_piece(page: Page) -> None:
    page.js(FAKE, [MARKDOWN], True)
    page.ask("Hello")
    body = "document.querySelector('.message.model > .body')"
    page.until(lambda: page.js(f"return {body}.querySelectorAll('.code').length") == 2)
    texts = {
        "h3": ["Title"], "strong": ["bold", "x"], "em": ["slanted"], "del": ["gone"], "a": ["site"],
        "p code": ["code *x*"], "td": ["1", "2"], "th": ["a", "b"], "blockquote p": ["quoted\nmore"],
        "ol li": ["three"],
        ".code pre": ['def f(x):\n    return "*" * x  # <b>', "open fence `"], ".code .note": ["python", ""],
    }  # fmt: skip
    for selector, expected in texts.items():
        found = page.js(f"return [...{body}.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)
        assert found == expected, selector
    assert page.js(f"return {body}.querySelectorAll('ul ul li').length") == 1
    assert "snake_case_name 2 * 3 * 4 *kept*" in page.js(f"return {body}.textContent")
    assert "[bad](javascript:hurt)" in page.js(f"return {body}.textContent")
    whole = page.js(f"return {body}.innerHTML")
    grown = page.browser.execute_async_script(
        """const done = arguments[1], text = arguments[0];
        import('/page/markdown.js').then(({Markdown}) => done([1, 2, 3, 7, 40].map((size) => {
          const node = document.createElement('div'), flow = new Markdown(node);
          for (let end = size; end < text.length + size; end += size) flow.follow(text.slice(0, end));
          return node.innerHTML;
        })));""",
        MARKDOWN,
    )
    assert grown == [whole] * 5


# Counts the characters that the methods of strings look at, and the elements that are made, while f() runs.
COUNTED = """const work = (f) => {
  let count = 0;
  const undo = [], count_in = (owner, name, cost) => {
    const real = owner[name];
    undo.push(() => { owner[name] = real; });
    owner[name] = function(...args) {
      const result = real.apply(this, args);
      count += cost(this, args, result);
      return result;
    };
  };
  const all = (text) => text.length + 1, found = (text, args, at) => (at < 0 ? text.length : at) - (args[1] ?? 0) + 1;
  for (const name of ['includes', 'replace', 'trim', 'split']) count_in(String.prototype, name, all);
  for (const name of ['slice', 'repeat']) count_in(String.prototype, name, (text, args, made) => made.length + 1);
  count_in(String.prototype, 'indexOf', found);
  count_in(RegExp.prototype, 'test', (pattern, args) => args[0].length + 1);
  count_in(Array.prototype, 'slice', (list, args, made) => made.length + 1);
  count_in(Array.prototype, 'join', (list, args, made) => made.length + 1);
  count_in(document, 'createElement', () => 1);
  try { f(); } finally { for (const one of undo) one(); }
  return count;
};"""


def test_a_megabyte_of_marks_is_rendered_in_linear_time(page: Page) -> None:
    counts = page.browser.execute_async_script(
        COUNTED
        + """const done = arguments[0];
        const marks = ['*', '_', '`', '[', '](', '|', '> ', '- ', '#', '~', '\\\\', '\\n', ' \\n'];
        const texts = [...marks, '**a ', '*a_b', '[a](', '` `` '];
        const render = (text) => new Markdown(document.createElement('div')).follow(text);
        const of = (one, size) => work(() => render(one.repeat(size / one.length)));
        let Markdown;
        import('/page/markdown.js').then((module) => {
          Markdown = module.Markdown;
          done(texts.map((one) => [one, of(one, 30000), of(one, 60000)]));
        });"""
    )
    for text, half, whole in counts:
        assert 0 < whole < 2.5 * half, f"{text!r}: {half} and {whole} steps for a text twice as long"


def test_an_answer_is_copied_and_asked_for_again(page: Page) -> None:
    page.js(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => { window.copied = text; }}})"
    )
    page.js(FAKE, ["An *answer*\n```\ncode\n```"], True)
    page.ask("Hello")
    page.until(lambda: not page.get("chats")[0]["busy"] and page.js("return document.querySelector('.actions .ghost')"))
    page.js("document.querySelector('.actions .ghost').click()")
    page.until(lambda: page.js("return window.copied") == "An *answer*\n```\ncode\n```")
    page.js("document.querySelector('.code .ghost').click()")
    page.until(lambda: page.js("return window.copied") == "code")
    page.js(FAKE, ["Another"], True)
    page.js("document.querySelectorAll('.actions .ghost')[1].click()")
    page.until(lambda: page.js(ANSWER) == "Another")
    assert page.get("chats")[0]["messages"] == 2


def test_the_keyboard_does_what_chat_pages_do(page: Page) -> None:
    from selenium.webdriver import Keys

    assert page.js("return document.activeElement.id") == "text", "one writes at once"
    text = page.find("text")
    low = text.size["height"]
    text.send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.ENTER, Keys.ENTER, Keys.NULL, "two")
    assert text.size["height"] > low, "the box grows with its text"
    page.js(FAKE, ["..."], False)
    text.send_keys(Keys.ENTER)
    page.until(lambda: page.get("chats")[0]["busy"])
    assert text.size["height"] == low
    text.send_keys(Keys.ESCAPE)
    page.until(lambda: not page.get("chats")[0]["busy"])
    text.send_keys(Keys.ARROW_UP)
    assert text.get_attribute("value") == "one\n\n\ntwo"
    text.send_keys(Keys.ARROW_DOWN)
    assert text.get_attribute("value") == ""


def test_chats_are_kept_on_reload_and_only_in_their_tab(page: Page) -> None:
    page.js(FAKE, ["An answer"], True)
    page.ask("Hello")
    page.until(lambda: page.get("chats")[0]["messages"] == 2 and not page.get("chats")[0]["busy"])
    page.js(FAKE, ["Half an"], False)
    page.ask("Again")
    page.until(lambda: "Half an" in page.js("return document.getElementById('log').textContent"))
    page.browser.refresh()
    page.until(lambda: page.get("connected"))
    assert [(chat["messages"], chat["busy"]) for chat in page.get("chats")] == [(4, False)]
    log = page.js("return document.getElementById('log').textContent")
    assert "An answer" in log and "Half an" in log and "cut by a reload" in log
    assert page.js("return localStorage.length") == 0


def test_figures_of_a_server_that_is_gone_are_not_shown(chromium: Any) -> None:
    with Server() as server:
        page = Page(chromium, server.url)
        page.until(lambda: page.get("connected") and page.find("f-running").text == "0")
    page.until(lambda: page.find("f-running").text == "\u2013" == page.find("f-kv").text)
    chromium.get("about:blank")


def test_every_control_has_a_name(page: Page) -> None:
    nameless = page.js(
        """const named = (e) => e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length;
        return [...document.querySelectorAll('button, input, textarea, select, summary, canvas')]
          .filter((e) => e.getAttribute('aria-hidden') !== 'true' && !named(e)).map((e) => e.outerHTML)"""
    )
    assert nameless == []


# 256 sequences in 4,000 blocks, ten times a second; every step one leaves and another joins. And what frames draw.
LARGE = """
const draw = window.requestAnimationFrame.bind(window), real = window.fetch;
window.calls = []; // of the canvas, in each frame
let calls = 0;
for (const name of ['fill', 'fillRect', 'fillText', 'stroke', 'roundRect', 'measureText', 'createPattern']) {
  const real = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function(...args) { calls++; return real.apply(this, args); };
}
window.requestAnimationFrame = (f) => draw((now) => {
  calls = 0;
  f(now);
  window.calls.push(calls);
});
let step = 1, oldest = 1;
const sequence = (id) => {
  const blocks = Array.from({length: 15}, (_, i) => 8 + (id % 256) * 15 + i);
  const lengths = {prompt: 256, computed: 400, output: 144, cached: 32};
  return {id, sample: 0, state: 'running', ...lengths, blocks: [id % 8, ...blocks]};
};
const snapshot = () => {
  const steps = [];
  for (let i = 0; i < 4; i++, step++, oldest++) {
    const rows = Array.from({length: 256}, (_, k) => [oldest + k, 0, k === 255 ? 32 : 300, k === 255 ? 224 : 1]);
    steps.push({step, us: 20000, start_us: step * 25000, rows});
  }
  const sequences = Array.from({length: 256}, (_, k) => sequence(oldest - 1 + k));
  const pool = new Uint8Array(4000);
  for (const {blocks} of sequences) for (const block of blocks) pool[block]++;
  return {step: step - 1, now_us: step * 25000, block_size: 32, kv_blocks: 4000, max_model_len: 4096, max_num_seqs: 256,
    pool: btoa(String.fromCharCode(...pool)), sequences, steps, names: {},
    first_tokens: steps.map((s) => [s.rows[255][0], s.step, 30]), finished: []};
};
window.fetch = async (path, options) => {
  if (path !== 'live') return real(path, options);
  const text = new TextEncoder();
  return new Response(new ReadableStream({async pull(stream) {
    await new Promise((done) => setTimeout(done, 100));
    stream.enqueue(text.encode(`data: ${JSON.stringify(snapshot())}\\n\\n`));
  }}));
};
"""


def test_256_sequences_in_4000_blocks_are_drawn_whole_in_bounded_work(chromium: Any, server: Server) -> None:
    script = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LARGE})
    try:
        page = Page(chromium, server.url)
        page.until(lambda: page.get("firstTokens") > 80 and len(page.js("return window.calls")) > 20)
        blocks = page.get("blocks")
        assert blocks["held"] == 8 + 256 * 15 and blocks["shared"] == 8 and blocks["free"] == 4000 - blocks["held"]
        assert len(blocks["owners"]) == 256 and set(blocks["owners"].values()) == {16}
        assert page.get("timeline")["rows"] == 256 and page.get("widestStep") == 256
        assert 4000 < max(page.js("return window.calls")) < 40_000, "each block a few times, no pair of things"
    finally:
        chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
        chromium.get("about:blank")


def test_the_policy_forbids_what_the_page_does_not_do(quiet: Server) -> None:
    answer = quiet.http.get("/", headers={"authorization": ""})
    assert answer.status_code == 200, "the page itself holds no secret and needs no key"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"<style|style=|<script(?![^>]* src=)|\son\w+=|https?://", answer.text)
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), path.name
        assert not re.search(r"https?://(?!www\.w3\.org)", text), path.name
        assert quiet.http.get(f"/page/{path.name}").content == path.read_bytes()
    again = quiet.http.get("/", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


@pytest.mark.parametrize("name", ["..%2flive.py", "../live.py", "nothing.js", "%00", ".", "%2e%2e"])
def test_only_the_pages_files_are_served(quiet: Server, name: str) -> None:
    assert quiet.raw(f"GET /page/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()).startswith(
        b"HTTP/1.1 404"
    )


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in PAGE.iterdir()) < 150_000


def _events(quiet: Server, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """The first events of the feed that are enough."""
    events: list[dict[str, Any]] = []
    with quiet.http.stream("GET", "/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if enough(events):
                    return events
    raise AssertionError(f"the stream ended after {len(events)} events")


def test_live_needs_the_key(quiet: Server) -> None:
    assert quiet.http.get("/live", headers={"authorization": "Bearer bad"}).status_code == 401


def test_live_tells_steps_blocks_and_ends(quiet: Server) -> None:
    def ask(events: list[dict[str, Any]]) -> bool:
        if len(events) == 2:
            quiet.complete(max_tokens=40, ignore_eos=True, request_id="watched")
        return bool(events[-1]["finished"])

    events = _events(quiet, ask)
    rows = [row for event in events for step in event["steps"] for row in step["rows"]]
    steps = [step["step"] for event in events for step in event["steps"]]
    assert steps == sorted(set(steps)), "no step twice"
    assert sum(row[3] for row in rows) >= 40
    assert [end[3] for event in events for end in event["finished"]] == ["length"]
    assert all(len(base64.b64decode(event["pool"])) == event["kv_blocks"] for event in events)
    names = {tag for event in events for tag in event["names"].values()}
    assert zlib.crc32(b"watched-0") in names or zlib.crc32(b"watched") in names
    assert b"watched" not in json.dumps(events).encode(), "request ids are not shown to others"


def test_a_slow_look_is_followed_by_another_before_the_engine_forgets() -> None:
    from warpjet.serve.operating.live import _pause

    assert _pause(0.001, missed=False) + 0.001 == pytest.approx(0.1)
    assert _pause(0.001, missed=True) + 0.001 == pytest.approx(0.03)
    assert _pause(0.02, missed=True) + 0.02 == pytest.approx(0.4), "a large engine is looked at less often"
    assert [_pause(cost, missed=False) + cost for cost in (0.2, 0.9, 1.5)] == pytest.approx([1, 1, 1.5])


def test_a_watcher_that_does_not_read_gets_the_newest_and_costs_no_memory(quiet: Server) -> None:
    head = b"GET /live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n\r\n"
    sleepers = [quiet.connect() for _ in range(8)]
    for one in sleepers:
        one.sendall(head)
        assert one.recv(12) == b"HTTP/1.1 200"
    rss = quiet.rss_bytes()
    last = _events(quiet, lambda events: len(events) == 15)[-1]
    assert last["now_us"] > 0
    assert quiet.rss_bytes() - rss < 8 << 20
    for one in sleepers:
        one.close()


def test_nobody_looks_when_nobody_watches() -> None:
    from warpjet.serve.operating.live import LiveFeed

    class Engine:
        looks = 0

        def snapshot(self, since: int) -> dict[str, Any]:
            self.looks += 1
            return {"step": since, "pool": b"", "steps": []}

    engine = Engine()
    llm: Any = SimpleNamespace(latest_requests=lambda: [], session=SimpleNamespace(engine=engine))

    async def watch() -> None:
        feed = LiveFeed(llm, lambda: False)
        watching = feed.watch()
        await anext(watching)
        looking = feed._task
        assert looking is not None and engine.looks == 1
        await watching.aclose()
        await looking
        assert feed._task is None and engine.looks == 1

    asyncio.run(watch())


def test_too_many_watchers_are_refused() -> None:
    with Server() as server:  # one that nobody has watched yet
        watchers = [server.connect() for _ in range(65)]
        for one in watchers:
            one.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        statuses = sorted(one.recv(12) for one in watchers)
        for one in watchers:
            one.close()
    assert statuses == [b"HTTP/1.1 200"] * 64 + [b"HTTP/1.1 503"]


def test_watchers_do_not_hold_up_a_drain() -> None:
    with Server("--shutdown-timeout", "10000") as server:
        watcher = server.connect()
        watcher.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert watcher.recv(12) == b"HTTP/1.1 200"
        server.process.terminate()
        assert server.process.wait(PATIENCE_S) == 0
        watcher.close()
