"""A `warpjet serve` of its own process, as a test or a script watches it from outside."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "python"))

from waiting import PATIENCE_S, until


class ServerProcess:
    """Started on a free port; ready when the constructor returns. Raises RuntimeError with what it said if it ends."""

    def __init__(self, flags: Iterable[str] = (), before: Iterable[str] = ()) -> None:
        """before: what Python gets ahead of -m warpjet, such as a profiler."""
        command = [sys.executable, *before, "-m", "warpjet", "serve", "--port", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.log: list[str] = []
        self._url = ""
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._started.wait(PATIENCE_S) or not self._url:
            self.kill()
            raise RuntimeError("warpjet serve did not start:\n" + "".join(self.log))
        host, _, port = self._url.removeprefix("http://").partition(":")
        self.address = host, int(port)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if match := re.search(r"API at (http://[\d.]+:\d+)", line):
                self._url = match[1]
                self._started.set()
        self._started.set()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._url + path, timeout=PATIENCE_S) as response:
            body: bytes = response.read()
        return body

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            answer: dict[str, Any] = json.loads(response.read())
        return answer

    def metrics(self) -> dict[str, float]:
        """By name without prefix; what has labels besides the model's is added up."""
        found: dict[str, float] = {}
        for name, value in re.findall(r"^warpjet:(\w+)(?:\{.*\})? (\S+)$", self.get("/metrics").decode(), re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    def resources(self) -> dict[str, float]:
        """Resident bytes, open descriptors and threads."""
        proc = Path(f"/proc/{self.process.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return {
            "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "fds": len(list((proc / "fd").iterdir())),
            "threads": len(list((proc / "task").iterdir())),
        }

    def cpu_seconds(self) -> float:
        """Used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def idle_problems(server: ServerProcess) -> list[str]:
    """What is not as it must be when nobody asks anything any more; waits for it to become so."""
    problems: list[str] = []

    def idle() -> bool:
        found = server.metrics()
        problems[:] = [
            f"{name} is {found[name]:g}"
            for name in ("num_requests_running", "num_requests_waiting", "num_requests_paused", "kv_cache_usage_perc")
            if found[name] != 0
        ]
        if found["http_requests_live"] != 1:  # this one
            problems.append(f"{found['http_requests_live']:g} HTTP requests live")
        accepted, ended = found["samples_accepted_total"], found["request_success_total"]
        if accepted != ended:
            problems.append(f"{accepted:g} samples were accepted and {ended:g} ended")
        return not problems

    with contextlib.suppress(AssertionError):
        until(idle)
    return problems
