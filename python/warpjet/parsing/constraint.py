"""What a completion of a conversation must be, of all that its request asks for."""

from typing import Any

from warpjet.parsing.detection import ParserNames
from warpjet.parsing.grammar import TokenId, tool_call_lark
from warpjet.structured import Constraint, Framed, StructuredOutputsParams, check_volume
from warpjet.text.tools import ToolChoice, Tools, check_tool_choice, chosen_name


def completion_constraint(
    names: ParserNames,
    tools: Tools | None,
    tool_choice: ToolChoice,
    structured: StructuredOutputsParams | None,
    *,
    parallel: bool = True,
    prompt: str = "",
    continued: bool = False,
    token_id: TokenId | None = None,
) -> Constraint | None:
    """`structured` constrains the content of the answer: reasoning before it stays free, and where tool_choice "auto"
    offers tools, calls may come instead. A tool_choice that forces calls leaves no content to constrain. None: the
    completion is free.

    The other arguments are those of tool_call_lark(). Raises ValueError for a malformed tool_choice, and for one that
    cannot be granted."""
    check_tool_choice(tools, tool_choice)
    forced = tool_choice not in ("auto", "none")
    offered = tools if forced or (structured is not None and tool_choice == "auto") else None
    if forced:
        structured = None
    if not offered and (structured is None or names.reasoning is None):
        return structured
    check_volume(offered, "tools")
    frame = tool_call_lark(
        names.tool,
        offered or (),
        tool_choice,
        parallel,
        names.reasoning,
        prompt,
        token_id,
        continued=continued,
        answer=structured is not None,
    )
    return Framed(frame, structured, _schemas(offered or (), chosen_name(tool_choice)))


def _schemas(tools: Tools, name: str | None) -> tuple[tuple[str, dict[str, Any]], ...]:
    functions = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    return tuple(
        (f"tools: the parameters of {function['name']!r}", {"type": "object", **(function.get("parameters") or {})})
        for function in functions
    )
