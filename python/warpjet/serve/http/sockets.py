"""The sockets that a server listens on."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

from warpjet.serve.settings import Settings

# What the kernel holds for a client that does not read; more would let its request run far ahead of it.
_SEND_BUFFER_BYTES = 256 << 10


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[tuple[list[socket.socket], list[socket.socket]]]:
    """The sockets, bound before the model is loaded so that a taken port costs no time. They listen when served."""
    bound: list[socket.socket] = []
    unix: list[str] = []
    try:
        if settings.uds is not None:
            bound.append(_unix_socket(settings.uds))
            unix.append(settings.uds)
        else:
            bound.append(_tcp_socket(settings.host, settings.port))
        users = len(bound)
        if settings.admin_uds is not None:
            bound.append(_unix_socket(settings.admin_uds))
            unix.append(settings.admin_uds)
        elif settings.admin_port is not None:
            bound.append(_tcp_socket("127.0.0.1", settings.admin_port))
        yield bound[:users], bound[users:]
    finally:
        for one in bound:
            one.close()
        for path in unix:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"host {host!r} is no address: {error.strerror}") from None
    one = socket.socket(family, kind, protocol)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    try:
        one.bind(address)
    except OSError as error:
        one.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    return one


def _unix_socket(path: str) -> socket.socket:
    """A socket file that nobody listens on any more is replaced."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise OSError("another process listens on it")
            os.unlink(path)
        one.bind(path)
        os.chmod(path, 0o600)
    except OSError as error:
        one.close()
        raise OSError(f"cannot listen on the Unix socket {path}: {error.strerror or error}") from None
    return one
