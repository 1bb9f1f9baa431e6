"""Calls whose arguments are elements, one for each parameter, with values that are text; their JSON is written here, by
the parameters' schema."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from warpjet.parsing.answer import Answer, is_name
from warpjet.parsing.json_text import MAX_NAME, escape, parse_json, to_json
from warpjet.parsing.marked import Marked
from warpjet.parsing.reader import Emit, Reader, Reading, markers

_NAME = re.compile(r"[^\s<>\"]+")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_WORDS = {"True": "true", "False": "false", "None": "null"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Xml(Marked):
    """After the open marker: the name and `name_end`; then for each parameter `key`, its name and one of `key_ends`,
    and the value up to `value_end`.

    padded: a value stands on lines of its own. typed: after the first of `key_ends` comes text, else JSON."""

    name_end: str = ""
    key: str
    key_ends: tuple[str, ...]
    value_end: str
    padded: bool = False
    typed: bool = False

    def calls(self, reader: Reader, answer: Answer, found: str) -> Reading[bool]:
        yield from reader.space()
        pieces: list[str] = []
        yield from reader.while_in(_NAME, pieces.append)
        name = "".join(pieces)
        if not is_name(name) or (self.name_end and not (yield from reader.accept(self.name_end))):
            return False
        yield from reader.space()
        first = yield from reader.accept(self.key, *self.closes)
        if not first:
            return False
        reader.unread(first)
        reader.recorded()
        answer.call(name)
        answer.arguments("{")
        yield from self._parameters(reader, answer, _properties(answer.tools.get(name)))
        return True

    def _parameters(self, reader: Reader, answer: Answer, properties: Mapping[str, Any]) -> Reading[None]:
        """An object that the end cuts off stays open: nobody shall take it for complete."""
        separator = ""
        while (yield from reader.accept(self.key)):
            reader.record(self.key)
            key, end = yield from reader.up_to(markers(*self.key_ends), MAX_NAME)
            raw = reader.recorded()
            if not end:
                answer.arguments(raw)
                break
            answer.arguments(f'{separator}"{escape(key)}": ')
            types = _types(properties.get(key))
            if self.typed:
                types = {"string"} if end == self.key_ends[0] else set()
            yield from self._value(reader, answer.arguments, types)
            yield from reader.space()
            separator = ", "
        if close := (yield from reader.accept(*self.closes)):
            reader.unread(close)
            answer.arguments("}")
        else:
            yield from self.malformed_arguments(reader, answer)

    def _value(self, reader: Reader, emit: Emit, types: set[str]) -> Reading[None]:
        if self.padded:
            yield from reader.accept("\n")
        if types == {"string"}:
            emit('"')
            text = _Text(emit, self.padded)
            if (yield from reader.until(markers(self.value_end), text.push)):
                emit('"')
            return
        pieces: list[str] = []
        found = yield from reader.until(markers(self.value_end), pieces.append)
        whole = "".join(pieces)
        emit(_to_typed_json(whole.removesuffix("\n") if self.padded else whole, types) if found else whole)


class _Text:
    """A value that is text, as it comes; without the line break at its end, if it is padded."""

    def __init__(self, emit: Emit, padded: bool) -> None:
        self._emit, self._padded = emit, padded
        self._held = ""

    def push(self, text: str) -> None:
        text = self._held + text
        if self._padded and text.endswith("\n"):
            text, self._held = text[:-1], "\n"
        else:
            self._held = ""
        self._emit(escape(text))


def _properties(schema: object) -> Mapping[str, Any]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def _types(schema: object) -> set[str]:
    """The JSON types that a schema allows, as far as it says so at first sight; empty: any."""
    if not isinstance(schema, Mapping):
        return set()
    if named := schema.get("type"):
        return {named} if isinstance(named, str) else set(filter(_is_text, named)) if isinstance(named, list) else set()
    if isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        return {_TYPES.get(type(value), "null") for value in values}
    if isinstance(choices := schema.get("anyOf", schema.get("oneOf")), list):
        found = [_types(choice) if isinstance(choice, Mapping) and "type" in choice else set() for choice in choices]
        return set().union(*found) if all(found) else set()
    return set()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _to_typed_json(text: str, types: set[str]) -> str:
    """The JSON text of a value of one of these types, else of a string."""
    word = text.strip()
    word = _WORDS.get(word, word)
    value = parse_json(word)
    kind = "null" if word == "null" else "" if value is None else _TYPES[type(value)]
    fits = not types or kind in types or (kind == "integer" and "number" in types)
    if isinstance(value, float) and "integer" in types:
        fits = fits or value.is_integer()
    return word if kind and kind != "string" and fits else to_json(text)
