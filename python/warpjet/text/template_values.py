"""Values that chat templates get: one value that suits templates which expect different forms of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Arguments(dict[str, Any]):
    """A call's arguments: an object, which reads as JSON text where a template wants a text."""

    __slots__ = ("_text",)

    def __init__(self, arguments: Mapping[str, Any], text: str) -> None:
        super().__init__(arguments)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: str) -> str:
        return self._text + other

    def __radd__(self, other: str) -> str:
        return other + self._text


class NoContent(str):
    """Content that is not there: prints and adds up as nothing, iterates as no parts; a template that asks is told that
    it is none and not defined."""

    __slots__ = ()

    def __new__(cls) -> "NoContent":
        return super().__new__(cls, "")

    def __eq__(self, other: object) -> bool:
        return other is None or other == ""

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __getitem__(self, key: Any) -> Any:
        return {"type": "text", "text": ""} if isinstance(key, int) else ""

    __hash__ = str.__hash__


class Text(str):
    """Content that is a string, for a template that may go through parts: it iterates as one part of text."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts())

    def __getitem__(self, key: Any) -> Any:
        return self._parts()[key] if isinstance(key, int) else super().__getitem__(key)

    def _parts(self) -> list[dict[str, str]]:
        return [{"type": "text", "text": str(self)}]


class Parts(list[dict[str, Any]]):
    """Content that is a list of text parts; it reads as their text where a template wants a text."""

    __slots__ = ()

    def __str__(self) -> str:
        return joined(self)

    def __add__(self, other: Any) -> Any:
        return str(self) + other if isinstance(other, str) else super().__add__(other)

    def __radd__(self, other: str) -> str:
        return other + str(self)


def joined(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text of text parts, a line each."""
    return "\n".join(part["text"] for part in parts)


def content_for(content: Any, parts_read: int) -> Any:
    """Checked content (None, a string or text parts) for a template that reads no parts, one, or all (2)."""
    if content is None:
        return NoContent()
    if not isinstance(content, str):
        if parts_read > 1:
            return Parts(content)
        content = joined(content)
    return Text(content) if parts_read else content
