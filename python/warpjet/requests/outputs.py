"""What generate() returns."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warpjet.parsing.events import ToolCall


class RequestOutputKind(StrEnum):
    """What a stream yields: all text so far, only what is new, or one output at the end."""

    CUMULATIVE = "cumulative"
    DELTA = "delta"
    FINAL_ONLY = "final_only"


@dataclass(slots=True)
class Logprob:
    """Natural-log probability of a token, from the raw logits. Rank 1 is the most likely token.

    decoded_token is to be shown: part of a character is U+FFFD there. token_bytes is the token's exact UTF-8."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None
    token_bytes: bytes | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One completion of a prompt.

    finish_reason: "stop", "length", "abort", "error", or None while it runs. stop_reason: the stop string or the stop
    token id that ended it; None for the end-of-sequence token. logprobs: for each token a dict of the most likely
    tokens and the token itself; None unless asked for, as is cumulative_logprob, the sum over the tokens.

    text is all that was generated. An output of chat() also says what it means, if the parsers for that are on:
    reasoning, content and tool_calls, those that are complete; None if they are off. text_ends: how long text is after
    each token; None where nobody parses it."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: "list[ToolCall] | None" = None
    text_ends: list[int] | None = field(default=None, repr=False, compare=False)

    def finished(self) -> bool:
        """True when no more text follows."""
        return self.finish_reason is not None

    @property
    def is_whole(self) -> bool:
        """The model ended the text: neither a limit nor a stop string cut it off."""
        return self.finish_reason == "stop" and not isinstance(self.stop_reason, str)


@dataclass(slots=True)
class EmbeddingOutput:
    """A prompt as one vector, of the model's hidden size or the dimensions asked for."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        """How many numbers it has."""
        return len(self.embedding)


@dataclass(slots=True)
class RequestMetrics:
    """Times of one request in milliseconds, from its submission."""

    queue_ms: float = 0.0
    ttft_ms: float = 0.0


@dataclass(slots=True)
class RequestOutput:
    """The completions of one prompt. prompt_logprobs has an entry for each prompt token; the first is None.

    error: why completions have finish_reason "error"."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    lora_request: None = None
    num_cached_tokens: int = 0
    kv_transfer_params: None = None
    error: str | None = None


@dataclass(slots=True)
class EmbeddingRequestOutput:
    """The embedding of one prompt."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int]
    finished: bool = True
    num_cached_tokens: int = 0
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
