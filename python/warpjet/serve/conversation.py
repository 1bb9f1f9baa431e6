"""What is asked of the model and what happens while it answers, whatever API it came by."""

import asyncio
import contextlib
import functools
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from warpjet import __version__
from warpjet._native import SamplingParams
from warpjet.async_llm import AsyncLLM
from warpjet.common.json_size import exceeds
from warpjet.parsing.chat_parser import shown_tokens
from warpjet.parsing.detection import ParserNames
from warpjet.requests.outputs import CompletionOutput, Logprob, RequestOutput
from warpjet.serve.http.counters import HttpMetrics
from warpjet.serve.http.errors import ServeError, bad_request, from_exception
from warpjet.serve.http.exchange import HttpRequest
from warpjet.serve.http.request_log import current_record
from warpjet.serve.http.workers import Workers
from warpjet.serve.openai.response_store import ResponseStore
from warpjet.serve.parsers import adjusted, make_parsers
from warpjet.text.chat import ChatTemplate
from warpjet.text.prompts import Prompt, PromptType
from warpjet.text.tokenizer import Tokenizer
from warpjet.text.tools import check_tool_choice, check_tools

if TYPE_CHECKING:
    from warpjet.parsing.chat_parser import ChatParser
    from warpjet.parsing.events import ToolCallDelta
    from warpjet.serve.operating.live import LiveFeed
    from warpjet.serve.settings import Settings
    from warpjet.structured import StructuredOutputsParams

# Characters of a prompt that the event loop prepares itself, for a thread would take longer, and of a long one, which
# does not delay the others.
_SMALL, _LONG = 16 << 10, 256 << 10
_SLICE = 512  # tokens that are parsed in one turn of the event loop
_SMALL_BODY = 8 << 10  # bytes that the event loop reads itself
T = TypeVar("T")
_BETWEEN = "\n"  # no name of a tenant has a line break
_PARAMS = frozenset(row[0] for row in SamplingParams.__fields__) | {
    "prompt",
    "prompt_token_ids",
    "priority",
    "request_id",
    "tools",
}


@dataclass(slots=True)
class ChatRequest:
    """One conversation to answer. Raises ServeError 400 for tools or a tool_choice that are malformed."""

    messages: list[dict[str, Any]]  # OpenAI chat messages
    sampling: SamplingParams  # n samples
    tools: list[dict[str, Any]] | None = None  # OpenAI function tools: {"type": "function", "function": {...}}
    tool_choice: str | dict[str, Any] = "auto"  # auto, none, required, {"type": "function", "function": {"name": ...}}
    parallel_tool_calls: bool = True
    structured: "StructuredOutputsParams | None" = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    truncate_prompt_tokens: int | None = None  # keep the last so many; -1 is what fits
    include_reasoning: bool = True
    stream_interval: int = 1  # tokens that are shown together
    request_id: str | None = None
    priority: int = 0
    cache_salt: str = ""
    tenant: str = ""  # from the API key

    def __post_init__(self) -> None:
        try:
            check_tools(self.tools or ())
            check_tool_choice(self.tools, self.tool_choice)
        except ValueError as error:
            raise from_exception(error, frozenset({"tools", "tool_choice"})) from None


@dataclass(slots=True)
class CompletionRequest:
    """One prompt to go on from: text or token ids."""

    prompt: str | list[int]
    sampling: SamplingParams
    structured: "StructuredOutputsParams | None" = None
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    stream_interval: int = 1  # tokens that are shown together
    request_id: str | None = None
    priority: int = 0
    cache_salt: str = ""
    tenant: str = ""


@dataclass(slots=True)
class Started:
    """The engine has begun: always the first event, once."""

    prompt_tokens: int
    cached_tokens: int
    prompt_token_ids: list[int]
    prompt: str | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None


@dataclass(slots=True)
class Delta:
    """What is new in one sample. logprobs has an entry for each of token_ids."""

    index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: "list[ToolCallDelta]" = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] | None = None


@dataclass(slots=True)
class Ended:
    """The last event of one sample. finish_reason: stop, length, tool_calls, abort or error."""

    index: int
    finish_reason: str
    stop_reason: int | str | None = None
    error: str | None = None
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cumulative_logprob: float | None = None


ChatEvent = Started | Delta | Ended
Events = AsyncGenerator[list[ChatEvent], None]  # what came together comes together


async def each(batches: Events) -> AsyncGenerator[ChatEvent, None]:
    """Events one by one, for answers that are not streamed."""
    async with contextlib.aclosing(batches):
        async for batch in batches:
            for event in batch:
                yield event


class Serving:
    """The opened model with what the server knows of it."""

    def __init__(self, llm: AsyncLLM, settings: "Settings", model_names: Sequence[str], parsers: ParserNames) -> None:
        self.llm = llm
        self.settings = settings
        self.model_names = list(model_names)
        self.started_at = int(time.time())
        self.draining = False
        self.http_metrics = HttpMetrics()
        self.responses = ResponseStore()
        self.live_requests: Callable[[], int] = lambda: 0  # HTTP requests being answered
        self._parsers = parsers
        self._names: WeakValueDictionary[tuple[str, str], HttpRequest] = WeakValueDictionary()
        self.workers = Workers(settings.prepare_threads, settings.prepare_timeout)

    @functools.cached_property
    def live_feed(self) -> "LiveFeed":
        """What those see who watch the engine."""
        from warpjet.serve.operating.live import LiveFeed

        return LiveFeed(self.llm, lambda: self.draining)

    @functools.cached_property
    def default_sampling(self) -> dict[str, Any]:
        """Sampling fields that requests have unless they say otherwise; without max_tokens."""
        neutral = SamplingParams().to_dict()
        fields = self.llm.get_default_sampling_params().to_dict() | self.settings.override_generation_config
        SamplingParams.from_dict(fields)  # raises what is wrong with it
        return {k: v for k, v in fields.items() if k not in ("max_tokens", "output_kind") and v != neutral[k]}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Equal where the same request with the same seed has the same answer: of the version, the model's name and
        shape, and the number format."""
        model = self.llm.session.engine.model
        shape = (model.architecture, model.num_layers, model.hidden_size, model.vocab_size, model.scheme)
        about = (__version__, self.model_names[0], *shape)
        return "fp_" + hashlib.sha256(repr(about).encode()).hexdigest()[:10]

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ServeError 400 when there is none."""
        if self.llm.session.tokenizer is None:
            raise bad_request("the server has no tokenizer (skip_tokenizer_init): send and take token ids")
        return self.llm.session.tokenizer

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output in tokens."""
        return self.llm.session.engine.model.max_model_len

    async def answer(self, request: ChatRequest) -> Events:
        """Events of one conversation; what came together comes together, and all at the end if sampling.output_kind is
        "final_only" and there are no log-probabilities. Raises ServeError before the first event for what cannot run.
        Closing the iterator, or cancelling the task, cancels the request."""
        prompt = await self.prepare_chat(request)
        samples = max(request.sampling.n, request.sampling.beam_width)
        names = self._parsers.for_choice(request.tool_choice)
        parsers = make_parsers(names, request, prompt.text or "", samples)
        sampling = adjusted(names, request, prompt.text or "", self.tokenizer)
        if parsers:
            prompt.shown_tokens = shown_tokens(*names)
        async for events in self._run(prompt, sampling, request, parsers):
            yield events

    async def complete(self, request: CompletionRequest) -> Events:
        """answer() for a plain prompt."""
        prompt = await self.prepare(request)
        sampling = request.sampling
        if request.structured is not None:
            sampling = sampling.replace(structured_outputs=request.structured)
        async for events in self._run(prompt, sampling, request, []):
            yield events

    async def prepare_chat(self, request: ChatRequest) -> Prompt:
        """The conversation as the model reads it. Raises ServeError."""

        def render() -> Prompt:
            template = None
            if request.chat_template is not None:  # never a path: it may come from anywhere
                template = ChatTemplate({"default": request.chat_template}, self.tokenizer.special_tokens)
            return self.llm.session.prepare_chat(
                request.messages,
                template,
                add_special_tokens=request.add_special_tokens,
                add_generation_prompt=request.add_generation_prompt,
                continue_final_message=request.continue_final_message,
                tools=request.tools if request.tool_choice != "none" else None,
                chat_template_kwargs=request.chat_template_kwargs,
            )[0]

        parts = (request.messages, request.tools, request.chat_template_kwargs)
        request.sampling = self.bounded(request.sampling)
        prompt = await self._prepared(render, request, parts, "messages")
        return self._finished(prompt, request)

    async def prepare(self, request: CompletionRequest) -> Prompt:
        """The prompt in token ids. Raises ServeError."""
        given = request.prompt

        def encode() -> Prompt:
            prompt: PromptType = given if isinstance(given, str) else {"prompt_token_ids": given}
            return self.llm.session.prepare(prompt, request.add_special_tokens)[0]

        request.sampling = self.bounded(request.sampling)
        prompt = await self._prepared(encode, request, (given,) if isinstance(given, str) else (), "prompt")
        return self._finished(prompt, request)

    def bounded(self, sampling: SamplingParams, prompts: int = 1) -> SamplingParams:
        """What a request may ask for, of so many prompts: one that names no max_tokens gets what is allowed. Raises
        ServeError 400 for more completions or tokens than that."""
        settings = self.settings
        samples = prompts * max(sampling.n, sampling.beam_width)
        if samples > settings.max_prompts:
            raise bad_request(
                f"a request may have {settings.max_prompts} completions (prompts x n, or x beams), got {samples}",
                "prompt" if prompts > 1 else "n",
            )
        limit, context = settings.max_request_tokens, self.max_model_len
        if samples == 1 and sampling.max_tokens is None:
            return sampling.replace(max_tokens=limit) if limit < context else sampling
        tokens = samples * min(sampling.max_tokens or context, context)
        if tokens > limit:
            raise bad_request(
                f"a request may ask for {limit} tokens (prompts x n, or x beams, x max_tokens), got {tokens}",
                "max_tokens" if samples == 1 else "prompt" if prompts > 1 else "n",
            )
        return sampling

    async def read(self, request: HttpRequest, function: Callable[[], T]) -> T:
        """What function() makes of a request; on a thread when its body is large."""
        if request.body_bytes <= _SMALL_BODY:
            return function()
        return await self.workers.run(function, request.tenant)

    def claim_name(self, request: HttpRequest, wanted: str | None) -> str:
        """A name for what a request starts: `wanted`, which must not be live, or one made of its X-Request-Id. It is
        the tenant's own for as long as the request lives. Raises ServeError 400 when `wanted` is live."""
        name = request.request_id if wanted is None else wanted
        if (request.tenant, name) in self._names:
            if wanted is not None:
                raise bad_request(f"request_id {name!r} is live already", "request_id")
            name = f"{name}.{self.llm.session.next_request_id()}"  # a proxy may send a header twice
        self._names[request.tenant, name] = request
        return name

    async def cancel(self, request_id: str) -> bool:
        """Ends the request, and those it was split into; false when there is none."""
        found = [
            one
            for one in self.llm.live_requests()
            if (name := shown_name(one)) == request_id
            or (name.startswith(request_id + "-") and name[len(request_id) + 1 :].isdecimal())
        ]
        for one in found:
            await self.llm.abort(one)
        return bool(found)

    def require_alive(self, ends: Iterable[Ended | None]) -> None:
        """Raises ServeError 500 when the engine failed and nothing else ended these samples."""
        if self.llm.session.engine.health() == "failed" and all(end and end.finish_reason == "error" for end in ends):
            raise ServeError(500, "the engine failed while it answered", code="engine_failed")

    def close(self) -> bool:
        """Ends live requests with finish_reason "abort". False when a thread has not ended, in native code that the
        interpreter must not end in: then the process must end by os._exit(). Idempotent."""
        ended = self.workers.close()
        self.llm.shutdown()
        return ended

    async def _prepared(
        self, make: Callable[[], Prompt], request: ChatRequest | CompletionRequest, parts: tuple[Any, ...], param: str
    ) -> Prompt:
        own_template = isinstance(request, ChatRequest) and request.chat_template is not None
        try:
            if not own_template and not exceeds(_SMALL, *parts):
                await asyncio.sleep(0)  # a request may have a thousand small prompts
                return make()
            return await self.workers.run(make, request.tenant, own_template or exceeds(_LONG, *parts))
        except ServeError:
            raise
        except Exception as error:
            served = from_exception(error)
            served.param = served.param or (param if served.status == 400 else None)
            raise served from None

    def _finished(self, prompt: Prompt, request: ChatRequest | CompletionRequest) -> Prompt:
        keep = request.truncate_prompt_tokens
        if keep is not None and prompt.token_ids is not None:
            room = self.max_model_len - (request.sampling.max_tokens or 1)
            keep = max(room, 1) if keep == -1 else keep
            if keep < 1:
                raise bad_request("truncate_prompt_tokens must be at least 1, or -1", "truncate_prompt_tokens")
            prompt.token_ids = prompt.token_ids[-keep:]
        prompt.cache_salt = request.cache_salt
        return prompt

    async def _run(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        request: ChatRequest | CompletionRequest,
        parsers: "list[ChatParser]",
    ) -> Events:
        interval = request.stream_interval
        if sampling.output_kind == "cumulative":
            sampling = sampling.replace(output_kind="delta")
        elif sampling.output_kind == "final_only" and sampling.logprobs is not None:  # all at once would be long work
            sampling, interval = sampling.replace(output_kind="delta"), 1
        outputs = self.llm.run(
            prompt,
            sampling,
            _own_name(request.tenant, request.request_id),
            priority=request.priority,
            tenant=request.tenant,
            stream_interval=interval,
        )
        samples = [_Sample(index) for index in range(max(sampling.n, sampling.beam_width))]
        for sample, parser in zip(samples, parsers, strict=False):
            sample.parser = parser
        begun, record = False, current_record()
        async with contextlib.aclosing(outputs):
            while output := await _next(outputs, "messages" if isinstance(request, ChatRequest) else "prompt"):
                events: list[ChatEvent] = []
                if not begun:
                    begun = True
                    ids = output.prompt_token_ids
                    record.prompt_tokens += len(ids)
                    events.append(
                        Started(len(ids), output.num_cached_tokens, ids, output.prompt, output.prompt_logprobs)
                    )
                work = 0
                for piece in output.outputs:
                    if parsers and work >= _SLICE:
                        work = 0
                        await asyncio.sleep(0)
                    work += len(piece.token_ids)
                    record.output_tokens += len(piece.token_ids)
                    if piece.finish_reason in ("abort", "error"):
                        record.trouble = f"ended by {piece.finish_reason}"
                    samples[piece.index].add(piece, output.error, events)
                yield events


class _Sample:
    """One sample's outputs to events."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.parser: ChatParser | None = None
        self._tokens = 0
        self._ended = False

    def add(self, piece: CompletionOutput, error: str | None, events: list[ChatEvent]) -> None:
        if self._ended:
            return
        self._tokens += len(piece.token_ids)
        delta = Delta(self.index, piece.text, token_ids=piece.token_ids, logprobs=piece.logprobs)
        if self.parser is not None:
            self._parse(self.parser, piece, delta)
        if piece.token_ids or piece.text or delta.content or delta.reasoning or delta.tool_calls:
            events.append(delta)
        if piece.finish_reason is not None:
            self._ended = True
            reason = piece.finish_reason
            if reason == "stop" and self.parser is not None and self.parser.called_tools:
                reason = "tool_calls"
            events.append(
                Ended(
                    self.index,
                    reason,
                    piece.stop_reason,
                    error if reason == "error" else None,
                    self._tokens,
                    0 if self.parser is None else self.parser.reasoning_tokens,
                    piece.cumulative_logprob,
                )
            )

    def _parse(self, parser: "ChatParser", piece: CompletionOutput, delta: Delta) -> None:
        parts = [parser.push(piece.text, piece.token_ids, piece.text_ends)]
        if piece.finish_reason is not None:
            parts.append(parser.finish(piece.is_whole))
        delta.content = "".join(part.content for part in parts)
        delta.reasoning = "".join(part.reasoning for part in parts)
        delta.tool_calls = [call for part in parts for call in part.tool_calls]


async def _next(outputs: AsyncGenerator[RequestOutput, None], prompt_name: str) -> RequestOutput | None:
    try:
        return await anext(outputs)
    except StopAsyncIteration:
        return None
    except Exception as error:
        served = from_exception(error, _PARAMS)
        if served.param in ("prompt", "prompt_token_ids"):
            served.param = prompt_name
        raise served from error


def _own_name(tenant: str, name: str | None) -> str | None:
    """What the engine's side calls a request: two tenants may use the same name."""
    return f"{tenant}{_BETWEEN}{name}" if tenant and name is not None else name


def shown_name(name: str) -> str:
    """What its client calls it."""
    return name.rpartition(_BETWEEN)[2]
