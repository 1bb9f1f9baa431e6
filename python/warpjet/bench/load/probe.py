"""A look at the server before the load: whether it answers, what it serves, and what words cost there."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from warpjet.bench.load.client import Client, Target
from warpjet.bench.load.datasets import LoadRequest
from warpjet.bench.load.texts import Texts
from warpjet.text.tokenizer import Tokenizer

_PROBE_WORDS = 64
_RETRY_S = 0.2
Answer = TypeVar("Answer")


async def served_model(target: Target, patience_s: float) -> str:
    """The first model that the server names. Raises OSError if it does not answer within patience_s, and ValueError if
    it is not understood."""
    client = Client(target)
    try:
        names = await _patiently(client.models, patience_s)
    finally:
        await client.close()
    if not names:
        raise ValueError(f"{target.base_url} serves no model; pass --model")
    return names[0]


async def probe_texts(client: Client, tokenizer: Tokenizer | None, patience_s: float) -> Texts:
    """What makes prompts of a wanted length there. Raises OSError for a server that does not complete one word."""
    word = Texts().make(random.Random(0), 1)
    one = await _patiently(lambda: _prompt_tokens(client, word), patience_s)
    if one is None:  # the server does not count
        return Texts(tokenizer)
    if tokenizer is not None:
        return Texts(tokenizer, overhead=max(0, one - len(tokenizer.encode(word, add_special_tokens=False))))
    many = await _prompt_tokens(client, f"{word} {Texts().make(random.Random(1), _PROBE_WORDS)}") or one
    per_word = max(0.1, (many - one) / _PROBE_WORDS)
    return Texts(None, per_word, max(0, round(one - per_word)))


async def _prompt_tokens(client: Client, prompt: str) -> int | None:
    outcome = await client.send(client.target.encode(LoadRequest(prompt, 1, 1)))
    if outcome.error:
        raise OSError(f"{client.target.base_url}{client.target.endpoint}: {outcome.error}")
    return outcome.input_tokens


async def _patiently(ask: Callable[[], Awaitable[Answer]], patience_s: float) -> Answer:
    """Asks again while there is time."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return await ask()
        except OSError:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(_RETRY_S)
