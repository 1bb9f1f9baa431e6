"""Tools, calls and results for chat templates that know none: the format of Hermes, which many models have learnt.

The tools stand at the end of the system message, or of the first message where the template has no system messages.
A call is {"name": ..., "arguments": ...} between <tool_call> tags in the assistant's text, a result is text between
<tool_response> tags of the user."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.text.abilities import Abilities

_INSTRUCTIONS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

Messages = list[dict[str, Any]]


def with_default_tools(messages: Messages, tools: Sequence[Mapping[str, Any]] | None, abilities: Abilities) -> Messages:
    """The conversation with what the template would leave out, as text. Raises ValueError for tools that are no
    JSON."""
    out = list(messages)
    if not abilities.writes_calls:
        out = [_with_calls(message) for message in out]
    if not abilities.writes_results:
        out = _with_results(out)
    if tools and not abilities.writes_tools:
        out = _with_tools(out, tools, abilities.writes_system)
    return out


def _with_tools(messages: Messages, tools: Sequence[Mapping[str, Any]], has_system: bool) -> Messages:
    try:
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"tools must be JSON: {error}") from None
    text = _INSTRUCTIONS.format(tools=lines)
    if has_system and messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [messages[0] | {"content": _joined(messages[0]["content"], text)}, *messages[1:]]


def _with_calls(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    text = "\n".join(_call_text(call["function"]) for call in message["tool_calls"])
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return rest | {"content": _joined(message["content"], text, "\n")}


def _call_text(function: Mapping[str, Any]) -> str:
    name = json.dumps(function["name"], ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {function["arguments"]}}}\n</tool_call>'


def _with_results(messages: Messages) -> Messages:
    """Results that follow one another are one message, so that roles go on alternating."""
    out: Messages = []
    in_results = False
    for message in messages:
        if message["role"] == "tool":
            content = message["content"]
            text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
            text = f"<tool_response>\n{text}\n</tool_response>"
            if in_results:
                out[-1]["content"] += "\n" + text
            else:
                out.append({"role": "user", "content": text})
        else:
            out.append(message)
        in_results = message["role"] == "tool"
    return out


def _joined(content: Any, text: str, between: str = "\n\n") -> Any:
    if isinstance(content, list):
        return [*content, {"type": "text", "text": text}]
    return content + between + text if content else text
