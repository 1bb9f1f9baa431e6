"""Text of a wanted number of tokens, for a model whose tokenizer may be unknown here."""

import random

from warpjet.text.tokenizer import Tokenizer

# Common words: most tokenizers spend one token on each.
_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power
hour game line end member law car city community name president team minute idea body information back parent face
others level office door health person art war history party result change morning reason research girl guy moment air
teacher force education foot boy age policy music market sense nation plan college interest death experience effect
use class control care field development role effort rate heart drug show leader light voice wife police mind price
report decision view relationship town road arm difference value building action season society tax director position
player record paper space ground form event official matter center couple site project activity star table need court
oil situation cost industry figure street image phone data picture practice piece land product doctor wall patient
worker news test movie north love step film tree source hair window culture chance brother energy period summer plant
opportunity term letter condition choice rule daughter south husband floor campaign material population call economy
hospital church risk fire future bank west sport board subject officer rest behavior performance top goal second bed
order
"""
WORDS = tuple(_TEXT.split())


class Texts:
    """Texts of random words. With a tokenizer their length is right to a token or so; without one, as right as
    `tokens_per_word` is. `overhead` tokens are in every prompt besides: a chat template's, or the one that begins a
    text."""

    def __init__(self, tokenizer: Tokenizer | None = None, tokens_per_word: float = 1.0, overhead: int = 0) -> None:
        self._tokenizer = tokenizer
        self._tokens_per_word = tokens_per_word
        self.overhead = overhead

    def make(self, rng: random.Random, tokens: int) -> str:
        """A text of so many tokens, at least one word. A longer one from an equal rng begins with it (nearly so with a
        tokenizer)."""
        if self._tokenizer is None:
            return " ".join(rng.choices(WORDS, k=max(1, round(tokens / self._tokens_per_word))))
        text = " ".join(rng.choices(WORDS, k=max(1, tokens)))  # a word is a token at least
        return self._tokenizer.decode(self._tokenizer.encode(text, add_special_tokens=False)[: max(1, tokens)])

    def count(self, text: str) -> int:
        """Tokens of a text; without a tokenizer, about."""
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text, add_special_tokens=False))
        return max(1, round(len(text.split()) * self._tokens_per_word)) if text else 0
