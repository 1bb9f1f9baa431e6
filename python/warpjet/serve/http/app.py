"""The ASGI application: finds the endpoint, checks the key, reads the body, runs the handler, sends its answer."""

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from warpjet.common.json_size import memory_bytes
from warpjet.serve.http.asgi import Receive, Scope, Send
from warpjet.serve.http.auth import Keys
from warpjet.serve.http.errors import ServeError, forget_memory_errors, from_exception
from warpjet.serve.http.exchange import EventStream, HttpRequest, Response, sse, to_json
from warpjet.serve.http.json_body import parse_json
from warpjet.serve.http.limits import Bodies, RateLimit
from warpjet.serve.http.request_log import begin_record, log_request
from warpjet.serve.http.router import Router
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.http.sites import Sites
from warpjet.serve.http.state import ServerState

_log = logging.getLogger("warpjet.serve")

_LARGE_BODY = 64 << 10  # a body that a thread reads
T = TypeVar("T")
# Headers that mean one thing: a request that gives one twice is refused.
_SINGLE = frozenset(("authorization", "x-api-key", "host", "origin", "content-type", "content-encoding"))
_MAX_SITES = 64  # whose refused preflights are logged
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class App:
    """One port's application. `scope` is user or admin; the other's routes are refused. `sites`: checked where no key
    keeps pages of other sites out."""

    def __init__(
        self,
        state: ServerState,
        endpoints: Iterable[Endpoint],
        keys: Keys,
        scope: str = "user",
        sites: Sites | None = None,
    ) -> None:
        settings = state.settings
        self._state = state
        self._router = Router(endpoints)
        self._keys = keys
        self._scope = scope
        self._sites = sites
        self._refused_sites: set[str] = set()
        self._bodies = Bodies(settings.max_body_bytes, settings.body_timeout, settings.max_bodies_bytes)
        self._rate = RateLimit(settings.rate_limit, settings.rate_limit_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers, repeated = _read_headers(scope["headers"])
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        answer = _Answer(send, request_id, scope["method"] == "HEAD")
        record = begin_record()
        began = time.monotonic()
        endpoint: Endpoint | None = None
        self._count_live(1)
        try:
            if repeated:
                raise ServeError(400, f"the request gives the header {repeated} more than once")
            path = scope["raw_path"].decode("latin-1").removeprefix(scope.get("root_path", "")) or "/"
            if self._sites is not None:
                self._sites.check(path, headers)
            if scope["method"] == "OPTIONS":
                self._log_preflight(headers)
            endpoint, values = self._router.find(scope["method"], path)
            request = HttpRequest(scope["method"], path, headers, path_params=values, request_id=request_id)
            if scope["query_string"]:
                request.query = dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=100))
            await self._serve(endpoint, request, receive, answer)
        except (asyncio.CancelledError, ConnectionError):
            answer.status = answer.status or 499  # the client has gone, or the server goes
            record.trouble = "the connection was closed"
        except Exception as error:
            record.trouble = await self._fail(error, endpoint, answer)
        finally:
            self._count_live(-1)
            seconds = time.monotonic() - began
            route = "" if endpoint is None else endpoint.path
            self._state.metrics.count(route, answer.status, seconds)
            if self._state.settings.enable_log_requests:
                log_request(scope, route, answer.status, seconds, request_id, record)

    async def _serve(self, endpoint: Endpoint, request: HttpRequest, receive: Receive, answer: "_Answer") -> None:
        request.tenant = self._admit(endpoint, request)
        if endpoint.request_schema is None:
            await answer.send(await endpoint.handler(request))
            return
        _check_content(request.headers)
        body = [await self._bodies.read(request.headers, receive)]
        request.body_bytes = held = len(body[0])
        try:  # the body lives in the handler's answer, so it counts until that has ended
            held = self._bodies.weigh(held, await self._read(request, lambda: memory_bytes(body[0])))
            parse, strict = endpoint.request_schema.parse, self._state.settings.strict
            request.body = await self._read(request, lambda: parse(parse_json(body.pop()), strict))
            await answer.send(await endpoint.handler(request))
        finally:
            self._bodies.release(held)

    async def _read(self, request: HttpRequest, function: Callable[[], T]) -> T:
        """What function() makes of a body; on a thread when that is large."""
        if request.body_bytes <= _LARGE_BODY:
            return function()
        return await self._state.workers.run(function, request.tenant)

    def _count_live(self, change: int) -> None:
        if self._scope == "user":
            self._state.live += change

    def _log_preflight(self, headers: Mapping[str, str]) -> None:
        """With --allowed-origins they are answered before they come here."""
        origin = headers.get("origin", "")[:128]
        new = origin and origin not in self._refused_sites and len(self._refused_sites) < _MAX_SITES
        if new and "access-control-request-method" in headers:
            self._refused_sites.add(origin)
            _log.warning("a page at %r asked and was refused; --allowed-origins %s would let it", origin, origin)

    def _admit(self, endpoint: Endpoint, request: HttpRequest) -> str:
        """The tenant. Raises ServeError 401, 403, 429 or 503."""
        tenant = self._keys.tenant(request.headers, endpoint.scope)
        if endpoint.scope == "open":
            return ""
        if endpoint.scope != self._scope:
            raise ServeError(403, f"{endpoint.scope} routes are not served on this port", code="wrong_port")
        if self._scope == "user":
            if self._state.draining:
                raise ServeError(503, "the server is shutting down", code="shutting_down", retry_after=5)
            self._rate.take(tenant)
        return tenant

    async def _fail(self, error: Exception, endpoint: Endpoint | None, answer: "_Answer") -> str:
        """Answers with the error. What the log calls it."""
        served = from_exception(error)
        forget_memory_errors(error)  # before its client is waited for
        body = served.envelope() if endpoint is None else endpoint.error_body(served)
        if served.status == 500:
            _log.error("a request failed: %s", type(error).__name__, exc_info=error)
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await answer.fail(served, body, close=served.status in (408, 413) or self._state.draining)
        return f"error {served.code or served.type}"


def _read_headers(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, str], str]:
    """By lower-case name, and the name of one that may not be repeated but is. Other repeated ones are a list."""
    headers: dict[str, str] = {}
    repeated = ""
    for name_bytes, value_bytes in pairs:
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        if name in headers:
            repeated = name if name in _SINGLE else repeated
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers, repeated


def _check_content(headers: Mapping[str, str]) -> None:
    """Raises ServeError 415."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        text = f"the body has Content-Encoding: {coding[:64]}, which is not read; send it as it is"
        raise ServeError(415, text, code="unsupported_media_type")
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        got = f"is {content_type[:64]!r}" if content_type else "is missing"
        text = f"the header Content-Type {got}; send Content-Type: application/json"
        raise ServeError(415, text, code="unsupported_media_type")


class _Answer:
    """The way back to the client."""

    def __init__(self, send: Send, request_id: str, head_only: bool) -> None:
        self.status = 0
        self._send = send
        self._request_id = request_id.encode()
        self._head_only = head_only

    async def send(self, response: Response | EventStream) -> None:
        if isinstance(response, Response):
            await self._send_whole(response)
        else:
            async with contextlib.aclosing(response.pieces) as pieces:  # type: ignore[type-var]
                await self._send_pieces(response, pieces)

    async def fail(self, error: ServeError, body: dict[str, Any], close: bool) -> None:
        if self.status:  # in the middle of a stream
            await self._send({"type": "http.response.body", "body": sse(body), "more_body": False})
            return
        headers = error.headers | ({"connection": "close"} if close else {})
        await self._send_whole(Response(to_json(body), error.status, headers=headers))

    async def _send_whole(self, response: Response) -> None:
        length = (b"content-length", str(len(response.body)).encode())
        await self._start(response.status, response.content_type, response.headers, length)
        await self._send({"type": "http.response.body", "body": b"" if self._head_only else response.body})

    async def _send_pieces(self, response: EventStream, pieces: AsyncIterator[bytes]) -> None:
        first = await anext(pieces, b"")
        await self._start(200, response.content_type, response.headers, (b"cache-control", b"no-cache"))
        await self._send({"type": "http.response.body", "body": first, "more_body": True})
        async for piece in pieces:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, status: int, content_type: str, extra: dict[str, str], more: tuple[bytes, bytes]) -> None:
        headers = [(b"content-type", content_type.encode()), more, (b"x-request-id", self._request_id)]
        headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in extra.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self.status = status
