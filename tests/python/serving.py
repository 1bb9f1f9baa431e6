"""A server of its own process for tests, and a canary: the request whose answer must never change."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from waiting import PATIENCE_S, until

CANARY = {
    "messages": [{"role": "user", "content": "Tell me of the fox."}],
    "max_tokens": 12,
    "temperature": 0.9,
    "seed": 3,
    "logprobs": True,
    "top_logprobs": 2,
}


class Server:
    """`warpjet serve` on a free port of the loopback address."""

    def __init__(self, *flags: str, wait: bool = True, program: Sequence[str] = ("-m", "warpjet")) -> None:
        command = [sys.executable, *program, "serve", "--port", "0", "--device", "cpu", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.url = ""
        while wait and not self.url:
            line = self._line()
            if match := re.search(r"API at (https?://\S+)/v1", line):
                self.url = match[1]
            elif "Unix socket" in line:
                break
        self.port = int(self.url.rsplit(":", 1)[1]) if self.url else 0
        self.http = httpx.Client(base_url=self.url or "http://localhost", timeout=PATIENCE_S)

    def _line(self) -> str:
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        if not line:
            raise RuntimeError(f"the server ended with {self.process.wait()}: {''.join(self.lines)}")
        self.lines.append(line)
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """JSON in, an answer of any status out."""
        return self.http.post(path, json=body, **options)

    def complete(self, **fields: Any) -> dict[str, Any]:
        """A text completion that must succeed."""
        answer = self.post("/v1/completions", {"prompt": "The fox", "max_tokens": 8, "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def canary(self) -> Any:
        """What the canary says: text, tokens and log-probabilities."""
        answer = self.post("/v1/chat/completions", CANARY)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"]

    def gauge(self, name: str) -> float:
        """A metric that has one value."""
        match = re.search(rf"^{name}(?:{{.*}})? (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        assert match, name
        return float(match[1])

    def aborts(self) -> int:
        """Samples that were cancelled so far."""
        return int(
            re.search(r'success_total{[^}]*finished_reason="abort"[^}]*} (\d+)', self.http.get("/metrics").text)[1]
        )

    def idle(self) -> bool:
        """Waits until no request is live any more."""
        names = ("warpjet:num_requests_running", "warpjet:num_requests_waiting", "warpjet:kv_cache_usage_perc")
        return until(lambda: not any(self.gauge(name) for name in names))

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def raw(self, data: bytes) -> bytes:
        """Bytes in, all bytes until the server closes out."""
        with self.connect() as one:
            one.sendall(data)
            return read_all(one)

    def hold(self) -> socket.socket:
        """A connection whose request does not end before it is read: its eight samples are more than fits anywhere on
        the way. The server has --max-unread-tokens 64."""
        one = socket.socket()
        one.settimeout(PATIENCE_S)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", self.port))
        long = {"prompt": "Hello", "max_tokens": 900, "ignore_eos": True, "stream": True, "n": 8, "logprobs": 20}
        one.sendall(request_bytes("/v1/completions", long))
        until(lambda: self.gauge("warpjet:num_requests_paused"))
        return one

    def rss_bytes(self) -> int:
        """Memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def read_all(one: socket.socket) -> bytes:
    return b"".join(iter(lambda: one.recv(1 << 20), b""))


def request_bytes(path: str, body: Any) -> bytes:
    """A POST of JSON as it goes over the wire."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def checked(server: Server) -> Iterator[Server]:
    """A fixture's body: the server, and afterwards the proof that nothing happened to it."""
    expected = server.canary()
    yield server
    assert server.idle()
    assert server.canary() == expected


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer that must have this status: OpenAI's envelope, without paths or traces."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text[:500]}"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and "Traceback" not in error["message"] and "/" + "tmp" not in error["message"]
    return error  # type: ignore[no-any-return]
