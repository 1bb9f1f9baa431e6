"""What a chat model's text means: reasoning, content and tool calls, while it streams.

`ChatParser` splits one answer. `REASONING_PARSERS` and `TOOL_PARSERS` are the formats; each is a row over one of a few
engines, which are generators that read from a `Reader` and write to an `Answer`."""

from warpjet.parsing.chat_parser import ChatParser, check_parsers, shown_tokens
from warpjet.parsing.constraint import completion_constraint
from warpjet.parsing.detection import ParserNames, find_parsers
from warpjet.parsing.events import FunctionCall, ParsedAnswer, ParsedDelta, ToolCall, ToolCallDelta
from warpjet.parsing.reasoning_parsers import REASONING_PARSERS
from warpjet.parsing.tool_parsers import TOOL_PARSERS

__all__ = [
    "REASONING_PARSERS",
    "TOOL_PARSERS",
    "ChatParser",
    "FunctionCall",
    "ParsedAnswer",
    "ParsedDelta",
    "ParserNames",
    "ToolCall",
    "ToolCallDelta",
    "check_parsers",
    "completion_constraint",
    "find_parsers",
    "shown_tokens",
]
