"""Native outputs of one request in, RequestOutputs out: text, stop strings and log-probabilities."""

import math
from collections.abc import Iterator, Sequence

from warpjet._native import Output, SamplingParams
from warpjet.requests.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from warpjet.text.prompts import Prompt
from warpjet.text.stopping import StopStrings
from warpjet.text.tokenizer import Tokenizer

_Entries = Sequence[tuple[int, float, int]]


def require_sampling_params(value: object) -> None:
    """Raises TypeError unless it is SamplingParams."""
    if not isinstance(value, SamplingParams):
        raise TypeError(f"sampling_params must be SamplingParams, got {type(value).__name__}")


def native_params(params: SamplingParams, tokenizer: Tokenizer | None) -> SamplingParams:
    """What the engine is asked for: strings become token ids or stay here. Raises ValueError without a tokenizer."""
    if not params.stop and not params.bad_words:
        return params
    if tokenizer is None:
        raise ValueError("stop and bad_words need a tokenizer; use stop_token_ids and bad_words_token_ids")
    if params.stop and not params.detokenize:
        raise ValueError("stop needs detokenize=True")
    banned = [list(ids) for ids in params.bad_words_token_ids]
    for word in params.bad_words:
        # A word is written differently at the start of a line and after a space.
        for form in (word.lstrip(), " " + word.lstrip()):
            ids = tokenizer.encode(form, add_special_tokens=False)
            if ids and ids not in banned:
                banned.append(ids)
    return params.replace(stop=None, bad_words=None, bad_words_token_ids=banned)


class _Sample:
    """One of the n completions of a request."""

    def __init__(self, index: int, params: SamplingParams, tokenizer: Tokenizer | None, prompt: Prompt) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.logprobs: list[dict[int, Logprob]] | None = [] if params.logprobs is not None else None
        self.text_ends: list[int] | None = [] if prompt.shown_tokens else None
        self.cumulative = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.delivered = (0, 0)  # tokens and characters that a delta stream has given out
        self._index = index
        self._params = params
        text_wanted = tokenizer is not None and params.detokenize
        self._tokenizer = tokenizer if text_wanted else None
        self._detokenizer = (
            self._tokenizer.detokenizer(params.skip_special_tokens, prompt.token_ids or (), prompt.shown_tokens)
            if self._tokenizer
            else None
        )
        self._stops = StopStrings(params.stop, params.include_stop_str_in_output)

    def feed(self, output: Output) -> None:
        tokens, logprobs = output.tokens, output.logprobs
        for i, token in enumerate(tokens):
            ends = output.finish == "stop" and i == len(tokens) - 1
            self.token_ids.append(token)
            if self.logprobs is not None:
                self.logprobs.append(entries_to_dict(logprobs[i], self._tokenizer))
                self.cumulative += logprobs[i][0][1]
            stopped = self._add_text(self._text_of(token, ends))
            if self.text_ends is not None:
                self.text_ends.append(len(self.text))
            if stopped:
                return
        if output.finish is not None:
            self.cumulative += output.cumulative_logprob
            if self._detokenizer is not None and self._add_text(self._detokenizer.finish()):
                return
            self.text += self._stops.finish()
            self.finish_reason = output.finish
            if output.stop_token in self._params.stop_token_ids:  # the others are the end of the text
                self.stop_reason = output.stop_token

    def _text_of(self, token: int, ends: bool) -> str:
        if self._detokenizer is None or (ends and not self._params.include_stop_str_in_output):
            return ""
        return self._detokenizer.push(token)

    def _add_text(self, text: str) -> bool:
        """True when a stop string ends the completion here."""
        shown, stop = self._stops.push(text, armed=len(self.token_ids) > self._params.min_tokens)
        self.text += shown
        if stop is not None:
            self.finish_reason, self.stop_reason = "stop", stop
        return stop is not None

    def output(self, delta: bool) -> CompletionOutput:
        token, char = self.delivered if delta else (0, 0)
        if delta:
            self.delivered = (len(self.token_ids), len(self.text))
        return CompletionOutput(
            index=self._index,
            text=self.text[char:],
            token_ids=self.token_ids[token:],
            cumulative_logprob=self.cumulative if self.logprobs is not None or self._params.beam_width > 1 else None,
            logprobs=self.logprobs[token:] if self.logprobs is not None else None,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            text_ends=[end - char for end in self.text_ends[token:]] if self.text_ends is not None else None,
        )


class Assembly:
    """One request from submission to its last output."""

    def __init__(
        self, request_id: str, prompt: Prompt, params: SamplingParams, tokenizer: Tokenizer | None, kind: str
    ) -> None:
        self.request_id = request_id
        self.unread_tokens = 0  # generated since the last take()
        self.begun = False  # take() has shown something
        self.token_work = 1 if params.logprobs is None else 2 + max(params.logprobs, 0)
        self._prompt = prompt
        self._prompt_token_ids = list(prompt.token_ids or ())
        self._kind = kind
        self._tokenizer = tokenizer if params.detokenize else None
        self._samples = [_Sample(i, params, tokenizer, prompt) for i in range(max(params.n, params.beam_width))]
        self._open = len(self._samples)
        self._changed: set[int] = set()
        self._prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        self._prompt_rows: Iterator[_Entries | None] = iter(())  # that are not in it yet
        self._wants_prompt_logprobs = params.prompt_logprobs is not None
        self._metrics = RequestMetrics()
        self._cached_tokens = 0
        self._error: str | None = None

    @property
    def finished(self) -> bool:
        """Every completion has ended, for the user."""
        return self._open == 0

    @property
    def tokens(self) -> int:
        """Tokens generated so far, over all completions."""
        return sum(len(sample.token_ids) for sample in self._samples)

    def feed(self, output: Output) -> bool:
        """Takes what the engine says. True when this ended the sample while the engine goes on with it: cancel it."""
        if self._wants_prompt_logprobs and self._prompt_logprobs is None and output.prompt_logprobs:
            self._prompt_logprobs, self._prompt_rows = [], iter(output.prompt_logprobs)
        self._metrics.queue_ms = output.queue_ms or self._metrics.queue_ms
        self._metrics.ttft_ms = output.ttft_ms or self._metrics.ttft_ms
        self._cached_tokens = max(self._cached_tokens, output.cached_tokens)
        self._error = self._error or output.error
        sample = self._samples[output.sample]
        if sample.finish_reason is not None:
            return False  # surplus after a stop string
        before = len(sample.token_ids)
        sample.feed(output)
        self.unread_tokens += len(sample.token_ids) - before
        self._changed.add(output.sample)
        if sample.finish_reason is None:
            return False
        self._open -= 1
        return output.finish is None

    def catch_up(self, most: float = math.inf) -> bool:
        """Reads log-probabilities of the prompt, some more of them than `most`. Whether any may be left."""
        read = self._prompt_logprobs
        if read is not None:
            for row in self._prompt_rows:
                read.append(entries_to_dict(row, self._tokenizer) if row else None)
                most -= len(row or ())
                if most < 0:
                    return True
        return False

    def take(self) -> RequestOutput | None:
        """What the stream shows now: everything, what is new since the last call, or nothing before the end."""
        if not self._changed or (self._kind == "final_only" and not self.finished):
            return None
        delta = self._kind == "delta"
        samples = [s for i, s in enumerate(self._samples) if i in self._changed or not delta]
        self._changed.clear()
        self.unread_tokens, self.begun = 0, True
        return self._output(samples, delta)

    def everything(self) -> RequestOutput:
        """All there is so far. Has no effect on what take() shows."""
        return self._output(self._samples, delta=False)

    def _output(self, samples: Sequence[_Sample], delta: bool) -> RequestOutput:
        self.catch_up()
        return RequestOutput(
            request_id=self.request_id,
            prompt=self._prompt.text,
            prompt_token_ids=self._prompt_token_ids,
            prompt_logprobs=self._prompt_logprobs,
            outputs=[sample.output(delta) for sample in samples],
            finished=self.finished,
            metrics=self._metrics,
            num_cached_tokens=self._cached_tokens,
            error=self._error,
        )


def entries_to_dict(entries: _Entries, tokenizer: Tokenizer | None) -> dict[int, Logprob]:
    """(token, logprob, rank) rows by token; text and bytes only with a tokenizer."""
    if tokenizer is None:
        return {token: Logprob(logprob, rank) for token, logprob, rank in entries}
    return {
        token: Logprob(logprob, rank, tokenizer.piece(token), tokenizer.token_bytes(token))
        for token, logprob, rank in entries
    }
