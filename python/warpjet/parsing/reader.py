"""Text that arrives in pieces, for parsers written as if all of it were there.

A parser is a generator: where the text so far decides nothing, it yields, and is resumed when more has come. It sees
characters, never pieces, so what it makes of a text does not depend on how the text was cut."""

import functools
import re
from collections.abc import Callable, Generator
from typing import TypeVar

_T = TypeVar("_T")
Reading = Generator[None, None, _T]
Emit = Callable[[str], object]

SPACE = re.compile(r"[ \t\r\n]+")


class Markers:
    """Strings to look for. None may be part of another, but for its end: then the first to be complete is the first in
    the text."""

    def __init__(self, *markers: str) -> None:
        for one in markers:
            if not one or any(one in other[:-1] or one == other for other in markers if other is not one):
                raise ValueError(f"marker {one!r} is empty or part of another")
        self.complete = re.compile("|".join(map(re.escape, markers)) or r"(?!)")
        self.partial = re.compile(f"(?:{'|'.join(map(_prefixes, markers)) or '(?!)'})\\Z")
        self.longest = max(map(len, markers), default=0)


@functools.lru_cache(maxsize=256)
def markers(*texts: str) -> Markers:
    """Markers, compiled once."""
    return Markers(*texts)


def _prefixes(marker: str) -> str:
    """A pattern for every proper prefix of a marker that is not empty."""
    pattern = ""
    for char in reversed(marker[1:-1]):
        pattern = f"(?:{re.escape(char)}{pattern})?"
    return re.escape(marker[0]) + pattern if len(marker) > 1 else "(?!)"


class Reader:
    """What has come and is not taken yet. While it records, it remembers what is taken, so that a parser that was wrong
    can give it back as text."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._record: list[str] | None = None
        self.is_whole = False  # nothing cut the text off: its writer ended it

    def feed(self, piece: str) -> None:
        self._text = self._text[self._at :] + piece
        self._at = 0

    def end(self, is_whole: bool) -> None:
        self._ended, self.is_whole = True, is_whole

    @property
    def rest(self) -> str:
        """What is not taken."""
        return self._text[self._at :]

    def record(self, text: str = "") -> None:
        """Remembers from here on; `text` came just before."""
        self._record = [text]

    def recorded(self) -> str:
        """Everything since record(); remembers no longer."""
        text = "".join(self._record or ())
        self._record = None
        return text

    def unread(self, text: str) -> None:
        """Puts back what was taken last."""
        self._at -= len(text)
        if self._record is not None:
            self._record[-1] = self._record[-1].removesuffix(text)

    def _take(self, end: int) -> str:
        text = self._text[self._at : end]
        self._at = end
        if self._record is not None:
            self._record.append(text)
        return text

    def peek(self) -> Reading[str]:
        """The next character, "" at the end."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def next(self) -> Reading[str]:
        """peek(), and takes it."""
        char = yield from self.peek()
        if char:
            self._take(self._at + 1)
        return char

    def accept(self, *literals: str) -> Reading[str]:
        """Takes the first of the literals that comes next and returns it, or takes nothing and returns ""."""
        while True:
            undecided = False
            for literal in literals:
                found = self._text[self._at : self._at + len(literal)]
                if found == literal and not undecided:
                    return self._take(self._at + len(literal))
                undecided = undecided or (found != literal and literal.startswith(found) and not self._ended)
            if not undecided:
                return ""
            yield

    def run(self, pattern: re.Pattern[str]) -> str:
        """Takes what matches of the text so far. More may follow: the pattern must be a run of characters that each
        decide for themselves."""
        match = pattern.match(self._text, self._at)
        return self._take(match.end()) if match else ""

    def while_in(self, pattern: re.Pattern[str], emit: Emit) -> Reading[None]:
        """Emits the characters of a run as they come, up to the first that is not of it."""
        while (yield from self.peek()) and (piece := self.run(pattern)):
            emit(piece)

    def space(self) -> Reading[None]:
        """Takes JSON's white space."""
        yield from self.while_in(SPACE, ignore)

    def until(self, wanted: Markers, emit: Emit, emit_half: Emit | None = None) -> Reading[str]:
        """Emits text up to a marker, takes the marker and returns it; "" at the end. Holds back only what may become a
        marker. What is left of one where the text was cut off goes to emit_half, if there is one."""
        while True:
            if match := wanted.complete.search(self._text, self._at):
                if match.start() > self._at:
                    emit(self._take(match.start()))
                return self._take(match.end())
            end = len(self._text)
            if not self._ended or emit_half:
                begin = max(self._at, end - wanted.longest + 1)
                if match := wanted.partial.search(self._text, begin):
                    end = match.start()
            if end > self._at:
                emit(self._take(end))
            if self._ended:
                if emit_half and self.rest:
                    (emit if self.is_whole else emit_half)(self._take(len(self._text)))
                return ""
            yield

    def up_to(self, wanted: Markers, limit: int) -> Reading[tuple[str, str]]:
        """(text, marker): like until(), all at once. The marker is "" when more than `limit` characters come before it,
        or the end."""
        while True:
            match = wanted.complete.search(self._text, self._at, self._at + limit + wanted.longest)
            if match and match.start() - self._at <= limit:
                return self._take(match.start()), self._take(match.end())
            if self._ended or len(self._text) - self._at >= limit + wanted.longest:
                return self._take(min(len(self._text), self._at + limit)), ""
            yield


def read_all(text: str, copy: Callable[[Reader, Emit], Reading[bool]]) -> str | None:
    """What `copy` emits for a text that is there as a whole; None unless it takes all of it but white space."""
    reader, found = Reader(), list[str]()
    reader.feed(text)
    reader.end(is_whole=True)
    try:
        next(copy(reader, found.append))
    except StopIteration as end:
        return "".join(found) if end.value and not reader.rest.strip() else None
    raise AssertionError("a reader that has ended holds nothing back")


def ignore(text: str) -> None:
    """Emits nothing."""
