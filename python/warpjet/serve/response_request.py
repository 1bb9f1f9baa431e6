"""What a request to the Responses API asks for."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams
from warpjet.serve.conversation import ChatRequest, Serving
from warpjet.serve.errors import bad_request
from warpjet.serve.exchange import HttpRequest
from warpjet.serve.openai_fields import SAMPLING_FIELDS, sampling_params
from warpjet.serve.parts import constrain, parse_part
from warpjet.serve.response_items import new_id, parse_items, to_messages
from warpjet.serve.response_store import StoredResponse
from warpjet.serve.schema import Field, Schema

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams

_INCLUDES = ("message.output_text.logprobs", "reasoning.encrypted_content")

_NOT_HERE = {"n", "max_tokens", "use_beam_search", "prompt_logprobs", "length_penalty"}

_TEXT = Schema(
    "ResponseText",
    [
        Field("format", "object", 'of type "text", "json_object" or "json_schema"'),
        Field("verbosity", "string", only=("medium",)),
    ],
)
_REASONING = Schema(
    "ResponseReasoning",
    [
        Field("effort", "string", choices=("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        Field("summary", "string", "reasoning comes in full", only=("auto",)),
        Field("generate_summary", "string", "reasoning comes in full", only=("auto",)),
        Field("context", "string", only=("auto",)),
        Field("mode", "string", only=("standard",)),
    ],
)
_FUNCTION_KEYS = ("name", "description", "parameters", "strict")
_FUNCTION = Schema(
    "ResponseFunction",
    [
        Field("type", "string", "function"),
        Field("name", "string", required=True),
        Field("description", "string"),
        Field("parameters", "object", "a JSON schema"),
        Field("strict", "boolean", "calls follow the schema"),
        Field("defer_loading", "boolean", "every tool is told to the model", only=(False,)),
        Field("allowed_callers", "strings", "the model calls", only=(["direct"],)),
        Field("output_schema", "object", "say it in the description", only=()),
        Field("async", "boolean", "calls are the client's", only=(False,)),
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
        Field("tools", "objects", "functions that the model may call"),
        Field("tool_choice", "string or object", "auto, none, required, a function, or allowed_tools", default="auto"),
        Field("parallel_tool_calls", "boolean", default=True),
        Field("text", "object", "format of the answer"),
        Field("reasoning", "object", "effort"),
        Field("max_output_tokens", "integer", "tokens to generate at most", low=1),
        *(field for field in SAMPLING_FIELDS if field.name not in _NOT_HERE),
        Field("top_logprobs", "integer", "alternatives to tell of each token", low=0),
        Field("include", "strings", ", ".join(_INCLUDES)),
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
        Field("truncation", "string", only=("disabled",)),
        Field("service_tier", "string", only=("auto", "default")),
        Field("prompt_cache_retention", "string", only=("in_memory",)),
        Field("conversation", "any", "use previous_response_id", only=()),
        Field("prompt", "any", "send the prompt itself as input", only=()),
        Field("context_management", "any", only=()),
        Field("moderation", "any", only=()),
    ],
)


def context_of(body: Mapping[str, Any], previous: StoredResponse | None) -> list[dict[str, Any]]:
    """The items to answer: those that the previous response answered, its output, and what is new."""
    before = json.loads(previous.context) + json.loads(previous.body)["output"] if previous else []
    return [*before, *parse_items(body["input"])]


def chat_request(serving: Serving, request: HttpRequest, context: Sequence[Mapping[str, Any]]) -> ChatRequest:
    """The conversation to answer. Raises ServeError naming the field."""
    body = request.body
    strict = serving.settings.strict
    _check_rest(body, strict)
    effort = parse_part(_REASONING, body.get("reasoning"), "reasoning", strict).get("effort")
    messages = to_messages(context)
    if instructions := body.get("instructions"):
        messages.insert(0, {"role": "system", "content": instructions})
    tools, tool_choice = _tools(body.get("tools") or [], body["tool_choice"], strict)
    return ChatRequest(
        messages=messages,
        sampling=_sampling(serving, body),
        tools=tools or None,
        tool_choice=tool_choice,
        parallel_tool_calls=body["parallel_tool_calls"],
        structured=_structured(parse_part(_TEXT, body.get("text"), "text", strict).get("format")),
        chat_template_kwargs=_template_kwargs(serving, body, effort) or None,
        priority=body.get("priority", 0),
        cache_salt=body.get("cache_salt", ""),
        tenant=request.tenant,
    )


def _template_kwargs(serving: Serving, body: Mapping[str, Any], effort: str | None) -> dict[str, Any]:
    """What the chat template is told beside the conversation."""
    given: dict[str, Any] = serving.settings.default_chat_template_kwargs | body.get("chat_template_kwargs", {})
    return given if effort is None else given | {"reasoning_effort": effort}


def _check_rest(body: Mapping[str, Any], strict: bool) -> None:
    parse_part(_STREAM_OPTIONS, body.get("stream_options"), "stream_options", strict)
    if "stream_options" in body and not body["stream"]:
        raise bad_request("stream_options needs stream: true", "stream_options")
    for name in body.get("include", ()):
        if name not in _INCLUDES:
            raise bad_request(f"include: {name[:64]!r} is not supported, only {', '.join(_INCLUDES)}", "include")
    for key, value in body.get("metadata", {}).items():
        if len(key) > 64 or not isinstance(value, str) or len(value) > 512:
            raise bad_request("metadata takes keys of up to 64 characters with texts of up to 512", "metadata")


def _sampling(serving: Serving, body: Mapping[str, Any]) -> SamplingParams:
    own: dict[str, Any] = {"max_tokens": body.get("max_output_tokens"), "logprobs": None}
    if "top_logprobs" in body or _INCLUDES[0] in body.get("include", ()):
        own["logprobs"] = body.get("top_logprobs", 0)
    return sampling_params(serving, {**body, "use_beam_search": False}, **own)


def _tools(
    tools: Sequence[Mapping[str, Any]], choice: Any, strict: bool
) -> tuple[list[dict[str, Any]], str | dict[str, Any]]:
    """Function tools and OpenAI's tool_choice, as chat has them."""
    functions = [_function(tool, f"tools[{index}]", strict) for index, tool in enumerate(tools)]
    if isinstance(choice, str):
        return functions, choice
    kind, name = choice.get("type"), choice.get("name")
    if kind == "function" and isinstance(name, str):
        return functions, {"type": "function", "function": {"name": name}}
    if kind == "allowed_tools" and choice.get("mode") in ("auto", "required") and isinstance(choice.get("tools"), list):
        allowed = {str(tool["name"]) for tool in choice["tools"] if isinstance(tool, dict) and "name" in tool}
        if missing := allowed - {function["function"]["name"] for function in functions}:
            raise bad_request(f"tool_choice allows {min(missing)!r}, which is not in tools", "tool_choice")
        return [function for function in functions if function["function"]["name"] in allowed], choice["mode"]
    raise bad_request(f"tool_choice of type {kind!r} is not supported, or lacks its parts", "tool_choice")


def _function(tool: Mapping[str, Any], where: str, strict: bool) -> dict[str, Any]:
    if tool.get("type") != "function":
        kind = str(tool.get("type"))[:64]
        raise bad_request(f"{where}: tools of type {kind!r} are not supported, only functions", where)
    known = parse_part(_FUNCTION, tool, where, strict)
    return {"type": "function", "function": {key: known[key] for key in _FUNCTION_KEYS if key in known}}


def _structured(text_format: Mapping[str, Any] | None) -> "StructuredOutputsParams | None":
    kind = text_format.get("type") if text_format else "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return constrain("text", json_object=True)
    if text_format and kind == "json_schema" and isinstance(text_format.get("schema"), dict):
        return constrain("text", json=text_format["schema"])
    raise bad_request("text.format must be of type text, json_object, or json_schema with a schema", "text")


def new_response(body: Mapping[str, Any], chat: ChatRequest, model: str) -> dict[str, Any]:
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
        "tools": [{"strict": None, "parameters": None, **tool} for tool in body.get("tools") or []],
        "top_logprobs": body.get("top_logprobs", 0),
        "top_p": chat.sampling.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.get("user"),
    }
