"""Anthropic's Messages API: /v1/messages and /v1/messages/count_tokens."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from warpjet.common.shown import shown
from warpjet.serve.anthropic.content import system_text, to_messages
from warpjet.serve.anthropic.events import Event, MessageWriter
from warpjet.serve.anthropic.tools import to_tool_choice, to_tools
from warpjet.serve.events import ChatRequest
from warpjet.serve.http.errors import ServeError, bad_request, from_exception
from warpjet.serve.http.exchange import EventStream, HttpRequest, Response, json_response, sse
from warpjet.serve.http.schema import Endpoint, Field, Schema
from warpjet.serve.names import new_id
from warpjet.serve.openai.fields import MAX_STOP_STRINGS, sampling_params
from warpjet.serve.parts import constrain, instruct, parse_part
from warpjet.serve.serving import Serving

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams

_THINKING = ("enabled", "disabled", "adaptive", "between_tools")
_DISPLAYS = ("omitted", "summarized", "updates")  # only the first changes the answer: thinking is shown in full
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@dataclass(slots=True)
class _Job:
    """A request, and what its answer holds."""

    chat: ChatRequest
    model: str
    stream: bool
    with_thinking: bool
    thinks_in_full: bool  # or blocks of thinking are empty
    edits_context: bool  # the answer says which edits were applied


async def create(serving: Serving, request: HttpRequest) -> Response | EventStream:
    """Answers a conversation, whole or as events."""
    job = await _job(serving, request)
    writer = MessageWriter(job.chat.request_id or "", job.model, job.with_thinking, job.thinks_in_full)
    if job.edits_context:
        writer.message["context_management"] = {"applied_edits": []}
    if job.stream:
        return EventStream(_stream(serving, job.chat, writer))
    async with aclosing(serving.answer(job.chat)) as stream:
        async for happened in stream:
            writer.write(happened)
    if writer.error:
        raise ServeError(500, writer.error)
    return json_response(writer.message)


async def count_tokens(serving: Serving, request: HttpRequest) -> Response:
    """How many tokens the conversation is as a prompt."""
    job = await _job(serving, request)
    prompt = await serving.prepare_chat(job.chat)
    tokens = len(prompt.token_ids or ())
    edited = {"context_management": {"original_input_tokens": tokens}} if job.edits_context else {}
    return json_response({"input_tokens": tokens, **edited})


async def _stream(serving: Serving, chat: ChatRequest, writer: MessageWriter) -> AsyncIterator[bytes]:
    begun = False
    try:
        async with aclosing(serving.answer(chat)) as stream:
            async for happened in stream:
                if events := writer.write(happened):
                    begun = True
                    yield b"".join(map(_sse, events))
        if writer.error:
            raise ServeError(500, writer.error)
    except Exception as error:
        if not begun:
            raise  # nothing was sent, so it has a status of its own
        yield _sse(error_body(from_exception(error)))


def _sse(event: Event) -> bytes:
    return f"event: {event['type']}\n".encode() + sse(event)


# --- What is asked for -----------------------------------------------------------------------------------------------


async def _job(serving: Serving, request: HttpRequest) -> _Job:
    return await serving.read(request, lambda: _read(serving, request))


def _read(serving: Serving, request: HttpRequest) -> _Job:
    """Raises ServeError naming the field."""
    body = request.body
    if body.get("max_tokens", 1) < 1:
        raise bad_request("max_tokens must be at least 1", "max_tokens")
    chat, thinking = _chat_request(serving, request), body.get("thinking") or {}
    return _Job(
        chat,
        body["model"],
        stream=body.get("stream", False),
        with_thinking=thinking.get("type") != "disabled",
        thinks_in_full=thinking.get("display") != "omitted",
        edits_context=_edits_context(body),
    )


def _chat_request(serving: Serving, request: HttpRequest) -> ChatRequest:
    body = request.body
    serving.check_model(body["model"])
    messages = to_messages(body["messages"])
    if (system := system_text(body.get("system"))) is not None:
        instruct(messages, system)
    tools = to_tools(body.get("tools"), serving.settings.strict)
    tool_choice, parallel = to_tool_choice(body.get("tool_choice"))
    continues = messages[-1]["role"] == "assistant"
    if continues and (messages[-1].get("tool_calls") or not messages[-1]["content"]):
        raise bad_request(
            "the last message is the assistant's, so it must be text that the answer goes on from", "messages"
        )
    most = min(body.get("max_tokens", 1), serving.max_model_len)  # compulsory, so clients name the largest they know
    own = {"stop": body.get("stop_sequences"), "max_tokens": most}
    sampling = sampling_params(serving, {"stream": False, **body, "use_beam_search": False}, **own)
    output = parse_part(_OUTPUT, body.get("output_config"), "output_config", serving.settings.strict)
    return ChatRequest(
        messages=messages,
        sampling=sampling,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        structured=_structured(output.get("format") or body.get("output_format")),
        chat_template_kwargs=serving.settings.default_chat_template_kwargs
        | _template_kwargs(body.get("thinking"), output.get("effort"))
        or None,
        add_generation_prompt=not continues,
        continue_final_message=continues,
        request_id=new_id("msg"),
        tenant=request.tenant,
    )


def _structured(output_format: dict[str, Any] | None) -> "StructuredOutputsParams | None":
    if output_format is None:
        return None
    if output_format.get("type") != "json_schema" or not isinstance(output_format.get("schema"), dict):
        raise bad_request('output_config.format must be {"type": "json_schema", "schema": {...}}', "output_config")
    return constrain("output_config", json=output_format["schema"])


def _template_kwargs(thinking: dict[str, Any] | None, effort: str | None) -> dict[str, Any]:
    """What chat templates know of thinking. A budget is a target that they may tell the model; max_tokens is the
    limit."""
    kwargs: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
    if thinking is None:
        return kwargs
    kind, budget = thinking.get("type"), thinking.get("budget_tokens")
    if kind not in _THINKING:
        raise bad_request(f"thinking.type must be {', '.join(_THINKING)}, got {shown(kind)}", "thinking")
    if thinking.get("display") not in (None, *_DISPLAYS):
        raise bad_request(f"thinking.display must be one of {', '.join(_DISPLAYS)}", "thinking")
    if kind in ("enabled", "disabled"):
        kwargs["enable_thinking"] = kind == "enabled"
    if budget is not None:
        if type(budget) is not int or budget < 1:
            raise bad_request("thinking.budget_tokens must be an integer of at least 1", "thinking")
        kwargs["thinking_budget"] = budget
    return kwargs


def _edits_context(body: Mapping[str, Any]) -> bool:
    """Whether the answer says which edits of the context were applied. Raises ServeError 400 for malformed edits."""
    given = body.get("context_management")
    if given is None:
        return False
    edits = given.get("edits", [])
    if not isinstance(edits, list) or not all(isinstance(e, Mapping) and isinstance(e.get("type"), str) for e in edits):
        raise bad_request("context_management.edits must be a list of objects with a type", "context_management")
    return True


# --- Errors and routes -----------------------------------------------------------------------------------------------


def error_body(error: ServeError) -> dict[str, Any]:
    """Anthropic's error object."""
    kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


_OUTPUT = Schema(
    "AnthropicOutputConfig",
    [
        Field("task_budget", "object", "a target, which only the client keeps"),
        Field("effort", "string", "how much to think", choices=("low", "medium", "high", "xhigh", "max")),
        Field("format", "object", 'what the answer must be: {"type": "json_schema", "schema": {...}}'),
    ],
)
_CONVERSATION = [
    Field("model", "string", "name of the model", required=True),
    Field("messages", "objects", "the conversation; an assistant's at the end is gone on with", required=True, low=1),
    Field("system", "string or list", "the system message, or text blocks"),
    Field("tools", "objects", "what the model may call: name, description, input_schema"),
    Field("tool_choice", "object", 'of type "auto", "any", "tool" (with name) or "none"'),
    Field(
        "thinking", "object", 'of type "enabled" (budget_tokens is a target), "disabled", "adaptive", "between_tools"'
    ),
    Field("output_config", "object", "effort, format"),
    Field("cache_control", "object", "prefixes are cached in any case"),
    Field("context_management", "object", "edits: none of them is applied, and the answer says so"),
    Field("output_format", "object", "the older name of output_config.format"),
    Field("speed", "string", "every request is treated alike", choices=("standard", "fast")),
    Field("betas", "strings", "labels, as the header anthropic-beta has them; they change nothing"),
    Field("anthropic_beta", "strings", "the same"),
    Field("anthropic_version", "string", "a label; it changes nothing"),
    Field("mcp_servers", "list", "the server runs no tools", only=([],)),
    Field("container", "any", "the server runs no code", only=()),
]
_COUNT = Schema("AnthropicCountTokensRequest", _CONVERSATION)
_CREATE = Schema(
    "AnthropicMessagesRequest",
    [
        *_CONVERSATION,
        Field("max_tokens", "integer", "tokens to generate at most; the context's length if less", required=True),
        Field("stop_sequences", "strings", "texts that end the answer", high=MAX_STOP_STRINGS),
        Field("stream", "boolean", "answer with events", default=False),
        Field("temperature", "number", "0 is greedy"),
        Field("top_p", "number", "above 0, at most 1"),
        Field("top_k", "integer", "0 is off"),
        Field("metadata", "object", "labels; they change nothing"),
        Field("service_tier", "string", "every request is treated alike", only=("auto", "standard_only")),
        Field("inference_geo", "string", "a label: requests are answered where the server is"),
        Field("diagnostics", "object", "a label; it changes nothing"),
    ],
)


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/v1/messages",
            partial(create, serving),
            _CREATE,
            "answer a conversation, as Anthropic does",
            error_body=error_body,
        ),
        Endpoint(
            "POST",
            "/v1/messages/count_tokens",
            partial(count_tokens, serving),
            _COUNT,
            "its tokens",
            error_body=error_body,
        ),
    ]
