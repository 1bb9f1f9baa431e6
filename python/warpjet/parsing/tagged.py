"""Calls whose arguments are JSON: in an object with the name, or after a header that has it."""

import re
from dataclasses import dataclass

from warpjet.parsing.answer import Answer, is_name
from warpjet.parsing.json_text import copy_value, is_unicode, parse_json, read_string
from warpjet.parsing.marked import Marked
from warpjet.parsing.reader import Emit, Reader, Reading, markers

_ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("type", "id")  # that a bare call may have
_MAX_HEADER = 256  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged(Marked):
    """objects: after the marker comes an object with name and arguments, or a list of them. header: a pattern of what
    else may stand before the arguments, with groups `name` and perhaps `id`. tail: what may stand after them. A bare
    bracket is "{" for objects or "[" for lists."""

    objects: bool = True
    header: str = ""
    tail: str = ""

    def calls(self, reader: Reader, answer: Answer, found: str) -> Reading[bool]:
        if marked := found != self.bare:
            yield from reader.space()
            found = (yield from reader.accept("[", "{")) if self.objects else ""
        if found == "[":
            return (yield from self._list(reader, answer, marked))
        if found == "{":
            return (yield from _Object(self, reader, answer, marked).run())
        return bool(self.header) and (yield from self._named(reader, answer))

    def _list(self, reader: Reader, answer: Answer, marked: bool) -> Reading[bool]:
        while True:
            yield from reader.space()
            if not (yield from reader.accept("{")) or not (yield from _Object(self, reader, answer, marked).run()):
                return False
            yield from reader.space()
            if not (yield from reader.accept(",")):
                return bool((yield from reader.accept("]")))

    def _named(self, reader: Reader, answer: Answer) -> Reading[bool]:
        text, found = yield from reader.up_to(markers("{", *self.opens, *self.closes), _MAX_HEADER)
        reader.unread(found)
        header = re.fullmatch(self.header, text) if found == "{" else None
        if header is None or not is_name(header["name"]):
            return False
        reader.recorded()
        answer.call(header["name"], header.groupdict().get("id"))
        well_formed = yield from self.arguments(reader, answer)
        reader.record()
        if well_formed and self.tail:
            yield from reader.accept(self.tail)
        return well_formed

    def arguments(self, reader: Reader, answer: Answer) -> Reading[bool]:
        """Those of the call that has begun."""
        well_formed = yield from copy_arguments(reader, answer.arguments)
        if not well_formed:
            yield from self.malformed_arguments(reader, answer)
        return well_formed


class _Object:
    """{"name": ..., "arguments": {...}}, after its bracket, in any order. Without a marker it is a call only if nothing
    else can be meant: no other members, arguments that are an object, a name that is a tool's."""

    def __init__(self, form: Tagged, reader: Reader, answer: Answer, marked: bool) -> None:
        self._form, self._reader, self._answer, self._marked = form, reader, answer, marked
        self._name: str | None = None
        self._early: list[str] | None = None  # arguments that came before the name
        self._begun = False

    def run(self) -> Reading[bool]:
        """False: it is malformed, and what is recorded is text, even if a call has begun."""
        reader = self._reader
        yield from reader.space()
        while not (yield from reader.accept("}")):
            key = yield from read_string(reader)
            yield from reader.space()
            if key is None or not (yield from reader.accept(":")):
                return False
            yield from reader.space()
            if not (yield from self._member(key)):
                return False
            yield from reader.space()
            yield from reader.accept(",")
            yield from reader.space()
        if self._marked and self._name is not None and not self._begun:
            self._begin(self._name)
            self._answer.arguments("{}")
        return self._begun

    def _member(self, key: str) -> Reading[bool]:
        reader = self._reader
        if key == "name" and self._name is None:
            return (yield from self._read_name())
        if key in _ARGUMENT_KEYS and self._early is None and not self._begun:
            if not self._marked and (yield from reader.peek()) != "{":
                return False
            if self._name is None:
                self._early = []
                return (yield from copy_arguments(reader, self._early.append))
            self._begin(self._name)
            well_formed = yield from self._form.arguments(reader, self._answer)
            reader.record()
            return well_formed
        if self._marked:
            return (yield from copy_value(reader, _ignore))
        return key in _OTHER_KEYS and (yield from read_string(reader)) is not None

    def _read_name(self) -> Reading[bool]:
        name = yield from read_string(self._reader)
        if name is None or not is_name(name) or not (self._marked or name in self._answer.tools):
            return False
        self._name = name
        if self._early is not None:
            self._begin(name)
            self._answer.arguments("".join(self._early))
            self._reader.record()
        return True

    def _begin(self, name: str) -> None:
        self._reader.recorded()
        self._begun = True
        self._answer.call(name)


def copy_arguments(reader: Reader, emit: Emit) -> Reading[bool]:
    """copy_value() for arguments. Some models write them as a string that holds the JSON text, or as null."""
    if (yield from reader.peek()) in ("{", "["):
        return (yield from copy_value(reader, emit))
    found: list[str] = []
    well_formed = yield from copy_value(reader, found.append)
    text = "".join(found)
    inner = parse_json(text)
    emit("{}" if text in ("null", '""') else inner if isinstance(inner, str) and is_unicode(inner) else text)
    return well_formed


def _ignore(text: str) -> None:
    pass
