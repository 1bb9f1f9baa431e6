"""Anthropic's messages, blocks and tools as chat messages and function tools."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.serve.errors import bad_request
from warpjet.serve.parts import parse_part
from warpjet.serve.schema import Field, Schema

_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def system_text(value: Any, where: str = "system") -> str | None:
    """A string or text blocks, as one text."""
    return None if value is None else _texts(value, where)


def to_messages(value: Any, where: str = "messages") -> list[dict[str, Any]]:
    """Chat messages. Results of tools come before what the user says beside them. Raises ServeError naming
    the block."""
    if not isinstance(value, list) or not value:
        raise bad_request(f"{where} must be a list with at least one message", where)
    messages: list[dict[str, Any]] = []
    for index, message in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(message, Mapping):
            raise bad_request(f"{place} must be an object with role and content", place)
        role, content = message.get("role"), message.get("content")
        if role == "user":
            messages += _user(content, f"{place}.content")
        elif role == "assistant":
            messages.append(_assistant(content, f"{place}.content"))
        elif role == "system":
            messages.append({"role": "system", "content": _texts(content, f"{place}.content")})
        else:
            raise bad_request(f"{place}.role must be 'user' or 'assistant', got {role!r}", f"{place}.role")
    return messages


def _user(content: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results, texts = [], []
    for block, place in _blocks(content, where, ("text", "tool_result")):
        if block["type"] == "text":
            texts.append(_string(block, "text", place))
        else:
            results.append(_tool_result(block, place))
    return results + ([{"role": "user", "content": "\n".join(texts)}] if texts or not results else [])


def _tool_result(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    text = _texts(block.get("content") or "", f"{place}.content")
    failed = block.get("is_error") or False
    if not isinstance(failed, bool):
        raise bad_request(f"{place}.is_error must be true or false", f"{place}.is_error")
    content = f"Error: {text}" if failed else text
    return {"role": "tool", "tool_call_id": _string(block, "tool_use_id", place), "content": content}


def _assistant(content: Any, where: str) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    message: dict[str, Any] = {"role": "assistant"}
    texts, thoughts, calls = [], [], []
    for block, place in _blocks(content, where, ("text", "thinking", "tool_use")):
        if block["type"] == "text":
            texts.append(_string(block, "text", place))
        elif block["type"] == "thinking":
            thoughts.append(_string(block, "thinking", place))
        else:
            calls.append(_tool_use(block, place))
    message["content"] = "\n".join(texts)
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
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
    if isinstance(value, str):
        return value
    return "\n".join(_string(block, "text", place) for block, place in _blocks(value, where, ("text",)))


def _blocks(value: Any, where: str, kinds: Sequence[str]) -> list[tuple[Mapping[str, Any], str]]:
    """Blocks of these types, with their places."""
    if not isinstance(value, list):
        raise bad_request(f"{where} must be a string or a list of blocks", where)
    blocks: list[tuple[Mapping[str, Any], str]] = []
    for index, block in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(block, Mapping):
            raise bad_request(f"{place} must be an object", place)
        if block.get("type") not in kinds:
            supported = ", ".join(kinds)
            kind = block.get("type")
            raise bad_request(f"{place}: type {kind!r} is not supported here, only {supported}", place)
        blocks.append((block, place))
    return blocks


def _string(block: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(value := block.get(key), str):
        raise bad_request(f"{where}.{key} must be a string", f"{where}.{key}")
    return value


_TOOL = Schema(
    "AnthropicTool",
    [
        Field("type", "string", "of tools with an input_schema", only=("custom",)),
        Field("name", "string", required=True),
        Field("description", "string"),
        Field("input_schema", "object", "a JSON schema", required=True),
        Field("strict", "boolean", "calls follow the schema"),
        Field("cache_control", "object", "prefixes are cached in any case"),
        Field("eager_input_streaming", "boolean", "input is always streamed as it comes"),
        Field("defer_loading", "boolean", "every tool is told to the model", only=(False,)),
        Field("allowed_callers", "strings", "the model calls", only=(["direct"],)),
        Field("input_examples", "objects", "say them in the description", only=([],)),
    ],
)


def to_tools(value: list[dict[str, Any]] | None, strict: bool) -> list[dict[str, Any]] | None:
    """Function tools; None without any. Raises ServeError for tools that the server would have to run or know."""
    return [_tool(tool, f"tools[{index}]", strict) for index, tool in enumerate(value or ())] or None


def _tool(tool: Mapping[str, Any], where: str, strict: bool) -> dict[str, Any]:
    if (kind := tool.get("type")) not in (None, "custom"):
        raise bad_request(f"{where}: tools of type {str(kind)[:64]!r} are not supported, only custom ones", where)
    given = parse_part(_TOOL, tool, where, strict)
    function = {"name": given["name"], "parameters": given["input_schema"]}
    function |= {key: given[key] for key in ("description", "strict") if key in given}
    return {"type": "function", "function": function}


def to_tool_choice(value: Any, where: str = "tool_choice") -> tuple[str | dict[str, Any], bool]:
    """OpenAI's tool_choice, and whether calls may be parallel."""
    if value is None:
        return "auto", True
    if not isinstance(value, Mapping):
        raise bad_request(f"{where} must be an object with a type", where)
    if not isinstance(alone := value.get("disable_parallel_tool_use") or False, bool):
        raise bad_request(f"{where}.disable_parallel_tool_use must be true or false", where)
    kind = value.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": _string(value, "name", where)}}, not alone
    if not isinstance(kind, str) or kind not in _TOOL_CHOICES:
        raise bad_request(f"{where}.type must be auto, any, tool or none, got {kind!r}", f"{where}.type")
    return _TOOL_CHOICES[kind], not alone
