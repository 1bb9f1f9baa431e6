"""How large a JSON value is, counted no further than anybody needs to know."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_VALUE_CHARS = 8  # of a value with its share of brackets, commas and spaces

# Of one text. The decoder keeps the interpreter locked, for 0.1 s at these limits.
MAX_VALUES, MAX_PAIRS, MAX_CONTAINERS, MAX_ESCAPES = 1 << 20, 1 << 18, 1 << 17, 1 << 21
_CHUNK = 1 << 16
# Short strings, what is between strings, and where a long one begins: one match keeps the interpreter locked.
_OUTSIDE = re.compile(rb'"(?:[^"\\]|\\.){0,64}+"|([\[{])|(:)|(,)|(")', re.DOTALL)

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
    for kind in _marks_outside_texts(raw):
        containers += kind == 1
        pairs += kind == 2
        values += kind == 3
        if containers > MAX_CONTAINERS or pairs > MAX_PAIRS or values > MAX_VALUES:
            raise ValueError(
                f"there are more than {MAX_VALUES} values, {MAX_PAIRS} pairs of key and value, "
                f"or {MAX_CONTAINERS} lists and objects"
            )


def _marks_outside_texts(raw: bytes) -> Iterator[int]:
    """1 for each bracket that opens, 2 for each colon, 3 for each comma."""
    start = 0
    while start < len(raw):
        for match in _OUTSIDE.finditer(raw, start):
            kind = match.lastindex
            if kind == 4:
                start = _text_end(raw, match.end())
                break
            if kind is not None:
                yield kind
        else:
            return


def _text_end(raw: bytes, start: int) -> int:
    """Behind the quote that ends a text; escaped ones, which an odd number of backslashes precedes, do not."""
    while (quote := raw.find(b'"', start)) >= 0:
        text = raw[start:quote]
        if (len(text) - len(text.rstrip(b"\\"))) % 2 == 0:
            return quote + 1
        start = quote + 1
    return len(raw)


def read_bounded(text: str, **options: Any) -> Any:
    """json.loads() of a text that may come from anywhere. Raises ValueError for what check_counts() refuses, too."""
    check_counts(text.encode(errors="surrogatepass"))
    return json.loads(text, **options)


def value_or_none(text: str) -> Any:
    """A JSON text's value; None when it is malformed, or larger than what is read, as for null."""
    try:
        return read_bounded(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


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
