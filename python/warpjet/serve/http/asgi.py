"""One HTTP request and its answer, between a connection and an ASGI application."""

import asyncio
import email.utils
import http
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

_log = logging.getLogger("warpjet.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
MAX_UNREAD_BYTES = 64 << 10  # of a body that the application has not taken yet; then the client is not read any more


class Peer(Protocol):
    """What an exchange needs of its connection."""

    def write(self, data: bytes) -> None:
        """Sends, or keeps until the client reads."""

    async def writable(self) -> None:
        """Returns when the client has read nearly all of what was written, or is gone."""

    def body_taken(self) -> None:
        """The application has taken what arrived of a body."""

    def answered(self, exchange: "Exchange") -> None:
        """The answer is complete, or can not be completed."""

    @property
    def closing(self) -> bool:
        """No request follows on this connection."""


class Exchange:
    """Lives in the event loop. `whole`: all of the request has arrived; `begun`: the answer has a status."""

    def __init__(self, peer: Peer, scope: Scope, keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self.whole = False
        self.begun = False
        self.complete = False
        self.keep_alive = keep_alive
        self.unread_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self._peer = peer
        self._expects_continue = expects_continue
        self._pieces: list[bytes] = []
        self._taken = False
        self._gone = False
        self._arrived: asyncio.Event = asyncio.Event()
        self._head = b""
        self._chunked = False
        self._left: int | None = None  # bytes that content-length still promises

    # --- From the connection ---

    def add_body(self, piece: bytes) -> None:
        """A piece of the body. After the answer has begun nobody reads it: it is dropped."""
        if self.begun or self._gone:
            return
        self._pieces.append(piece)
        self.unread_bytes += len(piece)
        self._arrived.set()

    def end_body(self) -> None:
        """The body has arrived."""
        self.whole = True
        self._arrived.set()

    def start(self, app: Application) -> None:
        """Runs the application."""
        self.task = asyncio.get_running_loop().create_task(self._run(app))

    def abandon(self) -> None:
        """The client is gone."""
        self._gone = True
        self._pieces.clear()
        self._arrived.set()
        if self.task is not None:
            self.task.cancel()

    # --- From the application ---

    async def receive(self) -> MutableMapping[str, Any]:
        """ASGI's receive()."""
        while not (self._gone or self.complete):
            if self._pieces or (self.whole and not self._taken):
                body = b"".join(self._pieces)
                self._pieces.clear()
                self.unread_bytes = 0
                self._taken = self.whole
                self._peer.body_taken()
                return {"type": "http.request", "body": body, "more_body": not self.whole}
            if self._expects_continue and not self.begun:
                self._expects_continue = False
                self._peer.write(CONTINUE)
            self._arrived.clear()
            await self._arrived.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's send(). What is sent to a client that is gone is dropped."""
        await self._peer.writable()
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], list(message.get("headers", ())))
        else:
            self._send_body(message.get("body", b""), bool(message.get("more_body")))

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self.begun:
            raise RuntimeError("the answer has begun already")
        self.begun = True
        self._pieces.clear()
        self.unread_bytes = 0
        self._peer.body_taken()
        given = dict(headers)
        http_1_1 = self.scope["http_version"] == "1.1"
        bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        lines = [b"HTTP/1.1 %d %s" % (status, http.HTTPStatus(status).phrase.encode()), b"date: " + _date()]
        if bodiless:
            self._left = 0
        elif b"content-length" in given:
            self._left = int(given[b"content-length"])
        elif http_1_1:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        else:
            self.keep_alive = False  # the end of the connection is the end of the answer
        if not self.whole or self._peer.closing:
            self.keep_alive = False  # where the next request begins is not known before the body has ended
        if given.get(b"connection", b"").lower() == b"close":
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        for name, value in headers:
            if b"\r" in value or b"\n" in value:
                raise RuntimeError(f"the header {name!r} holds a line break")
            lines.append(name + b": " + value)
        self._head = b"\r\n".join(lines) + b"\r\n\r\n"

    def _send_body(self, body: bytes, more: bool) -> None:
        if not self.begun or self.complete:
            raise RuntimeError("there is no answer that this could belong to")
        if self.scope["method"] == "HEAD":
            body = b""
        if self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body is not as long as content-length says")
        if self._head or body:
            self._peer.write(self._head + body)
        self._head = b""
        if not more:
            self.complete = True
            self._arrived.set()
            self._peer.answered(self)

    async def _run(self, app: Application) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            _log.error("a request failed: %s", type(error).__name__, exc_info=error)
        if not self.complete:
            self._peer.answered(self)


_date_line: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    global _date_line
    now = int(time.time())
    if _date_line[0] != now:
        _date_line = (now, email.utils.formatdate(now, usegmt=True).encode())
    return _date_line[1]
