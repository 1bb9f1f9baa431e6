"""A checkpoint's tokenizer: text to token ids and back."""

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from warpjet._native import ModelFormatError
from warpjet.detokenizer import Detokenizer, stage_makers

_MAX_FILE_BYTES = 256 << 20
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint; {} when it is absent and not required. Raises ModelFormatError."""
    if not path.is_file():
        if required:
            raise FileNotFoundError(f"{path} is missing")
        return {}
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ModelFormatError(f"{path} has {path.stat().st_size} bytes, more than {_MAX_FILE_BYTES}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFormatError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


class Tokenizer:
    """Wraps a tokenizer.json. Encoding adds the special tokens that Hugging Face's classes add.

    Raises FileNotFoundError without a tokenizer.json, ModelFormatError when a file is malformed and NotImplementedError
    for decoders that cannot run incrementally."""

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; convert the tokenizer with transformers: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...), or pass skip_tokenizer_init=True"
            )
        content = read_json(path)
        self.config = read_json(directory / "tokenizer_config.json")
        _check_added_tokens(path, content)
        self._backend = _load_backend(path)
        _add_configured_tokens(self._backend, directory / "tokenizer_config.json", self.config)
        _check_ids(path, content, self._backend)
        self.special_tokens = _named_tokens(directory, self.config)
        self._set_post_processor()
        try:
            self._stage_makers = stage_makers(content.get("decoder"))
        except (KeyError, TypeError) as error:
            raise ModelFormatError(f"{path}: decoder is malformed: {error!r}") from None
        self._special = {t.content for t in self._backend.get_added_tokens_decoder().values() if t.special}
        self._longest_token = _longest_token(content)
        self._id_to_token = functools.lru_cache(maxsize=None)(self._backend.id_to_token)
        self.piece = functools.lru_cache(maxsize=1 << 16)(self._piece)

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
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a text, where the tokenizer names one."""
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Id of the token that ends a text, where the tokenizer names one."""
        return self._named_id("eos_token")

    def token_id(self, token: str) -> int | None:
        """Id of a token by its string."""
        return self._backend.token_to_id(token)

    def is_special(self, token_id: int) -> bool:
        """True for tokens that stand for no text."""
        return self._id_to_token(token_id) in self._special

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises ValueError for text that is not Unicode (lone surrogates)."""
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """encode() of many texts, on several cores."""
        for text in texts:
            text.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; ids outside the vocabulary add nothing."""
        return str(self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def detokenizer(self, skip_special_tokens: bool = True, at_start: bool = True) -> Detokenizer:
        """Decodes one sequence incrementally; the pieces joined equal decode()."""
        token_of = self._visible_token if skip_special_tokens else self._id_to_token
        return Detokenizer(self._stage_makers, token_of, at_start)

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self.token_id(token)

    def _visible_token(self, token_id: int) -> str | None:
        token = self._id_to_token(token_id)
        return None if token in self._special else token

    def _piece(self, token_id: int) -> str:
        """Text of one token as it stands within a text."""
        one = self.detokenizer(skip_special_tokens=False, at_start=False)
        return one.push(token_id) + one.finish()

    def _set_post_processor(self) -> None:
        """add_bos_token and add_eos_token, where a config has them, say what encode() adds."""
        if "add_bos_token" not in self.config and "add_eos_token" not in self.config:
            return
        named = {key: self.special_tokens.get(key) for key in ("bos_token", "eos_token")}
        template, specials = ["$A"], []
        for key, index in (("bos_token", 0), ("eos_token", 2)):
            token = named[key]
            if token is None or not self.config.get(f"add_{key}"):
                continue
            token_id = self.token_id(token)
            if token_id is None:
                raise ModelFormatError(f"tokenizer_config.json: {key} {token!r} is not in the vocabulary")
            template.insert(index, token)
            specials.append((token, token_id))
        self._backend.post_processor = TemplateProcessing(single=template, pair=None, special_tokens=specials)


def _load_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library's panics are no Exception
        raise ModelFormatError(f"{path} is malformed: {error}") from None
    backend.no_padding()
    backend.no_truncation()
    return backend


def _check_added_tokens(path: Path, content: dict[str, Any]) -> None:
    """The library takes the last of two added tokens with one id without a word."""
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not isinstance(content.get("model"), dict):
        raise ModelFormatError(f"{path}: expected a model object and a list of added_tokens")
    ids: set[int] = set()
    texts: set[str] = set()
    for index, token in enumerate(added):
        where = f"{path}: added_tokens[{index}]"
        token_id, text = (token.get("id"), token.get("content")) if isinstance(token, dict) else (None, None)
        if type(token_id) is not int or not 0 <= token_id < 1 << 31 or not isinstance(text, str) or not text:
            raise ModelFormatError(f"{where} needs an id from 0 and a content, got {token!r:.200}")
        if token_id in ids or text in texts:
            raise ModelFormatError(f"{where} repeats id {token_id} or content {text!r}")
        ids.add(token_id)
        texts.add(text)


def _check_ids(path: Path, content: dict[str, Any], backend: tokenizers.Tokenizer) -> None:
    for token in content.get("added_tokens") or []:
        found = backend.token_to_id(token["content"])
        if found != token["id"]:
            raise ModelFormatError(
                f"{path}: added token {token['content']!r} says id {token['id']}, but the vocabulary gives it {found}; "
                "ids must follow the vocabulary without a gap"
            )


def _add_configured_tokens(backend: tokenizers.Tokenizer, path: Path, config: dict[str, Any]) -> None:
    """Older checkpoints keep some added tokens in tokenizer_config.json only."""
    listed = config.get("added_tokens_decoder") or {}
    try:
        tokens = sorted((int(key), dict(value)) for key, value in listed.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFormatError(f"{path}: added_tokens_decoder is malformed: {error}") from None
    for token_id, value in tokens:
        text = value.pop("content", None)
        if not isinstance(text, str) or not text:
            raise ModelFormatError(f"{path}: added_tokens_decoder[{token_id}] has no content")
        if backend.token_to_id(text) is not None:
            continue
        flags = {k: bool(value[k]) for k in ("single_word", "lstrip", "rstrip", "normalized", "special") if k in value}
        backend.add_tokens([AddedToken(text, **flags)])
        if backend.token_to_id(text) != token_id:
            raise ModelFormatError(f"{path}: added_tokens_decoder[{token_id}] leaves a gap in the ids")


def _named_tokens(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """bos_token and the like, as strings; tokenizer_config.json comes before special_tokens_map.json."""
    merged = read_json(directory / "special_tokens_map.json") | config
    out: dict[str, str] = {}
    for name in _NAMED_TOKENS:
        value = merged.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if text is not None and not isinstance(text, str):
            raise ModelFormatError(f"{directory / 'tokenizer_config.json'}: {name} must be a string, got {value!r}")
        if text:
            out[name] = text
    return out


def _longest_token(content: dict[str, Any]) -> int:
    vocab = content["model"].get("vocab") or {}
    texts = vocab if isinstance(vocab, dict) else (entry[0] for entry in vocab)
    added = (token["content"] for token in content.get("added_tokens") or [])
    return max((len(text) for texts_of in (texts, added) for text in texts_of), default=1)
