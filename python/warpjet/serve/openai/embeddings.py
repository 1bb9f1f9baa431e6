"""/v1/embeddings: a vector for each text."""

import asyncio
import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from warpjet._native import PoolingParams, SamplingParams
from warpjet.serve.events import CompletionRequest
from warpjet.serve.http.errors import bad_request, from_exception
from warpjet.serve.http.exchange import HttpRequest, Response, json_in_pieces
from warpjet.serve.http.request_log import current_record
from warpjet.serve.http.schema import Endpoint, Field, Schema
from warpjet.serve.serving import Serving
from warpjet.text.prompts import Prompt

_NATIVE = {field.name: field for field in PoolingParams.__fields__}
_NO_OUTPUT = SamplingParams(max_tokens=1)  # prepare() leaves room for it

_REQUEST = Schema(
    "EmbeddingRequest",
    [
        Field("model", "string", "one of /v1/models; the first if not given"),
        Field("input", "any", "a string, token ids, or a list of these", required=True),
        Field(
            "encoding_format",
            "string",
            "base64 is of little-endian float32",
            default="float",
            choices=("float", "base64"),
        ),
        Field("dimensions", "integer", _NATIVE["dimensions"].doc, low=_NATIVE["dimensions"].shape["minimum"]),
        Field("pooling", "string", _NATIVE["pooling"].doc, default="last", choices=_NATIVE["pooling"].choices),
        Field("normalize", "boolean", "scale them to a length of one", default=True),
        Field("truncate_prompt_tokens", "integer", "keep the last so many tokens of each; -1 keeps what fits", low=-1),
        Field("add_special_tokens", "boolean", "let the tokenizer add its special tokens", default=True),
        Field(
            "priority",
            "integer",
            "lower runs first, under the policies priority and fair",
            default=0,
            low=-(2**31),
            high=2**31 - 1,
        ),
        Field("user", "string", "a label; it changes nothing"),
    ],
)


@dataclass(slots=True)
class _Job:
    """A request, and how it is answered."""

    requests: list[CompletionRequest]  # one for each input
    model: str
    pooling: PoolingParams
    encode: Callable[[Sequence[float]], str | list[float]]
    priority: int
    tenant: str


def _read(serving: Serving, request: HttpRequest) -> _Job:
    """Raises ServeError naming the field."""
    body = request.body
    model = serving.check_model(body.get("model"))
    requests = [
        CompletionRequest(
            given,
            _NO_OUTPUT,
            add_special_tokens=body["add_special_tokens"],
            truncate_prompt_tokens=body.get("truncate_prompt_tokens"),
        )
        for given in _inputs(body["input"], serving.settings.max_prompts)
    ]
    return _Job(
        requests,
        model,
        PoolingParams(pooling=body["pooling"], normalize=body["normalize"], dimensions=body.get("dimensions")),
        encode=_base64 if body["encoding_format"] == "base64" else list,
        priority=body["priority"],
        tenant=request.tenant,
    )


async def create(serving: Serving, request: HttpRequest) -> Response:
    """Every vector, in the order of the inputs."""
    job = _read(serving, request)
    prompts = [await serving.prepare(one) for one in job.requests]
    tokens = sum(len(prompt.token_ids or ()) for prompt in prompts)
    current_record().prompt_tokens = tokens
    vectors = await _embed(serving, prompts, job)
    data = [{"object": "embedding", "index": i, "embedding": job.encode(vector)} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return await json_in_pieces({"object": "list", "data": data, "model": job.model, "usage": usage})


async def _embed(serving: Serving, prompts: Sequence[Prompt], job: _Job) -> list[list[float]]:
    """All of them at once. The first that fails ends the others."""

    async def embed(prompt: Prompt) -> list[float]:
        given = {"prompt_token_ids": prompt.token_ids, "cache_salt": prompt.cache_salt or None}
        output = await serving.llm.embed(given, job.pooling, priority=job.priority, tenant=job.tenant)
        return output.outputs.embedding

    try:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for prompt in prompts:
                tasks.append(group.create_task(embed(prompt)))
                await asyncio.sleep(0)  # the rest of the event loop has a turn too
    except* Exception as errors:
        raise from_exception(errors.exceptions[0], frozenset({"dimensions"})) from None
    return [task.result() for task in tasks]


def _inputs(value: Any, most: int) -> list[str | list[int]]:
    """The texts or token ids of a request. Raises ServeError 400 for another form."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(item) is int for item in value)):
        value = [value]
    if not isinstance(value, list) or not value:
        raise bad_request("input must be a string, token ids, or a list of these that is not empty", "input")
    if len(value) > most:
        raise bad_request(f"input may have {most} entries, got {len(value)}", "input")
    for index, item in enumerate(value):
        ids = isinstance(item, list) and all(type(token) is int for token in item)
        if not item or not (isinstance(item, str) or ids):
            raise bad_request(f"input[{index}] must be a string or token ids, and not empty", "input")
    return value


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/v1/embeddings",
            partial(create, serving),
            _REQUEST,
            "a vector for each text",
            elsewhere=("/api/embed",),
        )
    ]
