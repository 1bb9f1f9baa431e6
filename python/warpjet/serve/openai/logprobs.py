"""Log-probabilities as OpenAI's two APIs write them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from warpjet.requests.outputs import Logprob
from warpjet.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # in JSON there is no -inf
_SLICE = 2048  # log-probabilities of a prompt that are written in one turn of the event loop

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
    return {
        "token": token_text(token, entry, as_ids),
        "logprob": max(entry.logprob, _LOWEST),
        "bytes": None if entry.token_bytes is None else list(entry.token_bytes),
    }


class LegacyLogprobs:
    """choices[].logprobs of text completions; offsets count on through the pieces of a stream.

    prompt: the tokens that the completion goes on from. echoed: their text, where the completion's text begins with
    it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        as_ids: bool,
        prompt: Sequence[int],
        echoed: str | None = None,
        skip_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids
        self._prompt = prompt
        self._echoed = echoed or ""
        self._offsets = tokenizer.text_offsets(skip_special_tokens, prompt)

    async def write_prompt(self, logprobs: OptionalEntries, top: int) -> dict[str, list[Any]]:
        """The echoed prompt. An entry that is None is the first token, which has no probability."""
        offsets, out = self._prompt_offsets(), self._write([], [], top, [])
        rows = max(_SLICE // (1 + max(top, 0)), 1)
        for at in range(0, len(self._prompt), rows):
            part = slice(at, at + rows)
            for name, values in self._write(self._prompt[part], logprobs[part], top, offsets[part]).items():
                out[name] += values
            await asyncio.sleep(0)
        return out

    def write(self, token_ids: Sequence[int], logprobs: Entries, top: int) -> dict[str, list[Any]]:
        """A piece of the completion."""
        begin = len(self._echoed)
        return self._write(token_ids, logprobs, top, [begin + self._offsets.push(token) for token in token_ids])

    def _prompt_offsets(self) -> list[int]:
        """Special tokens that the prompt spells are text; those that the tokenizer added are not."""
        out, spelled = [], 0
        offsets = self._tokenizer.text_offsets()
        for token in self._prompt:
            out.append(min(offsets.push(token) + spelled, len(self._echoed)))
            special = self._tokenizer.special_text(token)
            if special is not None and self._echoed.startswith(special, out[-1]):
                spelled += len(special)
        return out

    def _write(
        self, token_ids: Sequence[int], logprobs: OptionalEntries, top: int, offsets: list[int]
    ) -> dict[str, list[Any]]:
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for token, entries in zip(token_ids, logprobs, strict=True):
            entry = Logprob(0.0, None, self._tokenizer.piece(token)) if entries is None else entries[token]
            tokens.append(token_text(token, entry, self._as_ids))
            values.append(None if entries is None else max(entries[token].logprob, _LOWEST))
            tops.append(None if entries is None else self._top(entries, token, top))
        return {"text_offset": offsets, "token_logprobs": values, "tokens": tokens, "top_logprobs": tops}

    def _top(self, entries: dict[int, Logprob], token: int, top: int) -> dict[str, float]:
        ranked = sorted(entries.items(), key=lambda item: item[1].rank or 0)
        chosen = dict(ranked[: max(top, 0)]) | {token: entries[token]}
        return {token_text(i, entry, self._as_ids): max(entry.logprob, _LOWEST) for i, entry in chosen.items()}


async def prompt_logprobs(entries: OptionalEntries | None) -> list[dict[str, Any] | None] | None:
    """The prompt's log-probabilities by token id."""
    if entries is None:
        return None
    out: list[dict[str, Any] | None] = []
    work = 0
    for row in entries:
        out.append(None if row is None else {str(token): _prompt_entry(entry) for token, entry in row.items()})
        work += len(row or ())
        if work >= _SLICE:
            work = 0
            await asyncio.sleep(0)
    return out


def _prompt_entry(entry: Logprob) -> dict[str, Any]:
    return {"logprob": max(entry.logprob, _LOWEST), "rank": entry.rank, "decoded_token": entry.decoded_token}
