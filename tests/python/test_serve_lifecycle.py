"""A server's life: how it starts, what it survives and how it ends. Names follow the rows of the fault table."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Server, checked, error_of, read_all, request_bytes
from waiting import PATIENCE_S, asleep, until

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "warpjet"
COMPLETIONS = "/v1/completions"
HOUR_S = 3600.0  # bounds a hang of what is minutes of work
LONG = {"prompt": "Hello", "max_tokens": 1000, "ignore_eos": True, "stream": True}


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """warpjet serve, which is expected to end by itself."""
    command = [sys.executable, "-m", "warpjet", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options)


def fails(says: str, *arguments: str, status: int = 2) -> None:
    ended = run(*arguments)
    assert ended.returncode == status, ended.stderr
    assert re.search(says, ended.stderr) and "Traceback" not in ended.stderr, ended.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def canary(server: Server) -> Iterator[Server]:
    yield from checked(server)


# --- How it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_R7_a_signal_drains(number: signal.Signals) -> None:
    with Server("--shutdown-timeout", "10000", "--max-unread-tokens", "64") as server, server.hold() as held:
        server.process.send_signal(number)
        until(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
        answer = httpx.post(f"{server.url}{COMPLETIONS}", json={"prompt": "x"})
        error_of(answer, 503)
        assert answer.headers["retry-after"] and answer.headers["connection"] == "close"
        assert httpx.get(f"{server.url}/health").status_code == 200
        text = read_all(held)
        assert text.count(b'"finish_reason":"length"') == 8 and b"data: [DONE]" in text
        assert server.process.wait(PATIENCE_S) == 0


def test_R7_a_drain_does_not_last_for_ever() -> None:
    with Server("--shutdown-timeout", "0.2") as server:
        with server.http.stream("POST", COMPLETIONS, json={**LONG, "n": 64}) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            text = "\n".join(lines)
        assert text.count('"finish_reason":"abort"') == 64  # every accepted sample has its end
        assert server.process.wait(PATIENCE_S) == 0


def test_R7_a_second_signal_ends_it_at_once() -> None:
    """The request cannot end by itself: nobody reads it, and it is paused."""
    with Server("--shutdown-timeout", "10000", "--max-unread-tokens", "64") as server, server.hold():
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get("/ready").status_code == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("library", ["_native", "tokenizers", "httptools", "uvloop"])
def test_R7_a_signal_while_it_loads(number: signal.Signals, library: str) -> None:
    """Once the process has mapped this library."""
    server = Server(wait=False)
    maps = Path(f"/proc/{server.process.pid}/maps")
    until(lambda: library in maps.read_text())
    server.process.send_signal(number)
    server.process.wait(PATIENCE_S)
    with server:
        pass


def test_R7_idle_connections_do_not_hold_it_up() -> None:
    with Server("--shutdown-timeout", "10000") as server:
        idle = [server.connect() for _ in range(10)]
        server.http.get("/health")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        for one in idle:
            one.close()


# --- How it starts ----------------------------------------------------------------------------------------------------


def test_R8_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fails(r"cannot listen on 127\.0\.0\.1:\d+: Address already in use", "--port", str(taken.getsockname()[1]))


def test_R8_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # nobody listens on it any more
    with Server("--uds", str(path)):
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://localhost") as client:
            assert client.get("/ready").status_code == 200
        fails("another process listens on it", "--uds", str(path))
    assert not path.exists()
    fails("cannot listen on the Unix socket", "--uds", str(tmp_path / "missing" / "socket"))
    (tmp_path / "file").write_text("precious")
    fails("cannot listen on the Unix socket", "--uds", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_R8_certificates(tmp_path: Path) -> None:
    missing, garbage = str(tmp_path / "no.pem"), tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    fails("ssl_certfile .* does not exist", "--ssl-certfile", missing, "--ssl-keyfile", missing)
    fails("cannot be used", "--ssl-certfile", str(garbage), "--ssl-keyfile", str(garbage))
    fails("go together", "--ssl-certfile", str(garbage))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_R8_tls(tmp_path: Path) -> None:
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, *subject]
    subprocess.run(made, check=True, capture_output=True)
    with Server("--ssl-certfile", cert, "--ssl-keyfile", key) as server:
        assert server.url.startswith("https://")
        assert httpx.get(f"{server.url}/health", verify=cert).status_code == 200


@pytest.mark.parametrize(
    ("says", "flags"),
    [
        ("does not exist", ["/nowhere/model"]),
        ("did you mean", ["--max-modle-len", "100"]),
        ("max_model_len", ["--max-model-len", "-5"]),
        ("tensor_parallel_size=2 is not supported", ["--tensor-parallel-size", "2"]),
        ("tensor_parallel_size=2 is not supported", ["-tp", "2"]),
        ("--lora-modules is not supported; merge the adapter", ["--lora-modules", "a=b"]),
        ("--speculative-algorithm is not supported", ["--speculative-algorithm", "EAGLE"]),
        ("metrics_compat must be one of", ["--metrics-compat", "datadog"]),
        ("need admin_api_key", ["--admin-port", "1"]),
        ("must differ", ["--api-key", "a", "--admin-api-key", "a", "--admin-port", "1"]),
        ("an API key is empty", ["--api-key", ""]),
        ("No such file", ["--api-key-file", "/nowhere"]),
        ("No such file", ["--config", "/nowhere.json"]),
        ("port must be from 0 to 65535", ["--port", "70000"]),
        ("temperature", ["--override-generation-config", '{"temperature": -1}']),
        ("JSON object", ["--override-generation-config", "{"]),
        ("is no address", ["--host", "no such host"]),
        ("must be a whole number", ["--port", "many"]),
    ],
)
def test_R8_a_wrong_flag_says_what_is_wrong(says: str, flags: list[str]) -> None:
    fails(says, *flags)


def test_flags_of_other_servers_are_understood() -> None:
    flags = ["--mem-fraction-static", "0.5", "--context-length", "512", "--tp-size", "1", "--page-size", "16"]
    ended = run(
        "--dry-run", *flags, "--enable-auto-tool-choice", "--disable-log-requests", "--trust-remote-code", "false"
    )
    assert ended.returncode == 0, ended.stderr
    assert "--context-length is --max-model-len here" in ended.stderr
    assert "the configuration is good" in ended.stdout


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"served-model-name": ["a", "b"], "max_model_len": 256, "api-key": "k"}))
    with Server("--config", str(path), "--served-model-name", "c") as server:
        cards = server.http.get("/v1/models", headers={"x-api-key": "k"}).json()["data"]
        assert [(card["id"], card["max_model_len"]) for card in cards] == [("c", 256)]
    path.write_text('{"served-model-nam": "a"}')
    fails("did you mean 'served_model_name'", "--config", str(path))
    path.write_text("[")
    fails("is not JSON", "--config", str(path))


def test_dry_run_loads_nothing() -> None:
    assert run("--dry-run", "--max-model-len", "128").returncode == 0
    fails("does not exist", "--dry-run", "/nowhere/model")
    fails("max_num_seqs", "--dry-run", "--max-num-seqs", "0")


def test_R8_serving_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "TMPDIR", "WARPJET_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with _with_limit(resource.RLIMIT_FSIZE, 0, Server) as server:  # as on a full disk: no file takes a byte
        server.complete()
        assert server.canary() and server.http.get("/metrics").status_code == 200
    assert not list(tmp_path.iterdir())


# --- What it survives -------------------------------------------------------------------------------------------------


def test_R9_too_many_connections() -> None:
    with Server("--max-connections", "8") as server:
        expected = server.canary()
        idle = [server.connect() for _ in range(7)]  # the canary's is the eighth
        refused = server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 503 ") and b"retry-after" in refused
        for one in idle:
            one.close()
        until(lambda: _health(server).startswith(b"HTTP/1.1 200 "))
        assert server.canary() == expected


def test_R9_few_file_descriptors() -> None:
    server = _with_limit(resource.RLIMIT_NOFILE, 128, Server)
    with server:
        expected = server.canary()
        idle = []
        for _ in range(300):
            with contextlib.suppress(OSError):
                idle.append(server.connect())
        until(lambda: _health(server).startswith(b"HTTP/1.1 503 "))  # some of those that were refused linger
        assert server.canary() == expected  # a connection that is there goes on
        for one in idle:
            one.close()
        until(lambda: _health(server).startswith(b"HTTP/1.1 200 "))


def _health(server: Server) -> bytes:
    """The answer on a connection of its own; empty without one."""
    try:
        return server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    except OSError:
        return b""


def _with_limit(which: int, value: int, make: Callable[[], Server]) -> Server:
    """Runs make() in children that may not raise the limit again."""
    before = subprocess.Popen

    class Limited(before):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, preexec_fn=lambda: resource.setrlimit(which, (value, value)), **options)

    subprocess.Popen = Limited  # type: ignore[misc]
    try:
        return make()
    finally:
        subprocess.Popen = before  # type: ignore[misc]


def test_R9_thousands_of_idle_connections_are_cheap(canary: Server) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(5000, soft - 200)
    before = canary.rss_bytes()
    idle = [canary.connect() for _ in range(count)]
    try:
        assert canary.canary()
        assert (canary.rss_bytes() - before) / count < 16 << 10  # bytes a connection
        until(lambda: asleep(canary.process.pid))
    finally:
        for one in idle:
            one.close()


def test_R9_pipelined_requests_are_answered_in_order(canary: Server) -> None:
    data = (
        b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" * 500
        + b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    answers = canary.raw(data)
    assert answers.count(b"HTTP/1.1 200 ") == 500 and answers.count(b"HTTP/1.1 404 ") == 1


def test_R10_only_what_is_shown_reads_the_wall_clock() -> None:
    for path in PACKAGE.rglob("*.py"):
        for line in path.read_text().splitlines():
            if "time.time()" in line or "datetime.now" in line:
                assert "int(time.time())" in line or path.name in ("template.py", "records.py"), (path, line)


def test_R11_the_process_ends_with_live_requests() -> None:
    code = """if True:
        import asyncio, sys
        from warpjet import AsyncLLM, SamplingParams
        llm = AsyncLLM()
        async def main():
            stream = llm.generate("Hello", SamplingParams(max_tokens=1000, ignore_eos=True))
            await anext(stream)
            raise SystemExit(7)
        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 7 and not ended.stderr


def test_R11_a_fork_of_a_server_process_leaves_it_alone() -> None:
    code = """if True:
        import asyncio, os
        from warpjet import AsyncLLM, SamplingParams
        llm = AsyncLLM()
        async def text():
            async for output in llm.generate("Hello", SamplingParams(max_tokens=8, temperature=0)):
                pass
            return output.outputs[0].text
        before = asyncio.run(text())
        if (child := os.fork()) == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert asyncio.run(text()) == before
    """
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_clients_that_come_and_go_leave_nothing(canary: Server) -> None:
    files = Path(f"/proc/{canary.process.pid}/fd")
    canary.complete()
    before, memory = len(list(files.iterdir())), 0
    for turn in range(6):
        streams = []
        for _ in range(20):
            one = canary.connect()
            one.sendall(request_bytes(COMPLETIONS, LONG))
            streams.append(one)
        for one in streams:
            one.recv(10)
            one.close()
        assert canary.idle()
        memory = memory or (canary.rss_bytes() if turn == 2 else 0)
    assert len(list(files.iterdir())) <= before + 1
    assert canary.rss_bytes() - memory < 8 << 20


def test_schemathesis_finds_no_server_error(canary: Server, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [shutil.which("schemathesis", path=os.path.dirname(sys.executable)) or "schemathesis", "run"]
    command += [f"{canary.url}/openapi.json", "--checks", checks, "--max-examples", "2", "--seed", "1", "--phases"]
    command += ["coverage,fuzzing", "--generation-database", "none", "--no-color", "--request-timeout", str(PATIENCE_S)]
    command += ["--exclude-path", "/live", "--exclude-path", "/v1/embeddings"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=HOUR_S, check=False, cwd=tmp_path)
    except subprocess.TimeoutExpired:
        pytest.fail("schemathesis took longer than an hour")
    assert ended.returncode == 0, ended.stdout[-6000:]
