"""What is asked of the model and what happens while it answers, whatever API it came by."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from warpjet._native import SamplingParams
from warpjet.async_llm import AsyncLLM
from warpjet.outputs import Logprob

if TYPE_CHECKING:
    from warpjet.parsing.events import ToolCallDelta
    from warpjet.serve.settings import Settings
    from warpjet.structured import StructuredOutputsParams


@dataclass(slots=True)
class ChatRequest:
    """One conversation to answer."""

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
    request_id: str | None = None
    priority: int = 0
    cache_salt: str = ""
    tenant: str = ""  # from the API key


@dataclass(slots=True)
class CompletionRequest:
    """One prompt to go on from: text or token ids."""

    prompt: str | list[int]
    sampling: SamplingParams
    structured: "StructuredOutputsParams | None" = None
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
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


class Serving:
    """The opened model with what the server knows of it."""

    def __init__(self, llm: AsyncLLM, settings: "Settings", model_names: list[str]) -> None:
        self.llm = llm
        self.settings = settings
        self.model_names = model_names

    def answer(self, request: ChatRequest) -> AsyncIterator[list[ChatEvent]]:
        """Events of one conversation; what came together comes together. Raises ServeError before the first event for
        what cannot run. Closing the iterator, or cancelling the task, cancels the request."""
        raise NotImplementedError

    def complete(self, request: CompletionRequest) -> AsyncIterator[list[ChatEvent]]:
        """answer() for a plain prompt."""
        raise NotImplementedError
