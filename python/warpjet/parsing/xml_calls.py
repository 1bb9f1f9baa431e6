"""Calls whose arguments are elements, one for each parameter, with values that are text; their JSON is written here, by
the parameters' schema."""

import re
from dataclasses import dataclass
from typing import Any

from warpjet.common.json_size import value_or_none
from warpjet.parsing.answer import Answer, is_name
from warpjet.parsing.json_text import MAX_NAME, escape, to_json
from warpjet.parsing.marked import Marked
from warpjet.parsing.parameters import Parameter, member, parameter
from warpjet.parsing.pythonic import copy_literal
from warpjet.parsing.reader import Emit, Reader, Reading, ignore, markers, read_all

_NAME = re.compile(r"[^\s<>\"]+")
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}
_QUOTE = re.compile(r"\\.|[\"'\\]", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Xml(Marked):
    """After the open marker: the name and `name_end`; then for each parameter `key`, its name and one of `key_ends`,
    and the value up to `value_end`, or to another marker that cannot be within it: models forget some.

    padded: a value stands on lines of its own. typed: after the first of `key_ends` comes text, else JSON."""

    name_end: str = ""
    key: str
    key_ends: tuple[str, ...]
    value_end: str
    padded: bool = False
    typed: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """Markers that a value cannot hold. The section's marker is one where a call follows it."""
        calls = [self.section + space + open for open in self.opens for space in ("", "\n") if self.section]
        return (self.value_end, self.key, *self.closes, *self.opens, *calls)

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
        yield from self._parameters(reader, answer, answer.tools.get(name))
        return True

    def _parameters(self, reader: Reader, answer: Answer, schema: Any) -> Reading[None]:
        """An object that the end cuts off stays open: nobody shall take it for complete."""
        separator = ""
        while (yield from reader.accept(self.key)):
            reader.record(self.key)
            key, end = yield from reader.up_to(markers(*self.key_ends), MAX_NAME)
            raw = reader.recorded()
            if not end:
                if (yield from reader.peek()):
                    answer.arguments(raw)
                break
            answer.arguments(f'{separator}"{escape(key)}": ')
            wanted = parameter(member(key, schema), schema)
            is_json = self.typed and end != self.key_ends[0]
            if self.typed and not is_json and "string" in wanted.types:
                wanted = parameter({"type": "string"}, None)
            if not (yield from self._value(reader, answer.arguments, wanted, is_json)):
                return
            yield from reader.space()
            while (yield from reader.accept(self.value_end)):
                yield from reader.space()
            separator = ", "
        next_marker = yield from reader.accept(*self.closes, *self.opens, *filter(None, (self.section,)))
        reader.unread(next_marker)
        if next_marker or (reader.is_whole and not reader.rest):
            answer.arguments("}")
        else:
            yield from self.malformed_arguments(reader, answer)

    def malformed_arguments(self, reader: Reader, answer: Answer) -> Reading[None]:
        while found := (yield from reader.until(markers(*self.ends), answer.arguments, ignore)):
            if found not in (self.key, self.value_end):
                reader.unread(found)
                return
            answer.arguments(found)

    def _value(self, reader: Reader, emit: Emit, wanted: Parameter, is_json: bool) -> Reading[bool]:
        """False: the end cut it off."""
        if self.padded:
            yield from reader.accept("\n")
        if wanted.is_text and not is_json:
            found = yield from self._text(reader, emit)
        else:
            found = yield from self._other(reader, emit, wanted, is_json)
        if found != self.value_end:
            reader.unread(found)
        return bool(found) or reader.is_whole

    def _text(self, reader: Reader, emit: Emit) -> Reading[str]:
        """A value that is text, as it comes. Returns the marker after it."""
        emit('"')
        text = _Text(emit)
        found = yield from reader.until(markers(*self.ends), text.push, ignore)
        if found or reader.is_whole:
            text.end(self._has_break(found))
            emit('"')
        return found

    def _other(self, reader: Reader, emit: Emit, wanted: Parameter, is_json: bool) -> Reading[str]:
        """A value of a type that only all of it shows. A marker within a string of JSON is part of the string."""
        ends = markers(*self.ends)
        pieces: list[str] = []
        found = yield from reader.until(ends, pieces.append, ignore)
        if is_json or "string" not in wanted.types:
            strings = _Strings()
            strings.push("".join(pieces))
            while found and strings.are_open:
                strings.push(found)
                rest = [found]
                found = yield from reader.until(ends, rest.append, ignore)
                strings.push("".join(rest[1:]))
                pieces += rest
        whole = "".join(pieces)
        if found or reader.is_whole:
            whole = _to_typed_json(whole.removesuffix("\n" if self._has_break(found) else ""), wanted, is_json)
        emit(whole)
        return found

    def _has_break(self, end: str) -> bool:
        """Whether a line break before this marker is layout."""
        return self.padded or end != self.value_end


class _Text:
    """A value that is text, as it comes. A line break at its end waits until it is known whether it is layout."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._held = ""

    def push(self, text: str) -> None:
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        self._emit(escape(text.removesuffix("\n")))

    def end(self, has_break: bool) -> None:
        if not has_break:
            self._emit(escape(self._held))


class _Strings:
    """Whether a value that grows is within a string, if it is an object or a list in JSON."""

    def __init__(self) -> None:
        self.are_open = False
        self._is_json: bool | None = None  # its first quote, which a Python literal has single, decides
        self._backslash = ""  # at the end of the text

    def push(self, text: str) -> None:
        text = self._backslash + text
        self._backslash = ""
        if self._is_json is None and (begin := text.lstrip()) and begin[0] not in "{[":
            self._is_json = False
        for match in _QUOTE.finditer(text):
            if self._is_json is None:
                self._is_json = match[0] == '"'
            if match[0] == "\\":
                self._backslash = "\\"
            elif match[0] == '"' and self._is_json:
                self.are_open = not self.are_open


def _to_typed_json(text: str, wanted: Parameter, is_json: bool) -> str:
    """The JSON text of a value that the schema wants, be it written as JSON or as a Python literal, else of a string.
    is_json: a string is written as JSON, too."""
    if text in wanted.choices and not is_json:
        return to_json(text)
    word = text.strip()
    if "string" not in wanted.types:
        word = _WORDS.get(word.lower(), word)
    for written in (word, read_all(word, copy_literal)):
        value = value_or_none(written) if written else None
        is_fit = (value is not None or written == "null") and wanted.takes(value)
        if written and is_fit and (is_json or not isinstance(value, str)):
            return written
    return to_json(text)
