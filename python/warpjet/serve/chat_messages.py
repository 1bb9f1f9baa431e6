"""Chat messages and tools as the OpenAI API takes them, checked before anything is made of them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.serve.errors import bad_request

MAX_TOOLS = 128

# For the OpenAPI document.
_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]}
MESSAGES = {
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"type": "string", "minLength": 1}, "content": _CONTENT},
    }
}
_FUNCTION = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"},
        "description": {"type": "string"},
        "parameters": {"type": "object"},
    },
}
TOOLS = {
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {"type": {"enum": ["function"]}, "function": _FUNCTION},
    },
    "maxItems": MAX_TOOLS,
}
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Roles, tool calls and their answers in order. Raises ServeError 400."""
    called: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise bad_request(f"{where} needs a role (system, user, assistant, tool)", "messages")
        if (calls := message.get("tool_calls")) is not None:
            if role != "assistant":
                raise bad_request(f"{where}: only an assistant's message has tool_calls", "messages")
            called |= _check_calls(calls, where)
        if role == "tool":
            if not called:
                raise bad_request(f"{where}: a tool's message follows an assistant's with tool_calls", "messages")
            answered = message.get("tool_call_id")
            if answered is not None and answered not in called:
                raise bad_request(f"{where}: no call before it has the tool_call_id {answered!r:.80}", "messages")


def check_tools(tools: Sequence[Mapping[str, Any]]) -> set[str]:
    """The functions' names. Raises ServeError 400."""
    if len(tools) > MAX_TOOLS:
        raise bad_request(f"a request may have {MAX_TOOLS} tools, got {len(tools)}", "tools")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise bad_request(f'tools[{index}] must be {{"type": "function", "function": {{...}}}}', "tools")
        name = function.get("name")
        if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
            raise bad_request(f"tools[{index}].function.name must be 1 to 64 of a-z, A-Z, 0-9, _, . and -", "tools")
        if name in names:
            raise bad_request(f"tools[{index}]: there are two functions {name!r}", "tools")
        if not isinstance(function.get("parameters", {}), (dict, type(None))):
            raise bad_request(f"tools[{index}].function.parameters must be a JSON schema, an object", "tools")
        if not isinstance(function.get("description", ""), (str, type(None))):
            raise bad_request(f"tools[{index}].function.description must be a string", "tools")
        names.add(name)
    return names


def check_tool_choice(choice: str | Mapping[str, Any], names: set[str]) -> None:
    """Raises ServeError 400 for a choice that the tools do not offer."""
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise bad_request("tool_choice must be auto, none, required or a function", "tool_choice")
        if choice == "required" and not names:
            raise bad_request("tool_choice is required, but there are no tools", "tool_choice")
        return
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if choice.get("type") != "function" or not isinstance(name, str):
        raise bad_request('tool_choice must be {"type": "function", "function": {"name": ...}}', "tool_choice")
    if name not in names:
        raise bad_request(f"tool_choice names {name[:64]!r}, which is not among the tools", "tool_choice")


def _check_calls(calls: Any, where: str) -> set[str]:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise bad_request(f"{where}.tool_calls must be a list of objects", "messages")
    ids = set()
    for call in calls:
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise bad_request(f"{where}.tool_calls need a function with a name", "messages")
        if not isinstance(function.get("arguments", ""), (str, dict)):
            raise bad_request(f"{where}.tool_calls: arguments must be JSON text", "messages")
        if not isinstance(call.get("id"), str):
            raise bad_request(f"{where}.tool_calls need an id", "messages")
        ids.add(call["id"])
    return ids
