"""The ASGI application: finds the endpoint, checks who asks, reads the body, runs the handler, sends its answer."""

import asyncio
import contextlib
import importlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import parse_qsl

from warpjet.serve.asgi import Receive, Scope, Send
from warpjet.serve.auth import Keys
from warpjet.serve.conversation import Serving
from warpjet.serve.counters import HttpMetrics
from warpjet.serve.errors import ServeError, from_exception
from warpjet.serve.exchange import EventStream, HttpRequest, Response, sse, to_json
from warpjet.serve.json_body import parse_json
from warpjet.serve.limits import Bodies, RateLimit
from warpjet.serve.schema import Endpoint, Schema

_log = logging.getLogger("warpjet.serve")

# Modules with ROUTES, a list of Endpoints.
_MODULES = (
    *("openai_chat", "openai_completions", "models", "tokenization", "health", "metrics", "documents", "admin"),
    *("responses", "embeddings", "anthropic_messages", "tgi", "live"),
)
_LARGE_BODY = 64 << 10  # a body that a thread parses
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def all_endpoints() -> list[Endpoint]:
    """Every route of the server."""
    return [endpoint for name in _MODULES for endpoint in importlib.import_module(f"warpjet.serve.{name}").ROUTES]


class Router:
    """Endpoints by method and path."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Endpoint]]] = []
        for endpoint in endpoints:
            if "{" not in endpoint.path:
                self._exact.setdefault(endpoint.path, {})[endpoint.method] = endpoint
                continue
            pattern = re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(endpoint.path)))
            for known, methods in self._patterns:
                if known.pattern == pattern.pattern:
                    methods[endpoint.method] = endpoint
                    break
            else:
                self._patterns.append((pattern, {endpoint.method: endpoint}))

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """The endpoint and what its path names. Raises ServeError 404 or 405."""
        methods, values = self._exact.get(path), {}
        if methods is None:
            for pattern, candidates in self._patterns:
                if match := pattern.fullmatch(path):
                    methods, values = candidates, match.groupdict()
                    break
        if methods is None:
            raise ServeError(404, "there is no such route", code="not_found")
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            allowed = ", ".join(methods)
            raise ServeError(405, f"this route takes {allowed}", code="method_not_allowed", headers={"allow": allowed})
        return endpoint, values


class App:
    """One port's application. `scope` is user or admin; the other's routes are refused."""

    def __init__(
        self, serving: Serving, endpoints: Iterable[Endpoint], keys: Keys, metrics: HttpMetrics, scope: str = "user"
    ) -> None:
        settings = serving.settings
        self.serving = serving
        self.live = 0  # requests between their head and the end of their answer
        self._router = Router(endpoints)
        self._keys = keys
        self._metrics = metrics
        self._scope = scope
        self._bodies = Bodies(settings.max_body_bytes, settings.body_timeout, settings.max_bodies_bytes)
        self._rate = RateLimit(settings.rate_limit, settings.rate_limit_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        answer = _Answer(send, request_id, scope["method"] == "HEAD")
        began = time.monotonic()
        endpoint: Endpoint | None = None
        self.live += 1
        try:
            path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
            endpoint, values = self._router.find(scope["method"], path)
            request = HttpRequest(scope["method"], path, headers, path_params=values, request_id=request_id)
            if scope["query_string"]:
                request.query = dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=100))
            await self._serve(endpoint, request, receive, answer)
        except (asyncio.CancelledError, ConnectionError):
            answer.status = answer.status or 499  # the client has gone, or the server goes
        except Exception as error:
            await self._fail(error, endpoint, answer)
        finally:
            self.live -= 1
            seconds = time.monotonic() - began
            route = "" if endpoint is None else endpoint.path
            self._metrics.count(route, answer.status, seconds)
            if self.serving.settings.enable_log_requests:
                _log.info("%s %s %d %.3f s %s", scope["method"], route or "-", answer.status, seconds, request_id)

    async def _serve(self, endpoint: Endpoint, request: HttpRequest, receive: Receive, answer: "_Answer") -> None:
        request.tenant = self._admit(endpoint, request)
        if endpoint.request_schema is None:
            await answer.send(await endpoint.handler(self.serving, request))
            return
        content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise ServeError(415, "the content type must be application/json", code="unsupported_media_type")
        raw = await self._bodies.read(request.headers, receive)
        try:
            request.body = await self._parse(endpoint.request_schema, raw, request.tenant)
            request.raw = raw
            response = await endpoint.handler(self.serving, request)
        finally:
            self._bodies.release(raw)
        await answer.send(response)

    async def _parse(self, schema: Schema, raw: bytes, tenant: str) -> dict[str, Any]:
        def parse() -> dict[str, Any]:
            return schema.parse(parse_json(raw), self.serving.settings.strict)

        return parse() if len(raw) <= _LARGE_BODY else await self.serving.workers.run(parse, tenant)

    def _admit(self, endpoint: Endpoint, request: HttpRequest) -> str:
        """The tenant. Raises ServeError 401, 403, 429 or 503."""
        tenant = self._keys.tenant(request.headers, endpoint.scope)
        if endpoint.scope == "open":
            return ""
        if endpoint.scope != self._scope:
            raise ServeError(403, f"{endpoint.scope} routes are not served on this port", code="wrong_port")
        if self._scope == "user":
            if self.serving.draining:
                raise ServeError(503, "the server is shutting down", code="shutting_down", retry_after=5)
            self._rate.take(tenant)
        return tenant

    async def _fail(self, error: Exception, endpoint: Endpoint | None, answer: "_Answer") -> None:
        served = from_exception(error)
        body = served.envelope() if endpoint is None else endpoint.error_body(served)
        if served.status == 500:
            _log.error("a request failed: %s", type(error).__name__, exc_info=error)
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await answer.fail(served, body, close=served.status in (408, 413) or self.serving.draining)


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
