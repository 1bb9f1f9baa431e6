"""Accepts connections, many at once: one at each turn of a busy event loop would keep a crowd waiting."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

_AT_ONCE = 16  # connections accepted before others have their turn
_PAUSE_SECONDS = 0.02  # until what the system lacks is asked for again


class Listener:
    """Listens on a bound socket, which it does not close. Made in the running event loop.

    While the process may open no more files, clients wait in the backlog."""

    def __init__(
        self,
        bound: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        backlog: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, self._make_protocol, self._tls = bound, make_protocol, tls
        self._connecting: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        bound.setblocking(False)
        bound.listen(backlog)
        self._resume()

    def close(self) -> None:
        """Accepts no more, and drops those whose TLS handshake has not ended. Comes before the socket is closed."""
        self._loop.remove_reader(self._socket)
        if self._pause is not None:
            self._pause.cancel()
        for task in self._connecting:
            task.cancel()

    async def wait_closed(self) -> None:
        """After close()."""
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptors, no memory
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._connect(accepted))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError):  # ssl.SSLError is one: this client is gone, or does not speak TLS
            await self._loop.connect_accepted_socket(self._make_protocol, accepted, ssl=self._tls)
