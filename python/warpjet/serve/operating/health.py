"""Health: whether the engine makes progress, whether the server takes requests, and its version."""

from functools import partial

from warpjet._native import __version__
from warpjet.serve.http.exchange import HttpRequest, Response, json_response
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.serving import Serving


async def _health(serving: Serving, request: HttpRequest) -> Response:
    """503 when there is work and no progress, or when the engine has failed."""
    state = serving.llm.session.engine.health()
    return json_response({"status": state}, 200 if state == "serving" else 503)


async def _ready(serving: Serving, request: HttpRequest) -> Response:
    """503 also while the server drains: no new requests then."""
    state = "draining" if serving.server.draining else serving.llm.session.engine.health()
    return json_response({"status": state}, 200 if state == "serving" else 503)


async def _version(request: HttpRequest) -> Response:
    return json_response({"version": __version__})


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "GET",
            "/health",
            partial(_health, serving),
            summary="whether the engine makes progress",
            scope="open",
            elsewhere=("/ping", "/healthz", "/livez"),
        ),
        Endpoint(
            "GET",
            "/ready",
            partial(_ready, serving),
            summary="whether the server takes requests",
            scope="open",
            elsewhere=("/readyz",),
        ),
        Endpoint("GET", "/version", _version, summary="the version of warpjet"),
    ]
