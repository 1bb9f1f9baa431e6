"""The tools that a request offers, as OpenAI's API has them, and which it asks for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.common.shown import shown

Tools = Sequence[Mapping[str, Any]]
ToolChoice = str | Mapping[str, Any]

MAX_TOOLS = 1024
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_CHOICES = ("auto", "none", "required")


def check_tools(tools: Any) -> None:
    """Raises ValueError, naming the place, unless each is {"type": "function", "function": {"name": ..., "description":
    ..., "parameters": a JSON schema}} with a name of its own."""
    if not isinstance(tools, Sequence) or isinstance(tools, (str, bytes)):
        raise ValueError(f"tools must be a list, got {type(tools).__name__}")
    if len(tools) > MAX_TOOLS:
        raise ValueError(f"tools has {len(tools)} entries, more than {MAX_TOOLS}")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, Mapping) or tool.get("type") != "function":
            raise ValueError(f"{where} must be an object with type 'function'")
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise ValueError(f"{where}.function must be an object with a name")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{where}.function.name must match {_NAME.pattern}, got {shown(name)}")
        if name in names:
            raise ValueError(f"{where}.function.name {name!r} is another tool's too")
        names.add(name)
        for key, kind in (("description", str), ("parameters", Mapping), ("strict", bool)):
            if not isinstance(function.get(key), (kind, type(None))):
                raise ValueError(f"{where}.function.{key} must be {'an object' if kind is Mapping else kind.__name__}")


def check_tool_choice(tools: Tools | None, tool_choice: Any) -> None:
    """Raises ValueError unless it is "auto", "none", "required" or {"type": "function", "function": {"name": ...}} and
    there are tools to choose from."""
    if isinstance(tool_choice, Mapping):
        name = chosen_name(tool_choice)
        if name is None:
            raise ValueError('tool_choice must be {"type": "function", "function": {"name": ...}}')
        if name not in {tool["function"]["name"] for tool in tools or ()}:
            raise ValueError(f"tool_choice names {shown(name, 128)}, which is not in tools")
    elif tool_choice not in _CHOICES:
        raise ValueError(f"tool_choice must be {', '.join(_CHOICES)} or a function's name, got {shown(tool_choice)}")
    elif tool_choice == "required" and not tools:
        raise ValueError("tool_choice 'required' needs tools")


def chosen_name(tool_choice: ToolChoice) -> str | None:
    """The function that a tool_choice names."""
    function = tool_choice.get("function") if isinstance(tool_choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) and tool_choice.get("type") == "function" else None  # type: ignore[union-attr]
