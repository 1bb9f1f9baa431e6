"""Items of the Responses API: what a client sends, made uniform, and the conversation that they are."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from warpjet.common.shown import shown
from warpjet.serve.http.errors import bad_request
from warpjet.serve.names import new_id
from warpjet.serve.openai.custom_tools import as_arguments
from warpjet.serve.openai.response_tools import function_name

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_MAX_SEALED = 1 << 22  # characters
_TEXT_PARTS = {"input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"}


def parse_items(value: Any, param: str = "input") -> list[dict[str, Any]]:
    """A string or a list of items as items with ids. Raises ServeError naming the item, and kinds not supported."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, Sequence) or not value:
        raise bad_request(f"{param} must be a string or a list with at least one item", param)
    parsed = (_parse_item(item, f"{param}[{index}]") for index, item in enumerate(value))
    return [item for item in parsed if item is not None]


def _parse_item(item: Any, where: str) -> dict[str, Any] | None:
    """None for what only the server that wrote it can read."""
    if not isinstance(item, Mapping):
        raise bad_request(f"{where} must be an object, got {type(item).__name__}", where)
    kind = item.get("type", "message")
    if isinstance(kind, str) and kind in _FOREIGN:
        return None
    if (parse := _ITEMS.get(kind) if isinstance(kind, str) else None) is None:
        raise bad_request(f"{where}: type {shown(kind)} is not supported; there are {', '.join(_ITEMS)}", where)
    return parse(item, where)


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_request(f"{where}.role must be one of {', '.join(_ROLES)}, got {shown(role)}", f"{where}.role")
    kind = "output_text" if role == "assistant" else "input_text"
    text = _text_of(item.get("content"), f"{where}.content")
    extra: dict[str, Any] = {"annotations": [], "logprobs": []} if role == "assistant" else {}
    content = [{"type": kind, "text": text, **extra}]
    return {"id": _id(item, "msg"), "type": "message", "status": "completed", "role": role, "content": content}


def _function_call(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = _string(item, "arguments", where, may_be_empty=True)
    return {**_call(item, "fc", "function_call", where), "arguments": arguments}


def _custom_tool_call(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    text = _string(item, "input", where, may_be_empty=True)
    return {**_call(item, "ctc", "custom_tool_call", where), "input": text}


def _call(item: Mapping[str, Any], prefix: str, kind: str, where: str) -> dict[str, Any]:
    space = item.get("namespace")
    return {
        "id": _id(item, prefix),
        "type": kind,
        "status": "completed",
        "call_id": _string(item, "call_id", where),
        "name": _string(item, "name", where),
        **({"namespace": space} if isinstance(space, str) and space else {}),
    }


def _call_output(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {
        "id": _id(item, "fco"),
        "type": item["type"],
        "status": "completed",
        "call_id": _string(item, "call_id", where),
        "output": _text_of(item.get("output"), f"{where}.output"),
    }


def _reasoning(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    content, sealed = item.get("content"), item.get("encrypted_content")
    text = _text_of(content, f"{where}.content") if content else ""
    if not text and sealed is not None:
        text = unseal(sealed, f"{where}.encrypted_content")
    return {
        "id": _id(item, "rs"),
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
    }


_ITEMS = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _call_output,
    "custom_tool_call": _custom_tool_call,
    "custom_tool_call_output": _call_output,
    "reasoning": _reasoning,
}
# Items about tools that another server ran, or of a form that only it can read.
_FOREIGN = {
    *("apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction", "compaction_trigger"),
    *("computer_call", "computer_call_output", "file_search_call", "image_generation_call", "local_shell_call"),
    *("local_shell_call_output", "mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools"),
    *("program", "program_output", "shell_call", "shell_call_output", "tool_search_call", "tool_search_output"),
    *("additional_tools", "configuration_update", "web_search_call"),
}


def _id(item: Mapping[str, Any], prefix: str) -> str:
    given = item.get("id")
    return given if isinstance(given, str) and given else new_id(prefix)


def _string(item: Mapping[str, Any], key: str, where: str, may_be_empty: bool = False) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise bad_request(f"{where}.{key} must be a string" + (" that is not empty" if value == "" else ""), where)
    return value


def _text_of(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise bad_request(f"{where} must be a string or a list of text parts", where)
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str) or kind not in _TEXT_PARTS:
            raise bad_request(f"{where}[{index}]: {shown(kind or part)} is not supported; parts must be text", where)
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise bad_request(f"{where}[{index}].text must be a string", where)
        texts.append(text)
    return "\n".join(texts)


def seal(text: str) -> str:
    """Reasoning as encrypted_content: opaque, for clients that give back nothing else of it. It hides nothing from who
    may read the text anyway."""
    return base64.b64encode(text.encode("utf-8", "replace")).decode()


def unseal(sealed: Any, where: str) -> str:
    """The inverse. Raises ServeError for what another server sealed, or is longer than any reasoning."""
    if isinstance(sealed, str) and len(sealed) > _MAX_SEALED:
        raise bad_request(f"{where} has {len(sealed)} characters, more than {_MAX_SEALED}", where)
    try:
        return base64.b64decode(sealed, validate=True).decode()
    except (TypeError, ValueError):
        raise bad_request(f"{where} was not made by this server; leave it out", where) from None


def to_messages(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Chat messages. What an assistant thought, said and called one after another is one message, and so are messages
    of the user or the system in a row: clients send several, and templates may want roles to alternate."""
    messages: list[dict[str, Any]] = []
    texts: list[list[str]] = []  # of each message's content, to be joined at the end
    turn: dict[str, Any] | None = None  # the assistant's message that items still add to
    for item in items:
        kind = item["type"]
        if kind == "message" and item["role"] != "assistant":
            turn, role = None, _ROLES[item["role"]]
            if not messages or messages[-1]["role"] != role:
                messages.append({"role": role})
                texts.append([])
            texts[-1].append(_joined(item))
        elif kind.endswith("_output"):
            turn = None
            messages.append({"role": "tool", "tool_call_id": item["call_id"]})
            texts.append([item["output"]])
        else:
            if turn is None or (kind in ("reasoning", "message") and (texts[-1] or "tool_calls" in turn)):
                turn = {"role": "assistant"}
                messages.append(turn)
                texts.append([])
            _add_to_turn(turn, texts[-1], item)
    for message, parts in zip(messages, texts, strict=True):
        message["content"] = "\n".join(filter(None, parts))
        if thoughts := "".join(message.pop("thoughts", ())):
            message["reasoning_content"] = thoughts
    return messages


def _add_to_turn(turn: dict[str, Any], texts: list[str], item: Mapping[str, Any]) -> None:
    if item["type"] == "reasoning":
        turn.setdefault("thoughts", []).append(_joined(item))
    elif item["type"] == "message":
        texts.append(_joined(item))
    else:
        custom = item["type"] == "custom_tool_call"
        arguments = as_arguments(item["input"]) if custom else item["arguments"]
        function = {"name": function_name(item["name"], item.get("namespace")), "arguments": arguments}
        turn.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": function})


def _joined(item: Mapping[str, Any]) -> str:
    return "\n".join(part["text"] for part in item.get("content") or ())
