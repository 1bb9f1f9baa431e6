"""Generated tokens as Text Generation Inference tells them: each with its text, log-probability and alternatives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from warpjet.requests.outputs import Logprob
from warpjet.serve.events import Delta, Ended, Started
from warpjet.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # in JSON there is no -inf
_FINISH_REASONS = {"length": "length", "stop": "eos_token"}


@dataclass(slots=True)
class TokenWriter:
    """Collects one completion. top_n: alternatives that each token comes with."""

    tokenizer: Tokenizer
    top_n: int = 0
    tokens: list[dict[str, Any]] = field(default_factory=list)
    top_tokens: list[list[dict[str, Any]]] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything so far."""
        return "".join(self.pieces)

    def write(self, delta: Delta) -> int:
        """Takes what is new; how many tokens that is."""
        self.pieces.append(delta.content)
        rows = delta.logprobs or []
        for row, text in zip(rows, _texts(rows, delta.content), strict=True):
            token, sampled = next(iter(row.items()))
            self.tokens.append(self._token(token, sampled, text))
            best = sorted(row.items(), key=lambda entry: entry[1].rank or 0)[: self.top_n]
            self.top_tokens.append([self._token(other, entry, entry.decoded_token or "") for other, entry in best])
        if not rows and delta.content and self.tokens:  # text that was held back until it was sure
            self.tokens[-1]["text"] += delta.content
        return len(rows)

    def _token(self, token: int, entry: Logprob, text: str) -> dict[str, Any]:
        return {
            "id": token,
            "text": text,
            "logprob": max(entry.logprob, _LOWEST),
            "special": self.tokenizer.is_special(token),
        }

    def event(self, index: int) -> dict[str, Any]:
        """What a stream says of a token that is not the last."""
        event = {"index": index + 1, "token": self.tokens[index], "generated_text": None, "details": None}
        return {**event, "top_tokens": self.top_tokens[index]} if self.top_n else event


def finish_reason(ended: Ended) -> str:
    """TGI's name for it."""
    if isinstance(ended.stop_reason, str):
        return "stop_sequence"
    return _FINISH_REASONS.get(ended.finish_reason, "eos_token")


def prefill(started: Started, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The prompt's tokens; the first has no log-probability."""
    rows: list[Mapping[int, Logprob] | None] = list(started.prompt_logprobs or [])
    out: list[dict[str, Any]] = []
    for token, row in zip(started.prompt_token_ids, rows, strict=True):
        logprob = max(row[token].logprob, _LOWEST) if row else None
        out.append({"id": token, "text": tokenizer.piece(token), "logprob": logprob})
    return out


def _texts(rows: list[dict[int, Logprob]], content: str) -> list[str]:
    """A text for each token, so that all of them joined are the content. Where tokens do not fall apart into texts
    (bytes of a character, a stop string held back), the last has it all."""
    texts = [next(iter(row.values())).decoded_token or "" for row in rows]
    if "".join(texts) == content or not rows:
        return texts
    return [""] * (len(rows) - 1) + [content]
