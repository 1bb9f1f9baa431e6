"""Where a text is: within brackets, a string or code, or outside of all of them."""

import re

_SIGN = re.compile(r"""[\[\]{}()"\\`\n]""")
_QUOTES = ('"', "'", "`")
_FENCE = 3  # backticks in a row


class Surroundings:
    """What the text so far has opened and not closed. Brackets are counted, not matched: of a text that is no program,
    more cannot be said. A parenthesis counts where it follows a word, as in print(, or is within brackets; a double
    quote counts within brackets."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._is_escaped = False
        self._in_code = self._in_fence = False
        self._ticks = 0  # at the end of the text
        self._last = ""  # its last character

    def push(self, text: str) -> None:
        at = 0
        for match in _SIGN.finditer(text):
            self._plain(text[at : match.start()])
            self._sign(match[0])
            at = match.end()
        self._plain(text[at:])

    @property
    def are_open(self) -> bool:
        """Whether what comes next is part of something else. What follows a quote is quoted."""
        self._end_ticks()
        return self._depth > 0 or self._in_code or self._in_fence or self._last in _QUOTES

    def _plain(self, text: str) -> None:
        if text:
            self._end_ticks()
            self._is_escaped = False
            self._last = text[-1]

    def _sign(self, char: str) -> None:
        if char == "`" and not self._in_string:
            self._ticks += 1
            self._last = char
            return
        self._end_ticks()
        if char == "\n":
            self._in_code = False
        elif self._in_fence or self._in_code:
            pass
        elif self._in_string:
            self._in_string = char != '"' or self._is_escaped
            self._is_escaped = char == "\\" and not self._is_escaped
        elif char == '"':
            self._in_string = self._depth > 0
        elif char in "[{" or (char == "(" and (self._depth or self._last.isalnum() or self._last == "_")):
            self._depth += 1
        elif char in "]})":
            self._depth = max(self._depth - 1, 0)
        self._last = char

    def _end_ticks(self) -> None:
        """Backticks in a row are over: three or more begin or end a block of code, fewer a piece of a line."""
        if self._ticks >= _FENCE:
            self._in_fence = not self._in_fence
        elif self._ticks and not self._in_fence:
            self._in_code = not self._in_code
        self._ticks = 0
