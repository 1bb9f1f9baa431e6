"""Custom tools, whose input is a text: for the model, functions with that text as their one argument."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.common.json_size import value_or_none
from warpjet.serve.http.errors import bad_request

PARAMETERS = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


def format_text(form: Mapping[str, Any] | None, where: str) -> str | None:
    """What the model is told of the input: its grammar, which it is not held to. Raises ServeError 400."""
    form = form or {"type": "text"}
    if form.get("type") == "text":
        return None
    syntax, definition = form.get("syntax"), form.get("definition")
    if form.get("type") != "grammar" or syntax not in ("lark", "regex") or not isinstance(definition, str):
        raise bad_request(f"{where}.format must be text, or a grammar with syntax (lark, regex) and definition", where)
    return f"The input follows this {syntax} grammar:\n{definition}"


def as_arguments(text: str) -> str:
    """The function's arguments for this input."""
    return json.dumps({"input": text}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """The input in a call's arguments; where the model wrote something else, that."""
    value = value_or_none(arguments)
    given = value.get("input") if isinstance(value, dict) else None
    return given if isinstance(given, str) else arguments


# --- As chat has them -------------------------------------------------------------------------------------------------


def custom_names(tools: Sequence[Mapping[str, Any]]) -> set[str]:
    """Of tools that as_functions() has read."""
    return {tool["custom"]["name"] for tool in tools if tool.get("type") == "custom"}


def as_functions(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools with functions in place of custom ones. Raises ServeError 400 naming a custom tool that is malformed."""
    return [_as_function(tool, f"tools[{i}]") if tool.get("type") == "custom" else tool for i, tool in enumerate(tools)]


def _as_function(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    custom = tool.get("custom")
    if not isinstance(custom, Mapping) or not isinstance(custom.get("name"), str):
        raise bad_request(f"{where}.custom must be an object with a name", where)
    form, description = custom.get("format"), custom.get("description")
    if not isinstance(form, Mapping | None) or not isinstance(description, str | None):
        raise bad_request(f"{where}.custom: format must be an object, description a string", where)
    if form and isinstance(form.get("grammar"), Mapping):
        form = {**form["grammar"], "type": form.get("type")}
    told = "\n".join(filter(None, [description, format_text(form, f"{where}.custom")]))
    function = {"name": custom["name"], **({"description": told} if told else {}), "parameters": PARAMETERS}
    return {"type": "function", "function": function}


def as_function_choice(choice: Any) -> Any:
    """A tool_choice with the function's name in place of a custom tool's."""
    if isinstance(choice, Mapping) and choice.get("type") == "custom":
        return {"type": "function", "function": choice.get("custom")}
    return choice


def with_function_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with calls of functions in place of those of custom tools. Raises ServeError 400."""
    out = []
    for index, message in enumerate(messages):
        calls = message.get("tool_calls")
        if isinstance(calls, list) and any(_is_custom(call) for call in calls):
            where = f"messages[{index}].tool_calls"
            message = {
                **message,
                "tool_calls": [_as_function_call(call, f"{where}[{i}]") for i, call in enumerate(calls)],
            }
        out.append(message)
    return out


def _is_custom(call: Any) -> bool:
    return isinstance(call, Mapping) and call.get("type") == "custom"


def _as_function_call(call: Any, where: str) -> Any:
    if not _is_custom(call):
        return call
    custom = call.get("custom")
    if not isinstance(custom, Mapping) or not isinstance(custom.get("input"), str):
        raise bad_request(f"{where}.custom must be an object with name and input", "messages")
    rest = {key: value for key, value in call.items() if key != "custom"}
    return {
        **rest,
        "type": "function",
        "function": {"name": custom.get("name"), "arguments": as_arguments(custom["input"])},
    }


def as_custom_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call of the function as one of the tool."""
    function = call["function"]
    return {
        "id": call["id"],
        "type": "custom",
        "custom": {"name": function["name"], "input": input_of(function["arguments"])},
    }
