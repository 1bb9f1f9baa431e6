"""Log-probabilities as OpenAI's two APIs write them."""

from collections.abc import Callable, Sequence
from typing import Any

from warpjet.outputs import Logprob

_LOWEST = -9999.0  # in JSON there is no -inf

Entries = Sequence[dict[int, Logprob]]
OptionalEntries = Sequence[dict[int, Logprob] | None]


def token_text(token: int, entry: Logprob, as_ids: bool) -> str:
    """How a token is named."""
    return f"token_id:{token}" if as_ids or entry.decoded_token is None else entry.decoded_token


def chat_logprobs(token_ids: Sequence[int], logprobs: Entries, top: int, as_ids: bool) -> list[dict[str, Any]]:
    """choices[].logprobs.content of chat completions."""
    out = []
    for token, entries in zip(token_ids, logprobs, strict=True):
        ranked = sorted(entries.items(), key=lambda item: item[1].rank or 0)[:top]
        out.append(
            {
                **_chat_entry(token, entries[token], as_ids),
                "top_logprobs": [_chat_entry(other, entry, as_ids) for other, entry in ranked],
            }
        )
    return out


def _chat_entry(token: int, entry: Logprob, as_ids: bool) -> dict[str, Any]:
    text = token_text(token, entry, as_ids)
    return {
        "token": text,
        "logprob": max(entry.logprob, _LOWEST),
        "bytes": list((entry.decoded_token or text).encode("utf-8", "replace")),
    }


class LegacyLogprobs:
    """choices[].logprobs of text completions; offsets count on through the pieces of a stream."""

    def __init__(self, as_ids: bool, piece: Callable[[int], str]) -> None:
        self._as_ids = as_ids
        self._piece = piece
        self._offset = 0

    def write(
        self, token_ids: Sequence[int], logprobs: Sequence[dict[int, Logprob] | None], top: int
    ) -> dict[str, Any]:
        """One piece. An entry that is None is the first token of a prompt, which has no probability."""
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token, entries in zip(token_ids, logprobs, strict=True):
            entry = Logprob(0.0, None, self._piece(token)) if entries is None else entries[token]
            text = token_text(token, entry, self._as_ids)
            offsets.append(self._offset)
            self._offset += len(text)
            tokens.append(text)
            values.append(None if entries is None else max(entries[token].logprob, _LOWEST))
            tops.append(None if entries is None else self._top(entries, token, top))
        return {"text_offset": offsets, "token_logprobs": values, "tokens": tokens, "top_logprobs": tops}

    def _top(self, entries: dict[int, Logprob], token: int, top: int) -> dict[str, float]:
        ranked = sorted(entries.items(), key=lambda item: item[1].rank or 0)
        chosen = dict(ranked[: max(top, 0)]) | {token: entries[token]}
        return {token_text(i, entry, self._as_ids): max(entry.logprob, _LOWEST) for i, entry in chosen.items()}


def prompt_logprobs(entries: Sequence[dict[int, Logprob] | None] | None) -> list[dict[str, Any] | None] | None:
    """The prompt's log-probabilities by token id."""
    if entries is None:
        return None
    return [
        None
        if row is None
        else {
            str(token): {"logprob": max(e.logprob, _LOWEST), "rank": e.rank, "decoded_token": e.decoded_token}
            for token, e in row.items()
        }
        for row in entries
    ]
