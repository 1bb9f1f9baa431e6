"""Accepts connections, many at once: one at each turn of a busy event loop would keep a crowd waiting."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

_AT_ONCE = 16  # connections accepted before others have their turn
_PAUSE_SECONDS = 0.02  # until what the system lacks is asked for again
_FEWEST_HANDSHAKES = 16  # so many may be under way when there is no room: a client is told so behind its handshake
_TLS_CLOSE_SECONDS = 5.0  # for a client's part in the end of TLS


class Listener:
    """Listens on a bound socket, which it does not close. Made in the running event loop.

    room: how many connections more there may be. Handshakes of TLS count as connections: beyond the room, the oldest
    one is dropped for the next, and none takes longer than handshake_seconds. While the process may open no more files,
    clients wait in the backlog."""

    def __init__(
        self,
        bound: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        backlog: int,
        room: Callable[[], int] = lambda: 1 << 30,
        handshake_seconds: float = 60.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, self._make_protocol, self._tls = bound, make_protocol, tls
        self._room, self._handshake_seconds = room, handshake_seconds
        self._connecting: dict[asyncio.Task[None], None] = {}  # the oldest first
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
            self._make_room()
            task = self._loop.create_task(self._connect(accepted))
            self._connecting[task] = None
            task.add_done_callback(lambda done: self._connecting.pop(done, None))

    def _make_room(self) -> None:
        """Without TLS there is nothing to wait for: the protocol itself refuses what is too much."""
        if self._tls is not None and len(self._connecting) >= max(self._room(), _FEWEST_HANDSHAKES):
            oldest = next(iter(self._connecting))
            del self._connecting[oldest]
            oldest.cancel()

    async def _connect(self, accepted: socket.socket) -> None:
        limits = {"ssl_handshake_timeout": self._handshake_seconds, "ssl_shutdown_timeout": _TLS_CLOSE_SECONDS}
        with contextlib.suppress(OSError):  # ssl.SSLError is one: this client is gone, or does not speak TLS
            await self._loop.connect_accepted_socket(
                self._make_protocol, accepted, ssl=self._tls, **(limits if self._tls else {})
            )


def tls_context(certificate: str, key: str | None, authorities: str | None = None) -> ssl.SSLContext:
    """For clients' connections; with `authorities`, clients must bring a certificate of theirs. Raises OSError or
    ValueError for files that cannot be used."""
    for name, path in (("ssl_certfile", certificate), ("ssl_keyfile", key), ("ssl_ca_certs", authorities)):
        if path is not None and not Path(path).is_file():
            raise OSError(f"{name} {path} does not exist")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key)
        if authorities is not None:
            context.load_verify_locations(authorities)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise ValueError(f"ssl_certfile, ssl_keyfile or ssl_ca_certs cannot be used: {error.reason or error}") from None
    return context
