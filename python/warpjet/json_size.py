"""How large a JSON value is, counted no further than anybody needs to know."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_VALUE_CHARS = 8  # of a value with its share of brackets, commas and spaces

# Of one text. The decoder keeps the interpreter locked, for 0.1 s at these limits.
MAX_VALUES, MAX_PAIRS, MAX_CONTAINERS, MAX_ESCAPES = 1 << 20, 1 << 18, 1 << 17, 1 << 21
_CHUNK = 1 << 16
_OUTSIDE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+|([\[{])|(:)|(,)', re.DOTALL)  # strings, and what is between them

# What decoding a value takes in memory for each of these marks, on average at most; and for any text.
_MARK_BYTES = {b",": 72, b":": 256, b"[": 256, b"{": 256}
_LEAST_BYTES = 4096


def exceeds(most: int, *values: Any) -> bool:
    """Whether these values, as JSON, have more than about `most` characters. The time it takes grows with `most`
    alone."""
    size, waiting = 0, list(values)
    while waiting and size <= most:
        value = waiting.pop()
        size += _VALUE_CHARS
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                size += len(key) if isinstance(key, str) else _VALUE_CHARS
                if size > most:
                    return True
                waiting.append(inner)
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            if size + _VALUE_CHARS * len(value) > most:
                return True
            waiting += value
    return size > most


def check_counts(raw: bytes) -> None:
    """Of JSON text, before it is decoded. Raises ValueError for more values, pairs of key and value, lists and objects,
    or escapes than the limits."""
    if _has_more(raw, b"\\", MAX_ESCAPES):
        raise ValueError(f"the strings hold more than {MAX_ESCAPES} escapes")
    limits = ((b"[", MAX_CONTAINERS), (b"{", MAX_CONTAINERS), (b":", MAX_PAIRS), (b",", MAX_VALUES))
    if not any(_has_more(raw, mark, most) for mark, most in limits):
        return
    containers = pairs = values = 0
    for match in _OUTSIDE.finditer(raw):  # brackets and commas within texts are no values
        kind = match.lastindex
        containers += kind == 1
        pairs += kind == 2
        values += kind == 3
        if containers > MAX_CONTAINERS or pairs > MAX_PAIRS or values > MAX_VALUES:
            raise ValueError(
                f"there are more than {MAX_VALUES} values, {MAX_PAIRS} pairs of key and value, "
                f"or {MAX_CONTAINERS} lists and objects"
            )


def read_bounded(text: str, **options: Any) -> Any:
    """json.loads() of a text that may come from anywhere. Raises ValueError for what check_counts() refuses, too."""
    check_counts(text.encode(errors="surrogatepass"))
    return json.loads(text, **options)


def memory_bytes(raw: bytes) -> int:
    """What decoding a JSON text takes at most: the text twice, and its values, those of JSON within its strings
    included. A character takes as many bytes as the widest one of its string."""
    width = 1 if raw.isascii() and b"\\u" not in raw else 4
    marks = sum(size * _count(raw, mark) for mark, size in _MARK_BYTES.items())
    return _LEAST_BYTES + (1 + 2 * width) * len(raw) + marks


def _count(raw: bytes, mark: bytes) -> int:
    """Other threads have their turns."""
    return sum(raw.count(mark, start, start + _CHUNK) for start in range(0, len(raw), _CHUNK))


def _has_more(raw: bytes, mark: bytes, most: int) -> bool:
    """Than so many of these. Counting stops where that is known."""
    count = 0
    for start in range(0, len(raw) if len(raw) > most else 0, _CHUNK):
        count += raw.count(mark, start, start + _CHUNK)
        if count > most:
            return True
    return False
