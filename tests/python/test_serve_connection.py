"""A connection in every state of HTTP: what it keeps is bounded, and without progress it ends. No sockets, and a clock
that the tests turn."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("httptools")

from warpjet.serve.http.asgi import Receive, Scope, Send
from warpjet.serve.http.connection import MAX_HEAD_BYTES, MAX_REFUSED, Connection, Limits
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.limits import Bodies

LIMITS = Limits(header_timeout=3, body_timeout=4, keep_alive_timeout=5, send_timeout=6)
LONGEST = 6.0
HIGH_WATER = 64 << 10


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    async def pass_by(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.5)):
            self.now += 0.5
            await self.settle()


class Transport(asyncio.Transport):
    """A client's end: what it got, whether it reads, and whether it is gone without having said so."""

    def __init__(self, reads: bool = True) -> None:
        super().__init__()
        self.got, self.ended, self.reads, self.gone, self.paused = b"", False, reads, False, False
        self.protocol: Connection
        self._closing = self._pressed = False
        self._unsent = 0
        self._kernel: list[bytes] = []  # what the server has not read; b"" is the end

    def write(self, data: Any) -> None:
        if self.gone:
            self.abort()
        self.got += data
        self._unsent += 0 if self.reads else len(data)
        if self._unsent > HIGH_WATER and not self._pressed:
            self._pressed = True
            self.protocol.pause_writing()

    def close(self) -> None:
        self._closing = True
        if not self._unsent:
            self._end()

    def abort(self) -> None:
        self._closing = True
        self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self._deliver)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 5)}.get(name, default)

    def send(self, data: bytes) -> None:
        """From the client; b"" ends its half."""
        self._kernel.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self._kernel and not self.paused and not self._closing:
            data = self._kernel.pop(0)
            if data:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self.close()


async def reads_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body, or with the status that a body's limits give."""
    bodies, status, body = Bodies(1 << 20, LIMITS.body_timeout, 1 << 20), 200, b""
    try:
        body = await bodies.read(dict((k.decode(), v.decode()) for k, v in scope["headers"]), receive)
    except ServeError as error:
        status = error.status
    except ConnectionError:
        return
    await answer(send, b"%s %d" % (scope["path"].encode(), len(body)), status)


async def ignores_body(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"no")


async def streams(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(5):
        await send({"type": "http.response.body", "body": b"x" * 30000, "more_body": True})
    await send({"type": "http.response.body"})


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def run() -> Iterator[Callable[[Awaitable[None]], None]]:
    loop = Clock()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    complaints: list[Any] = []
    yield lambda what: loop.run_until_complete(what)  # type: ignore[arg-type]
    loop.close()
    assert not complaints


def clock() -> Clock:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    return loop


def connect(app: Any, reads: bool = True, connections: set[Connection] | None = None, **limits: Any) -> Transport:
    transport = Transport(reads)
    every = Limits(**{**LIMITS.__dict__, **limits})
    transport.protocol = Connection(app, every, set() if connections is None else connections)
    transport.protocol.connection_made(transport)
    return transport


GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED_HEAD = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = CHUNKED_HEAD + b"3;e=f\r\nhel\r\n2\r\nlo\r\n0\r\nT: u\r\nV: w\r\n\r\n"
H2C = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
CONVERSATIONS = {
    "one after the other": GET + POST + GET[:9],
    "chunked with trailers": CHUNKED + CHUNKED[:40],
    "pipelined": GET + GET + POST + CHUNKED,
    "the last one": GET.replace(b"Host: x", b"Connection: close") + GET,
    "100-continue": POST.replace(b"Host: x", b"Expect: 100-continue"),
    "another protocol offered": POST.replace(b"Host: x\r\n", H2C) + CHUNKED.replace(b"Host: x\r\n", H2C) + GET,
    "HTTP/1.0": POST.replace(b"1.1", b"1.0"),
    "line breaks": b"\r\n\r\n\r\n" + GET + b"\r\n\r\n",
    "not HTTP": GET + b"\x16\x03\x01hello\r\n\r\n",
}


@pytest.mark.parametrize("app", [reads_body, ignores_body, streams])
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does-not-read"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_without_progress_a_connection_ends_in_every_state(run: Any, app: Any, reads: bool, name: str) -> None:
    """The client stops after any byte, says nothing more, and its end stays open or half-open."""

    async def stop_after(cut: int, eof: bool, pieces: bool) -> None:
        transport = connect(app, reads)
        sent = CONVERSATIONS[name][:cut]
        for piece in [sent[:-1], sent[-1:]] if pieces else [sent]:
            if piece:
                transport.send(piece)
            await clock().settle()
        if eof:
            transport.send(b"")
        await clock().pass_by(2 * LONGEST + 1)
        assert transport.ended, (sent, eof, transport.got[:300])

    async def stop_everywhere() -> None:
        length = len(CONVERSATIONS[name])
        for number, cut in enumerate(range(0, length + 1, 3)):
            await stop_after(cut, eof=number % 3 == 0, pieces=number % 2 == 0)
        for eof in (True, False):
            await stop_after(length, eof, pieces=True)

    run(stop_everywhere())


@pytest.mark.parametrize("app", [reads_body, ignores_body])
@pytest.mark.parametrize(
    ("first", "line"),
    [
        (b"GET /a HTTP/1.1\r\n", b"X-A: aaaaaaaaaa\r\n"),
        (b"GET /a HTTP/1.1\r\nX: ", b"aaaaaaaaaaaaaaaa"),
        (b"GET /", b"aaaaaaaaaaaaaaaa"),
        (b"\r\n", b"\r\n\r\n\r\n\r\n\r\n\r\n"),
        (GET + b"GET /a HTTP/1.1\r\n", b"X-A: aaaaaaaaaa\r\n"),
        (CHUNKED_HEAD + b"0\r\n", b"X-A: aaaaaaaaaa\r\n"),
        (CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n", b"X-A: aaaaaaaaaa\r\n"),
        (CHUNKED_HEAD + b"0\r\nX: ", b"aaaaaaaaaaaaaaaa"),
        (CHUNKED_HEAD + b"0\r\n", b"aaaaaaaaaaaaaaaa"),
        (CHUNKED_HEAD + b"5;", b"aaaaaaaaaaaaaaaa"),
        (CHUNKED_HEAD + b"5", b"0000000000000000"),
    ],
)
def test_what_is_no_body_is_bounded_and_timed(run: Any, app: Any, first: bytes, line: bytes) -> None:
    """Heads, trailers, extensions of chunks: in one piece after the other, and slowly."""

    async def fast() -> None:
        transport = connect(app)
        transport.send(first)
        await clock().settle()
        tracemalloc.start()
        for _ in range(400):
            transport.send(line * 1000)
            await clock().settle()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 8 * MAX_HEAD_BYTES
        await clock().pass_by(2 * LONGEST)
        assert transport.ended

    async def slow() -> None:
        transport = connect(app)
        transport.send(first)
        for _ in range(20):
            await clock().pass_by(1)
            transport.send(line)
        await clock().pass_by(LONGEST)
        assert transport.ended

    run(fast())
    run(slow())


def test_trailers_never_become_headers(run: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await reads_body(scope, receive, send)
        seen.append(scope["headers"])

    async def main() -> None:
        head, _, rest = CHUNKED.partition(b"0\r\nT: u")
        data = head + b"0\r\nT: u\r\nAuthorization: Bearer k\r\nHost: y" + rest
        transport = connect(app)
        transport.send(data + GET)
        await clock().settle()
        assert transport.got.count(b"HTTP/1.1 200 ") == 2 and b"/c 5" in transport.got

    run(main())
    assert seen == [[(b"host", b"x"), (b"transfer-encoding", b"chunked")], [(b"host", b"x")]]


@pytest.mark.parametrize(("size", "status"), [(MAX_HEAD_BYTES - 100, b"200"), (70 << 10, b"431"), (200 << 10, b"431")])
@pytest.mark.parametrize("piece", [1 << 20, 5000])
def test_a_head_is_as_long_as_it_may_be_however_it_comes(run: Any, size: int, status: bytes, piece: int) -> None:
    async def main() -> None:
        for data in (
            b"GET /a HTTP/1.1\r\nHost: x\r\nX: " + b"a" * size + b"\r\n\r\n",
            b"GET /" + b"a" * size + b" HTTP/1.1\r\n\r\n",
        ):
            transport = connect(reads_body)
            for at in range(0, len(data), piece):
                transport.send(data[at : at + piece])
            await clock().settle()
            assert transport.got[9:12] == status, data[:30]

    run(main())


def test_a_body_that_nobody_reads_is_not_kept_and_ends_the_connection(run: Any) -> None:
    async def main() -> None:
        transport = connect(ignores_body)
        transport.send(POST.replace(b"5", b"99999999"))
        await clock().settle()
        assert b"connection: close" in transport.got
        tracemalloc.start()
        for _ in range(200):
            transport.send(b"a" * 50_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
        await clock().pass_by(LIMITS.body_timeout + 1)
        assert transport.ended

    run(main())


def test_a_request_that_offers_another_protocol_keeps_its_body(run: Any) -> None:
    """Java's HTTP client offers h2c with every first request."""

    async def main() -> None:
        for size in (1, 7, 1 << 20):
            transport = connect(reads_body)
            data = CONVERSATIONS["another protocol offered"]
            for at in range(0, len(data), size):
                transport.send(data[at : at + size])
                await clock().settle()
            await clock().settle()
            assert [line for line in (b"/b 5", b"/c 5", b"/a 0") if line in transport.got] == [
                b"/b 5",
                b"/c 5",
                b"/a 0",
            ]

    run(main())


def test_a_client_that_has_ended_its_half_gets_its_answers(run: Any) -> None:
    async def main() -> None:
        transport = connect(reads_body)
        transport.send(GET + POST + GET[:5])
        transport.send(b"")
        await clock().settle()
        assert transport.got.count(b" 200 ") == 2 and transport.ended

    run(main())


def test_a_client_that_is_gone_ends_its_request(run: Any) -> None:
    ended: list[str] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(scope["path"])
            raise

    async def main() -> None:
        here, gone = connect(waits), connect(waits)
        for transport in (here, gone):
            transport.send(GET)
            await clock().settle()
            transport.send(b"")
            transport.gone = transport is gone
        await clock().pass_by(2)
        assert gone.ended and ended == ["/a"]
        await clock().pass_by(100)
        assert not here.ended and here.got.startswith(b"HTTP/1.1 100 ")
        here.abort()
        await clock().settle()

    run(main())


def test_over_tls_a_client_that_ends_its_half_is_gone(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"peername": ("192.0.2.1", 5), "ssl_object": object()}
    monkeypatch.setattr(Transport, "get_extra_info", lambda self, name, default=None: facts.get(name, default))
    ended: list[str] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(scope["path"])

    async def main() -> None:
        transport = connect(waits)
        transport.send(GET)
        await clock().settle()
        transport.send(b"")
        await clock().settle()
        assert transport.ended and ended == ["/a"] and not transport.got

    run(main())


def test_an_old_client_gets_a_stream_that_ends_with_the_connection(run: Any) -> None:
    async def main() -> None:
        transport = connect(streams)
        transport.send(GET.replace(b"1.1", b"1.0"))
        await clock().settle()
        assert transport.ended and transport.got.endswith(b"\r\n\r\n" + b"x" * 150_000)
        assert b"chunked" not in transport.got

    run(main())


def test_connections_above_the_limit_are_told_so_and_end(run: Any) -> None:
    async def main() -> None:
        connections: set[Connection] = set()
        some = [connect(reads_body, True, connections, max_connections=4) for _ in range(5 + MAX_REFUSED)]
        assert [one.got[9:12] for one in some] == [b""] * 4 + [b"503"] * (1 + MAX_REFUSED)
        assert some[-1].ended and not some[-2].ended
        await clock().pass_by(2)
        assert [one.ended for one in some] == [False] * 4 + [True] * (1 + MAX_REFUSED)
        some[0].send(GET)
        await clock().settle()
        assert some[0].got[9:12] == b"200"
        await clock().pass_by(2 * LONGEST)
        assert not connections

    run(main())


def test_a_shutdown_answers_what_was_asked(run: Any) -> None:
    async def main() -> None:
        idle, asking, sending = (connect(reads_body) for _ in range(3))
        asking.send(GET)
        sending.send(POST[:-1])
        for one in (idle, asking, sending):
            one.protocol.shutdown()
        await clock().settle()
        assert idle.ended and asking.ended and b" 200 " in asking.got and b"connection: close" in asking.got
        sending.send(POST[-1:])
        await clock().settle()
        assert sending.ended and b"/b 5" in sending.got

    run(main())


def test_an_application_that_fails_ends_the_connection(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        raise KeyError("x")

    async def main() -> None:
        transport = connect(fails)
        transport.send(GET + GET)
        await clock().settle()
        assert transport.ended

    run(main())
    assert "KeyError" in caplog.text


def test_a_header_with_a_line_break_is_not_sent(run: Any) -> None:
    async def splits(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(RuntimeError):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nset-cookie: b")]})

    async def main() -> None:
        transport = connect(splits)
        transport.send(GET)
        await clock().settle()
        assert transport.ended and not transport.got

    run(main())
