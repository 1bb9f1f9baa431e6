"""Values as messages quote them: what a client sent may be as large as a body, and nothing is read beyond the quote."""

from collections.abc import Mapping, Sequence, Set
from typing import Any


def shown(value: Any, most: int = 64) -> str:
    """A text or number, quoted in about so many characters; of what holds other values, only what it is."""
    if isinstance(value, (str, bytes)):
        return repr(value[:most]) + ("..." if len(value) > most else "")
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (Sequence, Set)):
        return "a list"
    text = repr(value)
    return text if len(text) <= most else text[:most] + "..."
