"""The page at / and what it shows: its files, and GET /live, the engine's snapshots as Server-Sent Events."""

import asyncio
import base64
import functools
import hashlib
import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from warpjet.async_llm import AsyncLLM
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import EventStream, HttpRequest, Response, sse
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.names import shown_name
from warpjet.serve.serving import Serving

_log = logging.getLogger("warpjet.serve")

_PAGE = Path(__file__).parent / "page"
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline, in nobody's frame, and no text that becomes markup.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}

_PERIOD = 0.1  # seconds between two looks
_HURRIED = 0.03  # the same while more steps are done between two looks than a snapshot holds
_SHARE = 0.05  # of one core that looking may take: a large engine is looked at less often
_LONGEST = 1.0  # but this often at least: the engine stops recording 2 s after the last look, and forgets what it has
_MAX_WATCHERS = 64


class LiveFeed:
    """Takes snapshots of the engine while there are watchers, once for all of them. Lives in the event loop."""

    def __init__(self, llm: AsyncLLM, ended: Callable[[], bool]) -> None:
        self._llm = llm
        self._ended = ended
        self._watchers: set[_Mailbox] = set()
        self._task: asyncio.Task[None] | None = None

    async def watch(self) -> AsyncIterator[bytes]:
        """Events until the server drains or the engine is gone. A slow reader gets the newest event and skips those
        before it. Raises ServeError 503 when there are too many watchers."""
        if len(self._watchers) >= _MAX_WATCHERS:
            raise ServeError(503, "too many watch the engine", code="overloaded", retry_after=5)
        mailbox = _Mailbox()
        self._watchers.add(mailbox)
        try:
            if self._task is None:
                self._task = asyncio.create_task(self._look())
            while event := await mailbox.take():
                yield event
        finally:
            self._watchers.discard(mailbox)

    async def _look(self) -> None:
        step, last_id = 0, -1
        try:
            while self._watchers and not self._ended():
                began = time.perf_counter()
                latest = [(number, name) for number, name in self._llm.latest_requests() if number > last_id]
                last_id = max((number for number, _ in latest), default=last_id)
                event, seen, missed = await asyncio.to_thread(self._event, step, latest)
                step = seen
                for mailbox in self._watchers:
                    mailbox.put(event)
                await asyncio.sleep(_pause(time.perf_counter() - began, missed))
        except Exception as error:
            _log.error("the live view has ended: %s", error)
        finally:
            self._task = None
            for mailbox in self._watchers:
                mailbox.put(None)

    def _event(self, since: int, latest: list[tuple[int, str]]) -> tuple[bytes, int, bool]:
        """The event, its last step, and whether there were more steps since than it holds."""
        snapshot: dict[str, Any] = self._llm.session.engine.snapshot(since)
        snapshot["pool"] = base64.b64encode(snapshot["pool"]).decode()
        # A request id may be its client's secret: a watcher that knows it recognises the checksum.
        snapshot["names"] = {number: zlib.crc32(shown_name(name).encode()) for number, name in latest}
        steps = snapshot["steps"]
        missed = bool(since and steps and steps[0]["step"] > since + 1)
        return sse(snapshot), snapshot["step"], missed


def _pause(cost: float, missed: bool) -> float:
    """Seconds until the next look. cost: seconds that the last one took, on a busy machine longer than it worked."""
    return max(min(max(_HURRIED if missed else _PERIOD, cost / _SHARE), _LONGEST) - cost, 0.0)


class _Mailbox:
    """Holds one event: a newer one replaces one that was not taken."""

    def __init__(self) -> None:
        self._event: bytes | None = None
        self._there = asyncio.Event()

    def put(self, event: bytes | None) -> None:
        """None: there will be no more."""
        self._event = event
        self._there.set()

    async def take(self) -> bytes | None:
        await self._there.wait()
        self._there.clear()
        return self._event


async def _live(feed: LiveFeed, request: HttpRequest) -> EventStream | Response:
    if request.method == "HEAD":
        return Response(content_type="text/event-stream")
    return EventStream(feed.watch(), headers={"x-accel-buffering": "no"})


@functools.cache
def _file(name: str) -> tuple[bytes, str, str]:
    """Content, content type and tag. Raises ServeError 404 for what is no file of the page."""
    path = next((path for path in _PAGE.iterdir() if path.name == name), None)
    if path is None or path.suffix not in _CONTENT_TYPES:
        raise ServeError(404, "there is no such file", code="not_found")
    content = path.read_bytes()
    return content, _CONTENT_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"'


async def _page(request: HttpRequest) -> Response:
    content, content_type, tag = _file(request.path_params.get("name", "index.html"))
    headers = _HEADERS | {"etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(b"", 304, content_type, headers)
    return Response(content, 200, content_type, headers)


def routes(serving: Serving) -> list[Endpoint]:
    """Without a summary: they are the page's own, no part of the API."""
    feed = LiveFeed(serving.llm, lambda: serving.server.draining)
    return [
        Endpoint("GET", "/", _page, scope="open"),
        Endpoint("GET", "/page/{name}", _page, scope="open"),
        Endpoint("GET", "/live", partial(_live, feed)),
    ]
