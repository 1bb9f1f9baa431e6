"""Chat messages and tools as the OpenAI API takes them, checked before anything is made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.parsing import tools
from warpjet.serve.errors import bad_request

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
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.:/-]{1,128}$"},
        "description": {"type": "string"},
        "parameters": {"type": "object"},
    },
}
TOOLS = {
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {"type": {"enum": ["function"]}, "function": _FUNCTION},
    }
}


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


def check_tools(given: Sequence[Mapping[str, Any]]) -> set[str]:
    """The functions' names. Raises ServeError 400."""
    try:
        tools.check_tools(given)
    except ValueError as error:
        raise bad_request(str(error), "tools") from None
    return {tool["function"]["name"] for tool in given}


def check_tool_choice(choice: str | Mapping[str, Any], names: set[str]) -> None:
    """Raises ServeError 400 for a choice that the tools do not offer."""
    try:
        tools.check_tool_choice([{"function": {"name": name}} for name in names], choice)
    except ValueError as error:
        raise bad_request(str(error), "tool_choice") from None


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
