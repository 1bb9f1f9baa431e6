"""Stop strings in a text that arrives in pieces."""

import functools
from collections.abc import Sequence


class StopStrings:
    """Finds the first stop string to be completed, wherever the pieces were cut.

    Holds back only text that may still become one. A character costs a constant number of steps per stop string on
    average (Knuth, Morris and Pratt 1977)."""

    def __init__(self, stops: Sequence[str], include_in_output: bool = False) -> None:
        self._stops = stops
        self._include = include_in_output
        self._borders = [_borders(stop) for stop in stops]
        self._matched = [0] * len(stops)  # how much of each stop string the text ends with
        self._held = ""

    def push(self, text: str, armed: bool = True) -> tuple[str, str | None]:
        """Text that may be shown now, and the stop string that ended it, if one did. Not armed: a stop string that ends
        in this piece does not count."""
        if not self._stops:
            return text, None
        self._held += text
        start = len(self._held) - len(text)
        for at, char in enumerate(text, start + 1):
            found = [stop for i, stop in enumerate(self._stops) if self._advance(i, char) and armed]
            if found:
                stop = max(found, key=len)  # the one that began first
                shown = self._held[: at if self._include else at - len(stop)]
                self._held = ""
                return shown, stop
        keep = len(self._held) - max(self._matched)
        shown, self._held = self._held[:keep], self._held[keep:]
        return shown, None

    def finish(self) -> str:
        """The text that was held back, when nothing follows."""
        held, self._held = self._held, ""
        return held

    def _advance(self, index: int, char: str) -> bool:
        """Takes one character; true when stop string `index` is complete with it."""
        stop, borders, matched = self._stops[index], self._borders[index], self._matched[index]
        while matched and stop[matched] != char:
            matched = borders[matched - 1]
        matched += stop[matched] == char
        complete = matched == len(stop)
        self._matched[index] = borders[-1] if complete else matched
        return complete


@functools.lru_cache(maxsize=256)  # the samples of a request have the same ones
def _borders(stop: str) -> tuple[int, ...]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = borders[length - 1]
        length += stop[i] == stop[length]
        borders[i] = length
    return tuple(borders)
