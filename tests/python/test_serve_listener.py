"""How connections are accepted, on both event loops."""

import asyncio
import contextlib
import errno
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from waiting import PATIENCE_S, becomes, settle

from warpjet.serve.http.listener import Listener, tls_context

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [uvloop.new_event_loop, asyncio.new_event_loop]


@pytest.fixture(params=LOOPS, ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Runs to the end, and nothing may be left over that the loop complains of."""

    def run_on(what: Any) -> None:
        complaints: list[Any] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
            runner.run(what)
        assert not complaints

    return run_on


class Accepted(asyncio.Protocol):
    def __init__(self, transports: list[Any]) -> None:
        self._transports = transports

    def connection_made(self, transport: Any) -> None:
        self._transports.append(transport)


@contextlib.contextmanager
def bound() -> Iterator[socket.socket]:
    with socket.socket(proto=socket.IPPROTO_TCP) as one:
        one.bind(("127.0.0.1", 0))
        yield one


def connect(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


def ended(client: socket.socket) -> bool:
    """Whether the other side has closed this connection."""
    with contextlib.suppress(BlockingIOError):
        try:
            while client.recv(4096, socket.MSG_DONTWAIT):
                pass
        except ConnectionResetError:
            pass
        return True
    return False


def test_a_crowd_is_accepted_in_a_few_turns_of_the_loop(run: Callable[[Any], None]) -> None:
    async def crowd() -> None:
        made: list[Any] = []
        turns = 0
        with bound() as one:
            listener = Listener(one, lambda: Accepted(made), None, 256)
            clients = connect(one.getsockname()[1], 100)
            while len(made) < 100 and turns < 100:
                turns += 1
                await asyncio.sleep(0)
            assert turns < 20
            assert all(t.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for t in made)
            listener.close()
            await listener.wait_closed()
            for client, transport in zip(clients, made, strict=True):
                client.close()
                transport.close()

    run(crowd())


class Exhausted:
    """A socket on which accept() fails for a while."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.failures, self.tries = 3, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def accept(self) -> Any:
        self.tries += 1
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._real.accept()


def test_R9_without_file_descriptors_it_waits_and_goes_on(
    run: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exhausted() -> None:
        made: list[Any] = []
        with bound() as one:
            poor: Any = Exhausted(one)
            listener = Listener(poor, lambda: Accepted(made), None, 8)
            (client,) = connect(one.getsockname()[1], 1)
            began = time.monotonic()
            await becomes(lambda: bool(made))
            assert time.monotonic() - began > 0.05 and poor.tries < 10  # it does not spin
            monkeypatch.setattr("warpjet.serve.http.listener._PAUSE_SECONDS", 10_000)
            poor.failures = 1
            client.close()
            (client,) = connect(one.getsockname()[1], 1)
            await becomes(lambda: not poor.failures)
            listener.close()  # while it waits
            assert listener._pause is not None and listener._pause.cancelled()
            await settle()
            assert len(made) == 1
            client.close()
            for transport in made:
                transport.close()

    run(exhausted())


def test_R7_a_closed_listener_accepts_no_more(run: Callable[[Any], None]) -> None:
    async def closed() -> None:
        made: list[Any] = []
        with bound() as one:
            listener = Listener(
                one, lambda: Accepted(made), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), 8, handshake_seconds=10_000
            )
            clients = connect(one.getsockname()[1], 2)
            clients[0].sendall(b"GET / HTTP/1.1\r\n\r\n")  # not TLS; the other never says anything
            await becomes(lambda: len(listener._connecting) == 1 and ended(clients[0]))
            listener.close()
            async with asyncio.timeout(PATIENCE_S):
                await listener.wait_closed()
            clients += connect(one.getsockname()[1], 1)
            await settle()
            assert not made
            for client in clients[:2]:
                client.settimeout(PATIENCE_S)
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(4096):
                        pass
            for client in clients:
                client.close()

    run(closed())


def server_tls(folder: Path) -> ssl.SSLContext:
    files = str(folder / "key.pem"), str(folder / "cert.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", files[0], "-out", files[1]]
    subprocess.run([*made, "-subj", "/CN=localhost"], check=True, capture_output=True)
    return tls_context(files[1], files[0])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_handshakes_count_as_connections_and_silent_ones_make_way(run: Callable[[Any], None], tmp_path: Path) -> None:
    async def crowd() -> None:
        made: list[Any] = []
        trusting = ssl._create_unverified_context()
        with bound() as one:
            port = one.getsockname()[1]
            listener = Listener(one, lambda: Accepted(made), server_tls(tmp_path), 256, room=lambda: 20)
            silent = connect(port, 60)
            await becomes(lambda: len(listener._connecting) == 20)
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
            await becomes(lambda: len(made) == 1)
            assert len(listener._connecting) <= 20
            for client in silent[:30]:  # the oldest were dropped
                client.settimeout(PATIENCE_S)
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.to_thread(client.recv, 1) == b""
            listener.close()
            await listener.wait_closed()
            writer.close()
            for client in silent:
                client.close()
            made[0].abort()
            await settle()

    run(crowd())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_handshake_has_a_time(run: Callable[[Any], None], tmp_path: Path) -> None:
    async def silent() -> None:
        with bound() as one:
            listener = Listener(one, lambda: Accepted([]), server_tls(tmp_path), 8, handshake_seconds=0.05)
            (client,) = connect(one.getsockname()[1], 1)
            client.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(client.recv, 1) == b""
            await becomes(lambda: not listener._connecting)
            listener.close()
            client.close()

    run(silent())
