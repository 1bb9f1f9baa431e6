"""Messages as users send them, checked and made what chat templates expect."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.common.json_size import value_or_none
from warpjet.common.shown import shown
from warpjet.text.template_values import Arguments

_MOST_IDS = 8  # that a message quotes

Message = Mapping[str, Any]
Conversation = Sequence[Message]


def checked_messages(messages: Any, answered: bool, has_developer: bool) -> list[dict[str, Any]]:
    """Copies with a role and content each: a string, a list of text parts, or None for an assistant that only thinks or
    calls tools. Other members that are None are left out.

    answered: an answer follows, so calls must have their results. has_developer: the template knows this role; else
    it is system. Raises ValueError, naming the message."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError("messages must be a list with at least one message")
    out = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise ValueError(f"{where} must be a dict with role and content, got {type(message).__name__}")
        one = {key: value for key, value in message.items() if value is not None}
        role = one.get("role")
        if not isinstance(role, str) or not role:
            raise ValueError(f"{where} needs a role (system, user, assistant, tool)")
        if role == "developer" and not has_developer:
            one["role"] = "system"
        _check_calls(one, where)
        one["content"] = _checked_content(message.get("content"), where)
        _spread_reasoning(one, where)
        if "tool_calls" in one and not one["content"]:
            one["content"] = None  # clients send "" or [] for it as well
        elif one["content"] is None and not (one["role"] == "assistant" and "reasoning" in one):
            raise ValueError(f"{where} needs content")
        out.append(one)
    _check_order(out, answered)
    return out


def _checked_content(content: Any, where: str) -> str | list[Any] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError(f"{where}: content must be a string or a list of parts, got {type(content).__name__}")
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            found = kind if isinstance(kind, str) and kind != "text" else repr(part)
            raise ValueError(f"{where}.content[{index}]: only parts of type 'text' are supported, got {found:.200}")
    return list(content)


def _spread_reasoning(message: dict[str, Any], where: str) -> None:
    """Templates call it one or the other."""
    given = message.get("reasoning", message.get("reasoning_content"))
    if given is None:
        return
    if not isinstance(given, str):
        raise ValueError(f"{where}: reasoning must be a string, got {type(given).__name__}")
    message["reasoning"] = message["reasoning_content"] = given
    if "tool_calls" in message and not message["content"]:
        message.setdefault("thinking", given)


def _check_calls(message: dict[str, Any], where: str) -> None:
    """Makes tool_calls a list of copies with Arguments; no calls are as good as none."""
    if "function_call" in message or message["role"] == "function":
        raise ValueError(f"{where}: functions are not supported; use tools, tool_calls and the role tool")
    calls = message.pop("tool_calls", None)
    if calls is None or calls == []:
        return
    if message["role"] != "assistant":
        raise ValueError(f"{where}: only messages of the assistant have tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise ValueError(f"{where}.tool_calls must be a list, got {type(calls).__name__}")
    message["tool_calls"] = [_checked_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]


def _checked_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise ValueError(f"{where} must be an object with type 'function' and a function")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise ValueError(f"{where}.function needs a name")
    if not isinstance(call.get("id"), (str, type(None))):
        raise ValueError(f"{where}.id must be a string")
    given = function.get("arguments")
    arguments = value_or_none(given) if isinstance(given, str) and given else given or {}
    if not isinstance(arguments, Mapping):
        if not isinstance(given, str):
            raise ValueError(f"{where}.function.arguments must be the JSON text of an object, got {shown(given)}")
        arguments = {"partial_json": given}  # of a call that was cut off: the conversation goes on
    try:
        text = given if isinstance(given, str) and given else json.dumps(arguments, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}.function.arguments: {error}") from None
    return {**call, "type": "function", "function": {**function, "arguments": Arguments(arguments, text)}}


def _check_order(messages: Sequence[dict[str, Any]], answered: bool) -> None:
    """A call's results come right after it, one for each call. Ids may be left out on both sides."""
    waiting: Counter[str | None] = Counter()
    after_call = False
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message["role"] == "tool":
            if not after_call:
                raise ValueError(f"{where}: a tool's message must follow the assistant's message with its call")
            call_id = message.get("tool_call_id")
            if not (isinstance(call_id, (str, type(None))) and waiting[call_id]):
                wanted = _ids(waiting) or "no more results"
                raise ValueError(f"{where}: tool_call_id is {shown(call_id)}, expected {wanted}")
            waiting[call_id] -= 1
            continue
        _require_results(waiting, where)
        waiting = Counter(call.get("id") for call in message.get("tool_calls", ()))
        after_call = bool(waiting)
        if any(count > 1 for one, count in waiting.items() if one is not None):
            raise ValueError(f"{where}.tool_calls: two calls have the same id")
    if answered:
        _require_results(waiting, "the end")


def _require_results(waiting: Counter[str | None], where: str) -> None:
    if count := waiting.total():
        raise ValueError(f"{where}: the tool messages of {_ids(waiting) or f'{count} calls'} are missing")


def _ids(waiting: Counter[str | None]) -> str:
    """Those of calls that have no result yet; of many, the first ones."""
    found = [one for one in +waiting if one]
    return " or ".join(map(shown, found[:_MOST_IDS])) + (" ..." if len(found) > _MOST_IDS else "")
