"""What the server's log says: at the start, of each request, of the load, and at the end."""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

pytest.importorskip("httptools")

from api_server import KEY, api_server
from serving import Server, read_all
from waiting import PATIENCE_S, until

from warpjet._native import EngineConfig
from warpjet.common import machine
from warpjet.common.machine import cpu_name
from warpjet.serve import launch
from warpjet.serve.flags import plan
from warpjet.serve.http.app import App
from warpjet.serve.http.auth import Keys
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import EventStream, HttpRequest
from warpjet.serve.http.request_log import current_record
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.http.sockets import listening
from warpjet.serve.http.state import ServerState
from warpjet.serve.operating.load_log import LoadLog
from warpjet.serve.service import Service, _device_text
from warpjet.serve.settings import Settings

LONG = {"prompt": "Hello", "max_tokens": 1000, "ignore_eos": True, "stream": True}

# --- The level --------------------------------------------------------------------------------------------------------

READY = "engine ready"  # the native code says so at the level info


@pytest.mark.parametrize(
    ("variable", "flags", "said"),
    [
        (None, (), False),
        (None, ("--log-level", "info"), True),
        ("info", (), True),
        ("info", ("--log-level", "warning"), False),
        ("error", ("--log-level", "debug"), True),
        ("warn", (), False),
        ("warning", (), False),
    ],
)
def test_one_switch_is_for_both_logs(
    variable: str | None, flags: tuple[str, ...], said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WARPJET_LOG", raising=False)
    if variable:
        monkeypatch.setenv("WARPJET_LOG", variable)
    command = [sys.executable, "-m", "warpjet", "generate", "x", "--max-tokens", "1", "--device", "cpu", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (READY in done.stderr) is said and "WARPJET_LOG" not in done.stderr


@pytest.mark.parametrize("command", [("generate", "x"), ("serve",)])
def test_an_unknown_level_is_refused(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPJET_LOG", "loud")
    done = subprocess.run([sys.executable, "-m", "warpjet", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "WARPJET_LOG must be one of debug, info, warning, error, got 'loud'" in done.stderr


@pytest.mark.parametrize(("flags", "said"), [((), True), (("--log-level", "warning"), False)])
def test_a_server_logs_the_native_side_too(flags: tuple[str, ...], said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARPJET_LOG", raising=False)
    with Server(*flags) as server:
        assert (READY in "".join(server.lines)) is said


def test_the_level_can_change_while_the_process_runs() -> None:
    code = """if True:
        import logging
        from warpjet import LLM
        from warpjet.common.log import set_log_level
        for level in ("info", "error", "debug"):
            set_log_level(level)
            assert logging.getLogger("warpjet").level == getattr(logging, level.upper())
            LLM(device="cpu").shutdown()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count(READY) == 2


# --- The load ---------------------------------------------------------------------------------------------------------


class Engine:
    """Counters that a test sets, and a clock."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.counters = dict.fromkeys(
            ("prompt_tokens", "generated_tokens", "cached_tokens", "finished", "running", "waiting", "kv_blocks_used"),
            0,
        ) | {"kv_blocks": 200}
        self.log = LoadLog(lambda: dict(self.counters), lambda: self.seconds)

    def after(self, seconds: float, **changed: int) -> str | None:
        self.seconds += seconds
        self.counters |= changed
        return self.log.line()


def test_the_load_is_of_the_time_since_the_last_line() -> None:
    engine = Engine()
    first = engine.after(10, running=3, waiting=2, kv_blocks_used=50, prompt_tokens=300, cached_tokens=100)
    assert first == (
        "running 3, waiting 2, KV cache 25.0%, prompt 30.0 tok/s, output 0.0 tok/s, prefix cache hits 25.0%"
    )
    second = engine.after(20, running=5, waiting=0, generated_tokens=50)
    assert second == (
        "running 5, waiting 0, KV cache 25.0%, prompt 0.0 tok/s, output 2.5 tok/s, prefix cache hits 0.0%"
    )


def test_an_idle_engine_is_logged_once() -> None:
    engine = Engine()
    assert engine.after(10) is None
    assert engine.after(10, running=1)
    assert engine.after(10, running=1), "a request that waits for something is work"
    last = engine.after(10, running=0, finished=1, generated_tokens=20)
    assert last and last.startswith("running 0, waiting 0, ") and "output 2.0 tok/s" in last
    assert engine.after(10) is None and engine.after(10) is None


def test_work_between_two_looks_is_logged() -> None:
    engine = Engine()
    assert engine.after(10, finished=1, prompt_tokens=5, generated_tokens=1)
    assert engine.after(10) is None


@pytest.mark.parametrize("disabled", [False, True])
def test_a_server_logs_the_load_unless_told_not_to(disabled: bool) -> None:
    with api_server(disable_log_stats=disabled) as (_, serving), listening(serving.settings) as (sockets, _):
        log = Service(serving, sockets, [])._load_log
        assert (log is None) is disabled
        assert log is None or log.line() is None, "nothing has run"


# --- Requests ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged() -> Iterator[tuple[httpx.Client, list[str]]]:
    """A server, and the lines of its requests."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("warpjet.serve")
    level = logger.level
    logger.setLevel("INFO")
    logger.addHandler(handler)
    headers = {"authorization": f"Bearer {KEY}"}
    with api_server(enable_log_requests=True) as (url, _), httpx.Client(base_url=url, headers=headers) as http:
        yield http, lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def ask(logged: tuple[httpx.Client, list[str]], path: str, body: dict[str, Any]) -> tuple[httpx.Response, str]:
    """The answer and its line, which comes after it."""
    http, lines = logged
    lines.clear()
    answer = http.post(path, json=body, headers={"x-request-id": "name-of-it"}, timeout=PATIENCE_S)
    until(lambda: lines)
    return answer, lines[0]


def line(route: str, status: int, prompt: int, output: int, trouble: str = "") -> str:
    tokens = rf"{prompt} prompt tokens, {output} output tokens"
    return rf"127\.0\.0\.1:\d+ POST {route} {status}, \d+\.\d{{3}} s, {tokens}, name-of-it{trouble}"


HI = [{"role": "user", "content": "Hi"}]
CASES: dict[str, tuple[str, dict[str, Any], Callable[[Any], tuple[int, int]]]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": HI, "max_tokens": 5, "ignore_eos": True, "n": 2},
        lambda answer: (answer["usage"]["prompt_tokens"], 10),
    ),
    "completions": (
        "/v1/completions",
        {"prompt": [[5, 6, 7], [8, 9]], "max_tokens": 4, "ignore_eos": True},
        lambda answer: (5, answer["usage"]["completion_tokens"]),
    ),
    "responses": (
        "/v1/responses",
        {"input": "Hi", "max_output_tokens": 16, "store": False},
        lambda answer: (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]),
    ),
    "anthropic": (
        "/v1/messages",
        {"model": "tiny", "messages": HI, "max_tokens": 5},
        lambda answer: (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]),
    ),
    "tgi": (
        "/generate",
        {"inputs": "Hi", "parameters": {"max_new_tokens": 5, "details": True, "decoder_input_details": True}},
        lambda answer: (len(answer["details"]["prefill"]), answer["details"]["generated_tokens"]),
    ),
    "embeddings": (
        "/v1/embeddings",
        {"input": [[5, 6, 7], [8, 9]]},
        lambda answer: (answer["usage"]["prompt_tokens"], 0),
    ),
}


@pytest.mark.parametrize("api", CASES)
def test_a_request_is_logged_with_its_client_and_tokens(logged: tuple[httpx.Client, list[str]], api: str) -> None:
    path, body, tokens = CASES[api]
    answer, said = ask(logged, path, body)
    assert answer.status_code == 200, answer.text
    prompt, output = tokens(answer.json())
    assert prompt and (output or api == "embeddings")
    assert re.fullmatch(line(path, 200, prompt, output), said), said


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI, "max_tokens": 5, "ignore_eos": True}),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 5, "ignore_eos": True}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 16, "store": False}),
        ("/v1/messages", {"model": "tiny", "messages": HI, "max_tokens": 5}),
    ],
)
def test_a_stream_is_logged_at_its_end(logged: tuple[httpx.Client, list[str]], path: str, body: dict[str, Any]) -> None:
    whole, expected = ask(logged, path, body)
    answer, said = ask(logged, path, {**body, "stream": True})
    assert whole.status_code == answer.status_code == 200 and "event-stream" in answer.headers["content-type"]
    tokens = re.compile(r"(\d+) prompt tokens, (\d+) output tokens")
    assert tokens.findall(said) == tokens.findall(expected)


def test_a_refused_request_is_logged_with_its_error(logged: tuple[httpx.Client, list[str]]) -> None:
    _, said = ask(logged, "/v1/completions", {"prompt": "Hi", "max_tokens": -3})
    assert re.fullmatch(line("/v1/completions", 400, 0, 0, ", error .+"), said), said
    _, said = ask(logged, "/v1/v1/completions%0a?key=secret", {})
    assert re.fullmatch(line("/v1/v1/completions%0a", 404, 0, 0, ", error .+"), said), said


def answered(pieces: Callable[[], AsyncIterator[bytes]], caplog: pytest.LogCaptureFixture, cancel: bool) -> str:
    """The line of a request whose handler streams these, and whose client is gone after the first if cancel."""

    async def handler(request: HttpRequest) -> EventStream:
        current_record().prompt_tokens += 7
        return EventStream(pieces())

    async def main() -> None:
        app = App(ServerState(Settings(enable_log_requests=True)), [Endpoint("GET", "/x", handler)], Keys())
        sent = asyncio.Event()

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.set()

        scope = {"type": "http", "method": "GET", "raw_path": b"/x", "query_string": b"", "headers": []}
        task = asyncio.create_task(app(scope, receive, send))
        if cancel:
            await sent.wait()
            task.cancel()
        await task

    with caplog.at_level("INFO", "warpjet.serve"):
        asyncio.run(main())
    (record,) = (record for record in caplog.records if record.levelname == "INFO")
    return record.getMessage()


def test_a_client_that_went_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        current_record().output_tokens += 1
        yield b"one"
        await asyncio.Event().wait()

    said = answered(pieces, caplog, cancel=True)
    expected = r"unix GET /x 200, \S+ s, 7 prompt tokens, 1 output tokens, \w+, the connection was closed"
    assert re.fullmatch(expected, said), said


def test_a_stream_that_fails_is_logged_with_its_error(caplog: pytest.LogCaptureFixture) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise ServeError(500, "the engine failed", code="engine_failed")

    said = answered(pieces, caplog, cancel=False)
    assert re.fullmatch(r"unix GET /x 200, .* tokens, \w+, error engine_failed", said), said


def test_outside_of_a_request_nothing_is_kept() -> None:
    assert current_record() is not current_record()


# --- The start and the end --------------------------------------------------------------------------------------------


def after_the_end(server: Server) -> str:
    """The exit code must be 0. What was logged since the greeting."""
    assert server.process.stderr is not None
    said = server.process.stderr.read()
    assert server.process.wait(PATIENCE_S) == 0, said
    return said


def test_the_start_says_what_it_runs_on() -> None:
    with Server("--dtype", "fp32", "--num-gpu-blocks-override", "512", "--num-threads", "1") as server:
        started = next(said for said in server.lines if " on " in said and "context" in said)
        assert f" on {cpu_name()}, 1 threads, fp32, context 1024 tokens, " in started
        assert re.search(r"KV cache (\d+) tokens in 512 blocks = [\d.]+ full requests", started)


def test_a_gpu_is_shown_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(gpus=["NVIDIA L4", "NVIDIA H200"], usable=0)
    monkeypatch.setattr(machine, "cuda_status", lambda: status)
    assert _device_text(EngineConfig(device="cuda:1")) == "NVIDIA H200 (cuda:1)"
    assert _device_text(EngineConfig(device="cuda")) == "NVIDIA L4 (cuda)"
    assert _device_text(EngineConfig(device="null")) == "null"


@pytest.mark.parametrize(
    ("flags", "warned"),
    [((), False), (("--host", "0.0.0.0"), True), (("--host", "0.0.0.0", "--api-key", "secret"), False)],
)
def test_a_server_without_keys_that_others_reach_warns(flags: tuple[str, ...], warned: bool) -> None:
    with Server(*flags) as server:
        assert any("WARNING" in said and "set --api-key" in said for said in server.lines) is warned


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_drain_is_logged_without_requests_too(number: signal.Signals) -> None:
    with Server("--shutdown-timeout", "7") as server:
        server.process.send_signal(number)
        said = after_the_end(server)
    assert f"{number.name}\n" in said
    assert "draining 0 requests, up to 7 s" in said and "drained: 0 requests have finished, 0 are cut off" in said


def test_a_drain_says_how_many_requests_were_cut_off() -> None:
    endless = {**LONG, "n": 64}
    with (
        Server("--shutdown-timeout", "0") as server,
        server.http.stream("POST", "/v1/completions", json=endless) as one,
    ):
        lines = one.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        assert '"finish_reason":"abort"' in "\n".join(lines)
        said = after_the_end(server)
    assert "draining 1 requests, up to 0 s" in said and "drained: 0 requests have finished, 1 are cut off" in said


def test_a_drain_says_how_many_requests_have_finished() -> None:
    with Server("--shutdown-timeout", "10000", "--max-unread-tokens", "64") as server, server.hold() as held:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get("/ready").status_code == 503)
        assert b'"finish_reason":"length"' in read_all(held)
        said = after_the_end(server)
    assert "draining 1 requests" in said and "drained: 1 requests have finished, 0 are cut off" in said


class Ended(BaseException):
    """Takes the place of the process's end."""


def load_under(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> object:
    """What comes of a load during which this signal arrives."""

    def end(code: int) -> None:
        raise Ended(code)

    def load(plan: object) -> str:
        os.kill(os.getpid(), number)
        return "loaded"

    monkeypatch.setattr(launch, "_end_process", end)
    monkeypatch.setattr(launch, "open_serving", load)
    return launch._open_interruptibly(plan({}))


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts back what the test changed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 130)])
def test_a_signal_during_the_load_is_logged(
    number: signal.Signals,
    code: int,
    signals: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO", "warpjet.serve"), pytest.raises(Ended) as ended:
        load_under(number, monkeypatch)
    assert ended.value.args == (code,)
    assert f"{number.name} while the model loads: there is nothing to drain" in caplog.text


def test_nohup_is_honoured_during_the_load(signals: None, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert load_under(signal.SIGHUP, monkeypatch) == "loaded"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


# A job waits in native code for a lock that nobody opens: the interpreter cannot end it.
STUCK = """
import asyncio, atexit, ctypes, sys
from warpjet.commands import main as cli
from warpjet.serve.service import Service

libc, mutex, run = ctypes.CDLL(None), ctypes.create_string_buffer(64), Service.run
libc.pthread_mutex_lock(mutex)

async def run_beside_a_job(self):
    job = asyncio.create_task(self._serving.server.workers.run(lambda: libc.pthread_mutex_lock(mutex)))
    await asyncio.sleep(0)
    return await run(self)

Service.run = run_beside_a_job
atexit.register(print, "the interpreter has ended", file=sys.stderr)
sys.exit(cli.main())
"""


def test_a_thread_that_stays_in_native_code_does_not_keep_the_process() -> None:
    with Server(program=("-c", STUCK)) as server:
        server.process.send_signal(signal.SIGTERM)
        said = after_the_end(server)
    assert "draining 0 requests" in said and "drained: 0 requests" in said
    assert "the interpreter has ended" not in said
