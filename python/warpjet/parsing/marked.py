"""Calls that markers announce: what all such formats have in common."""

from dataclasses import dataclass

from warpjet.parsing.answer import Answer
from warpjet.parsing.reader import Reader, Reading, markers
from warpjet.parsing.surroundings import Surroundings


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A format: a section, in it calls, each between an open and a close marker.

    section: a marker before the first open. closes: the last one ends the section. bare: a bracket with which a call
    may begin without a marker; it is one only if it stands by itself, not within brackets or code, cannot be meant
    otherwise and names a tool that there is.
    separators: as Answer's. inner_tokens: special tokens within calls."""

    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    section: str = ""
    bare: str = ""
    separators: str = ",;"
    inner_tokens: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """Markers that may be special tokens."""
        return tuple(filter(None, (self.section, *self.opens, *self.closes, *self.inner_tokens)))

    def run(self, reader: Reader, answer: Answer) -> Reading[None]:
        """Parses to the end."""
        starts = tuple(filter(None, (self.section, *self.opens, self.bare)))
        outside, inside = markers(*starts), markers(*starts, *self.closes)
        is_inside = False
        around = Surroundings()  # looked at only where a bare bracket may be a call

        def text(piece: str) -> None:
            answer.text(piece)
            if self.bare:
                around.push(piece)

        while found := (yield from reader.until(inside if is_inside else outside, text, answer.half_marker)):
            if found == self.bare and around.are_open:
                text(found)
            elif found == self.section:
                answer.marker(found)
            elif found in self.closes:
                is_inside = found != self.closes[-1]
                answer.close()
            else:
                calls = answer.calls
                reader.record(found)
                well_formed = yield from self.calls(reader, answer, found)
                left = reader.recorded()
                if not well_formed:
                    text(left)
                is_inside = is_inside or answer.calls > calls

    def calls(self, reader: Reader, answer: Answer, found: str) -> Reading[bool]:
        """What comes after an open marker or the bare bracket. False: it is malformed, and what is recorded is text."""
        raise NotImplementedError

    def malformed_arguments(self, reader: Reader, answer: Answer) -> Reading[None]:
        """The rest of arguments that have gone wrong: all up to the close marker, which is all one can know."""
        reader.unread((yield from reader.until(markers(*self.closes), answer.arguments)))
