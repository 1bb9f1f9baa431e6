"""The opened model as every API uses it: prepares prompts, runs requests, holds them to the server's limits."""

import asyncio
import contextlib
import functools
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from warpjet._native import SamplingParams, __version__
from warpjet.async_llm import AsyncLLM
from warpjet.common.json_size import exceeds
from warpjet.requests.chat_call import ChatCall
from warpjet.requests.outputs import RequestOutput
from warpjet.serve.events import ChatEvent, ChatRequest, CompletionRequest, Ended, Events, Started
from warpjet.serve.http.errors import ServeError, bad_request, from_exception
from warpjet.serve.http.exchange import HttpRequest
from warpjet.serve.http.request_log import current_record
from warpjet.serve.http.state import ServerState
from warpjet.serve.names import RequestNames, engine_name, shown_name
from warpjet.serve.samples import Sample
from warpjet.text.chat import ChatTemplate
from warpjet.text.prompts import Prompt, PromptType
from warpjet.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from warpjet.parsing.chat_parser import ChatParser
    from warpjet.serve.settings import Settings

# Characters of a prompt that the event loop prepares itself, for a thread would take longer, and of a long one, which
# does not delay the others.
_SMALL, _LONG = 16 << 10, 256 << 10
_SLICE = 512  # tokens that are parsed in one turn of the event loop
_SMALL_BODY = 8 << 10  # bytes that the event loop reads itself
_ANY_MODEL = ("dummy", "tgi")  # clients of huggingface_hub and of TGI always send one of these
T = TypeVar("T")
_PARAMS = frozenset(field.name for field in SamplingParams.__fields__) | {
    "prompt",
    "prompt_token_ids",
    "priority",
    "request_id",
    "tools",
}


class Serving:
    """An opened model, the server's settings and its state."""

    def __init__(self, llm: AsyncLLM, settings: "Settings", model_names: Sequence[str]) -> None:
        self.llm = llm
        self.settings = settings
        self.model_names = list(model_names)
        self.started_at = int(time.time())
        self.server = ServerState(settings)
        self.names = RequestNames()

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

    def check_model(self, name: str | None) -> str:
        """The name to answer with; the first for None and for names that stand for any model. Raises ServeError 404 for
        a model that is not served."""
        if name is None:
            return self.model_names[0]
        if name not in self.model_names and "*" not in self.settings.served_model_name:
            if name in _ANY_MODEL:
                return self.model_names[0]
            served = ", ".join(self.model_names)
            raise ServeError(
                404, f"there is no model {name[:128]!r} here, only {served}", None, "model", "model_not_found"
            )
        return name

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output in tokens."""
        return self.llm.session.engine.model.max_model_len

    async def answer(self, request: ChatRequest) -> Events:
        """Events of one conversation, in lists as the engine gives them; all at the end if sampling.output_kind is
        "final_only" and there are no log-probabilities. Raises ServeError before the first event for what cannot run.
        Closing the iterator, or cancelling the task, cancels the request."""
        call = await self._call(request)
        if request.offered_tools and call.parsers.tool is None:
            raise bad_request(
                "this model's chat template names no format of tool calls; start the server with --tool-call-parser, "
                'or send tool_choice "none"',
                "tools",
            )
        try:
            sampling = call.sampling(_structured(request))
        except ValueError as error:
            raise bad_request(str(error), "tools" if str(error).startswith("tools") else "tool_choice") from None
        parsers = [call.make_parser() for _ in range(_samples(sampling))]
        async for events in self._run(call.prompt, sampling, request, parsers):
            yield events

    async def complete(self, request: CompletionRequest) -> Events:
        """answer() for a plain prompt."""
        prompt = await self.prepare(request)
        sampling = _structured(request)
        async for events in self._run(prompt, sampling, request, [None] * _samples(sampling)):
            yield events

    async def prepare_chat(self, request: ChatRequest) -> Prompt:
        """The conversation as the model reads it. Raises ServeError."""
        return (await self._call(request)).prompt

    async def prepare(self, request: CompletionRequest) -> Prompt:
        """The prompt in token ids. Raises ServeError."""
        given = request.prompt

        def encode() -> Prompt:
            prompt: PromptType = given if isinstance(given, str) else {"prompt_token_ids": given}
            return self.llm.session.prepare(prompt, request.add_special_tokens)[0]

        request.sampling = self.bounded(request.sampling)
        prompt = await self._prepared(encode, request, (given,) if isinstance(given, str) else (), "prompt")
        self._finish(prompt, request)
        return prompt

    def bounded(self, sampling: SamplingParams, prompts: int = 1) -> SamplingParams:
        """The sampling of a request with so many prompts, with the most tokens that are allowed where it names no
        max_tokens. Raises ServeError 400 for more completions or tokens than a request may have."""
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
        """function(), which reads a request; on a thread when its body is large."""
        if request.body_bytes <= _SMALL_BODY:
            return function()
        return await self.server.workers.run(function, request.tenant)

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
        ended = self.server.workers.close()
        self.llm.shutdown()
        return ended

    async def _call(self, request: ChatRequest) -> ChatCall:
        """The conversation with its prompt."""

        def render() -> ChatCall:
            template = None
            if request.chat_template is not None:  # never a path: it may come from anywhere
                template = ChatTemplate({"default": request.chat_template}, self.tokenizer.special_tokens)
            (call,) = self.llm.session.prepare_chat(request.messages, request, template)
            return call

        parts = (request.messages, request.tools, request.chat_template_kwargs)
        request.sampling = self.bounded(request.sampling)
        call = await self._prepared(render, request, parts, "messages")
        self._finish(call.prompt, request)
        return call

    async def _prepared(
        self, make: Callable[[], T], request: ChatRequest | CompletionRequest, parts: tuple[Any, ...], param: str
    ) -> T:
        own_template = isinstance(request, ChatRequest) and request.chat_template is not None
        try:
            if not own_template and not exceeds(_SMALL, *parts):
                await asyncio.sleep(0)  # a request may have a thousand small prompts
                return make()
            return await self.server.workers.run(make, request.tenant, own_template or exceeds(_LONG, *parts))
        except ServeError:
            raise
        except Exception as error:
            served = from_exception(error)
            served.param = served.param or (param if served.status == 400 else None)
            raise served from None

    def _finish(self, prompt: Prompt, request: ChatRequest | CompletionRequest) -> None:
        """Cuts it to the length that is asked for."""
        keep = request.truncate_prompt_tokens
        if keep is not None and prompt.token_ids is not None:
            room = self.max_model_len - (request.sampling.max_tokens or 1)
            keep = max(room, 1) if keep == -1 else keep
            if keep < 1:
                raise bad_request("truncate_prompt_tokens must be at least 1, or -1", "truncate_prompt_tokens")
            prompt.token_ids = prompt.token_ids[-keep:]
        prompt.cache_salt = request.cache_salt

    async def _run(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        request: ChatRequest | CompletionRequest,
        parsers: "list[ChatParser | None]",
    ) -> Events:
        interval = request.stream_interval
        if sampling.output_kind == "cumulative":
            sampling = sampling.replace(output_kind="delta")
        elif sampling.output_kind == "final_only" and sampling.logprobs is not None:  # all at once would be long work
            sampling, interval = sampling.replace(output_kind="delta"), 1
        outputs = self.llm.run(
            prompt,
            sampling,
            engine_name(request.tenant, request.request_id),
            priority=request.priority,
            tenant=request.tenant,
            stream_interval=interval,
        )
        samples = [Sample(index, parser) for index, parser in enumerate(parsers)]
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
                    if work >= _SLICE and parsers[piece.index] is not None:
                        work = 0
                        await asyncio.sleep(0)
                    work += len(piece.token_ids)
                    record.output_tokens += len(piece.token_ids)
                    if piece.finish_reason in ("abort", "error"):
                        record.trouble = f"ended by {piece.finish_reason}"
                    samples[piece.index].add(piece, output.error, events)
                yield events


def _structured(request: ChatRequest | CompletionRequest) -> SamplingParams:
    """The sampling with the request's constraint."""
    structured = request.structured
    return request.sampling if structured is None else request.sampling.replace(structured_outputs=structured)


def _samples(sampling: SamplingParams) -> int:
    return max(sampling.n, sampling.beam_width)


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
