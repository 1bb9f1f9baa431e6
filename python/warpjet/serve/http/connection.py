"""A client's connection: HTTP/1.1 on httptools' parser. In every state it ends when the client is late with its part.

The client owes something in every state but one: while a whole request is being answered, and the client reads the
answer. `_owed` is the one place that says what it owes and for how long, and every event asks it again."""

import asyncio
import urllib.parse
from dataclasses import dataclass
from typing import Any

import httptools

from warpjet.serve.http.asgi import CONTINUE, MAX_UNREAD_BYTES, Application, Exchange
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import to_json

# Bytes of a head, of trailers, or between two pieces of a body, such as the extensions of a chunk.
MAX_HEAD_BYTES, MAX_HEADERS = 64 << 10, 256
MAX_REFUSED = 32  # connections above the limit that are told so
_REFUSED_SECONDS = 1.0  # what such a client still sends is dropped: closing at once would take the answer from it
_PROBE_SECONDS = (0.05, 0.05, 1.0)


@dataclass(frozen=True)
class Limits:
    """Of every connection. Seconds, unless the name says otherwise."""

    max_connections: int = 1 << 30
    header_timeout: float = 60.0  # for a head, from its first byte on
    body_timeout: float = 60.0  # for a body that nobody reads; the application times those that it reads
    keep_alive_timeout: float = 75.0  # between two requests
    send_timeout: float = 600.0  # without reading


class _HeadTooLong(Exception):
    pass


class Connection(asyncio.Protocol):
    """Made by a Listener, in the event loop. Bounds a head, trailers and what stands between chunks (size, time), the
    number of connections, and how long a client may be silent or not read.

    connections: all that are open; this one adds and removes itself."""

    def __init__(self, app: Application, limits: Limits, connections: "set[Connection]", root_path: str = "") -> None:
        self._app, self._limits, self._connections, self._root_path = app, limits, connections, root_path
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: Any = httptools.HttpRequestParser(self)
        self._exchanges: list[Exchange] = []  # the first is being answered
        self._requests = 0
        self._in_head = True  # the next byte belongs to a head
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._undelivered = 0  # bytes since the parser last delivered a head or a piece of a body
        self._upgraded_body = b""
        self._last = False  # no further request is taken
        self._deaf = False  # what arrives is dropped
        self._eof = False
        self._linger_seconds: float | None = None
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._lost = False
        self._probes = 0
        self._owes: tuple[Any, ...] = ()
        self._timer: asyncio.TimerHandle | None = None

    # --- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._tls = transport.get_extra_info("ssl_object") is not None
        self._client = transport.get_extra_info("peername")
        self._connections.add(self)
        if len(self._connections) > self._limits.max_connections:
            error = ServeError(503, "too many connections", code="overloaded", retry_after=1)
            told = len(self._connections) <= self._limits.max_connections + MAX_REFUSED
            self._refuse(error, _REFUSED_SECONDS if told else 0)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._connections.discard(self)
        self._parser = None
        self._watch()
        self.resume_writing()
        self._abandon()

    def data_received(self, data: bytes) -> None:
        if not self._deaf:
            self._parse(data)
            self._watch()

    def eof_received(self) -> bool:
        """The client may have ended its half only, and wait for the answer."""
        self._eof = self._last = self._deaf = True
        waits = bool(self._exchanges) and self._exchanges[-1].whole and not self._tls
        if not waits:
            self._abandon()
        self._watch()
        return waits

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()
        self._watch()

    def resume_writing(self) -> None:
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None
        self._watch()

    # --- For an exchange, and the server --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Sends, or keeps until the client reads."""
        if not self._lost:
            self._transport.write(data)

    async def writable(self) -> None:
        """Returns when the client has read nearly all of what was written, or is gone."""
        if (drained := self._drained) is not None:
            await asyncio.shield(drained)

    def body_taken(self) -> None:
        """The application has taken what arrived of a body."""
        self._read_or_pause()

    def answered(self, exchange: Exchange) -> None:
        """The answer is complete, or can not be completed. The next request has its turn."""
        if self._lost or not self._exchanges or self._exchanges[0] is not exchange:
            return
        self._exchanges.pop(0)
        if not exchange.complete:
            self._transport.abort()
        elif not exchange.whole:
            self._linger(self._limits.body_timeout)
        elif not exchange.keep_alive or (self._last and not self._exchanges):
            self._close()
        self._start()
        self._read_or_pause()
        self._watch()

    @property
    def closing(self) -> bool:
        """No request follows on this connection."""
        return self._last and len(self._exchanges) <= 1

    def shutdown(self) -> None:
        """Closes when what was asked is answered."""
        self._last = True
        if not self._exchanges and self._linger_seconds is None:
            self._close()
        self._watch()

    def abort(self) -> None:
        """Closes now."""
        self._transport.abort()

    # --- httptools' callbacks -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head = True
        self._url = b""
        self._headers = []
        self._head_bytes = 0
        self._undelivered = self._undelivered or 1

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if not self._in_head:
            return  # a trailer is no header: it is bounded and dropped
        self._headers.append((name.lower(), value))
        if len(self._headers) > MAX_HEADERS:
            raise _HeadTooLong

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = self._undelivered = 0
        if self._upgraded_body or self._last:
            return
        self._requests += 1
        version, headers = self._parser.get_http_version(), dict(self._headers)
        keep_alive = version == "1.1" and self._parser.should_keep_alive()
        expects_continue = headers.get(b"expect", b"").lower() == b"100-continue"
        self._exchanges.append(Exchange(self, self._scope(version), keep_alive, expects_continue))
        for name in (b"transfer-encoding", b"content-length"):
            if self._parser.should_upgrade() and name in headers:
                self._upgraded_body = name + b": " + headers[name]
        self._last = self._last or not keep_alive

    def on_body(self, body: bytes) -> None:
        self._undelivered = 0
        if self._exchanges and not self._exchanges[-1].whole:
            self._exchanges[-1].add_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = self._undelivered = 0
        if self._upgraded_body and not self._exchanges[-1].whole and self._parser.should_upgrade():
            return  # the parser does not read the body of a request that asks for another protocol; _parse does
        self._upgraded_body = b""
        self._deaf = self._last
        if self._exchanges and not self._exchanges[-1].whole:
            self._exchanges[-1].end_body()

    # --- Reading --------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        self._undelivered += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_at_http_1(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if self._deaf:  # after the last request
                pass
            elif isinstance(error.__context__, _HeadTooLong):
                self._refuse_long_head()
            else:
                self._refuse(ServeError(400, "this is not HTTP/1.1"), _REFUSED_SECONDS)
        if self._undelivered > MAX_HEAD_BYTES and not self._deaf:
            self._refuse_long_head()
        self._start()
        self._read_or_pause()

    def _stay_at_http_1(self, rest: bytes) -> None:
        """Another protocol was offered, such as h2c by Java's client, and is not taken. The parser has stopped behind
        the head; a new one reads the body."""
        if self._upgraded_body:
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + self._upgraded_body + b"\r\n\r\n")
        self._parse(rest)

    def _start(self) -> None:
        if self._exchanges and self._exchanges[0].task is None:
            self._exchanges[0].start(self._app)

    def _abandon(self) -> None:
        for exchange in self._exchanges:
            exchange.abandon()
        self._exchanges.clear()

    def _scope(self, version: str) -> dict[str, Any]:
        url = httptools.parse_url(self._url)
        path = url.path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "scheme": "https" if self._tls else "http",
            "path": self._root_path + urllib.parse.unquote(path),
            "raw_path": self._root_path.encode() + url.path,
            "query_string": url.query or b"",
            "root_path": self._root_path,
            "headers": self._headers,
            "client": self._client[:2] if isinstance(self._client, tuple) else None,
            "server": None,
        }

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLong

    def _read_or_pause(self) -> None:
        """The client waits while a second request waits for its turn, or the application does not take the body."""
        waiting = self._exchanges[0].unread_bytes if self._exchanges else 0
        pause = len(self._exchanges) > 1 or waiting > MAX_UNREAD_BYTES
        if pause == self._paused or self._eof or self._lost or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- Ending ---------------------------------------------------------------------------------------------------

    def _owed(self) -> tuple[Any, ...]:
        """What the client owes, for how many seconds, and what happens then. Equal as long as it is the same debt."""
        limits = self._limits
        if self._lost:
            return ()
        if self._linger_seconds is not None:
            return "to close", self._linger_seconds, self._transport.abort
        if self._drained is not None:
            return "to read", limits.send_timeout, self._transport.abort
        if self._exchanges:
            if not self._eof or self._exchanges[0].begun:
                return ()  # it is the server's turn
            return f"a sign {self._probes}", _PROBE_SECONDS[min(self._probes, 2)], self._probe
        if self._transport.is_closing() or self._eof:
            return "to read the last answer", limits.send_timeout, self._transport.abort
        if self._undelivered or not self._in_head:
            return f"head {self._requests}", limits.header_timeout, self._head_is_late
        if self._requests:
            return f"request {self._requests}", limits.keep_alive_timeout, self._close
        return "a first request", limits.header_timeout, self._close

    def _watch(self) -> None:
        """Starts the clock of what the client owes now, unless it runs already."""
        owes = self._owed()
        if owes[:2] == self._owes[:2]:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._owes = owes
        self._timer = self._loop.call_later(owes[1], self._expire) if owes else None

    def _expire(self) -> None:
        self._timer, ended, self._owes = None, self._owes, ()
        ended[2]()
        self._watch()

    def _head_is_late(self) -> None:
        text = f"the request's head did not arrive within {self._limits.header_timeout:g} s"
        self._refuse(ServeError(408, text), _REFUSED_SECONDS)

    def _probe(self) -> None:
        """A client that has ended its half of the connection may wait for the answer, or be gone. One that is gone
        answers this with a reset, which ends the connection at the next; HTTP/1.0 does not know it."""
        self._probes += 1
        if self._exchanges[0].scope["http_version"] == "1.1":
            self._transport.write(CONTINUE)

    def _refuse_long_head(self) -> None:
        text = f"the request's head or trailers are longer than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} lines"
        self._refuse(ServeError(431, text), _REFUSED_SECONDS)

    def _refuse(self, error: ServeError, seconds: float) -> None:
        """An answer outside of any request: written if no other is under way, for it would stand in the middle of it.
        What the client still sends is dropped for some seconds."""
        if not any(exchange.begun for exchange in self._exchanges):
            body = to_json(error.envelope())
            retry = f"retry-after: {error.retry_after}\r\n" if error.retry_after else ""
            head = f"HTTP/1.1 {error.status} {error.type}\r\ncontent-type: application/json\r\n{retry}"
            self._transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self._linger(seconds)

    def _linger(self, seconds: float) -> None:
        """Ends the server's half, and drops what the client sends until it closes or the time is over."""
        if not seconds:
            self._close()
            return
        self._last = self._deaf = True
        self._abandon()
        self._linger_seconds = seconds
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _close(self) -> None:
        self._last = self._deaf = True
        self._abandon()
        self._transport.close()
