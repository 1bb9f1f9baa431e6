"""One port: listens, keeps its connections, and closes them."""

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Sequence

from warpjet.serve.http.asgi import Application
from warpjet.serve.http.connection import Connection, Limits
from warpjet.serve.http.listener import Listener

_BACKLOG = 2048
_OTHER_FILES = 96  # what the process opens beside connections, and connections that are being refused
_CLOSING_SECONDS = 1.0  # in which clients take what is written already


class HttpServer:
    """Serves an ASGI application on bound sockets, which it does not close. Made in the running event loop."""

    def __init__(
        self,
        app: Application,
        sockets: Sequence[socket.socket],
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        root_path: str = "",
    ) -> None:
        self.connections: set[Connection] = set()
        self._listeners = [
            Listener(
                one,
                lambda: Connection(app, limits, self.connections, root_path),
                tls,
                _BACKLOG,
                room=lambda: limits.max_connections - len(self.connections),
                handshake_seconds=limits.header_timeout,
            )
            for one in sockets
        ]

    async def close(self, at_once: bool = False) -> None:
        """Accepts no more, lets live requests end for a moment (at_once: not even that), and closes what is left."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.shutdown()
        deadline = asyncio.get_running_loop().time() + (0 if at_once else _CLOSING_SECONDS)
        while self.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        for listener in self._listeners:
            await listener.wait_closed()
        await asyncio.sleep(0)  # the transports say that they are gone


def allowed_connections(wanted: int) -> int:
    """As many as are wanted and the process may have files open: what is accepted can be answered, if only with 503."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return wanted
    return max(min(wanted, allowed - _OTHER_FILES), 1)
