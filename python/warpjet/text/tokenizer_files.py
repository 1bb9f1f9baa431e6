"""The files of a checkpoint's tokenizer, read as transformers reads them.

tokenizer.json holds the vocabulary and what encode() adds to a text: add_bos_token and add_eos_token of
tokenizer_config.json change nothing beside it (transformers 5; version 4 obeys them for some classes). The flags of
added_tokens_decoder in tokenizer_config.json override those of tokenizer.json. Tokens that a config names (eos_token,
additional_special_tokens) are special. special_tokens_map.json and added_tokens.json are read where there is no
added_tokens_decoder."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from warpjet._native import ModelFormatError

_MAX_FILE_BYTES = 256 << 20
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint; {} when it is absent and not required. Raises ModelFormatError."""
    if not path.is_file():
        if required:
            raise FileNotFoundError(f"{path} is missing")
        return {}
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ModelFormatError(f"{path} has {path.stat().st_size} bytes, more than {_MAX_FILE_BYTES}")
    raw = path.read_bytes()
    try:
        value = json.loads(raw)
        if b"\\ud" in raw.lower():  # an escape of half a surrogate pair is JSON, but no text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFormatError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


class TokenizerFiles:
    """A directory's tokenizer. Raises FileNotFoundError without a tokenizer.json, ModelFormatError for malformed files.

    content: tokenizer.json. config: tokenizer_config.json. named: bos_token and the like, as strings. special: the
    tokens that stand for no text."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "tokenizer.json"
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path} is missing; convert the tokenizer with transformers: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...), or pass skip_tokenizer_init=True"
            )
        self.content = read_json(self.path)
        _check_added_tokens(self.path, self.content)
        self.backend = _load_backend(self.path)
        self.special = _special_tokens(self.backend)
        self._config_path = directory / "tokenizer_config.json"
        self.config = read_json(self._config_path)
        listed = self._listed_tokens(directory)
        names = self._names(directory)
        self.named = {key: text for key, text in names.items() if key in _NAMED_TOKENS}
        self._add_listed(listed, set(names.values()))
        self._add_named(names, dict(listed.values()))
        _check_ids(self.path, self.content, self.backend)
        self.special |= _special_tokens(self.backend)  # the library goes on skipping what was special once

    def _listed_tokens(self, directory: Path) -> dict[int, tuple[str, AddedToken]]:
        """Added tokens by id, from tokenizer_config.json or from added_tokens.json beside an older one."""
        listed = self.config.get("added_tokens_decoder")
        if listed is None:
            return self._legacy_tokens(directory)
        try:
            entries = sorted((int(key), dict(value)) for key, value in listed.items())
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelFormatError(f"{self._config_path}: added_tokens_decoder is malformed: {error}") from None
        out = {}
        for token_id, value in entries:
            text = value.get("content")
            if not isinstance(text, str) or not text:
                raise ModelFormatError(f"{self._config_path}: added_tokens_decoder[{token_id}] has no content")
            out[token_id] = (text, AddedToken(text, **{key: bool(value[key]) for key in _FLAGS if key in value}))
        return out

    def _legacy_tokens(self, directory: Path) -> dict[int, tuple[str, AddedToken]]:
        ids = read_json(directory / "added_tokens.json")
        if not all(type(token_id) is int for token_id in ids.values()):
            raise ModelFormatError(f"{directory / 'added_tokens.json'} must hold tokens with their ids")
        named = set(self._names(directory).values())
        out = {
            token_id: (text, AddedToken(text, normalized=text not in named, special=text in named))
            for text, token_id in sorted(ids.items(), key=lambda item: item[1])
        }
        return out | {i: (str(token), token) for i, token in self.backend.get_added_tokens_decoder().items()}

    def _names(self, directory: Path) -> dict[str, str]:
        """The tokens that a config names, by their key; those of lists, and what the map overrides, by a number."""
        sources = {self._config_path: self.config}
        if "added_tokens_decoder" not in self.config:
            path = directory / "special_tokens_map.json"
            sources[path] = read_json(path)
        added = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        out: dict[str, str] = {}
        for path, source in sources.items():
            more = source.get("extra_special_tokens") or source.get("additional_special_tokens") or []
            if not isinstance(more, (list, Mapping)):
                raise ModelFormatError(f"{path}: extra_special_tokens must be a list or an object, got {more!r:.200}")
            extra = more.values() if isinstance(more, Mapping) else more
            given = {name: source[name] for name in _NAMED_TOKENS if name in source}
            for name, value in (given | {f"extra special token {i}": one for i, one in enumerate(extra)}).items():
                text = value.get("content") if isinstance(value, Mapping) else value
                if text is not None and not isinstance(text, str):
                    raise ModelFormatError(f"{path}: {name} must be a string, got {value!r:.200}")
                if text:
                    if (before := out.get(name)) in added:
                        out[f"special token {len(out)}"] = str(before)
                    out[name] = text
        return out

    def _add_listed(self, listed: Mapping[int, tuple[str, AddedToken]], named: set[str]) -> None:
        known = {repr(token) for token in self.backend.get_added_tokens_decoder().values()}
        for token_id, (text, token) in listed.items():
            if repr(token) in known:
                continue
            token.special = token.special or text in named
            is_new = self.backend.token_to_id(text) is None
            self.backend.add_tokens([token])
            if is_new and self.backend.token_to_id(text) != token_id:
                raise ModelFormatError(
                    f"{self._config_path}: added token {token_id}, {text!r}, leaves a gap in the ids"
                )

    def _add_named(self, names: Mapping[str, str], listed: Mapping[str, AddedToken]) -> None:
        tokens = [listed.get(text) or AddedToken(text, special=True, normalized=False) for text in names.values()]
        self.backend.add_special_tokens(tokens)

    def longest_token(self) -> int:
        """Characters of the longest token."""
        vocab = self.content["model"].get("vocab") or {}
        texts: Iterator[str] = iter(vocab if isinstance(vocab, dict) else (entry[0] for entry in vocab))
        added = (token.content for token in self.backend.get_added_tokens_decoder().values())
        return max((len(text) for texts_of in (texts, added) for text in texts_of), default=1)


def _special_tokens(backend: tokenizers.Tokenizer) -> set[str]:
    return {token.content for token in backend.get_added_tokens_decoder().values() if token.special}


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
