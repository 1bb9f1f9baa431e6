"""One HTTP request and its answer, as handlers see them."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from warpjet.common.json_size import exceeds


@dataclass(slots=True, weakref_slot=True)
class HttpRequest:
    """What a handler gets. Header names are lower case; `body` went through the endpoint's schema."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)
    path_params: Mapping[str, str] = field(default_factory=dict)
    body_bytes: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    tenant: str = ""
    request_id: str = ""  # X-Request-Id, or one made for this request


@dataclass(slots=True)
class Response:
    """A whole answer."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class EventStream:
    """An answer in pieces: bytes as they come, each sent at once. Nothing is sent before the first piece, so that an
    error before it still has its own status. Closing the iterator cancels the request."""

    pieces: AsyncIterator[bytes]
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)


_PIECE_BYTES = 1 << 15  # some milliseconds of encoding, for numbers take long
_TOGETHER = 16  # entries of a long list that are encoded at once, if they are small

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

DONE = b"data: [DONE]\n\n"


def to_json(value: object) -> bytes:
    """Compact JSON."""
    return _encode(value).encode()


def json_response(value: object, status: int = 200) -> Response:
    """A whole answer in JSON."""
    return Response(to_json(value), status)


async def json_in_pieces(value: object) -> Response:
    """The same, piece by piece: the event loop has a turn after every _PIECE_BYTES."""
    pieces, size = [], 0
    for piece in _pieces(value):
        pieces.append(piece)
        size += len(piece)
        if size > _PIECE_BYTES:
            await asyncio.sleep(0)
            size = 0
    return Response(b"".join(pieces))


def _pieces(value: Any) -> Iterator[bytes]:
    """Its JSON; what is large is taken apart."""
    if not isinstance(value, (dict, list)) or not exceeds(_PIECE_BYTES, value):
        yield to_json(value)
        return
    is_dict = isinstance(value, dict)
    yield b"{" if is_dict else b"["
    entries: Iterator[Any] = iter(value.items() if isinstance(value, dict) else value)
    first = True
    while some := list(itertools.islice(entries, _TOGETHER)):
        yield b"" if first else b","
        first = False
        if not exceeds(_PIECE_BYTES, some):
            yield to_json(dict(some) if is_dict else some)[1:-1]
            continue
        for index, entry in enumerate(some):
            yield b"," if index else b""
            if is_dict:
                yield to_json(entry[0]) + b":"
            yield from _pieces(entry[1] if is_dict else entry)
    yield b"}" if is_dict else b"]"


def sse(value: object) -> bytes:
    """One Server-Sent Event of a JSON value."""
    return b"data: " + to_json(value) + b"\n\n"
