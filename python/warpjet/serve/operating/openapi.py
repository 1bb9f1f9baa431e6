"""/openapi.json: this API, for programs."""

from collections.abc import Iterable
from functools import partial

from warpjet._native import __version__
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import HttpRequest, Response, json_response
from warpjet.serve.http.schema import Endpoint, openapi
from warpjet.serve.serving import Serving


async def _openapi(serving: Serving, endpoints: Iterable[Endpoint], request: HttpRequest) -> Response:
    if serving.settings.disable_openapi:
        raise ServeError(404, "there is no such route", code="not_found")
    documented = (e for e in endpoints if e.scope != "admin" and e.summary)
    document = openapi(documented, __version__)
    for schema in document["components"]["schemas"].values():
        if "model" in schema["properties"] and "*" not in serving.settings.served_model_name:
            schema["properties"]["model"] = {"enum": [*serving.model_names, None]}
    return json_response(document)


def routes(serving: Serving, others: Iterable[Endpoint]) -> list[Endpoint]:
    """The document describes the other routes and its own."""
    documented = [*others]
    own = Endpoint(
        "GET",
        "/openapi.json",
        partial(_openapi, serving, documented),
        summary="this document",
        elsewhere=("/docs", "/redoc", "/swagger"),
    )
    documented.append(own)
    return [own]
