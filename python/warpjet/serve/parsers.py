"""Which parsers read the model's answers, and what tool_choice asks of the sampling."""

import logging
from typing import TYPE_CHECKING

from warpjet._native import SamplingParams
from warpjet.parsing.chat_parser import ChatParser
from warpjet.parsing.constraint import completion_constraint
from warpjet.parsing.detection import ParserNames, default_tool_parser, find_parsers
from warpjet.serve.http.errors import bad_request

if TYPE_CHECKING:
    from warpjet.requests.session import Session
    from warpjet.serve.events import ChatRequest
    from warpjet.serve.settings import Settings
    from warpjet.text.tokenizer import Tokenizer


_log = logging.getLogger("warpjet.serve")


def find_parser_names(session: "Session", settings: "Settings") -> ParserNames:
    """The parsers that the settings name, "auto" being those that fit the chat template and "none" no parser. Raises
    ValueError for a name that is unknown."""
    template, tokenizer = session.chat_template, session.tokenizer
    wanted = [None if name == "none" else name for name in (settings.reasoning_parser, settings.tool_call_parser)]
    if template is None or tokenizer is None:
        return find_parsers("", (), (wanted[0], wanted[1]))
    names = find_parsers(template.source, tokenizer.special_texts, (wanted[0], wanted[1]), template.writes_tools)
    if not template.writes_tools and names.tool not in (None, default := default_tool_parser(names.reasoning)):
        _log.warning(
            "the chat template writes no tools, so the model is told of them in the format of %s, but "
            "--tool-call-parser %s reads another: leave it out, or pass a --chat-template that writes tools",
            default,
            names.tool,
        )
    return names


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


def adjusted(names: ParserNames, request: "ChatRequest", prompt: str, tokenizer: "Tokenizer") -> SamplingParams:
    """The sampling with what response_format, structured_outputs and tool_choice constrain. Raises ServeError 400."""
    try:
        constraint = completion_constraint(
            names,
            request.tools,
            request.tool_choice,
            request.structured,
            parallel=request.parallel_tool_calls,
            prompt=prompt,
            continued=request.continue_final_message,
            token_id=tokenizer.token_id,
        )
    except ValueError as error:
        raise bad_request(str(error), "tools" if str(error).startswith("tools") else "tool_choice") from None
    return request.sampling if constraint is None else request.sampling.replace(structured_outputs=constraint)
