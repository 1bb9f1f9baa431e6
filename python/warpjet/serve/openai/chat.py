"""POST /v1/chat/completions."""

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from json.encoder import encode_basestring
from typing import Any

from warpjet.parsing.events import ToolCallDelta
from warpjet.serve.events import ChatRequest, Delta, Ended, Events, Started, each
from warpjet.serve.http.errors import ServeError, bad_request
from warpjet.serve.http.exchange import DONE, EventStream, HttpRequest, Response, json_in_pieces, sse
from warpjet.serve.http.schema import Endpoint, Field, Schema
from warpjet.serve.openai.custom_tools import (
    as_custom_call,
    as_function_choice,
    as_functions,
    custom_names,
    input_of,
    with_function_calls,
)
from warpjet.serve.openai.fields import (
    COMMON_FIELDS,
    SAMPLING_FIELDS,
    StreamOptions,
    Usage,
    foreign_field,
    identity,
    sampling_params,
)
from warpjet.serve.openai.logprobs import chat_logprobs, prompt_logprobs
from warpjet.serve.openai.messages import MESSAGES, TOOLS
from warpjet.serve.openai.response_format import structured_outputs
from warpjet.serve.parts import only_allowed
from warpjet.serve.serving import Serving
from warpjet.text.tools import check_tools, chosen_name

CHAT = Schema(
    "ChatCompletionRequest",
    [
        Field("messages", "objects", "the conversation", required=True, low=1, shape=MESSAGES),
        *SAMPLING_FIELDS,
        *COMMON_FIELDS,
        Field("max_completion_tokens", "integer", "the same as max_tokens", shape={"minimum": 1}),
        Field("logprobs", "boolean", "give the log-probability of each token", default=False),
        Field("top_logprobs", "integer", "and those of so many of the most likely; needs logprobs", low=0),
        Field("tools", "objects", "functions and custom tools that the model may call", shape=TOOLS),
        Field("tool_choice", "string or object", "auto, none, required, a tool, or allowed_tools"),
        Field("parallel_tool_calls", "boolean", "allow several calls in one answer", default=True),
        Field("include_reasoning", "boolean", "give the model's reasoning", default=True),
        Field("reasoning_effort", "string", "a variable of the chat template"),
        Field("documents", "objects", "a variable of the chat template"),
        Field("chat_template", "string", "a Jinja template; the server must trust it"),
        Field("chat_template_kwargs", "object", "variables of the chat template"),
        Field("add_generation_prompt", "boolean", "let the template begin the answer (default: it does)"),
        Field("continue_final_message", "boolean", "go on with the last message", default=False),
        Field("echo", "boolean", "use continue_final_message", only=(False,)),
        Field("functions", "list", "use tools", only=()),
        Field("function_call", "any", "use tool_choice", only=()),
        Field("modalities", "strings", "answers are text", only=(["text"],)),
        Field("audio", "object", "answers are text", only=()),
        Field("prediction", "object", "a hint about the answer, which changes no token of it"),
        Field("web_search_options", "object", "nothing is fetched", only=()),
        Field("verbosity", "string", "a variable of the chat template", choices=("low", "medium", "high")),
        foreign_field("best_of"),
    ],
)


@dataclass(slots=True)
class Job:
    """A request, and what its answer holds."""

    chat: ChatRequest
    model: str
    stream: StreamOptions | None  # None: the answer is whole
    top: int | None  # the log-probability of each token, and of so many of the most likely
    as_ids: bool  # tokens are named by their ids
    with_ids: bool
    custom: set[str]  # names of tools whose input is a text


async def _create(serving: Serving, request: HttpRequest) -> Response | EventStream:
    job = await serving.read(request, lambda: _read(serving, request))
    writer, events = Writer(serving, job), serving.answer(job.chat)
    if job.stream is not None:
        return EventStream(writer.stream(events, job.stream))
    return await json_in_pieces(await writer.whole(events))


def _read(serving: Serving, request: HttpRequest) -> Job:
    """Raises ServeError naming the field."""
    body = request.body
    model, options, top = serving.check_model(body.get("model")), StreamOptions(serving, body), _logprobs(body)
    chat = _chat_request(serving, request, top)
    if chat.sampling.prompt_logprobs is not None and body["stream"]:
        raise bad_request("prompt_logprobs is not supported with stream", "prompt_logprobs")
    return Job(
        chat,
        model,
        stream=options if body["stream"] else None,
        top=top,
        as_ids=body.get("return_tokens_as_token_ids", serving.settings.return_tokens_as_token_ids),
        with_ids=body["return_token_ids"],
        custom=custom_names(body.get("tools") or []),
    )


def _chat_request(serving: Serving, request: HttpRequest, top: int | None) -> ChatRequest:
    body = request.body
    if "chat_template" in body and not serving.settings.trust_request_chat_template:
        raise ServeError(
            403,
            "requests may not bring a chat template; the server's --trust-request-chat-template allows it",
            param="chat_template",
            code="chat_template_not_trusted",
        )
    continued = body["continue_final_message"]
    variables = {**serving.settings.default_chat_template_kwargs, **(body.get("chat_template_kwargs") or {})}
    variables |= {name: body[name] for name in ("documents", "reasoning_effort", "verbosity") if name in body}
    tools, tool_choice = chosen_tools(body)
    return ChatRequest(
        with_function_calls(body["messages"]),
        sampling_params(serving, body, **_lengths(body), logprobs=top),
        tools=tools or None,
        tool_choice=tool_choice,
        parallel_tool_calls=body["parallel_tool_calls"],
        structured=structured_outputs(body),
        chat_template=body.get("chat_template"),
        chat_template_kwargs=variables or None,
        add_generation_prompt=body.get("add_generation_prompt", not continued),
        continue_final_message=continued,
        add_special_tokens=body.get("add_special_tokens", False),
        include_reasoning=body["include_reasoning"],
        **identity(request, serving),
    )


def chosen_tools(body: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    """The tools that may be called, and tool_choice without allowed_tools."""
    tools = as_functions(body.get("tools") or [])
    choice = as_function_choice(body.get("tool_choice", "auto"))
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return tools, choice
    given = choice.get("allowed_tools")
    allowed = given.get("tools") if isinstance(given, dict) else None
    names = [chosen_name(as_function_choice(tool)) for tool in allowed] if isinstance(allowed, list) else [None]
    if not isinstance(given, dict) or None in names:
        raise bad_request("tool_choice.allowed_tools must be an object with mode and tools", "tool_choice")
    try:
        check_tools(tools)
    except ValueError as error:
        raise bad_request(str(error), "tools") from None
    return only_allowed(tools, {name for name in names if name}, given.get("mode"))


def _lengths(body: dict[str, Any]) -> dict[str, int | None]:
    given = {body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}
    if len(given) > 1:
        raise bad_request("max_tokens and max_completion_tokens differ; send one", "max_completion_tokens")
    return {"max_tokens": given.pop() if given else None}


def _logprobs(body: dict[str, Any]) -> int | None:
    if "top_logprobs" in body and not body["logprobs"]:
        raise bad_request("top_logprobs needs logprobs to be true", "top_logprobs")
    return body.get("top_logprobs", 0) if body["logprobs"] else None


@dataclass(slots=True)
class _Choice:
    """One sample of a whole answer."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    ended: Ended | None = None


class Writer:
    """Events of one request as OpenAI's objects."""

    def __init__(self, serving: Serving, job: Job) -> None:
        chat = job.chat
        self._serving = serving
        self._samples = max(chat.sampling.n, chat.sampling.beam_width)
        self._id = f"chatcmpl-{chat.request_id}"
        self._created = int(time.time())
        self._model = job.model
        self._print = {"system_fingerprint": serving.fingerprint}
        self._include_reasoning = chat.include_reasoning
        self._top, self._as_ids, self._with_ids = job.top, job.as_ids, job.with_ids
        self._usage = Usage()
        self._custom = job.custom
        self._growing: dict[int, tuple[int, list[str]]] = {}  # by sample: a custom tool's call, told when it is whole

    async def whole(self, events: Events) -> dict[str, Any]:
        """The answer as one object."""
        choices: dict[int, _Choice] = {}
        started = Started(0, 0, [])
        async for event in each(events):
            if isinstance(event, Started):
                started = event
                self._usage.start(event)
                continue
            choice = choices.setdefault(event.index, _Choice())
            if isinstance(event, Ended):
                choice.ended = event
                self._usage.end(event)
            else:
                self._collect(choice, event)
        self._serving.require_alive(choice.ended for choice in choices.values())
        return {
            **self._head("chat.completion"),
            "choices": [self._choice(index, choices[index]) for index in sorted(choices)],
            "usage": self._usage.to_dict(),
            "prompt_logprobs": await prompt_logprobs(started.prompt_logprobs),
            **({"prompt_token_ids": started.prompt_token_ids} if self._with_ids else {}),
        }

    async def stream(
        self, events: AsyncGenerator[list[Any], None], options: StreamOptions
    ) -> AsyncGenerator[bytes, None]:
        """The answer as Server-Sent Events."""
        plain = self._top is None and not self._with_ids and not options.continuous
        head, tail = self._plain_form(options)
        async with contextlib.aclosing(events):
            async for batch in events:
                pieces = []
                for event in batch:
                    if isinstance(event, Delta):
                        self._usage.completion_tokens += len(event.token_ids)
                        if plain and event.content and not event.reasoning and not event.tool_calls:
                            text = encode_basestring(event.content)
                            pieces.append(f"{head}{event.index}{tail}{text}}}}}]}}\n\n".encode())
                        elif (chunk := self._delta(event)) is not None:
                            pieces.append(self._chunk([chunk], options))
                    elif isinstance(event, Ended):
                        self._usage.end(event)
                        if calls := self._whole_input(event.index):
                            pieces.append(self._chunk([_choice_of(event.index, {"tool_calls": calls})], options))
                        pieces.append(self._chunk([self._end(event)], options))
                    else:
                        self._usage.start(event)
                        pieces.append(self._opening(event, options))
                if pieces:
                    yield b"".join(pieces)
        if options.include_usage:
            yield sse({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage.to_dict()})
        yield DONE

    def _plain_form(self, options: StreamOptions) -> tuple[str, str]:
        """What stands around the index and the text of a piece of text alone, by far the most frequent event."""
        opening = {**self._head("chat.completion.chunk"), **options.usage_so_far(self._usage)}
        head = sse(opening).decode().rstrip()[:-1]
        return f'{head},"choices":[{{"index":', ',"logprobs":null,"finish_reason":null,"delta":{"content":'

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, **self._print}

    def _chunk(self, choices: list[dict[str, Any]], options: StreamOptions) -> bytes:
        usage = options.usage_so_far(self._usage)
        return sse({**self._head("chat.completion.chunk"), "choices": choices, **usage})

    def _opening(self, event: Started, options: StreamOptions) -> bytes:
        delta = {"role": "assistant", "content": ""}
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} for index in range(self._samples)
        ]
        ids = {"prompt_token_ids": event.prompt_token_ids} if self._with_ids else {}
        usage = options.usage_so_far(self._usage)
        return b"".join(
            sse({**self._head("chat.completion.chunk"), "choices": [choice], **usage, **ids}) for choice in choices
        )

    def _delta(self, event: Delta) -> dict[str, Any] | None:
        delta: dict[str, Any] = {}
        if event.content:
            delta["content"] = event.content
        if event.reasoning and self._include_reasoning:
            delta["reasoning"] = delta["reasoning_content"] = event.reasoning
        if calls := [piece for call in event.tool_calls for piece in self._call_pieces(event.index, call)]:
            delta["tool_calls"] = calls
        if not delta and self._top is None and not self._with_ids:
            return None
        choice = _choice_of(event.index, delta)
        if self._top is not None and event.logprobs is not None:
            choice["logprobs"] = {
                "content": chat_logprobs(event.token_ids, event.logprobs, self._top, self._as_ids),
                "refusal": None,
            }
        if self._with_ids:
            choice["token_ids"] = event.token_ids
        return choice

    def _call_pieces(self, sample: int, call: ToolCallDelta) -> list[dict[str, Any]]:
        """A piece of a call as it is told: of a custom tool's, its beginning and at last its input."""
        if call.id is None:
            if (growing := self._growing.get(sample)) is None:
                return [{"index": call.index, "function": {"arguments": call.arguments}}]
            growing[1].append(call.arguments)
            return []
        begun: dict[str, Any] = {"index": call.index, "id": call.id}
        before = self._whole_input(sample)
        if call.name in self._custom:
            self._growing[sample] = (call.index, [call.arguments])
            return [*before, {**begun, "type": "custom", "custom": {"name": call.name, "input": ""}}]
        return [*before, {**begun, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}]

    def _whole_input(self, sample: int) -> list[dict[str, Any]]:
        """Of the custom tool's call that has ended, if there is one."""
        if (growing := self._growing.pop(sample, None)) is None:
            return []
        return [{"index": growing[0], "custom": {"input": input_of("".join(growing[1]))}}]

    def _end(self, event: Ended) -> dict[str, Any]:
        end = {"index": event.index, "delta": {}, "logprobs": None, "finish_reason": event.finish_reason}
        return {**end, "stop_reason": event.stop_reason, **({"error": event.error} if event.error else {})}

    def _collect(self, choice: _Choice, event: Delta) -> None:
        self._usage.completion_tokens += len(event.token_ids)
        choice.content.append(event.content)
        choice.reasoning.append(event.reasoning)
        if self._with_ids:
            choice.token_ids += event.token_ids
        if self._top is not None and event.logprobs is not None:
            choice.logprobs += chat_logprobs(event.token_ids, event.logprobs, self._top, self._as_ids)
        for call in event.tool_calls:
            whole = choice.calls.setdefault(
                call.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            whole["id"] = whole["id"] or call.id or ""
            whole["function"]["name"] = whole["function"]["name"] or call.name or ""
            whole["function"]["arguments"] += call.arguments

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        text, reasoning = "".join(choice.content), "".join(choice.reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": text or ("" if not choice.calls else None)}
        message["refusal"] = None
        if reasoning and self._include_reasoning:
            message["reasoning"] = message["reasoning_content"] = reasoning
        if choice.calls:
            calls = [choice.calls[i] for i in sorted(choice.calls)]
            message["tool_calls"] = [
                as_custom_call(call) if call["function"]["name"] in self._custom else call for call in calls
            ]
        ended = choice.ended or Ended(index, "error")
        out = {
            "index": index,
            "message": message,
            "logprobs": {"content": choice.logprobs, "refusal": None} if self._top is not None else None,
            "finish_reason": ended.finish_reason,
            "stop_reason": ended.stop_reason,
        }
        if self._with_ids:
            out["token_ids"] = choice.token_ids
        if ended.error:
            out["error"] = ended.error
        return out


def _choice_of(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/v1/chat/completions",
            partial(_create, serving),
            CHAT,
            "answer a conversation",
            elsewhere=("/api/chat",),
        )
    ]
