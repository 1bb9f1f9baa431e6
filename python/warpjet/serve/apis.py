"""Every route of the server."""

import importlib

from warpjet.serve.http.schema import Endpoint
from warpjet.serve.serving import Serving

# Modules with routes(serving): their endpoints, whose handlers know what is served.
_MODULES = (
    *("openai.chat", "openai.completions", "openai.models", "openai.responses", "openai.embeddings"),
    *("anthropic.messages", "tgi.generate", "operating.tokenization", "operating.health", "operating.metrics"),
    *("operating.admin", "operating.live"),
)


def all_endpoints(serving: Serving) -> list[Endpoint]:
    """The endpoints of every API, and the document of them all. Imports the modules."""
    from warpjet.serve.operating import openapi

    endpoints: list[Endpoint] = []
    for name in _MODULES:
        endpoints += importlib.import_module(f"warpjet.serve.{name}").routes(serving)
    return endpoints + openapi.routes(serving, endpoints)
