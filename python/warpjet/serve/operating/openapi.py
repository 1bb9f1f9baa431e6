"""/openapi.json: this API, for programs."""

from warpjet._native import __version__
from warpjet.serve.conversation import Serving
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import HttpRequest, Response, json_response
from warpjet.serve.http.schema import Endpoint, openapi


async def _openapi(serving: Serving, request: HttpRequest) -> Response:
    from warpjet.serve.http.app import all_endpoints

    if serving.settings.disable_openapi:
        raise ServeError(404, "there is no such route", code="not_found")
    documented = (e for e in all_endpoints() if e.scope != "admin" and e.summary)
    document = openapi(documented, __version__)
    for schema in document["components"]["schemas"].values():
        if "model" in schema["properties"] and "*" not in serving.settings.served_model_name:
            schema["properties"]["model"] = {"enum": [*serving.model_names, None]}
    return json_response(document)


ROUTES = [Endpoint("GET", "/openapi.json", _openapi, summary="this document")]
