"""/v1/models: what can be asked for."""

from typing import Any

from warpjet.serve.conversation import Serving
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import HttpRequest, Response, json_response
from warpjet.serve.http.schema import Endpoint

# Clients of huggingface_hub and of TGI always send one of these.
_ANY_MODEL = ("dummy", "tgi")


def check_model(serving: Serving, name: str | None) -> str:
    """The name to answer with; the first for None and for names that stand for any model. Raises ServeError 404 for a
    model that is not served."""
    if name is None:
        return serving.model_names[0]
    if name not in serving.model_names and "*" not in serving.settings.served_model_name:
        if name in _ANY_MODEL:
            return serving.model_names[0]
        served = ", ".join(serving.model_names)
        raise ServeError(404, f"there is no model {name[:128]!r} here, only {served}", None, "model", "model_not_found")
    return name


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
    return json_response(_card(serving, check_model(serving, request.path_params["model"])))


ROUTES = [
    Endpoint("GET", "/v1/models", _list, summary="the models that are served"),
    Endpoint("GET", "/v1/models/{model:path}", _get, summary="one of them"),
]
