"""Tools of the Responses API as function tools, and the tool that each function stands for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warpjet.common.shown import shown
from warpjet.serve.http.errors import bad_request
from warpjet.serve.http.schema import Field, Schema
from warpjet.serve.openai.custom_tools import PARAMETERS, format_text
from warpjet.serve.parts import SkippedTools, check_count, only_allowed, parse_part

_Key = tuple[str | None, str | None]  # a name and a namespace
_skipped = SkippedTools("/v1/responses")

_FUNCTION_KEYS = ("description", "parameters", "strict")
_FUNCTION = Schema(
    "ResponseFunction",
    [
        Field("type", "string", "function"),
        Field("name", "string", required=True),
        Field("description", "string"),
        Field("parameters", "object", "a JSON schema"),
        Field("strict", "boolean", "calls follow the schema"),
        Field("defer_loading", "boolean", "every tool is told to the model at once"),
        Field("allowed_callers", "strings", "the model calls", only=(["direct"],)),
        Field("output_schema", "object", "what the client answers; it changes nothing"),
        Field("async", "boolean", "calls are the client's", only=(False,)),
    ],
)
_CUSTOM = Schema(
    "ResponseCustomTool",
    [
        Field("type", "string", "custom"),
        Field("name", "string", required=True),
        Field("description", "string"),
        Field("format", "object", "of the input: text, or a grammar, which the model is told and is not held to"),
        Field("defer_loading", "boolean", "every tool is told to the model at once"),
        Field("allowed_callers", "strings", "the model calls", only=(["direct"],)),
        Field("async", "boolean", "calls are the client's", only=(False,)),
    ],
)
_NAMESPACE = Schema(
    "ResponseNamespace",
    [
        Field("type", "string", "namespace"),
        Field("name", "string", required=True),
        Field("description", "string", "begins the description of each tool"),
        Field("tools", "objects", "functions and custom tools", required=True),
    ],
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The tool that a function stands for. custom: its input is a text."""

    name: str
    namespace: str | None = None
    custom: bool = False


@dataclass(slots=True)
class Offer:
    """The tools that the model is told of."""

    functions: list[dict[str, Any]] = field(default_factory=list)  # as chat has them
    origins: dict[str, Origin] = field(default_factory=dict)  # by the function's name
    shown: list[dict[str, Any]] = field(default_factory=list)  # as the response object has them
    choice: str | dict[str, Any] = "auto"  # as chat has it


def function_name(name: str, namespace: str | None) -> str:
    """The name that the model calls a tool by."""
    return f"{namespace.rstrip('_')}__{name}" if namespace else name


def offer_tools(tools: Sequence[Mapping[str, Any]], choice: Any, strict: bool) -> Offer:
    """Functions, custom tools, and those of namespaces. Tools that the server would have to run are left out, or
    refused when strict. Raises ServeError naming the tool."""
    check_count(tools)
    offer = Offer()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.get("type") == "namespace":
            space = parse_part(_NAMESPACE, tool, where, strict)
            check_count([*offer.functions, *space["tools"]], f"{where}.tools")
            for inner, one in enumerate(space["tools"]):
                _add(offer, one, f"{where}.tools[{inner}]", strict, space)
            offer.shown.append(dict(tool))
        elif _add(offer, tool, where, strict):
            rest = {"strict": None, "parameters": None} if tool["type"] == "function" else {}
            offer.shown.append({**rest, **_flat(tool)})
    _choose(offer, choice)
    return offer


def _add(
    offer: Offer, tool: Mapping[str, Any], where: str, strict: bool, space: Mapping[str, Any] | None = None
) -> bool:
    """Whether the model is told of it."""
    tool, kind = _flat(tool), tool.get("type")
    if not isinstance(kind, str):
        raise bad_request(f"{where}.type must be a string", where)
    if kind not in ("function", "custom"):
        _skipped.skip(kind, where, strict)
        return False
    known = parse_part(_FUNCTION if kind == "function" else _CUSTOM, tool, where, strict)
    origin = Origin(known["name"], space["name"] if space else None, kind == "custom")
    function: dict[str, Any] = {"name": function_name(origin.name, origin.namespace)}
    function |= {key: known[key] for key in _FUNCTION_KEYS if key in known}
    if origin.custom:
        function["parameters"] = PARAMETERS
    told = format_text(known.get("format"), where)
    parts = [space.get("description") if space else None, known.get("description"), told]
    if description := "\n".join(filter(None, parts)):
        function["description"] = description
    offer.functions.append({"type": "function", "function": function})
    offer.origins[function["name"]] = origin
    return True


def _flat(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A function in the form of chat, which many clients send here too, in this API's."""
    inner = tool.get("function")
    if tool.get("type") != "function" or "name" in tool or not isinstance(inner, Mapping):
        return tool
    return {**{key: value for key, value in tool.items() if key != "function"}, **inner, "type": "function"}


def _choose(offer: Offer, choice: Any) -> None:
    """Reads tool_choice, which may leave tools out. Raises ServeError 400."""
    if isinstance(choice, str):
        offer.choice = choice
        return
    choice = _flat(choice)
    kind, name = choice.get("type"), choice.get("name")
    named = _by_name(offer)
    if kind in ("function", "custom") and isinstance(name, str):
        found = named.get(_key(choice))
        offer.choice = {"type": "function", "function": {"name": found[0] if found else name}}
    elif kind == "allowed_tools":
        allowed = choice.get("tools")
        if not isinstance(allowed, list) or not all(isinstance(tool, Mapping) for tool in allowed):
            raise bad_request("tool_choice.tools must be a list of tools", "tool_choice")
        # Tools that the server would run were left out of tools, and so they are here.
        keys = {_key(tool) for tool in allowed if tool.get("type") in ("function", "custom")}
        names = {one for key in keys for one in named.get(key, [str(key[0])])}
        offer.functions, offer.choice = only_allowed(offer.functions, names, choice.get("mode"))
    else:
        raise bad_request(f"tool_choice of type {shown(kind)} is not supported, or lacks its name", "tool_choice")


def _by_name(offer: Offer) -> dict[_Key, list[str]]:
    """Functions by the name and namespace of their tools, by that name alone, and by their own."""
    named: dict[_Key, list[str]] = {}
    for function, origin in offer.origins.items():
        for key in {(origin.name, origin.namespace), (origin.name, None), (function, None)}:
            named.setdefault(key, []).append(function)
    return named


def _key(tool: Mapping[str, Any]) -> _Key:
    """The name and the namespace that tool_choice gives."""
    tool = _flat(tool)
    name, space = tool.get("name"), tool.get("namespace")
    return (name if isinstance(name, str) else None, space if isinstance(space, str) else None)
