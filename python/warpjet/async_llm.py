"""AsyncLLM: the same for asyncio, one request a call."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Unpack

from warpjet._native import Engine, Output, OutputQueue, PoolingParams, SamplingParams
from warpjet.requests.assembly import Assembly
from warpjet.requests.batch import Answer, Collector
from warpjet.requests.chat_call import AnswerReader, ChatKeywords, ChatOptions
from warpjet.requests.embedding import NO_SAMPLING, Embedding, check_pooling
from warpjet.requests.opened import OpenedModel
from warpjet.requests.outputs import EmbeddingRequestOutput, RequestOutput
from warpjet.text.chat import Conversation
from warpjet.text.prompts import Prompt, PromptType

# Work of one turn of the event loop, some milliseconds: one for a token and for each entry of log-probabilities.
_SLICE = 512
_OUTPUT_WORK = 4  # of an output, beside its tokens


@dataclass(slots=True)
class _Live:
    native_id: int
    collector: Collector[Any]
    interval: int  # unread tokens that wake the reader, as the first output does; 0 wakes it only at the end
    paused: bool = False
    error: Exception | type[MemoryError] | None = None  # ends it, and nothing else
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class _Hub:
    """Outputs of one event loop: a queue whose descriptor the loop watches. One wake-up serves all that is there, in
    slices, so that readers have their turns."""

    def __init__(self, engine: Engine) -> None:
        self.queue = OutputQueue()
        self.loop = asyncio.get_running_loop()
        self.live: dict[int, _Live] = {}
        self._engine = engine
        self._slicing = False
        self._max_unread_tokens = engine.config.max_unread_tokens
        self.loop.add_reader(self.queue.wait_fd(), self._on_ready)

    def close(self) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(self.queue.wait_fd())

    def _on_ready(self) -> None:
        if self._slicing:
            return
        try:
            outputs = self.queue.poll()
        except MemoryError:  # they wait there, and the loop comes again
            return
        self._take_slice(outputs, 0)

    def _take_slice(self, outputs: list[Output], start: int) -> None:
        work = 0
        for index in range(start, len(outputs)):
            if work >= _SLICE and self._take_later(outputs, index):
                return
            work += _OUTPUT_WORK + self._take(outputs[index])
        self._slicing = False

    def _take_later(self, outputs: list[Output], start: int) -> bool:
        """False where memory is short: then there is no next turn of the loop."""
        try:
            self.loop.call_soon(self._take_slice, outputs, start)
        except MemoryError:
            return False
        self._slicing = True
        return True

    def _take(self, output: Output) -> int:
        """How much work it was."""
        request = self.live.get(output.id)
        if request is None or request.error is not None:
            return 0
        collector = request.collector
        unread = collector.unread_tokens
        try:
            self._feed(request, output)
        except MemoryError:  # not kept: with sixteen of them alive, CPython 3.11 crashes where memory is short
            request.error = MemoryError
        except Exception as error:  # a bug of ours: it is this request's alone
            request.error = error
        if request.error is not None:
            request.changed.set()
        return (collector.unread_tokens - unread) * collector.token_work

    def _feed(self, request: _Live, output: Output) -> None:
        collector = request.collector
        if collector.feed(output):
            self._engine.cancel(output.id, output.sample)
        if collector.finished:
            del self.live[output.id]
            request.changed.set()
        elif request.interval and (collector.unread_tokens >= request.interval or not collector.begun):
            request.changed.set()
            if collector.unread_tokens > self._max_unread_tokens and not request.paused:
                request.paused = True
                self._engine.pause(output.id)


class AsyncLLM(OpenedModel):
    """A model that completes prompts in an event loop. The constructor is LLM's; it blocks while the model loads."""

    def _start(self) -> None:
        self._hub: _Hub | None = None
        self._by_name: dict[str, _Live] = {}
        self._latest: deque[tuple[int, str]] = deque(maxlen=256)

    async def generate(
        self,
        prompt: PromptType,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs of one prompt by its output_kind; the last has finished=True. A slow reader gets what came together
        as one output. Leaving the loop early, or cancelling the task, cancels the request. Raises as LLM.generate();
        ValueError also for a request_id that is live."""
        prompts = self._session.prepare(prompt)
        if len(prompts) != 1:
            raise ValueError("generate() takes one prompt; call it once for each")
        async for output in self.run(prompts[0], sampling_params, request_id, priority=priority):
            yield output

    async def chat(
        self,
        messages: Conversation,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        **chat_options: Unpack[ChatKeywords],
    ) -> AsyncGenerator[RequestOutput, None]:
        """generate() for one conversation; chat_options are those of LLM.chat(). Outputs have tool calls as those of
        LLM.stream_chat() have."""
        (call,) = self._session.prepare_chat([messages], ChatOptions(**chat_options))
        params = call.sampling(self._session.default_params if sampling_params is None else sampling_params)
        reader = AnswerReader(call, deltas=params.output_kind == "delta")
        async for output in self.run(call.prompt, params, request_id, priority=priority):
            yield reader.read(output)

    async def embed(
        self,
        prompt: PromptType,
        pooling_params: PoolingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        tenant: str = "",
    ) -> EmbeddingRequestOutput:
        """One prompt as a vector; see LLM.embed(). Cancelling the task cancels the request."""
        prompts = self._session.prepare(prompt)
        if len(prompts) != 1:
            raise ValueError("embed() takes one prompt; call it once for each")
        pooling, name = check_pooling(pooling_params), self._free_name(request_id)

        def submit(queue: OutputQueue) -> int:
            return self._session.submit(prompts[0], NO_SAMPLING, queue, priority, tenant, pooling)

        async with contextlib.aclosing(self._follow(name, submit, Embedding(name, prompts[0]))) as answers:
            return await anext(answers)

    async def abort(self, request_id: str) -> None:
        """Ends a request: its stream yields a last output with finish_reason "abort". Unknown ids are no error."""
        if request := self._by_name.get(request_id):
            self._session.engine.cancel(request.native_id)

    async def reset_prefix_cache(self) -> bool:
        """Forgets the KV blocks of finished requests."""
        await asyncio.to_thread(self._session.engine.reset_prefix_cache)
        return True

    def is_live(self, request_id: str) -> bool:
        """True from the start of a request until its last output is taken."""
        return request_id in self._by_name

    def live_requests(self) -> list[str]:
        """The request_id of each request that is live."""
        return list(self._by_name)

    def latest_requests(self) -> list[tuple[int, str]]:
        """The engine's number and the request_id of the latest requests, at most 256, oldest first."""
        return list(self._latest)

    async def run(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        tenant: str = "",
        stream_interval: int = 1,
    ) -> AsyncGenerator[RequestOutput, None]:
        """generate() for a prepared prompt. A stream shows its first token at once and then this many at a time. A
        request with more unread tokens than EngineConfig.max_unread_tokens pauses until somebody reads."""
        session = self._session
        params = session.default_params if sampling_params is None else sampling_params
        native = await session.native_params_async(params)
        name = self._free_name(request_id)

        def submit(queue: OutputQueue) -> int:
            return session.submit(prompt, native, queue, priority, tenant)

        assembly = Assembly(name, prompt, params, session.tokenizer, params.output_kind)
        interval = 0 if params.output_kind == "final_only" else stream_interval
        async with contextlib.aclosing(self._follow(name, submit, assembly, interval)) as outputs:
            async for output in outputs:
                yield output

    def _free_name(self, request_id: str | None) -> str:
        name = self._session.next_request_id() if request_id is None else request_id
        if name in self._by_name:
            raise ValueError(f"request_id {name!r} is live already")
        return name

    async def _follow(
        self, name: str, submit: Callable[[OutputQueue], int], collector: Collector[Answer], interval: int = 0
    ) -> AsyncGenerator[Answer, None]:
        """Submits a request and yields what is to be shown of it; being closed cancels it."""
        session, hub = self._session, self._current_hub()
        native_id = submit(hub.queue)
        request = _Live(native_id, collector, interval)
        hub.live[native_id] = self._by_name[name] = request
        self._latest.append((native_id, name))
        try:
            finished = False
            while not finished:
                await request.changed.wait()
                request.changed.clear()
                if request.error is not None:
                    raise request.error
                while collector.catch_up(_SLICE):
                    await asyncio.sleep(0)
                finished = collector.finished
                if (output := collector.take()) is not None:
                    yield output
                if request.paused:
                    request.paused = False
                    session.engine.resume(native_id)
        finally:
            del self._by_name[name]
            if hub.live.pop(native_id, None):
                self._session.engine.cancel(native_id)

    def _current_hub(self) -> _Hub:
        """The running loop's. Another loop than before (a second asyncio.run) gets a new one."""
        if self._hub is None or self._hub.loop is not asyncio.get_running_loop():
            if self._hub is not None:
                self._hub.close()
            self._hub = _Hub(self._session.engine)
        return self._hub
