"""Bodies are JSON objects, read strictly and at bounded cost: what two readers could take differently is refused."""

import json
import math
import re
from typing import Any

from warpjet.common.json_size import check_counts
from warpjet.common.shown import shown
from warpjet.serve.http.errors import bad_request

MAX_DEPTH = 128
MAX_KEYS = 16384  # of one object
MAX_DIGITS = 512  # of one number: reading an integer takes time that grows with their square
_SUSPECT = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")  # a surrogate or NUL, unless the backslash is itself escaped


def parse_json(raw: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises ServeError (400) for anything else, for depth beyond MAX_DEPTH, for a key
    given twice, for numbers that are not finite or too long, for text that is not Unicode, and for more values, pairs,
    lists and objects, or escapes than the limits."""
    try:
        check_counts(raw)
    except ValueError as error:
        raise bad_request(f"the body is too large to be read: {error}") from None
    brackets = raw.count(b"[") + raw.count(b"{")
    try:
        value = _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise bad_request(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise bad_request(f"the body must be a JSON object, got {type(value).__name__}")
    if brackets > MAX_DEPTH or (b"\\u" in raw and _SUSPECT.search(raw)):
        _check_deep(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise bad_request(f"an object of the body has more than {MAX_KEYS} keys")
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise bad_request(f"the body gives {shown(name)} twice")
    return value


def _constant(name: str) -> Any:
    raise bad_request(f"the body holds {name}, which is not JSON")


def _integer(text: str) -> int:
    _check_digits(text)
    return int(text)


def _float(text: str) -> float:
    _check_digits(text)
    value = float(text)
    if not math.isfinite(value):
        raise bad_request(f"the body holds the number {text[:32]}, which is too large")
    return value


def _check_digits(text: str) -> None:
    if len(text) > MAX_DIGITS:
        raise bad_request(f"the body holds a number of more than {MAX_DIGITS} digits: {text[:32]}...")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer)


def _check_deep(root: Any) -> None:
    level = [root]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                _check_text(value)
        if not below:
            return
        level = below
    if any(isinstance(value, (dict, list)) for value in level):
        raise bad_request(f"the body is nested deeper than {MAX_DEPTH} levels")
    for value in level:
        if isinstance(value, str):
            _check_text(value)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise bad_request("the body holds the character U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise bad_request("the body holds half of a surrogate pair, which is no character") from None
