"""Which parsers read the model's answers, and what tool_choice asks of the sampling."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from warpjet._native import SamplingParams
from warpjet.parsing.chat_parser import ChatParser
from warpjet.serve.errors import bad_request

if TYPE_CHECKING:
    from warpjet.serve.conversation import ChatRequest
    from warpjet.serve.settings import Settings
    from warpjet.session import Session


@dataclass(frozen=True, slots=True)
class ParserNames:
    """Rows of REASONING_PARSERS and TOOL_PARSERS; None where the model has none."""

    reasoning: str | None = None
    tool: str | None = None


def make_parsers(names: ParserNames, request: "ChatRequest", prompt: str, samples: int) -> list[ChatParser]:
    """One for each sample; none when there is nothing to parse. Raises ServeError 400 for tools that nobody could
    read the calls of."""
    tools = request.tools if request.tool_choice != "none" else None
    if tools and names.tool is None:
        raise bad_request(
            "this model's chat template names no format of tool calls; start the server with --tool-call-parser, "
            'or send tool_choice "none"',
            "tools",
        )
    if not tools and names.reasoning is None:
        return []
    return [
        ChatParser(
            names.reasoning,
            names.tool,
            tools,
            request.tool_choice,
            prompt,
            parallel=request.parallel_tool_calls,
            continued=request.continue_final_message,
        )
        for _ in range(samples)
    ]


def constrained(names: ParserNames, request: "ChatRequest") -> SamplingParams:
    """The sampling with what response_format, structured_outputs or tool_choice constrains. Raises ServeError 400 for
    two constraints at once."""
    sampling, structured = request.sampling, request.structured
    if request.tools and request.tool_choice not in ("auto", "none"):
        from warpjet.parsing import tool_call_grammar

        if structured is not None:
            raise bad_request("tool_choice constrains the answer already; leave response_format out", "tool_choice")
        structured = tool_call_grammar(
            names.tool or "", request.tools, request.tool_choice, request.parallel_tool_calls
        )
    return sampling if structured is None else sampling.replace(structured_outputs=structured)


def find_parser_names(session: "Session", settings: "Settings") -> ParserNames:
    """The parsers that the settings name, "auto" being those that fit the chat template. Raises ValueError for a name
    that is unknown."""
    return ParserNames()
