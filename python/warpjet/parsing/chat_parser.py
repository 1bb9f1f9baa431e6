"""One sample of one answer: generated text in, content, reasoning and tool calls out."""

from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.parsing.events import ParsedDelta


class ChatParser:
    """Splits the text of one completion, however it is cut into pieces.

    The parsers are names in REASONING_PARSERS and TOOL_PARSERS, or None. Without tools, or with tool_choice "none",
    calls stay content. prompt: the text before the completion; it may have opened the reasoning already. parallel:
    False keeps the first call only. continued: the prompt ends within the answer (continue_final_message). Raises
    ValueError for an unknown name."""

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
        self.reasoning_tokens = 0  # those whose text is reasoning

    @property
    def called_tools(self) -> bool:
        """A call has begun: what would be finish_reason "stop" is "tool_calls"."""
        return False

    def push(self, text: str, token_ids: Sequence[int] = ()) -> ParsedDelta:
        """What is certain after this piece and was not before."""
        return ParsedDelta(content=text)

    def finish(self) -> ParsedDelta:
        """The rest, when nothing follows."""
        return ParsedDelta()
