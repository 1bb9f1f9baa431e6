"""Beam search under the names that vLLM gives it."""

from dataclasses import dataclass, field

from warpjet._native import EngineError, SamplingParams
from warpjet.requests.outputs import CompletionOutput, RequestOutput
from warpjet.text.tokenizer import Tokenizer


@dataclass(slots=True)
class BeamSearchParams:
    """beam_width: beams that go on, and results. max_tokens: most tokens of a result beyond its prompt. length_penalty:
    results are ranked by log-probability / length ** length_penalty. include_stop_str_in_output: keep the
    end-of-sequence token. Nothing is drawn, so temperature is 0."""

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        if self.temperature != 0:
            raise ValueError(f"temperature must be 0: beam search draws nothing, got {self.temperature}")

    def sampling_params(self) -> SamplingParams:
        """What the engine is asked for; one beam is greedy. Raises ValueError or TypeError naming the field."""
        return SamplingParams(
            beam_width=self.beam_width,
            max_tokens=self.max_tokens,
            ignore_eos=self.ignore_eos,
            length_penalty=self.length_penalty,
            temperature=0.0,
            logprobs=0 if self.beam_width == 1 else None,
            detokenize=False,
        )


@dataclass(slots=True)
class BeamSearchSequence:
    """One result. tokens are those of the prompt and then its own, and text is all of them; cum_logprob is of its own.
    stop_reason is None: beams end by the end-of-sequence token or by length."""

    tokens: list[int]
    cum_logprob: float
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The results of one prompt, the best first."""

    sequences: list[BeamSearchSequence] = field(default_factory=list)


def beam_search_output(
    output: RequestOutput, params: BeamSearchParams, tokenizer: Tokenizer | None
) -> BeamSearchOutput:
    """What the engine's completions are in these terms. Raises EngineError when it failed."""

    def sequence(completion: CompletionOutput) -> BeamSearchSequence:
        if completion.finish_reason not in ("stop", "length"):
            raise EngineError(f"beam search of request {output.request_id} failed: {output.error}")
        ended = completion.finish_reason == "stop" and not params.include_stop_str_in_output
        tokens = output.prompt_token_ids + completion.token_ids[: -1 if ended else None]
        text = tokenizer.decode(tokens) if tokenizer else None
        return BeamSearchSequence(tokens, completion.cumulative_logprob or 0.0, text, completion.finish_reason)

    return BeamSearchOutput([sequence(completion) for completion in output.outputs])
