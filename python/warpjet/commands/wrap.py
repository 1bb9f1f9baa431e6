"""Streamed text, broken between words at the edge of a terminal."""

import shutil
import unicodedata
from collections.abc import Callable


class Wrapper:
    """Writes text that comes in pieces. A word is held until it ends, so that it can begin a line of its own."""

    def __init__(self, write: Callable[[str], object], width: int | None = None) -> None:
        self._write = write
        self._width = width or shutil.get_terminal_size().columns
        self._column = 0
        self._word, self._word_width = "", 0

    def write(self, text: str) -> None:
        """What is complete of it is written at once."""
        for character in text:
            if character == "\n":
                self.flush()
                self._write("\n")
                self._column = 0
            elif character.isspace():
                self.flush()
                self._put(character, 1)
            else:
                self._hold(character)

    def flush(self) -> None:
        """Writes the word that is held."""
        if self._column and self._column + self._word_width > self._width:
            self._write("\n")
            self._column = 0
        self._put(self._word, self._word_width)
        self._word, self._word_width = "", 0

    def _hold(self, character: str) -> None:
        width = _width(character)
        if width == 2 or self._word_width + width > self._width:  # scripts without spaces break anywhere
            self.flush()
        self._word += character
        self._word_width += width
        if width == 2:
            self.flush()

    def _put(self, text: str, width: int) -> None:
        if text:
            self._write(text)
            self._column += width


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
