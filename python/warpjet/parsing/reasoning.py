"""Reasoning between a pair of markers, before the content."""

import re
from dataclasses import dataclass

from warpjet.parsing.answer import Answer
from warpjet.parsing.reader import Emit, Reader, Reading, markers

_SPACE = re.compile(r"\s+")
_BREAKS = re.compile(r"\n+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TagPair:
    """opens, closes: alternatives. assumed: an answer is reasoning from its start, though no marker says so. anywhere:
    reasoning may also begin within the content, because its markers are tokens that no text holds by accident.

    Line breaks next to the markers are layout, and so is white space before a first marker."""

    opens: tuple[str, ...]
    closes: tuple[str, ...]
    assumed: bool = False
    anywhere: bool = False

    @property
    def tokens(self) -> tuple[str, ...]:
        """Markers that may be special tokens."""
        return (*self.opens, *self.closes)

    def opened_by(self, prompt: str, continued: bool = False) -> bool:
        """Whether what follows this prompt is reasoning until a marker ends it."""
        last_open, last_close = (max(map(prompt.rfind, tags)) for tags in (self.opens, self.closes))
        if continued and last_open != last_close:  # else both are -1
            return last_open > last_close
        end = prompt.rstrip()
        return end.endswith(self.opens) or (self.assumed and not end.endswith(self.closes))

    def run(self, reader: Reader, answer: Answer, content: Emit, opened: bool) -> Reading[None]:
        """Parses until no reasoning can follow: what the reader still has then is content."""
        lead: list[str] = []
        yield from reader.while_in(_SPACE, lead.append)
        found = yield from reader.accept(*self.opens)
        answer.thinking = opened or bool(found)
        if not found and not opened:
            content("".join(lead))
        while True:
            if answer.thinking:
                yield from reader.until(markers(*self.closes), _Reasoning(answer.reasoning).push)
                answer.thinking = False
                yield from reader.while_in(_BREAKS, lambda text: None)
            if not self.anywhere or not (yield from reader.until(markers(*self.opens), content)):
                return
            answer.thinking = True


class _Reasoning:
    """Without the line breaks at its beginning and at its end."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._begun = False
        self._held: list[str] = []

    def push(self, text: str) -> None:
        if not self._begun:
            text = text.lstrip("\n")
        if not text:
            return
        self._begun = True
        body = text.rstrip("\n")
        if body:
            self._emit("".join(self._held) + body)
            self._held.clear()
        if len(body) < len(text):
            self._held.append(text[len(body) :])
