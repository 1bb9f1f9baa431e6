"""JSON values in a stream: where they end, their text as it comes. Nesting is bounded, and costs no recursion."""

import json
import re
from typing import Any

from warpjet.parsing.reader import Emit, Reader, Reading

MAX_DEPTH = 128
MAX_NAME = 256

_STRING = re.compile(r'[^"\\]+')
_OUTSIDE = re.compile(r'[^"{}\[\]]+')
_SCALAR = re.compile(r"[-+.\w]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CLOSERS = {"{": "}", "[": "]"}


def copy_value(reader: Reader, emit: Emit) -> Reading[bool]:
    """Emits the text of the value that comes next. False when it stops being one: nested too deeply, brackets that do
    not match, or the end; what was emitted till then is the text. Between brackets and strings it is not checked: its
    reader will, and here it is the model's word."""
    first = yield from reader.peek()
    if first == '"':
        return (yield from copy_string(reader, emit))
    if first not in _CLOSERS:
        found: list[str] = []
        yield from reader.while_in(_SCALAR, found.append)
        emit("".join(found))
        return bool(found)
    closers: list[str] = []
    while True:
        char = yield from reader.peek()
        if char == '"':
            if not (yield from copy_string(reader, emit)):
                return False
        elif char in _CLOSERS:
            if len(closers) == MAX_DEPTH:
                return False
            closers.append(_CLOSERS[char])
            emit((yield from reader.next()))
        elif char in ("}", "]"):
            if char != closers[-1]:
                return False
            closers.pop()
            emit((yield from reader.next()))
            if not closers:
                return True
        elif char == "":
            return False
        else:
            emit(reader.run(_OUTSIDE))


def copy_string(reader: Reader, emit: Emit) -> Reading[bool]:
    """copy_value() for a string."""
    emit((yield from reader.next()))
    while True:
        char = yield from reader.peek()
        if char == "\\":
            yield from reader.next()
            escaped = yield from reader.next()
            emit("\\" + escaped)
        elif char == '"':
            emit((yield from reader.next()))
            return True
        elif char == "":
            return False
        else:
            emit(reader.run(_STRING))


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
            value = parse_json(text)
            return value if isinstance(value, str) else None
        elif char == "":
            break
    return None


def parse_json(text: str) -> Any:
    """A JSON text's value; None when it is malformed, as for null."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
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


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
