"""Drives grammars: whether they allow a text, and texts that they allow."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

_FREE_STEPS, _MAX_STEPS = 40, 400


class Grammars:
    """A tokenizer of characters, and of markers if there are any, for llguidance."""

    def __init__(self, markers: Iterable[str]) -> None:
        llguidance = pytest.importorskip("llguidance")
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        alphabet = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        self.tokenizer = Tokenizer(models.BPE(alphabet, []))
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()
        tokens = [AddedToken(text, special=index % 2 == 0) for index, text in enumerate(sorted(markers))]
        self.tokenizer.add_special_tokens([AddedToken("<|eos|>", special=True)])
        self.tokenizer.add_tokens(tokens)
        self._module = llguidance
        self._native = llguidance.LLTokenizer(self.tokenizer.to_str(), eos_token=self.tokenizer.token_to_id("<|eos|>"))

    def start(self, lark: str) -> Any:
        """A matcher at the beginning of a text."""
        matcher = self._module.LLMatcher(self._native, self._module.LLMatcher.grammar_from_lark(lark))
        assert not matcher.is_error(), f"{matcher.get_error()}\n{lark}"
        return matcher

    def accepts(self, lark: str, text: str) -> bool:
        """The text is complete."""
        return self.takes(self.start(lark), text)

    def takes(self, matcher: Any, text: str) -> bool:
        """accepts(), at the beginning of a text."""
        ids = self.tokenizer.encode(text).ids
        return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()

    def write(self, matcher: Any, exits: Sequence[str], rng: random.Random) -> str | None:
        """A text that the grammar of a matcher allows, by chance: pieces of `exits` and single tokens. None where
        chance leads to no end in time."""
        written = list[int]()
        pieces = [self.tokenizer.encode(text).ids for text in exits]
        for step in range(_MAX_STEPS):
            if matcher.is_stopped() or (matcher.is_accepting() and rng.random() < 0.5):
                return self.tokenizer.decode(written, skip_special_tokens=False).removesuffix("<|eos|>")
            taken: list[int] = []
            if step > _FREE_STEPS or rng.random() < 0.6:
                rng.shuffle(pieces)
                taken = next((ids for ids in pieces if matcher.validate_tokens(ids) == len(ids)), [])
            taken = taken or [self._any(matcher, rng)]
            assert matcher.consume_tokens(taken), matcher.get_error()
            written += taken
        return None

    def _any(self, matcher: Any, rng: random.Random) -> int:
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [token for token in range(self.tokenizer.get_vocab_size()) if mask >> token & 1]
        assert allowed, "a dead end"
        return rng.choice(allowed)
