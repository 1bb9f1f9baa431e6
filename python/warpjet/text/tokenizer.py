"""A checkpoint's tokenizer: text to token ids and back."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warpjet._native import ModelFormatError
from warpjet.common.room import require_room
from warpjet.text.detokenizer import Detokenizer, TextOffsets, stage_makers, token_bytes
from warpjet.text.tokenizer_files import TokenizerFiles

if TYPE_CHECKING:
    from warpjet.text.chat import ChatTemplate

_CONTEXT_TOKENS = 3  # an unfinished character has at most 3 bytes, so it has at most 3 tokens
_MOST_IDS = 1 << 32  # of the library: it raises for larger numbers


class Tokenizer:
    """Wraps a tokenizer.json. Encoding adds the special tokens that Hugging Face's classes add, and the methods that
    model cards use have the names and results of theirs: tokenizer(text), apply_chat_template(), convert_*, len().

    Raises FileNotFoundError without a tokenizer.json, ModelFormatError when a file is malformed and NotImplementedError
    for decoders that cannot run incrementally."""

    def __init__(self, directory: str | Path) -> None:
        files = TokenizerFiles(Path(directory))
        self.config = files.config
        self.special_tokens = files.named
        self.chat_template: ChatTemplate | None = None  # the template of apply_chat_template()
        self._backend = files.backend
        self._special = files.special
        try:
            self._stage_makers = stage_makers(files.content.get("decoder"))
        except (KeyError, TypeError) as error:
            raise ModelFormatError(f"{files.path}: decoder is malformed: {error!r}") from None
        self._longest_token = files.longest_token()
        self._tokens: dict[int, str] = {}  # by id, those that were asked for
        self.piece = functools.lru_cache(maxsize=1 << 16)(self._piece)
        self.token_bytes = functools.lru_cache(maxsize=1 << 16)(self._token_bytes)

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True
    ) -> dict[str, list[int] | list[list[int]]]:
        """{"input_ids": ..., "attention_mask": ...} of a text, or lists of these of several texts, without padding."""
        ids: list[Any] = self.encode_batch([text] if isinstance(text, str) else text, add_special_tokens)
        masks = [[1] * len(row) for row in ids]
        if isinstance(text, str):
            return {"input_ids": ids[0], "attention_mask": masks[0]}
        return {"input_ids": ids, "attention_mask": masks}

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer(tokens={len(self)}, bos={self.bos_token!r}, eos={self.eos_token!r})"

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def special_texts(self) -> set[str]:
        """The tokens that no text spells."""
        return self._special

    def to_json(self) -> str:
        """The vocabulary and its rules, as tokenizer.json has them."""
        return str(self._backend.to_str())

    @property
    def longest_token(self) -> int:
        """Characters of text that one token can stand for, at most."""
        return self._longest_token

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text, where the tokenizer names one."""
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text, where the tokenizer names one."""
        return self.special_tokens.get("eos_token")

    @property
    def pad_token(self) -> str | None:
        """The token that fills batches, where the tokenizer names one."""
        return self.special_tokens.get("pad_token")

    @property
    def bos_token_id(self) -> int | None:
        """Id of bos_token."""
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Id of eos_token."""
        return self._named_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        """Id of pad_token."""
        return self._named_id("pad_token")

    def get_vocab(self) -> dict[str, int]:
        """Ids by token, added ones included."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def token_id(self, token: str) -> int | None:
        """Id of a token by its string."""
        return self._backend.token_to_id(token)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | None | list[int | None]:
        """Id of a token, or of each; None for a token that is not in the vocabulary."""
        return self.token_id(tokens) if isinstance(tokens, str) else [self.token_id(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> str | None | list[str | None]:
        """Token of an id as the vocabulary spells it, or of each; None outside the vocabulary."""
        return self._id_to_token(ids) if isinstance(ids, int) else [self._id_to_token(one) for one in ids]

    def is_special(self, token_id: int) -> bool:
        """True for tokens that stand for no text."""
        return self._id_to_token(token_id) in self._special

    def special_text(self, token_id: int) -> str | None:
        """How a special token is spelled; None for the others."""
        token = self._id_to_token(token_id)
        return token if token in self._special else None

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text as the vocabulary spells them, without special tokens added."""
        return [self._id_to_token(one) or "" for one in self.encode(text, add_special_tokens=False)]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises ValueError for text that is not Unicode (lone surrogates)."""
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """encode() of many texts, on several cores. Raises MemoryError where memory is short."""
        for text in texts:
            text.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
        require_room()
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        **chat_template_kwargs: Any,
    ) -> str | list[int]:
        """The conversation as the model reads it: token ids, or the text with tokenize=False. Other keywords are
        variables of the template. Raises ValueError without a template."""
        from warpjet.text.chat import ChatTemplate

        given = ChatTemplate({"default": chat_template}, self.special_tokens) if chat_template else self.chat_template
        if given is None:
            raise ValueError("the tokenizer has no chat template; pass chat_template=, a Jinja template")
        text = given.render(
            conversation,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            chat_template_kwargs=chat_template_kwargs,
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; ids outside the vocabulary add nothing."""
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        return str(self._backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)[0])  # other threads run

    def batch_decode(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        """decode() of many."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def decode_open(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """decode() without the character that the last tokens begin: detokenizer(context=token_ids) goes on there."""
        unfinished = self.detokenizer(skip_special_tokens, token_ids).finish()
        return self.decode(token_ids, skip_special_tokens).removesuffix(unfinished)

    def detokenizer(
        self, skip_special_tokens: bool = True, context: Sequence[int] = (), shown: Collection[str] = ()
    ) -> Detokenizer:
        """Decodes one sequence incrementally: decode_open(context) and the pieces joined equal decode() of the whole.
        shown: special tokens that are not skipped."""
        token_of = self._token_of(skip_special_tokens, shown)
        at_start = all(token_of(token_id) is None for token_id in set(context))
        out = Detokenizer(self._stage_makers, token_of, at_start)
        out.skip(context[-_CONTEXT_TOKENS:])
        return out

    def text_offsets(self, skip_special_tokens: bool = True, context: Sequence[int] = ()) -> TextOffsets:
        """Says where the tokens of what detokenizer() decodes begin in its text."""
        token_of = self._token_of(skip_special_tokens, ())
        out = TextOffsets(self._stage_makers, token_of, all(token_of(token_id) is None for token_id in set(context)))
        for token_id in context[-_CONTEXT_TOKENS:]:
            out.push(token_id)
        out.offset = 0
        return out

    def _token_of(self, skip_special_tokens: bool, shown: Collection[str]) -> Callable[[int], str | None]:
        if not skip_special_tokens:
            return self._id_to_token
        if self._special.isdisjoint(shown):
            return self._visible_token
        hidden = self._special.difference(shown)
        return lambda token_id: None if (token := self._id_to_token(token_id)) in hidden else token

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.token_id(token)

    def _id_to_token(self, token_id: int) -> str | None:
        """None outside the vocabulary, for any number: ids come from requests before the engine has checked them."""
        token = self._tokens.get(token_id)
        if token is None and 0 <= token_id < _MOST_IDS and (token := self._backend.id_to_token(token_id)) is not None:
            self._tokens[token_id] = token
        return token

    def _visible_token(self, token_id: int) -> str | None:
        token = self._id_to_token(token_id)
        return None if token in self._special else token

    def _piece(self, token_id: int) -> str:
        """Text of one token as it stands within a text, to be shown: a part of a character is U+FFFD."""
        one = Detokenizer(self._stage_makers, self._id_to_token, at_start=False)
        return one.push(token_id) + one.finish()

    def _token_bytes(self, token_id: int) -> bytes:
        """UTF-8 of one token as it stands within a text; those of a text's tokens joined are the text's."""
        token = self._id_to_token(token_id)
        return b"" if token is None else token_bytes(self._stage_makers, token)
