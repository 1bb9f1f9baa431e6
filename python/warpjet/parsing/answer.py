"""What parsers write to: it collects what is certain, and knows which text around calls is only layout."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from warpjet.parsing.events import ParsedDelta, ToolCallDelta

MakeId = Callable[[], str]

_SPACE = re.compile(r"\s+")
_NAME = re.compile(r"[^\s\"'`<>{}()\[\]\x00-\x20\x7f\ud800-\udfff]{1,256}")


def is_name(name: str) -> bool:
    """Whether a tool may be called so: one word without brackets or quotes."""
    return _NAME.fullmatch(name) is not None


class Answer:
    """The parsed answer as it grows.

    White space before a first call, between calls and after them is how a format is laid out: it is left out where a
    call or the end follows, and content where text does. `separators` are characters that may also stand between calls.
    tools: the JSON schema of each tool's parameters by its name. parallel: False leaves out all calls but the first.
    only_calls: the model could write nothing else, so text is what the end left of a call or a marker."""

    def __init__(
        self,
        tools: Mapping[str, Any],
        make_id: MakeId,
        separators: str = "",
        *,
        parallel: bool = True,
        only_calls: bool = False,
    ) -> None:
        self.tools = tools
        self.calls = 0
        self.thinking = False  # what comes now is reasoning
        self._make_id = make_id
        self._parallel = parallel
        self._only_calls = only_calls
        self._between = re.compile(rf"[\s{re.escape(separators)}]+")
        self._edge: re.Pattern[str] | None = _SPACE  # what is layout here; None within text
        self._held: list[str] = []  # the layout so far
        self._is_marker = False  # it has a marker in it, which is no layout where no call follows
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._ids: set[str] = set()
        self._deltas: list[tuple[ToolCallDelta, list[str]]] = []

    def text(self, text: str) -> None:
        """Content."""
        if self._only_calls:
            return
        if self._edge is not None:
            if layout := self._edge.match(text):
                self._held.append(layout[0])
                text = text[layout.end() :]
            if not text:
                return
            self._flush()
        self._content.append(text)

    def plain(self, text: str) -> None:
        """Content in which there are no calls."""
        self._content.append(text)

    def marker(self, text: str) -> None:
        """What announces calls: layout if one follows."""
        self._held.append(text)
        self._is_marker = True
        self._edge = self._edge or _SPACE

    def half_marker(self, text: str) -> None:
        """What the end left of a marker: layout after a call, else content."""
        if self._edge is not self._between:
            self.text(text)

    def close(self) -> None:
        """A call, or all of them, ends here: what came before is layout."""
        if self._edge is not None:
            self._held.clear()

    def reasoning(self, text: str) -> None:
        self._reasoning.append(text)

    def call(self, name: str, call_id: str | None = None) -> None:
        """A call begins. The id is made unless the model wrote a new one."""
        self.calls += 1
        self._held, self._is_marker = [], False
        self._edge = self._between
        if self._wanted:
            if not call_id or call_id in self._ids:
                call_id = self._make_id()
            self._ids.add(call_id)
            self._deltas.append((ToolCallDelta(self.calls - 1, call_id, name), []))

    def arguments(self, text: str) -> None:
        """JSON text of the current call's arguments."""
        if self._wanted:
            if not self._deltas:
                self._deltas.append((ToolCallDelta(self.calls - 1), []))
            self._deltas[-1][1].append(text)

    def finish(self) -> None:
        """Nothing follows."""
        if (self._is_marker or self._edge is _SPACE) and not self._only_calls:
            self._flush()

    def take(self) -> ParsedDelta:
        """What is new since the last time."""
        delta = ParsedDelta("".join(self._content), "".join(self._reasoning))
        for call, arguments in self._deltas:
            call.arguments = "".join(arguments)
            delta.tool_calls.append(call)
        self._content, self._reasoning, self._deltas = [], [], []
        return delta

    @property
    def _wanted(self) -> bool:
        return self._parallel or self.calls == 1

    def _flush(self) -> None:
        self._content += self._held
        self._held, self._is_marker, self._edge = [], False, None
