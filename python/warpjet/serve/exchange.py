"""One HTTP request and its answer, as handlers see them."""

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


DONE = b"data: [DONE]\n\n"


def to_json(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def json_response(value: object, status: int = 200) -> Response:
    """A whole answer in JSON."""
    return Response(to_json(value), status)


def sse(value: object) -> bytes:
    """One Server-Sent Event of a JSON value."""
    return b"data: " + to_json(value) + b"\n\n"
