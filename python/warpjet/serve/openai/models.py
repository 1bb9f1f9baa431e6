"""/v1/models: what can be asked for."""

from functools import partial
from typing import Any

from warpjet.serve.http.exchange import HttpRequest, Response, json_response
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.serving import Serving


def _card(serving: Serving, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": serving.started_at,
        "owned_by": "warpjet",
        "root": serving.model_names[0],
        "parent": None,
        "max_model_len": serving.max_model_len,
        "permission": [],
    }


async def _list(serving: Serving, request: HttpRequest) -> Response:
    return json_response({"object": "list", "data": [_card(serving, name) for name in serving.model_names]})


async def _get(serving: Serving, request: HttpRequest) -> Response:
    return json_response(_card(serving, serving.check_model(request.path_params["model"])))


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "GET",
            "/v1/models",
            partial(_list, serving),
            summary="the models that are served",
            elsewhere=("/v1", "/models", "/api/tags"),
        ),
        Endpoint("GET", "/v1/models/{model:path}", partial(_get, serving), summary="one of them"),
    ]
