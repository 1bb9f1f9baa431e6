"""Calls written as Python: [get_weather(city="Paris", days=[1, 2]), now()]. A strict reader of literals: nothing is
evaluated, and nesting costs no recursion."""

import re
from dataclasses import dataclass

from warpjet.parsing.answer import Answer
from warpjet.parsing.json_text import MAX_DEPTH, MAX_NAME, escape, to_number
from warpjet.parsing.marked import Marked
from warpjet.parsing.reader import Emit, Reader, Reading, markers

KEYWORD = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_FUNCTION = re.compile(r"[\w.:/-]+", re.ASCII)  # any name of a tool
_SCALAR = re.compile(r"[\w.+-]+")
_LITERALS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_QUOTES = ('"""', "'''", '"', "'")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_ESCAPES |= {char: char for char in "\\'\""}
_CODE_DIGITS = {"x": 2, "u": 4, "U": 8}
_HEX = frozenset("0123456789abcdefABCDEF")
_CLOSERS = {"[": "]", "(": ")", "{": "}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pythonic(Marked):
    """Calls in brackets; between markers, also without brackets, one a line. A bare bracket is "["."""

    separators: str = ""

    def calls(self, reader: Reader, answer: Answer, found: str) -> Reading[bool]:
        marked = found != self.bare
        yield from reader.space()
        in_list = not marked or (yield from reader.accept("["))
        while True:
            yield from reader.space()
            if not (yield from self._call(reader, answer, marked)):
                return False
            marked = True  # after a call nobody writes this by accident
            reader.record()
            yield from reader.space()
            if in_list and (yield from reader.accept("]")):
                return True
            if not (yield from reader.accept(",")) and in_list:
                return False

    def _call(self, reader: Reader, answer: Answer, marked: bool) -> Reading[bool]:
        name = yield from _read_name(reader, _FUNCTION)
        if not name or not (marked or name in answer.tools) or not (yield from reader.accept("(")):
            return False
        yield from reader.space()
        if (yield from reader.accept(")")):
            reader.recorded()
            answer.call(name)
            answer.arguments("{}")
            return True
        keyword = yield from _read_keyword(reader)
        if not keyword:
            return False
        reader.recorded()
        answer.call(name)
        if not (yield from _copy_arguments(reader, answer.arguments, keyword)):
            yield from self.malformed_arguments(reader, answer)
            return False
        return True


def _copy_arguments(reader: Reader, emit: Emit, keyword: str) -> Reading[bool]:
    """Emits keyword arguments as a JSON object, after the first keyword. False: malformed; what was read is emitted."""
    emit("{")
    while True:
        emit(f'"{escape(keyword)}": ')
        yield from reader.space()
        if not (yield from copy_literal(reader, emit)):
            return False
        yield from reader.space()
        comma = yield from reader.accept(",")
        yield from reader.space()
        if (yield from reader.accept(")")):
            emit("}")
            return True
        if not comma:
            return False
        emit(", ")
        reader.record()
        keyword = yield from _read_keyword(reader)
        raw = reader.recorded()
        if not keyword:
            emit(raw)
            return False


def _read_name(reader: Reader, pattern: re.Pattern[str]) -> Reading[str]:
    """ "" if there is none."""
    name = ""
    while len(name) <= MAX_NAME and (char := (yield from reader.peek())) and pattern.fullmatch(name + char):
        name += yield from reader.next()
    return name


def _read_keyword(reader: Reader) -> Reading[str]:
    """`name =`; "" if there is none."""
    name = yield from _read_name(reader, KEYWORD)
    yield from reader.space()
    return name if (yield from reader.accept("=")) else ""


def copy_literal(reader: Reader, emit: Emit) -> Reading[bool]:
    """Emits the Python literal that comes next as JSON text. False: it is none, or it is nested too deeply; everything
    that was read is emitted."""
    closers: list[str] = []
    while True:
        char = yield from reader.peek()
        opened = char in _CLOSERS
        if opened:
            if len(closers) == MAX_DEPTH:
                return False
            closers.append(_CLOSERS[(yield from reader.next())])
            emit("{" if char == "{" else "[")
        elif not (yield from _copy_scalar(reader, emit)):
            return False
        while closers:
            yield from reader.space()
            comma = not opened and (yield from reader.accept(","))
            yield from reader.space()
            if (yield from reader.accept(closers[-1])):
                emit("}" if closers.pop() == "}" else "]")
                opened = False
                continue
            if comma:
                emit(", ")
            elif not opened:
                return False
            if closers[-1] == "}" and not (yield from _copy_key(reader, emit)):
                return False
            break
        if not closers:
            return True


def _copy_key(reader: Reader, emit: Emit) -> Reading[bool]:
    if not (yield from _copy_string(reader, emit)):
        return False
    yield from reader.space()
    if not (yield from reader.accept(":")):
        return False
    emit(": ")
    yield from reader.space()
    return True


def _copy_scalar(reader: Reader, emit: Emit) -> Reading[bool]:
    if (yield from reader.peek()) in ("'", '"'):
        return (yield from _copy_string(reader, emit))
    found: list[str] = []
    yield from reader.while_in(_SCALAR, found.append)
    raw = "".join(found)
    text = _LITERALS.get(raw) or to_number(raw)
    emit(text or raw)
    return bool(text)


def _copy_string(reader: Reader, emit: Emit) -> Reading[bool]:
    quote = yield from reader.accept(*_QUOTES)
    if not quote:
        return False
    emit('"')
    while (found := (yield from reader.until(markers(quote, "\\"), lambda text: emit(escape(text))))) == "\\":
        emit(escape((yield from _read_escape(reader))))
    if found:
        emit('"')
    return bool(found)


def _read_escape(reader: Reader) -> Reading[str]:
    """What an escape sequence stands for, after its backslash; an unknown one stands for itself."""
    char = yield from reader.next()
    if char not in _CODE_DIGITS:
        return _ESCAPES.get(char, "\\" + char)
    digits = ""
    while len(digits) < _CODE_DIGITS[char] and (yield from reader.peek()) in _HEX:
        digits += yield from reader.next()
    code = int(digits, 16) if len(digits) == _CODE_DIGITS[char] else -1
    return chr(code) if 0 <= code <= 0x10FFFF else f"\\{char}{digits}"
