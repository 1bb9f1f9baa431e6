"""Requests from a file, in the form of OpenAI's batch API, answered without a server."""

import asyncio
import json
import os
import secrets
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from warpjet.serve.flags import Plan
from warpjet.serve.http.errors import ServeError, bad_request, from_exception
from warpjet.serve.http.exchange import HttpRequest, Response
from warpjet.serve.http.json_body import parse_json
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.launch import open_serving
from warpjet.serve.openai import chat, completions, embeddings, responses
from warpjet.serve.serving import Serving

_WINDOW = 2048  # lines under way at once
_BUSY_SECONDS = 0.05  # after which a request that the engine's queue had no room for is tried again
_APIS = (chat, completions, embeddings, responses)


def run_batch(plan: Plan, source: str, out: str) -> int:
    """Answers every line, with a progress bar. Exit code 0, also when some lines failed: the output says which. Raises
    OSError or ValueError for files that cannot be, before the model loads, and what keeps that from loading."""
    for path in (source, out):
        if "://" in path:
            raise ValueError(f"{path} is no local file; nothing is fetched or sent")
    if not Path(source).is_file():
        raise FileNotFoundError(
            f"{source} does not exist or is no file; --input-file takes a file with a request in JSON on each line"
        )
    with open(source, "rb") as file:
        total = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    output = Output(out)
    try:
        serving = open_serving(plan)
        batch = Batch(serving)
        try:
            with _progress_bar(total) as bar:
                asyncio.run(batch.run(source, output.file, bar))
        finally:
            serving.close()
        output.complete()
    finally:
        output.discard()
    print(f"{batch.succeeded} answered, {batch.failed} failed: {out}", file=sys.stderr)
    return 0


def _progress_bar(total: int) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    return tqdm(total=total, desc="requests", unit="request", disable=None, delay=1)


class Output:
    """A file that appears, whole, when it is complete; the one that it replaces stays until then. Raises OSError at
    once where it could not be written."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        if self._path.is_dir():
            raise IsADirectoryError(f"{path} is a directory; --output takes a file")
        if not self._path.parent.is_dir():
            raise FileNotFoundError(f"{self._path.parent} does not exist, so {path} cannot be written")
        self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        self.file: IO[bytes] = open(self._temporary, "xb")  # noqa: SIM115 - complete() and discard() close it

    def complete(self) -> None:
        """Everything is written."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Leaves no trace, unless it is complete. Idempotent."""
        self.file.close()
        self._temporary.unlink(missing_ok=True)


class Batch:
    """Answers the lines of one file."""

    def __init__(self, serving: Serving) -> None:
        self.succeeded = self.failed = 0
        self._strict = serving.settings.strict
        self._endpoints: dict[str, Endpoint] = {
            endpoint.path: endpoint
            for api in _APIS
            for endpoint in api.routes(serving)
            if endpoint.method == "POST" and "{" not in endpoint.path
        }
        self._longest = serving.settings.max_body_bytes
        self._names: set[str] = set()
        self._running = 0

    async def run(self, source: str, out: IO[bytes], progress: Any) -> None:
        """Writes a line of JSON for each line of `source` that is not blank, in their order. A bad line concerns no
        other."""
        under_way: deque[asyncio.Task[dict[str, Any]]] = deque()
        try:
            for raw in read_lines(source, self._longest):
                under_way.append(asyncio.create_task(self._line(raw)))
                await asyncio.sleep(0)
                while under_way and (len(under_way) >= _WINDOW or under_way[0].done()):
                    self._write(await under_way.popleft(), out, progress)
            while under_way:
                self._write(await under_way.popleft(), out, progress)
        finally:
            for task in under_way:
                task.cancel()

    def _write(self, line: dict[str, Any], out: IO[bytes], progress: Any) -> None:
        if line["error"] is None and line["response"]["status_code"] == 200:
            self.succeeded += 1
        else:
            self.failed += 1
        out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        progress.update()

    async def _line(self, raw: bytes) -> dict[str, Any]:
        """What the output says of one line."""
        out: dict[str, Any] = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": None}
        out |= {"response": None, "error": None}
        try:
            line = self._parse(raw)
            out["custom_id"] = line.get("custom_id")
            endpoint = self._check(line)
        except ServeError as error:
            out["error"] = {"code": "invalid_line", "message": error.message}
            return out
        status, body = await self._answer(endpoint, line["body"], out["id"])
        out["response"] = {"status_code": status, "request_id": out["id"], "body": body}
        return out

    def _parse(self, raw: bytes) -> dict[str, Any]:
        if len(raw) > self._longest:
            raise bad_request(f"the line is longer than {self._longest} bytes")
        return parse_json(raw.removeprefix(b"\xef\xbb\xbf"))

    def _check(self, line: Mapping[str, Any]) -> Endpoint:
        name, url, body = line.get("custom_id"), line.get("url"), line.get("body")
        if not isinstance(name, str) or not name:
            raise bad_request("custom_id must be a string that is not empty")
        if name in self._names:
            raise bad_request(f"custom_id {name[:64]!r} is on an earlier line")
        self._names.add(name)
        if line.get("method") != "POST":
            raise bad_request(f"method must be 'POST', got {str(line.get('method'))[:64]!r}")
        if not isinstance(url, str) or url not in self._endpoints:
            raise bad_request(f"url must be one of {', '.join(self._endpoints)}, got {str(url)[:128]!r}")
        if not isinstance(body, dict):
            raise bad_request(f"body must be an object, got {type(body).__name__}")
        if body.get("stream") or body.get("background"):
            raise bad_request("answers are whole, in the output; leave stream and background out")
        return self._endpoints[url]

    async def _answer(self, endpoint: Endpoint, given: Mapping[str, Any], request_id: str) -> tuple[int, Any]:
        """Status and body, as the server would answer."""
        try:
            body = endpoint.request_schema.parse(given, self._strict) if endpoint.request_schema else {}
            while (response := await self._handle(endpoint, dict(body), request_id)) is None:
                await asyncio.sleep(_BUSY_SECONDS)
            return response.status, json.loads(response.body)
        except Exception as error:
            said = from_exception(error)
            return said.status, said.envelope()

    async def _handle(self, endpoint: Endpoint, body: dict[str, Any], request_id: str) -> Response | None:
        """None when the engine's queue is full with other lines."""
        self._running += 1
        try:
            response = await endpoint.handler(HttpRequest("POST", endpoint.path, {}, body=body, request_id=request_id))
        except ServeError as error:
            if error.code == "overloaded" and self._running > 1:
                return None
            raise
        finally:
            self._running -= 1
        if not isinstance(response, Response):
            raise bad_request("answers are whole, in the output")
        return response


def read_lines(source: str, longest: int) -> Iterator[bytes]:
    """Lines that are not blank, without their ends. Of one that is longer than `longest` bytes, only so much and one
    byte more."""
    with open(source, "rb") as file:
        while line := file.readline(longest + 1):
            piece = line
            while len(piece) > longest and not piece.endswith(b"\n"):
                piece = file.readline(longest + 1)
            if line.strip():
                yield line.rstrip(b"\r\n")
