"""Which parsers a model needs, by its chat template."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from warpjet.parsing.chat_parser import check_parsers
from warpjet.parsing.harmony import Harmony
from warpjet.parsing.reasoning_parsers import REASONING_PARSERS, ReasoningParser
from warpjet.parsing.tool_parsers import DEFAULT_TOOL_PARSER, TOOL_PARSERS, ToolParser
from warpjet.text.chat import ChatTemplate
from warpjet.text.tokenizer import Tokenizer
from warpjet.text.tools import ToolChoice


class ParserNames(NamedTuple):
    """Of REASONING_PARSERS and TOOL_PARSERS."""

    reasoning: str | None = None
    tool: str | None = None

    def for_choice(self, tool_choice: ToolChoice) -> "ParserNames":
        """Calls that are forced are written in a default format where the template names none."""
        if self.tool is not None or tool_choice in ("auto", "none"):
            return self
        return ParserNames(self.reasoning, default_tool_parser(self.reasoning))


def default_tool_parser(reasoning: str | None) -> str:
    """The format of calls for a model whose chat template names none."""
    harmony = reasoning is not None and isinstance(REASONING_PARSERS[reasoning].format, Harmony)
    return "openai" if harmony else DEFAULT_TOOL_PARSER


def find_parsers(
    template_source: str,
    special_tokens: Collection[str] = (),
    names_given: tuple[str | None, str | None] = ("auto", "auto"),
    writes_tools: bool = True,
) -> ParserNames:
    """Resolves (reasoning parser, tool parser): "auto" is the one whose signs the template has in it, else None.

    special_tokens: the tokenizer's, which tell the tool parser where a template says nothing of calls. writes_tools:
    false for a template that gets tools as text, in the default format. Raises ValueError for names that there are
    not."""
    reasoning, tool = names_given
    if reasoning == "auto":
        reasoning = _first(REASONING_PARSERS, template_source)
    if tool == "auto":
        tool = _first(TOOL_PARSERS, template_source)
        if tool is None:
            tool = _first(TOOL_PARSERS, "\n".join(special_tokens)) if writes_tools else default_tool_parser(reasoning)
    check_parsers(reasoning, tool)
    return ParserNames(reasoning, tool)


def parsers_for(
    template: ChatTemplate | None, tokenizer: Tokenizer | None, names_given: tuple[str | None, str | None]
) -> ParserNames:
    """find_parsers() for a model's own template and tokenizer; without them, "auto" is none."""
    if template is None or tokenizer is None:
        return find_parsers("", (), names_given)
    return find_parsers(template.source, tokenizer.special_texts, names_given, template.writes_tools)


def _first(table: Mapping[str, ReasoningParser | ToolParser], text: str) -> str | None:
    return next((name for name, row in table.items() if row.signs and all(sign in text for sign in row.signs)), None)
