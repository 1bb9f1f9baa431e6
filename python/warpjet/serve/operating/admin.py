"""Routes of administrators, on a port and with keys of their own."""

from functools import partial

from warpjet.common.log import LEVELS, set_log_level
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import HttpRequest, Response, json_response
from warpjet.serve.http.schema import Endpoint, Field, Schema
from warpjet.serve.serving import Serving

_LOG_LEVEL = Schema("LogLevelRequest", [Field("level", "string", required=True, choices=LEVELS)])


async def _reset_prefix_cache(serving: Serving, request: HttpRequest) -> Response:
    await serving.llm.reset_prefix_cache()
    return json_response({"reset": True})


async def _cancel(serving: Serving, request: HttpRequest) -> Response:
    name = request.path_params["request_id"]
    for candidate in (name, name.partition("-")[2]):  # "chatcmpl-ID" as the client saw it
        if candidate and await serving.cancel(candidate):
            return json_response({"cancelled": name})
    raise ServeError(404, f"there is no live request {name[:128]!r}", code="not_found")


async def _log_level(request: HttpRequest) -> Response:
    set_log_level(request.body["level"])
    return json_response(request.body)


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/reset_prefix_cache",
            partial(_reset_prefix_cache, serving),
            summary="forget cached prefixes",
            scope="admin",
        ),
        Endpoint(
            "POST",
            "/v1/requests/{request_id}/cancel",
            partial(_cancel, serving),
            summary="end a request",
            scope="admin",
        ),
        Endpoint("POST", "/log_level", _log_level, _LOG_LEVEL, "how much is logged", scope="admin"),
    ]
