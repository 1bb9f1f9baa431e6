"""HTTP with nothing in between: what a client sends is what the test says, wrong as it may be."""

import asyncio
import json
import socket
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "python"))

from waiting import PATIENCE_S

Address = tuple[str, int]


@dataclass
class Answer:
    """status 0: the connection ended without an answer. whole: the body came to its end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    def json(self) -> Any:
        return json.loads(self.body)


def request_bytes(path: str, body: object, **headers: str) -> bytes:
    """A POST after which the server closes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | headers).items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data


async def connect(
    address: Address, receive_bytes: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """receive_bytes: of the kernel's buffer; a small one lets the server feel a client that does not read."""
    one = socket.socket()
    one.setblocking(False)
    if receive_bytes is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(one, address)
    return await asyncio.open_connection(sock=one, limit=receive_bytes or 1 << 16)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection as a crash does: the server gets an error, not an end."""
    one: socket.socket = writer.get_extra_info("socket")
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def ask(address: Address, path: str, body: object) -> Answer:
    """Sends a request and reads all of its answer. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await connect(address)
        try:
            writer.write(request_bytes(path, body))
            return await read_answer(reader)
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader, begun: bytes = b"") -> Answer:
    """Reads to the end of the connection. begun: what was read before."""
    pieces = [begun]
    try:
        while piece := await reader.read(1 << 16):
            pieces.append(piece)
    except ConnectionError:
        pass
    return parse_answer(b"".join(pieces))


def parse_answer(data: bytes) -> Answer:
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/1.1 "):
        return Answer()
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    answer = Answer(int(first.split()[1]), headers)
    if headers.get("transfer-encoding") == "chunked":
        answer.body, answer.whole = _dechunk(rest)
    else:
        answer.body, answer.whole = rest, len(rest) == int(headers.get("content-length", len(rest)))
    return answer


def _dechunk(data: bytes) -> tuple[bytes, bool]:
    body = b""
    while data:
        size_text, _, rest = data.partition(b"\r\n")
        size = int(size_text or b"0", 16)
        if size == 0:
            return body, bool(size_text)
        body += rest[:size]
        data = rest[size + 2 :]
    return body, False


def events_of(body: bytes) -> list[Any]:
    """What a stream of server-sent events said; "[DONE]" is None. Comments are left out."""
    lines = (line for line in body.decode().split("\n") if line.startswith("data: "))
    return [None if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def stream_problems(answer: Answer, samples: int, tokens: int | None) -> list[str]:
    """What is wrong with a stream of completions that the client read to its end: each sample has one finish_reason,
    nothing after it, as many tokens as asked for, and the end is said once."""
    if not answer.whole:
        return ["the stream has no end"]
    events = events_of(answer.body)
    problems = []
    if events.count(None) != 1 or events[-1] is not None:
        problems.append(f"[DONE] came {events.count(None)} times")
    ends: dict[int, list[str]] = {}
    usage = None
    for event in filter(None, events):
        if "error" in event:
            return [*problems, f"an error in the stream: {event['error']}"]
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            if choice["index"] in ends:
                problems.append(f"sample {choice['index']} goes on after its end")
            if choice.get("finish_reason"):
                ends.setdefault(choice["index"], []).append(choice["finish_reason"])
    if sorted(ends) != list(range(samples)) or any(len(reasons) != 1 for reasons in ends.values()):
        problems.append(f"ends of {samples} samples: {ends}")
    if tokens is not None and (usage is None or usage["completion_tokens"] != tokens * samples):
        problems.append(f"usage is {usage} for {samples} x {tokens} tokens")
    return problems
