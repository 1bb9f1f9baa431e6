"""One HTTP request and its answer, as handlers see them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any


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


_PIECE_BYTES = 1 << 16  # about a millisecond of encoding

DONE = b"data: [DONE]\n\n"


def to_json(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def json_response(value: object, status: int = 200) -> Response:
    """A whole answer in JSON."""
    return Response(to_json(value), status)


async def json_in_pieces(value: Mapping[str, Any]) -> Response:
    """The same of an object with long lists, entry by entry: the event loop has a turn after every _PIECE_BYTES."""
    members = []
    for key, member in value.items():
        encoded = b"[%s]" % b",".join(await _encoded(member)) if isinstance(member, list) else to_json(member)
        members.append(b"%s:%s" % (to_json(key), encoded))
    return Response(b"{%s}" % b",".join(members))


async def _encoded(entries: list[Any]) -> list[bytes]:
    pieces, size = [], 0
    for entry in entries:
        pieces.append(to_json(entry))
        size += len(pieces[-1])
        if size > _PIECE_BYTES:
            await asyncio.sleep(0)
            size = 0
    return pieces


def sse(value: object) -> bytes:
    """One Server-Sent Event of a JSON value."""
    return b"data: " + to_json(value) + b"\n\n"
