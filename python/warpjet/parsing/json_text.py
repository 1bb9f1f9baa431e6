"""JSON values in a stream: where they end, their text as it comes. Nesting is bounded, and costs no recursion."""

import json
import re
from typing import Any

from warpjet.common.json_size import value_or_none
from warpjet.parsing.reader import SPACE, Emit, Reader, Reading

MAX_DEPTH = 128
MAX_NAME = 256

_WITHIN = {quote: re.compile(rf"[^{quote}\\\x00-\x1f]+") for quote in ('"', "'")}
_CONTROL = re.compile(r"[\x00-\x1f]+")
_WORD = re.compile(r"[-+.\w]+")
_OTHER = re.compile(r"[^\"'{}\[\],\w.+-]+")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_HEX = re.compile(r"[0-9a-fA-F]")
_CLOSERS = {"{": "}", "[": "]"}
_ESCAPED = frozenset('"\\/bfnrt')  # what JSON has after a backslash, apart from codes
_WORDS = {"True": "true", "False": "false", "None": "null", "NaN": "null", "Infinity": "null", "-Infinity": "null"}


def copy_value(reader: Reader, emit: Emit) -> Reading[bool]:
    """Emits the text of the value that comes next. False when it stops being one: nested too deeply, brackets that do
    not match, or the end; what was emitted till then is the text.

    What models often get wrong, and can mean in one way only, is put right: raw control characters within strings,
    escapes unknown to JSON, strings in single quotes, Python's words and numbers, a comma after the last member. The
    order of what stands between brackets is not checked."""
    first = yield from reader.peek()
    if first in _WITHIN:
        return (yield from copy_string(reader, emit))
    if first not in _CLOSERS:
        return (yield from _copy_word(reader, emit))
    closers: list[str] = []
    begins = True  # a value or a key may begin here
    while True:
        char = yield from reader.peek()
        if char == '"' or (char == "'" and begins):
            if not (yield from copy_string(reader, emit)):
                return False
            begins = False
        elif char in _CLOSERS:
            if len(closers) == MAX_DEPTH:
                return False
            closers.append(_CLOSERS[char])
            emit((yield from reader.next()))
            begins = True
        elif char in ("}", "]"):
            if char != closers.pop():
                return False
            emit((yield from reader.next()))
            if not closers:
                return True
            begins = False
        elif char == ",":
            yield from _copy_comma(reader, emit)
            begins = True
        elif char == "":
            return False
        elif _WORD.match(char):
            yield from _copy_word(reader, emit)
            begins = False
        else:
            text = reader.run(_OTHER) or (yield from reader.next())
            emit(text)
            begins = begins if text.isspace() else text.rstrip().endswith(":")


def copy_string(reader: Reader, emit: Emit) -> Reading[bool]:
    """copy_value() for a string."""
    quote = yield from reader.next()
    emit('"')
    while True:
        char = yield from reader.peek()
        if char == "\\":
            emit((yield from _read_escape(reader)))
        elif char == quote:
            yield from reader.next()
            emit('"')
            return True
        elif char == "":
            return False
        elif control := reader.run(_CONTROL):
            emit(escape(control))
        else:
            emit(reader.run(_WITHIN[quote]).replace('"', '\\"'))


def _read_escape(reader: Reader) -> Reading[str]:
    """An escape sequence as JSON has it. Before anything else a backslash stands for itself, as in C:\\dir and \\d+."""
    yield from reader.next()
    char = yield from reader.next()
    if char in _ESCAPED or not char:
        return "\\" + char
    if char == "'":
        return char
    if char != "u":
        return "\\\\" + escape(char)
    digits = ""
    while len(digits) < 4 and _HEX.match(digit := (yield from reader.peek())):
        digits += yield from reader.next()
    return ("\\u" if len(digits) == 4 or not digit else "\\\\u") + digits


def _copy_word(reader: Reader, emit: Emit) -> Reading[bool]:
    """A number, true, false or null; False when nothing of the kind comes."""
    found: list[str] = []
    yield from reader.while_in(_WORD, found.append)
    word = "".join(found)
    emit(_WORDS.get(word) or to_number(word) or word)
    return bool(found)


def _copy_comma(reader: Reader, emit: Emit) -> Reading[None]:
    """With the space after it; one that nothing follows is left out."""
    yield from reader.next()
    found: list[str] = []
    yield from reader.while_in(SPACE, found.append)
    space = "".join(found)
    emit(space if (yield from reader.peek()) in ("}", "]") else "," + space)


def to_number(word: str) -> str:
    """A number of JSON or Python as JSON writes it; "" if it is none."""
    text = word.replace("_", "").removeprefix("+")
    if text.startswith((".", "-.")):
        text = text.replace(".", "0.", 1)
    if text.endswith("."):
        text += "0"
    return text if _NUMBER.fullmatch(text) else ""


def read_string(reader: Reader) -> Reading[str | None]:
    """The string that comes next, if there is one of at most MAX_NAME characters."""
    if (yield from reader.peek()) != '"':
        return None
    text = yield from reader.next()
    while len(text) <= MAX_NAME:
        char = yield from reader.next()
        text += char
        if char == "\\":
            text += yield from reader.next()
        elif char == '"':
            value = value_or_none(text)
            return value if isinstance(value, str) else None
        elif char == "":
            break
    return None


def to_json(value: Any) -> str:
    """JSON text without escapes that are not needed; half a surrogate pair needs one."""
    text = json.dumps(value, ensure_ascii=False)
    return text if is_unicode(text) else json.dumps(value)


def is_unicode(text: str) -> bool:
    """Whether it can be encoded: no half of a surrogate pair."""
    return text.isascii() or not _SURROGATE.search(text)


def escape(text: str) -> str:
    """The text as it stands within a JSON string."""
    return to_json(text)[1:-1]
