"""Anthropic's messages and blocks as chat messages."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from warpjet.common.shown import shown
from warpjet.serve.http.errors import bad_request

_Placed = tuple[Mapping[str, Any], str]  # a block, and where it stands
_KINDS = {"user": ("text", "tool_result"), "assistant": ("text", "thinking", "tool_use"), "system": ("text",)}
_FOREIGN = {"redacted_thinking", "server_tool_use", "mcp_tool_use", "fallback", "container_upload"}
_BILLING = "x-anthropic-billing-header:"  # begins a block of Claude Code's that differs in each request


def system_text(value: Any, where: str = "system") -> str | None:
    """A string or text blocks, as one text, without the block that Claude Code sends for billing: no prefix could be
    cached behind it."""
    if isinstance(value, list):
        value = [block for block in value if not _is_billing(block)]
    return _texts(value, where) or None if value is not None else None


def _is_billing(block: Any) -> bool:
    text = block.get("text") if isinstance(block, Mapping) else None
    return isinstance(text, str) and text.startswith(_BILLING)


def to_messages(value: Any, where: str = "messages") -> list[dict[str, Any]]:
    """Chat messages. Messages of one role in a row are one turn, as in Anthropic's API; results of tools come before
    the text of their turn. Raises ServeError naming the block."""
    if not isinstance(value, list) or not value:
        raise bad_request(f"{where} must be a list with at least one message", where)
    messages: list[dict[str, Any]] = []
    for role, blocks in _turns(value, where):
        if role == "user":
            messages += _user(blocks)
        elif role == "assistant":
            messages.append(_assistant(blocks))
        else:
            messages.append({"role": "system", "content": _joined(_string(block, "text", at) for block, at in blocks)})
    return messages


def _turns(value: list[Any], where: str) -> list[tuple[str, list[_Placed]]]:
    """Roles and blocks, with messages of one role in a row joined."""
    turns: list[tuple[str, list[_Placed]]] = []
    for index, message in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(message, Mapping):
            raise bad_request(f"{place} must be an object with role and content", place)
        role = message.get("role")
        if not isinstance(role, str) or (kinds := _KINDS.get(role)) is None:
            raise bad_request(f"{place}.role must be 'user' or 'assistant', got {shown(role)}", f"{place}.role")
        blocks = _blocks(message.get("content"), f"{place}.content", kinds)
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return turns


def _user(blocks: list[_Placed]) -> list[dict[str, Any]]:
    results, texts = [], []
    for block, place in blocks:
        if block["type"] == "text":
            texts.append(_string(block, "text", place))
        else:
            results.append(_tool_result(block, place))
    return results + ([{"role": "user", "content": _joined(texts)}] if texts or not results else [])


def _tool_result(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    text = _texts(block.get("content") or "", f"{place}.content")
    failed = block.get("is_error") or False
    if not isinstance(failed, bool):
        raise bad_request(f"{place}.is_error must be true or false", f"{place}.is_error")
    content = f"Error: {text}" if failed else text
    return {"role": "tool", "tool_call_id": _string(block, "tool_use_id", place), "content": content}


def _assistant(blocks: list[_Placed]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    texts, thoughts, calls = [], [], []
    for block, place in blocks:
        if block["type"] == "text":
            texts.append(_string(block, "text", place))
        elif block["type"] == "thinking":
            thoughts.append(_string(block, "thinking", place))
        else:
            calls.append(_tool_use(block, place))
    message["content"] = _joined(texts)
    if any(thoughts):
        message["reasoning_content"] = _joined(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_use(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    given = block.get("input")
    if not isinstance(given, Mapping):
        raise bad_request(f"{place}.input must be an object", f"{place}.input")
    function = {"name": _string(block, "name", place), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _string(block, "id", place), "type": "function", "function": function}


def _texts(value: Any, where: str) -> str:
    return _joined(_string(block, "text", place) for block, place in _blocks(value, where, ("text",)))


def _joined(texts: Iterable[str]) -> str:
    return "\n".join(filter(None, texts))


def _blocks(value: Any, where: str, kinds: Sequence[str]) -> list[_Placed]:
    """Blocks of these types, with their places. Blocks that only the server which wrote them can read are left out."""
    if isinstance(value, str):
        return [({"type": "text", "text": value}, where)]
    if not isinstance(value, list):
        raise bad_request(f"{where} must be a string or a list of blocks", where)
    blocks: list[_Placed] = []
    for index, block in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(block, Mapping):
            raise bad_request(f"{place} must be an object", place)
        kind = block.get("type")
        if kind in kinds:
            blocks.append((block, place))
        elif not (isinstance(kind, str) and "tool_use" in kinds and _is_foreign(kind)):
            supported = ", ".join(kinds)
            raise bad_request(f"{place}: type {shown(kind)} is not supported here, only {supported}", place)
    return blocks


def _is_foreign(kind: str) -> bool:
    """A block about a tool that another server ran, or about thinking that it sealed."""
    return kind in _FOREIGN or kind.endswith("_tool_result")


def _string(block: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(value := block.get(key), str):
        raise bad_request(f"{where}.{key} must be a string", f"{where}.{key}")
    return value
