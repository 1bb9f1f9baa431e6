"""A server that speaks enough of the OpenAI API, with known delays: what a load tool must measure."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Behaviour:
    """A word of a prompt is `tokens_per_word` tokens, and `overhead` are added. Each piece has `tokens_per_piece`."""

    ttft_s: float = 0.0
    itl_s: float = 0.0
    tokens_per_piece: int = 1
    tokens_per_word: int = 2
    overhead: int = 5
    usage: bool = True
    glue: int = 1  # pieces in one write
    fail_every: int = 0  # each n-th request is refused
    break_after: int = 0  # pieces after which the connection is cut
    crowd: int = 0  # so many answers of several tokens begin together
    key: str = ""
    seen: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    now: int = 0
    most: int = 0
    waiting: list[asyncio.Event] = field(default_factory=list)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Its base URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(lambda r, w: _serve(behaviour, r, w), "127.0.0.1", 0)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


async def _serve(behaviour: Behaviour, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode().split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            await _answer(behaviour, lines[0].split()[1], headers, body, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _answer(
    behaviour: Behaviour, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
) -> None:
    if behaviour.key and headers.get("authorization") != f"Bearer {behaviour.key}":
        return _json(writer, "401 Unauthorized", {"error": {"message": "no such key"}})
    if path == "/v1/models":
        return _json(writer, "200 OK", {"data": [{"id": "fake"}]})
    request = json.loads(body)
    behaviour.seen.append((asyncio.get_running_loop().time(), request))
    if behaviour.fail_every and len(behaviour.seen) % behaviour.fail_every == 0:
        return _json(writer, "503 Service Unavailable", {"error": {"message": "the queue is full"}})
    behaviour.now += 1
    behaviour.most = max(behaviour.most, behaviour.now)
    try:
        await _stream(behaviour, path.endswith("chat/completions"), request, writer)
    finally:
        behaviour.now -= 1


async def _stream(behaviour: Behaviour, chat: bool, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    prompt = request["messages"][-1]["content"] if chat else request["prompt"]
    tokens = request["max_tokens"]
    pieces = -(-tokens // behaviour.tokens_per_piece)
    events: list[bytes] = []
    if chat:
        _chunk(writer, [_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})])
    await asyncio.sleep(behaviour.ttft_s)
    if behaviour.crowd and tokens > 1:
        await _together(behaviour)
    for piece in range(pieces):
        if behaviour.break_after and piece == behaviour.break_after:
            writer.close()
            raise ConnectionError
        choice = {"index": 0, "delta": {"content": "a "}} if chat else {"index": 0, "text": "a "}
        events.append(_event({"choices": [{**choice, "finish_reason": None}]}))
        if (piece + 1) % behaviour.glue == 0 or piece + 1 == pieces:
            _chunk(writer, events)
            events.clear()
            if piece + 1 < pieces:
                await asyncio.sleep(behaviour.itl_s)
    end: dict[str, Any] = {"index": 0, "finish_reason": "length"} | ({"delta": {}} if chat else {"text": ""})
    _chunk(writer, [_event({"choices": [end]})])
    if behaviour.usage:
        count = len(prompt.split()) * behaviour.tokens_per_word + behaviour.overhead
        _chunk(writer, [_event({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": tokens}})])
    _chunk(writer, [b"data: [DONE]\n\n"])
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _together(behaviour: Behaviour) -> None:
    behaviour.waiting.append(mine := asyncio.Event())
    if len(behaviour.waiting) == behaviour.crowd:
        for event in behaviour.waiting:
            event.set()
        behaviour.waiting.clear()
    await mine.wait()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _chunk(writer: asyncio.StreamWriter, events: list[bytes]) -> None:
    data = b"".join(events)
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _json(writer: asyncio.StreamWriter, status: str, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
