"""One sample of one answer: generated text in, content, reasoning and tool calls out."""

from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.parsing.answer import Answer
from warpjet.parsing.events import ParsedAnswer, ParsedDelta
from warpjet.parsing.harmony import Harmony
from warpjet.parsing.reader import Emit, Reader, Reading
from warpjet.parsing.reasoning_parsers import REASONING_PARSERS
from warpjet.parsing.tool_parsers import TOOL_PARSERS, new_call_id


class ChatParser:
    """Splits the text of one completion, however it is cut into pieces.

    The parsers are names in REASONING_PARSERS and TOOL_PARSERS, or None. Without tools, or with tool_choice "none",
    calls stay content. With "required" or a named tool the model could write nothing but calls: there is no content.
    prompt: the text before the completion; it may have opened the reasoning already. parallel: False leaves out all
    calls but the first. continued: the prompt ends within the answer (continue_final_message).

    A call within reasoning is a thought, not a call, even where the reasoning has no end.

    A call that a marker announces is given out whatever its name is: its caller can answer that there is no such tool.
    Raises ValueError for an unknown parser, and for two that exclude each other."""

    def __init__(
        self,
        reasoning_parser: str | None,
        tool_parser: str | None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] = "auto",
        prompt: str = "",
        *,
        parallel: bool = True,
        continued: bool = False,
    ) -> None:
        check_parsers(reasoning_parser, tool_parser)
        reasoning = REASONING_PARSERS[reasoning_parser].format if reasoning_parser else None
        row = TOOL_PARSERS[tool_parser] if tool_parser else None
        with_calls = bool(row and tools and tool_choice != "none")
        self.reasoning_tokens = 0  # tokens whose text is reasoning
        self._can_think = reasoning is not None
        self._answer = Answer(
            {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools or ()},
            row.make_id if row else new_call_id,
            row.format.separators if row else "",
            parallel=parallel,
            only_calls=with_calls and tool_choice != "auto",
        )
        self._emit: Emit = self._answer.plain  # what content goes to
        self._calls: _Machine | None = None
        self._reasoning: _Machine | None = None
        if isinstance(reasoning, Harmony) or (row and isinstance(row.format, Harmony)):
            self._begin_calls(Harmony(with_calls=with_calls))
            self._emit(Harmony.left_open(prompt))
            self._answer.take()
            return
        if row and with_calls:
            self._begin_calls(row.format)
        if reasoning:
            reader = Reader()
            opened = reasoning.opened_by(prompt, continued)
            self._reasoning = _Machine(reader, reasoning.run(reader, self._answer, self._emit, opened))

    @property
    def called_tools(self) -> bool:
        """A call has begun: what would be finish_reason "stop" is "tool_calls"."""
        return self._answer.calls > 0

    def push(self, text: str, token_ids: Sequence[int] = (), ends: Sequence[int] | None = None) -> ParsedDelta:
        """What is certain after this piece and was not before. ends: how long the text is after each token; without
        it, all of them count as reasoning if the first does."""
        begin = 0
        if self._can_think and ends and len(token_ids) > 1:
            for end in ends:
                self._push(text[begin:end], 1)
                begin = end
            self._push(text[begin:], 0)
        else:
            self._push(text, len(token_ids))
        return self._answer.take()

    def finish(self, is_whole: bool = False) -> ParsedDelta:
        """The rest, when nothing follows. is_whole: the model ended the text, nothing cut it off; a call that lacks its
        end markers is complete then."""
        if self._reasoning is not None:
            self._reasoning.finish(is_whole)
        if self._calls is not None:
            self._calls.finish(is_whole)
            self._answer.finish()
        return self._answer.take()

    def parse(self, text: str, token_ids: Sequence[int] = (), is_whole: bool = False) -> ParsedAnswer:
        """An answer at once; is_whole as in finish()."""
        out = ParsedAnswer()
        out.add(self.push(text, token_ids))
        out.add(self.finish(is_whole))
        return out

    def _push(self, text: str, tokens: int) -> None:
        if self._answer.thinking:
            self.reasoning_tokens += tokens
        if self._reasoning is None:
            self._emit(text)
        elif self._reasoning.push(text):
            rest, self._reasoning = self._reasoning.rest, None
            self._emit(rest)

    def _begin_calls(self, form: Any) -> None:
        reader = Reader()
        self._calls = _Machine(reader, form.run(reader, self._answer))
        self._emit = self._calls.push


class _Machine:
    """A parser and the reader that it reads from."""

    def __init__(self, reader: Reader, run: Reading[None]) -> None:
        self._reader, self._run = reader, run
        self._resume()

    def push(self, text: str) -> bool:
        """True when the parser has ended."""
        self._reader.feed(text)
        return self._resume()

    def finish(self, is_whole: bool) -> None:
        self._reader.end(is_whole)
        self._resume()

    @property
    def rest(self) -> str:
        return self._reader.rest

    def _resume(self) -> bool:
        return next(self._run, self) is self


def shown_tokens(reasoning_parser: str | None, tool_parser: str | None) -> frozenset[str]:
    """What the text must show for these parsers, even where it is a special token."""
    reasoning = REASONING_PARSERS[reasoning_parser].format.tokens if reasoning_parser else ()
    tool = TOOL_PARSERS[tool_parser].format.tokens if tool_parser else ()
    return frozenset((*reasoning, *tool))


def check_parsers(reasoning_parser: str | None, tool_parser: str | None) -> None:
    """Raises ValueError for an unknown parser, and for two that exclude each other."""
    for kind, name, table in (
        ("reasoning_parser", reasoning_parser, REASONING_PARSERS),
        ("tool_call_parser", tool_parser, TOOL_PARSERS),
    ):
        if name is not None and name not in table:
            raise ValueError(f"there is no {kind} {name!r}; there are {', '.join(sorted(table))}")
    if reasoning_parser and tool_parser:
        harmony = [isinstance(REASONING_PARSERS[reasoning_parser].format, Harmony)]
        harmony.append(isinstance(TOOL_PARSERS[tool_parser].format, Harmony))
        if any(harmony) and not all(harmony):
            raise ValueError(
                f"reasoning_parser {reasoning_parser!r} and tool_call_parser {tool_parser!r} exclude each other"
            )
