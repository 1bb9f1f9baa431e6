"""Text Generation Inference's API: /generate, /generate_stream and /info."""

import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams, __version__
from warpjet.serve.events import ChatEvent, CompletionRequest, Delta, Ended, Started
from warpjet.serve.http.errors import ServeError, bad_request
from warpjet.serve.http.exchange import EventStream, HttpRequest, Response, json_response, sse
from warpjet.serve.http.schema import Endpoint, Field, Schema
from warpjet.serve.openai.fields import MAX_STOP_STRINGS, foreign_field, sampling_field
from warpjet.serve.openai.response_format import tgi_schema
from warpjet.serve.parts import constrain, parse_part
from warpjet.serve.serving import Serving
from warpjet.serve.tgi.tokens import TokenWriter, finish_reason, prefill

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams

_SAMPLING_FIELDS = ("temperature", "top_k", "top_p", "repetition_penalty", "frequency_penalty")
_ERROR_TYPES = {429: "overloaded", 503: "overloaded", 500: "generation"}


@dataclass(slots=True)
class _Job:
    """A request, and what its answer shall hold."""

    inputs: str
    completion: CompletionRequest
    details: bool
    with_prefill: bool
    full_text: bool
    top_n: int

    @property
    def sampled(self) -> bool:
        return self.completion.sampling.temperature > 0


@dataclass(slots=True)
class _Answer:
    """What came of it."""

    job: _Job
    tokens: TokenWriter
    started: Started = field(default_factory=lambda: Started(0, 0, []))
    ended: Ended | None = None

    def take(self, happened: Iterable[ChatEvent]) -> None:
        """What came together. Raises ServeError when the completion fails."""
        for one in happened:
            if isinstance(one, Started):
                self.started = one
            elif isinstance(one, Delta):
                self.tokens.write(one)
            elif one.finish_reason in ("abort", "error"):
                raise ServeError(500, one.error or "the completion was cut off")
            else:
                self.ended = one

    def text(self) -> str:
        return (self.job.inputs if self.job.full_text else "") + self.tokens.text

    def summary(self) -> dict[str, Any]:
        """The part of the details that a stream ends with."""
        ended = self.ended or Ended(0, "error")
        return {
            "finish_reason": finish_reason(ended),
            "generated_tokens": len(self.tokens.tokens),
            "seed": self.job.completion.sampling.seed if self.job.sampled else None,
            "input_length": self.started.prompt_tokens,
        }

    def details(self) -> dict[str, Any]:
        """Everything about it."""
        top = {"top_tokens": self.tokens.top_tokens} if self.job.top_n else {}
        shown = prefill(self.started, self.tokens.tokenizer) if self.job.with_prefill else []
        return {**self.summary(), "prefill": shown, "tokens": self.tokens.tokens, **top, "best_of_sequences": None}


async def generate(serving: Serving, request: HttpRequest) -> Response:
    """One completion, whole."""
    return json_response(await _whole(serving, request))


async def generate_stream(serving: Serving, request: HttpRequest) -> EventStream:
    """One completion, an event for each token."""
    return EventStream(_events(serving, await _job(serving, request)))


async def compatible(serving: Serving, request: HttpRequest) -> Response | EventStream:
    """Either, by "stream"; what is whole comes in a list."""
    if request.body.get("stream"):
        return await generate_stream(serving, request)
    return json_response([await _whole(serving, request)])


async def info(serving: Serving, request: HttpRequest) -> Response:
    """What is served, and its limits."""
    return json_response(
        {
            "model_id": serving.model_names[0],
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_best_of": 1,
            "max_stop_sequences": MAX_STOP_STRINGS,
            "max_input_tokens": serving.max_model_len - 1,
            "max_total_tokens": serving.max_model_len,
            "router": "warpjet",
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
    )


async def _whole(serving: Serving, request: HttpRequest) -> dict[str, Any]:
    job = await _job(serving, request)
    job.completion.sampling = job.completion.sampling.replace(output_kind="final_only")
    answer = _Answer(job, TokenWriter(serving.tokenizer, job.top_n))
    async with aclosing(serving.complete(job.completion)) as stream:
        async for happened in stream:
            answer.take(happened)
    details = {"details": answer.details()} if job.details else {}
    return {"generated_text": answer.text(), **details}


async def _events(serving: Serving, job: _Job) -> AsyncIterator[bytes]:
    """An event for each token; that of the last, which comes with the end, has the whole text too."""
    answer = _Answer(job, tokens := TokenWriter(serving.tokenizer, job.top_n))
    told = 0
    async with aclosing(serving.complete(job.completion)) as stream:
        async for happened in stream:
            answer.take(happened)
            fresh = range(told, len(tokens.tokens) - (answer.ended is not None))
            told = max(told, fresh.stop)
            if fresh:
                yield b"".join(sse(tokens.event(index)) for index in fresh)
    end = {"generated_text": answer.text(), "details": answer.summary()}
    yield sse({**tokens.event(len(tokens.tokens) - 1), **end})


# --- What is asked for -----------------------------------------------------------------------------------------------


_PARAMETERS = Schema(
    "TgiParameters",
    [
        Field("max_new_tokens", "integer", "tokens to generate at most", default=100, low=1),
        Field("do_sample", "boolean", "sample even where nothing shapes the choice", default=False),
        Field("temperature", "number", "above 0"),
        Field("top_k", "integer", low=1),
        Field("top_p", "number", "above 0, at most 1"),
        foreign_field("typical_p"),
        sampling_field("repetition_penalty"),
        sampling_field("frequency_penalty"),
        Field("seed", "integer", low=0),
        Field("stop", "strings", "texts that end the completion; they stay part of it", high=MAX_STOP_STRINGS),
        Field("truncate", "integer", "keep the last so many tokens of the input", low=1),
        Field("return_full_text", "boolean", "the text begins with the input", default=False),
        Field("details", "boolean", "tell about each token", default=False),
        Field("decoder_input_details", "boolean", "tell about each token of the input", default=False),
        Field("top_n_tokens", "integer", "alternatives to tell of each token", low=0),
        Field("grammar", "object", 'what the text must be: {"type": "json" or "regex", "value": ...}'),
        foreign_field("best_of"),
        Field("watermark", "boolean", only=(False,)),
        Field("adapter_id", "string", only=()),
    ],
)


async def _job(serving: Serving, request: HttpRequest) -> _Job:
    """What the request says."""
    return await serving.read(request, lambda: _read(serving, request))


def _read(serving: Serving, request: HttpRequest) -> _Job:
    inputs = request.body["inputs"]
    given = parse_part(_PARAMETERS, request.body.get("parameters"), "parameters", serving.settings.strict)
    completion = CompletionRequest(
        prompt=inputs,
        sampling=_sampling(given),
        structured=_structured(given.get("grammar")),
        truncate_prompt_tokens=given.get("truncate"),
        tenant=request.tenant,
    )
    return _Job(
        inputs=inputs,
        completion=completion,
        details=given["details"] or given["decoder_input_details"],
        with_prefill=given["decoder_input_details"],
        full_text=given["return_full_text"],
        top_n=given.get("top_n_tokens", 0),
    )


def _sampling(given: Mapping[str, Any]) -> SamplingParams:
    """As TGI has it: greedy unless do_sample is true or something is given that shapes the choice."""
    shaped = given.get("temperature", 1) != 1 or "top_k" in given or given.get("top_p", 1) < 1
    values = {name: given[name] for name in _SAMPLING_FIELDS if name in given}
    if not (given["do_sample"] or shaped):
        values["temperature"] = 0.0
    elif values.get("temperature", 1) <= 0:
        raise bad_request("temperature must be above 0; leave it out for greedy decoding", "temperature")
    return SamplingParams(
        **values,
        seed=given.get("seed", secrets.randbits(63)),
        stop=given.get("stop"),
        include_stop_str_in_output=True,  # TGI's texts end with it
        max_tokens=given["max_new_tokens"],
        logprobs=given.get("top_n_tokens", 0),
        prompt_logprobs=0 if given["decoder_input_details"] else None,
    )


def _structured(grammar: Mapping[str, Any] | None) -> "StructuredOutputsParams | None":
    if grammar is None:
        return None
    kind, value = grammar.get("type"), grammar.get("value")
    if kind == "json_schema" and isinstance(value, dict):
        kind, value = "json", value.get("schema")
    if kind == "json" and isinstance(value, (str, dict)):
        return constrain("grammar", json=tgi_schema(value, "grammar"))
    if kind == "regex" and isinstance(value, str):
        return constrain("grammar", regex=value)
    raise bad_request('grammar must be {"type": "json", "json_schema" or "regex", "value": ...}', "grammar")


# --- Errors and routes -----------------------------------------------------------------------------------------------


def error_body(error: ServeError) -> dict[str, Any]:
    """TGI's error object."""
    kind = _ERROR_TYPES.get(error.status, "validation" if error.status < 500 else "generation")
    return {"error": error.message, "error_type": kind}


_INPUTS = Field("inputs", "string", "text to go on from", required=True, low=1)
_REST = Field("parameters", "object", "how")
_WHOLE = Schema("TgiRequest", [_INPUTS, _REST, Field("stream", "boolean", "use /generate_stream", only=(False,))])
_STREAM = Schema("TgiStreamRequest", [_INPUTS, _REST, Field("stream", "boolean", "use /generate", only=(True,))])
_EITHER = Schema("TgiEitherRequest", [_INPUTS, _REST, Field("stream", "boolean", default=False)])


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/generate",
            partial(generate, serving),
            _WHOLE,
            "complete a text, as TGI does",
            error_body=error_body,
        ),
        Endpoint(
            "POST",
            "/generate_stream",
            partial(generate_stream, serving),
            _STREAM,
            "the same, token by token",
            error_body=error_body,
        ),
        Endpoint(
            "POST", "/", partial(compatible, serving), _EITHER, "either of these, by stream", error_body=error_body
        ),
        Endpoint("GET", "/info", partial(info, serving), None, "what TGI tells of a model", error_body=error_body),
    ]
