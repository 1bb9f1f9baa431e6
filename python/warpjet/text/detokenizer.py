"""Token ids to text, one token at a time, exactly.

The pieces joined are the decoding of all ids at once: each decoder of a tokenizer.json is run here as a stage that
keeps what it cannot decide yet (an unfinished character, a run of byte tokens) and gives the rest at once. A token
costs the same wherever it stands.
"""

import codecs
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Stage(Protocol):
    """One decoder: takes token strings, gives token strings. bytes_of: what a token is where a stage makes bytes of it,
    which may be part of a character. drop_complete: forgets held text but for the character that its end begins."""

    def push(self, token: str) -> Iterable[str]: ...

    def finish(self) -> Iterable[str]: ...

    def bytes_of(self, token: str) -> bytes | None: ...

    def drop_complete(self) -> None: ...


class _Stateless:
    def finish(self) -> Iterable[str]:
        return ()

    def bytes_of(self, token: str) -> bytes | None:
        return None

    def drop_complete(self) -> None:
        pass


class _Replace(_Stateless):
    def __init__(self, pattern: str, content: str) -> None:
        self._pattern, self._content = pattern, content

    def push(self, token: str) -> Iterable[str]:
        return (token.replace(self._pattern, self._content),)


class _Fuse(_Stateless):
    """Makes one token of all: the stages after it see pieces of a single text."""

    def push(self, token: str) -> Iterable[str]:
        return (token,)


class _Join(_Stateless):
    """What happens without a decoder: tokens with a space between them."""

    def __init__(self, at_start: bool) -> None:
        self._first = at_start

    def push(self, token: str) -> Iterable[str]:
        first, self._first = self._first, False
        return (token if first else " " + token,)


class _Metaspace(_Stateless):
    """The replacement character is a space, and nothing at all in the first token."""

    def __init__(self, replacement: str, strip_first: bool) -> None:
        self._replacement, self._strip_first = replacement, strip_first

    def push(self, token: str) -> Iterable[str]:
        space, self._strip_first = "" if self._strip_first else " ", False
        return (token.replace(self._replacement, space),)


class _StripToken(_Stateless):
    """Cuts up to `start` and `stop` times `content` from the ends of every token."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content, self._start, self._stop = content, start, stop

    def push(self, token: str) -> Iterable[str]:
        begin, end = 0, len(token)
        while begin < min(self._start, len(token)) and token[begin] == self._content:
            begin += 1
        while end > max(begin, len(token) - self._stop) and token[end - 1] == self._content:
            end -= 1
        return (token[begin:end],)


class _StripText(_Stateless):
    """Cuts up to `start` times `content` from the beginning of the whole text."""

    def __init__(self, content: str, start: int) -> None:
        self._content, self._left = content, start

    def push(self, token: str) -> Iterable[str]:
        while self._left and token:
            if token[0] != self._content:
                self._left = 0
                break
            token = token[1:]
            self._left -= 1
        return (token,)


class _ByteFallback:
    """<0xE4> is a byte. A run of bytes is text only if all of it is UTF-8, so it waits for its end."""

    _BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, token: str) -> Iterable[str]:
        if data := self.bytes_of(token):
            self._run += data
            return ()
        return (*self.finish(), token)

    def bytes_of(self, token: str) -> bytes | None:
        match = self._BYTE.fullmatch(token)
        return bytes([int(match[1], 16)]) if match else None

    def finish(self) -> Iterable[str]:
        run, self._run = bytes(self._run), bytearray()
        try:
            return (run.decode(),) if run else ()
        except UnicodeDecodeError:
            return ("\ufffd" * len(run),)

    def drop_complete(self) -> None:
        self._run = self._run[len(self._run) - _unfinished(self._run) :]


def _unfinished(data: bytearray) -> int:
    """Bytes at the end that begin a character without ending it."""
    for count in range(1, min(len(data), 3) + 1):
        byte = data[-count]
        if byte >= 0xC0:
            return count if count < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else 0
        if byte < 0x80:
            break
    return 0


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes bytes as printable characters: Latin-1's own where printable, else from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


class _ByteLevel:
    _ALPHABET = _byte_alphabet()

    def __init__(self, cache: dict[str, bytes]) -> None:
        self._cache = cache
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> Iterable[str]:
        return (self._decoder.decode(self.bytes_of(token)),)

    def finish(self) -> Iterable[str]:
        return (self._decoder.decode(b"", final=True),)

    def drop_complete(self) -> None:
        pass  # the decoder holds an unfinished character only

    def bytes_of(self, token: str) -> bytes:
        data = self._cache.get(token)
        if data is None:
            try:
                data = bytes(self._ALPHABET[c] for c in token)
            except KeyError:
                data = token.encode()  # an added token is not written in the alphabet
            self._cache[token] = data
        return data


StageMaker = Callable[[bool], Stage]  # at_start: the first token is the beginning of the text


def stage_makers(decoder: dict[str, Any] | None) -> list[StageMaker]:
    """The stages of a tokenizer.json's decoder. Raises NotImplementedError for one that is unknown."""
    if decoder is None:
        return [_Join]
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    makers: list[StageMaker] = []
    fused = False
    for part in parts:
        makers.append(_stage_maker(part, fused))
        fused = fused or part["type"] in ("Fuse", "ByteLevel")
    return makers


def _stage_maker(part: dict[str, Any], fused: bool) -> StageMaker:
    kind = part["type"]
    if kind == "Strip":
        content, start, stop = part["content"], part["start"], part["stop"]
        if not fused:
            return lambda at_start: _StripToken(content, start, stop)
        if stop == 0:
            return lambda at_start: _StripText(content, start if at_start else 0)
    elif kind == "Fuse":
        return lambda at_start: _Fuse()
    elif not fused and kind == "ByteLevel":
        cache: dict[str, bytes] = {}
        return lambda at_start: _ByteLevel(cache)
    elif not fused and kind == "ByteFallback":
        return lambda at_start: _ByteFallback()
    elif not fused and kind == "Metaspace":
        replacement, strips = part["replacement"], part.get("prepend_scheme", "always") != "never"
        return lambda at_start: _Metaspace(replacement, strips and at_start)
    elif not fused and kind == "Replace" and "String" in part["pattern"]:
        pattern, content = part["pattern"]["String"], part["content"]
        return lambda at_start: _Replace(pattern, content)
    raise NotImplementedError(
        f"decoder {kind} is not supported here; supported are ByteLevel, Metaspace, and sequences of Replace (string), "
        "ByteFallback, Fuse and Strip"
    )


def token_bytes(makers: list[StageMaker], token: str, at_start: bool = False) -> bytes:
    """UTF-8 of one token within a text, or at its start."""
    text = token
    for make in makers:
        stage = make(at_start)
        if (data := stage.bytes_of(text)) is not None:
            return data
        text = "".join(stage.push(text))
    return text.encode()


class Detokenizer:
    """Text of one sequence as its tokens arrive. `token_of` gives a token's string, or None to leave it out."""

    def __init__(self, makers: list[StageMaker], token_of: Callable[[int], str | None], at_start: bool = True) -> None:
        self._stages = [make(at_start) for make in makers]
        self._token_of = token_of

    def skip(self, token_ids: Iterable[int]) -> None:
        """Goes on behind these tokens, whose text is shown elsewhere."""
        for token_id in token_ids:
            self.push(token_id)
        for stage in self._stages:
            stage.drop_complete()

    def push(self, token_id: int) -> str:
        """The text that is certain after this token and was not before."""
        token = self._token_of(token_id)
        return "" if token is None else "".join(self._through(0, [token]))

    def finish(self) -> str:
        """The rest, when no token follows."""
        text = ""
        for index, stage in enumerate(self._stages):
            text += "".join(self._through(index + 1, stage.finish()))
        return text

    def _through(self, first: int, tokens: Iterable[str]) -> Iterable[str]:
        for stage in self._stages[first:]:
            tokens = [out for token in tokens for out in stage.push(token)]
        return tokens


class TextOffsets:
    """Where the tokens of one sequence begin in its text, by their bytes: the text of a token may come with a later
    one. `token_of` gives a token's string, or None for a token that has no text. offset: characters so far."""

    def __init__(self, makers: list[StageMaker], token_of: Callable[[int], str | None], at_start: bool = True) -> None:
        self.offset = 0
        self._makers = makers
        self._token_of = token_of
        self._at_start = at_start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> int:
        """The offset at which this token begins."""
        begin = self.offset
        if (token := self._token_of(token_id)) is not None:
            self.offset += len(self._decoder.decode(token_bytes(self._makers, token, self._at_start)))
            self._at_start = False
        return begin
