"""What a request to the Responses API asks for."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams
from warpjet.serve.events import ChatRequest
from warpjet.serve.http.errors import bad_request
from warpjet.serve.http.exchange import HttpRequest
from warpjet.serve.http.schema import Field, Schema
from warpjet.serve.names import new_id
from warpjet.serve.openai.fields import SAMPLING_FIELDS, sampling_params
from warpjet.serve.openai.response_items import parse_items, to_messages
from warpjet.serve.openai.response_store import StoredResponse
from warpjet.serve.openai.response_tools import Offer, Origin, offer_tools
from warpjet.serve.parts import constrain, instruct, parse_part
from warpjet.serve.serving import Serving

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams

LOGPROBS, SEALED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"
# Parts of the answer that a request may ask for; the last ones are of tools that the server does not run.
_INCLUDES = (
    LOGPROBS,
    SEALED_REASONING,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
)
_NOT_HERE = {"n", "max_tokens", "use_beam_search", "prompt_logprobs", "length_penalty"}

_TEXT = Schema(
    "ResponseText",
    [
        Field("format", "object", 'of type "text", "json_object" or "json_schema"'),
        Field("verbosity", "string", "a variable of the chat template", choices=("low", "medium", "high")),
    ],
)
_REASONING = Schema(
    "ResponseReasoning",
    [
        Field("effort", "string", choices=("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        Field("summary", "string", "reasoning comes in full", choices=("auto", "concise", "detailed")),
        Field("generate_summary", "string", "reasoning comes in full", choices=("auto", "concise", "detailed")),
        Field("context", "string", only=("auto",)),
        Field("mode", "string", only=("standard",)),
    ],
)
_STREAM_OPTIONS = Schema("ResponseStreamOptions", [Field("include_obfuscation", "boolean", only=(False,))])

CREATE = Schema(
    "CreateResponseRequest",
    [
        Field("model", "string", "one of /v1/models; the first if not given"),
        Field("input", "string or list", "what the user says, or items", required=True, low=1),
        Field("instructions", "string", "the system message"),
        Field("previous_response_id", "string", "a response that is kept, to go on from"),
        Field("tools", "objects", "functions and custom tools that the model may call, and namespaces of them"),
        Field("tool_choice", "string or object", "auto, none, required, a function, or allowed_tools", default="auto"),
        Field("parallel_tool_calls", "boolean", default=True),
        Field("text", "object", "format of the answer"),
        Field("reasoning", "object", "effort"),
        Field("max_output_tokens", "integer", "tokens to generate at most", low=1),
        *(field for field in SAMPLING_FIELDS if field.name not in _NOT_HERE),
        Field("top_logprobs", "integer", "alternatives to tell of each token", low=0),
        Field("include", "strings", f"{LOGPROBS}, {SEALED_REASONING}; others know no parts here"),
        Field("metadata", "object", "up to 16 texts, given back with the response", high=16),
        Field("store", "boolean", "keep it, in memory, so that it can be fetched or gone on from", default=True),
        Field("stream", "boolean", "answer with events", default=False),
        Field("stream_options", "object", "include_obfuscation: false"),
        Field("background", "boolean", "run it whether anybody waits or not", default=False),
        Field(
            "priority",
            "integer",
            "lower runs first, under the policies priority and fair",
            low=-(2**31),
            high=2**31 - 1,
        ),
        Field("cache_salt", "string", "requests share cached prefixes only if this is equal", low=1, high=1024),
        Field("chat_template_kwargs", "object", "variables of the chat template"),
        Field("user", "string", "a label; it changes nothing"),
        Field("safety_identifier", "string", "a label; it changes nothing"),
        Field("prompt_cache_key", "string", "a label; equal prefixes share their cache without it"),
        Field("max_tool_calls", "integer", "of tools that the server runs, of which there are none"),
        Field("truncation", "string", "nothing is cut: a longer prompt is refused", choices=("auto", "disabled")),
        Field("service_tier", "string", "every request is treated alike, as the answer says"),
        Field("prompt_cache_retention", "string", "a hint; prefixes are cached while there is room"),
        Field("prompt_cache_options", "object", "a hint; prefixes are cached while there is room"),
        Field("client_metadata", "object", "labels; they change nothing"),
        Field("conversation", "any", "use previous_response_id", only=()),
        Field("prompt", "any", "send the prompt itself as input", only=()),
        Field("context_management", "objects", "the context is not compacted: a longer prompt is refused"),
        Field("moderation", "any", only=()),
    ],
)

COUNT = Schema(
    "CountInputTokensRequest",
    (replace(field, required=False) if field.name == "input" else field for field in CREATE.fields.values()),
)


@dataclass(slots=True)
class ResponseRequest:
    """What a body asks for."""

    chat: ChatRequest
    response: dict[str, Any]  # the object before it is answered
    context: list[dict[str, Any]]  # the items that it answers
    origins: Mapping[str, Origin]  # tools by the function that the model calls
    with_sealed_reasoning: bool
    stored: bool
    stream: bool
    background: bool


def read(serving: Serving, request: HttpRequest, previous: StoredResponse | None) -> ResponseRequest:
    """Raises ServeError naming the field."""
    body = request.body
    model = serving.check_model(body.get("model"))
    context = _context(body, previous)
    offer = offer_tools(body.get("tools") or [], body["tool_choice"], serving.settings.strict)
    chat = _chat_request(serving, request, context, offer)
    response = _new_response(body, chat, model, offer)
    chat.request_id = response["id"]
    return ResponseRequest(
        chat,
        response,
        context,
        offer.origins,
        with_sealed_reasoning=SEALED_REASONING in body.get("include", ()),
        stored=body["store"],
        stream=body["stream"],
        background=body["background"],
    )


def _context(body: Mapping[str, Any], previous: StoredResponse | None) -> list[dict[str, Any]]:
    """The items to answer: those that the previous response answered, its output, and what is new."""
    before = json.loads(previous.context) + json.loads(previous.body)["output"] if previous else []
    return [*before, *(parse_items(body["input"]) if "input" in body else ())]


def _chat_request(
    serving: Serving, request: HttpRequest, context: Sequence[Mapping[str, Any]], offer: Offer
) -> ChatRequest:
    """The conversation to answer. Raises ServeError naming the field."""
    body = request.body
    strict = serving.settings.strict
    _check_rest(body, strict)
    effort = parse_part(_REASONING, body.get("reasoning"), "reasoning", strict).get("effort")
    messages = to_messages(context)
    if instructions := body.get("instructions"):
        instruct(messages, instructions)
    text = parse_part(_TEXT, body.get("text"), "text", strict)
    return ChatRequest(
        messages=messages,
        sampling=_sampling(serving, body),
        tools=offer.functions or None,
        tool_choice=offer.choice,
        parallel_tool_calls=body["parallel_tool_calls"],
        structured=_structured(text.get("format")),
        chat_template_kwargs=_template_kwargs(serving, body, effort, text.get("verbosity")) or None,
        priority=body.get("priority", 0),
        cache_salt=body.get("cache_salt", ""),
        tenant=request.tenant,
    )


def _template_kwargs(
    serving: Serving, body: Mapping[str, Any], effort: str | None, verbosity: str | None
) -> dict[str, Any]:
    """What the chat template is told beside the conversation."""
    given: dict[str, Any] = serving.settings.default_chat_template_kwargs | body.get("chat_template_kwargs", {})
    told = {"reasoning_effort": effort, "verbosity": verbosity}
    return given | {name: value for name, value in told.items() if value is not None}


def _check_rest(body: Mapping[str, Any], strict: bool) -> None:
    parse_part(_STREAM_OPTIONS, body.get("stream_options"), "stream_options", strict)
    if "stream_options" in body and not body["stream"]:
        raise bad_request("stream_options needs stream: true", "stream_options")
    for name in body.get("include", ()):
        if name not in _INCLUDES:
            raise bad_request(f"include: {name[:64]!r} is not known; there are {', '.join(_INCLUDES)}", "include")
    for key, value in body.get("metadata", {}).items():
        if len(key) > 64 or not isinstance(value, str) or len(value) > 512:
            raise bad_request("metadata takes keys of up to 64 characters with texts of up to 512", "metadata")


def _sampling(serving: Serving, body: Mapping[str, Any]) -> SamplingParams:
    own: dict[str, Any] = {"max_tokens": body.get("max_output_tokens"), "logprobs": None}
    if "top_logprobs" in body or LOGPROBS in body.get("include", ()):
        own["logprobs"] = body.get("top_logprobs", 0)
    return sampling_params(serving, {**body, "use_beam_search": False}, **own)


def _structured(text_format: Mapping[str, Any] | None) -> "StructuredOutputsParams | None":
    kind = text_format.get("type") if text_format else "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return constrain("text", json_object=True)
    if text_format and kind == "json_schema" and isinstance(text_format.get("schema"), dict):
        closed = text_format.get("strict") is not False
        return constrain("text", json=text_format["schema"], disable_additional_properties=closed)
    raise bad_request("text.format must be of type text, json_object, or json_schema with a schema", "text")


def _new_response(body: Mapping[str, Any], chat: ChatRequest, model: str, offer: Offer) -> dict[str, Any]:
    """The response object before it is answered."""
    reasoning = body.get("reasoning") or {}
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued" if body["background"] else "in_progress",
        "background": body["background"],
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": body.get("metadata", {}),
        "model": model,
        "output": [],
        "parallel_tool_calls": body["parallel_tool_calls"],
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "service_tier": "default",
        "store": body["store"],
        "temperature": chat.sampling.temperature,
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body["tool_choice"],
        "tools": offer.shown,
        "top_logprobs": body.get("top_logprobs", 0),
        "top_p": chat.sampling.top_p,
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "user": body.get("user"),
    }
