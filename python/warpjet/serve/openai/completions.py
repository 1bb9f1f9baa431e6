"""POST /v1/completions: OpenAI's older API, for prompts that are text or token ids."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from warpjet.serve.events import ChatEvent, CompletionRequest, Delta, Ended, Started, each
from warpjet.serve.http.errors import bad_request
from warpjet.serve.http.exchange import DONE, EventStream, HttpRequest, Response, json_in_pieces, sse
from warpjet.serve.http.schema import Endpoint, Field, Schema
from warpjet.serve.openai.fields import (
    COMMON_FIELDS,
    SAMPLING_FIELDS,
    StreamOptions,
    Usage,
    identity,
    sampling_params,
)
from warpjet.serve.openai.logprobs import LegacyLogprobs, prompt_logprobs
from warpjet.serve.openai.response_format import structured_outputs
from warpjet.serve.serving import Serving

T = TypeVar("T")
_Numbered = tuple[int, list[ChatEvent]]  # events, and the prompt that they belong to
_DEFAULT_MAX_TOKENS = 16

_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "minItems": 1}
_TEXT = {"type": "string", "minLength": 1}
_PROMPTS = {"anyOf": [_TEXT, _IDS, *({"type": "array", "items": form, "minItems": 1} for form in (_TEXT, _IDS))]}

COMPLETION = Schema(
    "CompletionRequest",
    [
        Field("prompt", "string or list", "text, token ids, or a list of these", required=True, low=1, shape=_PROMPTS),
        *SAMPLING_FIELDS,
        *COMMON_FIELDS,
        Field("logprobs", "integer", "give log-probabilities of so many of the most likely tokens", low=0),
        Field("echo", "boolean", "begin the text with the prompt", default=False),
        Field("best_of", "integer", "generate so many and give the n most likely", low=1, high=128),
        Field("suffix", "string", "text is written forward only", only=("",)),
    ],
)


@dataclass(slots=True)
class _Job:
    """A request, and what its answer holds."""

    requests: list[CompletionRequest]  # one for each prompt
    model: str
    stream: StreamOptions | None  # None: the answer is whole
    wanted: int  # choices of each prompt: the best ones, where there are more samples
    echo: bool
    top: int | None  # log-probabilities of so many of the most likely tokens
    as_ids: bool  # tokens are named by their ids
    with_ids: bool
    with_prompt_logprobs: bool


async def _create(serving: Serving, request: HttpRequest) -> Response | EventStream:
    job = await serving.read(request, lambda: _read(serving, request))
    writer = _Writer(serving, job)
    if job.stream is not None:
        return EventStream(writer.stream(job.stream))
    return await json_in_pieces(await writer.whole())


def _read(serving: Serving, request: HttpRequest) -> _Job:
    """Raises ServeError naming the field."""
    body = request.body
    model, options = serving.check_model(body.get("model")), StreamOptions(serving, body)
    requests = _requests(serving, request)
    if "prompt_logprobs" in body and body["stream"]:
        raise bad_request("prompt_logprobs is not supported with stream", "prompt_logprobs")
    return _Job(
        requests,
        model,
        stream=options if body["stream"] else None,
        wanted=body.get("n", 1),
        echo=body["echo"],
        top=body.get("logprobs"),
        as_ids=body.get("return_tokens_as_token_ids", serving.settings.return_tokens_as_token_ids),
        with_ids=body["return_token_ids"],
        with_prompt_logprobs="prompt_logprobs" in body,
    )


def _requests(serving: Serving, request: HttpRequest) -> list[CompletionRequest]:
    """One for each prompt."""
    body = request.body
    prompts = _prompts(body["prompt"])
    n, best_of = body.get("n", 1), body.get("best_of")
    own: dict[str, Any] = {"logprobs": body.get("logprobs")}
    if best_of is not None and best_of != n:
        if best_of < n or body["stream"]:
            raise bad_request("best_of must be at least n, and needs stream false", "best_of")
        own |= {"n": best_of, "logprobs": own["logprobs"] or 0}
    if "max_tokens" not in body:
        own["max_tokens"] = _DEFAULT_MAX_TOKENS
    if body["echo"] and body.get("logprobs") is not None:
        own["prompt_logprobs"] = max(body["logprobs"], body.get("prompt_logprobs", 0))
    if body.get("max_tokens") == 0 and (body["echo"] or "prompt_logprobs" in body):
        own.setdefault("prompt_logprobs", body.get("prompt_logprobs", 0))  # the engine computes the prompt for that
    sampling, structured, own_fields = (
        sampling_params(serving, body, **own),
        structured_outputs(body),
        identity(request, serving),
    )
    serving.bounded(sampling, len(prompts))
    add_special_tokens = body.get("add_special_tokens", True)
    name = own_fields.pop("request_id")
    if len(prompts) == 1:
        return [CompletionRequest(prompts[0], sampling, structured, add_special_tokens, request_id=name, **own_fields)]
    return [
        CompletionRequest(prompt, sampling, structured, add_special_tokens, request_id=f"{name}-{index}", **own_fields)
        for index, prompt in enumerate(prompts)
    ]


def _prompts(given: str | list[Any]) -> list[str | list[int]]:
    """Raises ServeError 400 for other forms than text, token ids, or a list of these."""
    prompts = [given] if isinstance(given, str) or type(given[0]) is int else given
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, list):
            if not prompt or not all(type(token) is int for token in prompt):
                raise bad_request(f"prompt {index} must be token ids, at least one", "prompt")
        elif not isinstance(prompt, str) or not prompt:
            raise bad_request(f"prompt {index} must be text that is not empty, or token ids", "prompt")
    return prompts


class _Choice:
    """One sample of one prompt."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: dict[str, list[Any]] = {}
        self.legacy: LegacyLogprobs | None = None
        self.ended: Ended | None = None

    def add(self, logprobs: dict[str, list[Any]]) -> None:
        """More of them."""
        for key, values in logprobs.items():
            self.logprobs.setdefault(key, []).extend(values)


class _Writer:
    """Events of all prompts as OpenAI's objects. Choices are numbered prompt by prompt."""

    def __init__(self, serving: Serving, job: _Job) -> None:
        requests = job.requests
        self._serving = serving
        self._requests = requests
        self._echo = job.echo
        self._id = f"cmpl-{(requests[0].request_id or '').removesuffix('-0' if len(requests) > 1 else '')}"
        self._created = int(time.time())
        self._model = job.model
        self._print = {"system_fingerprint": serving.fingerprint}
        self._top, self._as_ids, self._with_ids = job.top, job.as_ids, job.with_ids
        self._wanted, self._with_prompt_logprobs = job.wanted, job.with_prompt_logprobs
        self._usage = Usage()

    async def _choices(self, request: CompletionRequest, event: Started) -> AsyncGenerator[_Choice, None]:
        """A prompt's, with what is echoed of it; the rest of the event loop has a turn before each."""
        echo, skips = self._echo, request.sampling.skip_special_tokens
        text = self._prompt_text(request, event) if echo else ""
        head: dict[str, list[Any]] | None = None
        for _ in range(self._samples()):
            await asyncio.sleep(0)
            choice = _Choice()
            choice.text.append(text)
            if self._top is not None:
                legacy = LegacyLogprobs(self._serving.tokenizer, self._as_ids, event.prompt_token_ids, text, skips)
                if head is None:
                    rows = event.prompt_logprobs if echo else None
                    head = legacy.write([], [], 0) if rows is None else await legacy.write_prompt(rows, self._top)
                choice.legacy = legacy
                choice.add(head)
            yield choice

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        answers = await _together([functools.partial(self._gather, request) for request in self._requests])
        choices: list[dict[str, Any]] = []
        for request, (started, samples) in zip(self._requests, answers, strict=True):
            self._serving.require_alive(sample.ended for sample in samples)
            rows = await prompt_logprobs(started.prompt_logprobs) if self._with_prompt_logprobs else None
            for sample in _best(samples, self._wanted) if self._wanted < request.sampling.n else samples:
                choices.append(self._whole_choice(len(choices), started, sample, rows))
        return {**self._head(), "choices": choices, "usage": self._usage.to_dict()}

    async def stream(self, options: StreamOptions) -> AsyncGenerator[bytes, None]:
        """The answer as Server-Sent Events."""
        choices: dict[int, _Choice] = {}
        async with contextlib.aclosing(_merged(self._serving, self._requests)) as merged:
            async for prompt_index, batch in merged:
                pieces = []
                first = prompt_index * self._samples()
                for event in batch:
                    if isinstance(event, Started):
                        self._usage.start(event)
                        index = first
                        async for choice in self._choices(self._requests[prompt_index], event):
                            choices[index] = choice
                            if self._echo:
                                yield self._chunk(self._echoed(choice, index, event), options)
                            index += 1
                        continue
                    index = first + event.index
                    pieces.append(self._chunk(self._event(choices[index], index, event), options))
                if pieces:
                    yield b"".join(pieces)
        if options.include_usage:
            yield sse({**self._head(), "choices": [], "usage": self._usage.to_dict()})
        yield DONE

    def _samples(self) -> int:
        sampling = self._requests[0].sampling
        return max(sampling.n, sampling.beam_width)

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            **self._print,
        }

    def _chunk(self, choice: dict[str, Any], options: StreamOptions) -> bytes:
        usage = options.usage_so_far(self._usage)
        return sse({**self._head(), "choices": [choice], **usage})

    def _event(self, choice: _Choice, index: int, event: Delta | Ended) -> dict[str, Any]:
        if isinstance(event, Ended):
            self._usage.end(event)
            end = {"index": index, "text": "", "logprobs": None, "finish_reason": event.finish_reason}
            return {**end, "stop_reason": event.stop_reason, **({"error": event.error} if event.error else {})}
        self._usage.completion_tokens += len(event.token_ids)
        out: dict[str, Any] = {"index": index, "text": event.content, "logprobs": None, "finish_reason": None}
        if choice.legacy is not None and event.logprobs is not None:
            out["logprobs"] = choice.legacy.write(event.token_ids, event.logprobs, self._top or 0)
        if self._with_ids:
            out["token_ids"] = event.token_ids
        return out

    def _echoed(self, choice: _Choice, index: int, event: Started) -> dict[str, Any]:
        out: dict[str, Any] = {"index": index, "text": choice.text[0], "logprobs": None, "finish_reason": None}
        if choice.legacy is not None and event.prompt_logprobs is not None:
            out["logprobs"] = choice.logprobs
        if self._with_ids:
            out["prompt_token_ids"] = event.prompt_token_ids
        return out

    def _prompt_text(self, request: CompletionRequest, event: Started) -> str:
        """The text that the completion goes on from: as it was sent, or that of the tokens if some were cut off."""
        if event.prompt is not None and request.truncate_prompt_tokens is None:
            return event.prompt
        return self._serving.tokenizer.decode_open(event.prompt_token_ids, request.sampling.skip_special_tokens)

    async def _gather(self, request: CompletionRequest) -> tuple[Started, list[_Choice]]:
        started: Started | None = None
        samples: list[_Choice] = []
        async for event in each(self._serving.complete(request)):
            if isinstance(event, Started):
                started = event
                self._usage.start(event)
                samples = [choice async for choice in self._choices(request, event)]
            elif isinstance(event, Ended):
                samples[event.index].ended = event
                self._usage.end(event)
            else:
                sample = samples[event.index]
                sample.text.append(event.content)
                sample.token_ids += event.token_ids
                if sample.legacy is not None and event.logprobs is not None:
                    sample.add(sample.legacy.write(event.token_ids, event.logprobs, self._top or 0))
                self._usage.completion_tokens += len(event.token_ids)
        assert started is not None
        return started, samples

    def _whole_choice(self, index: int, started: Started, sample: _Choice, rows: Any) -> dict[str, Any]:
        ended = sample.ended or Ended(index, "error")
        out: dict[str, Any] = {
            "index": index,
            "text": "".join(sample.text),
            "logprobs": None if sample.legacy is None else sample.logprobs,
            "finish_reason": ended.finish_reason,
            "stop_reason": ended.stop_reason,
            "prompt_logprobs": rows,
        }
        if self._with_ids:
            out |= {"token_ids": sample.token_ids, "prompt_token_ids": started.prompt_token_ids}
        if ended.error:
            out["error"] = ended.error
        return out


def _best(samples: list[_Choice], count: int) -> list[_Choice]:
    """Those with the highest log-probability a token."""

    def score(sample: _Choice) -> float:
        total = (sample.ended and sample.ended.cumulative_logprob) or 0.0
        return total / max(len(sample.token_ids), 1)

    return sorted(samples, key=score, reverse=True)[:count]


async def _together(jobs: list[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """All results in order; the first error ends the others."""
    if len(jobs) == 1:
        return [await jobs[0]()]
    async with _Group() as group:
        return list(await asyncio.gather(*[await group.start(job()) for job in jobs]))


class _Group:
    """Tasks that end with their block: what is left when an error leaves it is cancelled."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> "_Group":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self, job: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The task has had a turn, and the rest of the event loop too, before the next begins."""
        task = asyncio.create_task(job)
        self._tasks.append(task)
        await asyncio.sleep(0)
        return task


async def _merged(
    serving: Serving, requests: list[CompletionRequest]
) -> AsyncGenerator[tuple[int, list[ChatEvent]], None]:
    """Events of several prompts as they come, with the prompt's index."""
    if len(requests) == 1:
        async with contextlib.aclosing(serving.complete(requests[0])) as events:
            async for batch in events:
                yield 0, batch
        return
    queue: asyncio.Queue[tuple[int, list[ChatEvent]] | Exception | None] = asyncio.Queue(maxsize=64)

    async def feed(index: int, request: CompletionRequest) -> None:
        try:
            async with contextlib.aclosing(serving.complete(request)) as events:
                async for batch in events:
                    await queue.put((index, batch))
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    async with _Group() as group:
        for index, request in enumerate(requests):
            await group.start(feed(index, request))
        open_streams = len(requests)
        while open_streams:
            item = await queue.get()
            if item is None:
                open_streams -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item


def routes(serving: Serving) -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/v1/completions",
            partial(_create, serving),
            COMPLETION,
            "go on from a prompt",
            elsewhere=("/api/generate",),
        )
    ]
