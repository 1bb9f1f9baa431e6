"""JSON schemas as the compiler takes them: objects closed, formats that it cannot enforce left out, and no integers
that it would round."""

import copy
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

# Of the formats of JSON Schema, those that the compiler enforces. Every other one is an annotation, as the standard has
# it, and changes nothing.
ENFORCED_FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
)

# Between tokens of JSON: a line break and its indent. With more, some models write nothing else.
WHITESPACE = r"\r?\n[ \t]{0,64}|[ \t]{1,64}"

_EXACT = 2**53  # the compiler has integers as doubles
_BOUNDS = {"minimum": -1, "exclusiveMinimum": -1, "maximum": 1, "exclusiveMaximum": 1}

_VALUES = ("const", "enum", "default", "examples")  # no schemas in these
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def prepared(schema: dict[str, Any], closed: bool) -> dict[str, Any]:
    """A copy for the compiler. closed: objects take no properties but those that they list, unless they say otherwise;
    an object that lists none stays any object, and one that several schemas describe together stays open. Raises
    ValueError for integers that would be rounded."""
    schema = copy.deepcopy(schema)
    together = _together(schema) if closed else set()
    for node in _schemas(schema):
        if "format" in node and not (isinstance(node["format"], str) and node["format"] in ENFORCED_FORMATS):
            del node["format"]
        if closed and "properties" in node and "unevaluatedProperties" not in node and id(node) not in together:
            node.setdefault("additionalProperties", False)
        _check_values([node.get("const"), node.get("enum")])
        _narrow_bounds(node)
    return schema


def _check_values(values: list[Any]) -> None:
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, int) and abs(value) > _EXACT:
            raise ValueError(f"{value!s:.25} in const or enum is beyond 2^53, where integers are rounded; use a string")
        stack.extend(value if isinstance(value, list) else value.values() if isinstance(value, dict) else ())


def _narrow_bounds(node: dict[str, Any]) -> None:
    """A range that goes beyond 2^53, as those of int64 and double do, ends there. Raises ValueError for one that begins
    beyond it."""
    for name, outward in _BOUNDS.items():
        bound = node.get(name)
        if not isinstance(bound, int | float) or abs(bound) <= _EXACT:
            continue
        if (bound > 0) == (outward > 0):
            node[name] = outward * _EXACT
        elif isinstance(bound, int):
            raise ValueError(f"{name} {bound!s:.25} is beyond 2^53, where integers are rounded")


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object within it that is a schema, itself included."""
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            yield node
            for name, value in node.items():
                if name in _NAMED_SCHEMAS and isinstance(value, dict):
                    stack.extend(value.values())
                elif name not in _VALUES:
                    stack.append(value)


def _together(root: dict[str, Any]) -> set[int]:
    """Ids of the schemas that describe one object with others: closed, each would forbid what the others list."""
    found: set[int] = set()
    for node in _schemas(root):
        groups = _in_place(node, root)
        if len(groups) + ("properties" in node) < 2:
            continue
        listing = sum(any("properties" in one for one in _reached(group, root)) for group in groups)
        if listing + ("properties" in node) > 1:
            found.update(map(id, _reached([node], root)))
    return found


def _reached(schemas: list[dict[str, Any]], root: dict[str, Any]) -> list[dict[str, Any]]:
    """These, and all that applies to the same value."""
    seen: dict[int, dict[str, Any]] = {}
    stack = list(schemas)
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            stack.extend(one for group in _in_place(node, root) for one in group)
    return list(seen.values())


def _in_place(node: dict[str, Any], root: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Schemas that apply to the same value as this one, in groups of alternatives."""
    groups: list[Any] = [[part] for part in _list(node.get("allOf"))]
    groups += [_list(node.get("anyOf")), _list(node.get("oneOf")), [node.get("if"), node.get("then"), node.get("else")]]
    groups.append([_target(node.get("$ref"), root)])
    dependent = node.get("dependentSchemas")
    groups.append(list(dependent.values()) if isinstance(dependent, dict) else [])
    return [kept for group in groups if (kept := [one for one in group if isinstance(one, dict)])]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _target(reference: Any, root: dict[str, Any]) -> Any:
    """Where a reference within the schema leads; None for any other."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    node: Any = root
    for step in unquote(reference[1:]).split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and step.isdecimal() and int(step[:9]) < len(node):
            node = node[int(step[:9])]
        elif isinstance(node, dict):
            node = node.get(step)
        else:
            return None
    return node
