"""How large a JSON value is, counted no further than anybody needs to know."""

from collections.abc import Mapping, Sequence
from typing import Any

_VALUE_CHARS = 8  # of a value with its share of brackets, commas and spaces


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
