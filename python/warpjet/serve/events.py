"""A request to the model, and the events of its answer, the same for every API."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams
from warpjet.requests.chat_call import ChatOptions
from warpjet.requests.outputs import Logprob
from warpjet.serve.http.errors import from_exception

if TYPE_CHECKING:
    from warpjet.parsing.events import ToolCallDelta
    from warpjet.structured import StructuredOutputsParams


@dataclass(slots=True)
class ChatRequest(ChatOptions):
    """One conversation to answer. Raises ServeError 400 for tools or a tool_choice that are malformed."""

    messages: list[dict[str, Any]]  # OpenAI chat messages
    sampling: SamplingParams  # n samples
    structured: "StructuredOutputsParams | None" = None
    truncate_prompt_tokens: int | None = None  # keep the last so many; -1 is what fits
    include_reasoning: bool = True
    stream_interval: int = 1  # tokens that are shown together
    request_id: str | None = None
    priority: int = 0
    cache_salt: str = ""
    tenant: str = ""  # from the API key

    def __post_init__(self) -> None:
        try:
            ChatOptions.__post_init__(self)
        except ValueError as error:
            raise from_exception(error, frozenset({"tools", "tool_choice"})) from None


@dataclass(slots=True)
class CompletionRequest:
    """One prompt to complete: text or token ids."""

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
    """The engine has begun. It is the first event, and comes once."""

    prompt_tokens: int
    cached_tokens: int
    prompt_token_ids: list[int]
    prompt: str | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None


@dataclass(slots=True)
class Delta:
    """New text and tokens of one sample. logprobs has an entry for each of token_ids."""

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
Events = AsyncGenerator[list[ChatEvent], None]  # a list is what the engine gave together


async def each(batches: Events) -> AsyncGenerator[ChatEvent, None]:
    """Events one by one, for answers that are not streamed."""
    async with contextlib.aclosing(batches):
        async for batch in batches:
            for event in batch:
                yield event
