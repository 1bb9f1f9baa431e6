"""Anthropic's tools as function tools."""

import json
from collections.abc import Mapping
from typing import Any

from warpjet.common.shown import shown
from warpjet.serve.http.errors import bad_request
from warpjet.serve.http.schema import Field, Schema
from warpjet.serve.parts import SkippedTools, check_count, parse_part

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_skipped = SkippedTools("/v1/messages")

_TOOL = Schema(
    "AnthropicTool",
    [
        Field("type", "string", "custom, or one of the tools that clients run"),
        Field("name", "string", required=True),
        Field("description", "string"),
        Field("input_schema", "object", "a JSON schema", required=True),
        Field("strict", "boolean", "calls follow the schema"),
        Field("cache_control", "object", "prefixes are cached in any case"),
        Field("eager_input_streaming", "boolean", "input is always streamed as it comes"),
        Field("defer_loading", "boolean", "every tool is told to the model at once"),
        Field("allowed_callers", "strings", "the model calls"),
        Field("input_examples", "objects", "become part of the description"),
        Field("max_characters", "integer", "a limit that the client keeps"),
    ],
)


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


_STRING, _INTEGER = {"type": "string"}, {"type": "integer"}
_LINES = {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}


def _commands(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


# THE TABLE of tools without a schema that clients run: how their types begin, what they are for, and their input.
_CLIENT_TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "bash_": (
        "Runs a command in a bash session that stays open between calls. restart: begin a new session.",
        _object([], command=_STRING, restart={"type": "boolean"}),
    ),
    "text_editor_": (
        "Views, creates and edits text files. view: path, view_range [first, last] (last -1: to the end). create: "
        "path, file_text. str_replace: path, old_str (must occur once), new_str. insert: path, insert_line (0: at the "
        "top), insert_text.",
        _object(
            ["command", "path"],
            command=_commands("view", "create", "str_replace", "insert"),
            path=_STRING,
            view_range=_LINES,
            file_text=_STRING,
            old_str=_STRING,
            new_str=_STRING,
            insert_line=_INTEGER,
            insert_text=_STRING,
        ),
    ),
    "memory_": (
        "Keeps notes in files under /memories. view: path, view_range. create: path, file_text. str_replace: path, "
        "old_str, new_str. insert: path, insert_line, insert_text. delete: path. rename: old_path, new_path.",
        _object(
            ["command"],
            command=_commands("view", "create", "str_replace", "insert", "delete", "rename"),
            path=_STRING,
            view_range=_LINES,
            file_text=_STRING,
            old_str=_STRING,
            new_str=_STRING,
            insert_line=_INTEGER,
            insert_text=_STRING,
            old_path=_STRING,
            new_path=_STRING,
        ),
    ),
}


def to_tools(value: list[dict[str, Any]] | None, strict: bool) -> list[dict[str, Any]] | None:
    """Function tools; None without any. Tools that the server would have to run are left out, or refused when strict.
    Raises ServeError naming the tool."""
    check_count(value or ())
    tools = (_tool(tool, f"tools[{index}]", strict) for index, tool in enumerate(value or ()))
    return [tool for tool in tools if tool is not None] or None


def _tool(tool: Mapping[str, Any], where: str, strict: bool) -> dict[str, Any] | None:
    kind = tool.get("type") or "custom"
    if not isinstance(kind, str):
        raise bad_request(f"{where}.type must be a string", where)
    if kind != "custom":
        known = next((known for begin, known in _CLIENT_TOOLS.items() if kind.startswith(begin)), None)
        if known is None:
            _skipped.skip(kind, where, strict)
            return None
        tool = {"description": known[0], "input_schema": known[1], **tool}
    given = parse_part(_TOOL, tool, where, strict)
    function = {"name": given["name"], "parameters": given["input_schema"]}
    if description := _description(given):
        function["description"] = description
    if "strict" in given:
        function["strict"] = given["strict"]
    return {"type": "function", "function": function}


def _description(given: Mapping[str, Any]) -> str:
    examples = [json.dumps(example, ensure_ascii=False) for example in given.get("input_examples", ())]
    return "\n".join([*filter(None, [given.get("description")]), *(f"Example of input: {one}" for one in examples)])


def to_tool_choice(value: Any, where: str = "tool_choice") -> tuple[str | dict[str, Any], bool]:
    """OpenAI's tool_choice, and whether calls may be parallel."""
    if value is None:
        return "auto", True
    if not isinstance(value, Mapping):
        raise bad_request(f"{where} must be an object with a type", where)
    if not isinstance(alone := value.get("disable_parallel_tool_use") or False, bool):
        raise bad_request(f"{where}.disable_parallel_tool_use must be true or false", where)
    kind, name = value.get("type"), value.get("name")
    if kind == "tool":
        if not isinstance(name, str):
            raise bad_request(f"{where}.name must be a string", f"{where}.name")
        return {"type": "function", "function": {"name": name}}, not alone
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise bad_request(f"{where}.type must be auto, any, tool or none, got {shown(kind)}", f"{where}.type")
    return _CHOICES[kind], not alone
