"""Calls whose arguments are JSON: in an object with the name, or after a header that has it."""

import re
from dataclasses import dataclass

from warpjet.common.json_size import value_or_none
from warpjet.parsing.answer import Answer, is_name
from warpjet.parsing.json_text import copy_value, is_unicode, read_string
from warpjet.parsing.marked import Marked
from warpjet.parsing.reader import Emit, Reader, Reading, ignore, markers, read_all

_ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("type", "id")  # that a bare call may have
_MAX_HEADER = 256  # characters
_BETWEEN = re.compile(r"[\s,;]+")


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
            return (yield from self._objects(reader, answer, marked))
        return bool(self.header) and (yield from self._named(reader, answer))

    def _objects(self, reader: Reader, answer: Answer, marked: bool) -> Reading[bool]:
        """One after another, where there is a marker."""
        while (yield from _Object(self, reader, answer, marked).run()):
            if not marked:
                return True
            yield from reader.while_in(_BETWEEN, ignore)
            if not (yield from reader.accept("{")):
                break
        return False

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
        header = re.fullmatch(self.header, text) if found == "{" or found in self.closes else None
        if header is None or not is_name(header["name"]):
            return False
        reader.recorded()
        answer.call(header["name"], header.groupdict().get("id"))
        if found != "{":
            answer.arguments("{}")
            return True
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
    """{"name": ..., "arguments": {...}}, after its bracket, in any order. Without arguments it is a call if it has no
    other members than a call may have: what they hold would be lost.

    Without a marker it is a call only if nothing else can be meant: no other members, arguments that are an object, a
    name that is a tool's. All of it is read before it is one, or all that the end left of it."""

    def __init__(self, form: Tagged, reader: Reader, answer: Answer, marked: bool) -> None:
        self._form, self._reader, self._answer, self._marked = form, reader, answer, marked
        self._name: str | None = None
        self._held: list[str] | None = None  # arguments of a call that has not begun
        self._has_others = False
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
        if self._held is None and self._marked and not self._has_others and not self._begun:
            self._held = ["{}"]
        if self._held is not None and not self._begun:
            self._begin()
        if self._begun:
            reader.record()
        return self._begun

    def _member(self, key: str) -> Reading[bool]:
        reader = self._reader
        if key == "name" and self._name is None:
            return (yield from self._read_name())
        if key in _ARGUMENT_KEYS and self._held is None and not self._begun:
            if self._marked and self._name is not None:
                self._begin()
                well_formed = yield from self._form.arguments(reader, self._answer)
                reader.record()
                return well_formed
            return (yield from self._hold_arguments())
        self._has_others = self._has_others or key not in _OTHER_KEYS
        if self._marked:
            return (yield from copy_value(reader, ignore))
        return key in _OTHER_KEYS and (yield from read_string(reader)) is not None

    def _read_name(self) -> Reading[bool]:
        name = yield from read_string(self._reader)
        if name is None or not is_name(name) or not (self._marked or name in self._answer.tools):
            return False
        self._name = name
        if self._held is not None and self._marked:
            self._begin()
            self._reader.record()
        return True

    def _hold_arguments(self) -> Reading[bool]:
        if not self._marked and (yield from self._reader.peek()) != "{":
            return False
        self._held = []
        well_formed = yield from copy_arguments(self._reader, self._held.append)
        if not (well_formed or self._marked or (yield from self._reader.peek())):
            self._begin()
        return well_formed

    def _begin(self) -> None:
        """Gives out the call, with the arguments that are held."""
        if self._name is None:
            return
        self._reader.recorded()
        self._begun = True
        self._answer.call(self._name)
        if self._held is not None:
            self._answer.arguments("".join(self._held))


def copy_arguments(reader: Reader, emit: Emit) -> Reading[bool]:
    """copy_value() for arguments. Some models write them as a string that holds the JSON text, or as null."""
    if (yield from reader.peek()) in ("{", "["):
        return (yield from copy_value(reader, emit))
    found: list[str] = []
    well_formed = yield from copy_value(reader, found.append)
    text = "".join(found)
    emit("{}" if text in ("null", '""') else _unwrapped(text) or text)
    return well_formed


def _unwrapped(text: str) -> str | None:
    """The object that a JSON string holds, put right as any; None if it holds none."""
    inner = value_or_none(text)
    mended = read_all(inner.strip(), copy_value) if isinstance(inner, str) and is_unicode(inner) else None
    return mended if mended is not None and isinstance(value_or_none(mended), dict) else None
