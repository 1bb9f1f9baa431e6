"""A client's connection: uvicorn's HTTP protocol with what a hostile client must not do, and a request that ends when
its client goes."""

import asyncio
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from warpjet.serve.errors import ServeError
from warpjet.serve.exchange import to_json

_MAX_HEAD_BYTES = 64 << 10
_MAX_LINGERING, _LINGER_SECONDS = 32, 1.0


class Connection(HttpToolsProtocol):
    """Bounds a head (size, time), the number of connections, and how long a client may not read. Subclassed with the
    limits of a server."""

    max_connections = 1 << 30
    header_timeout = 60.0
    send_timeout = 600.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._task: asyncio.Task[Any] | None = None
        self._in_head = True
        self._refused = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(ServeError(503, "too many connections", code="overloaded", retry_after=1))
        else:
            self._head_timer = self.loop.call_later(self.header_timeout, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        if self._send_timer is not None:
            self._send_timer.cancel()
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._refused:
            return
        if not self._in_head:
            self._stop_timer()
        elif self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(ServeError(431, f"the request's head is longer than {_MAX_HEAD_BYTES} bytes"))
        elif self._head_timer is None and self._head_bytes:
            self._head_timer = self.loop.call_later(self.header_timeout, self._head_is_late)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(self.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ServeError(400, "this is not HTTP/1.1"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._task = task

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._in_head and not self.transport.is_closing():
            if self._head_bytes:
                self._refuse(ServeError(408, f"the request's head did not arrive within {self.header_timeout:g} s"))
            else:
                self.transport.close()  # it never asked for anything

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: ServeError) -> None:
        """An answer outside of any request. What the client still sends is dropped for a moment: closing at once would
        take the answer from it."""
        self._stop_timer()
        self._refused = True
        body = to_json(error.envelope())
        retry = f"retry-after: {error.retry_after}\r\n" if error.retry_after else ""
        head = f"HTTP/1.1 {error.status} {error.type}\r\ncontent-type: application/json\r\n{retry}"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        if self.transport.can_write_eof() and len(self.connections) <= self.max_connections + _MAX_LINGERING:
            self.transport.write_eof()
            self._head_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()
