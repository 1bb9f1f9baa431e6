"""What a schema allows the arguments of a call to be, for formats that are not JSON: names, and types of values."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import unquote

_T = TypeVar("_T")
_ALL = frozenset(("string", "number", "integer", "boolean", "null", "array", "object"))
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_MAX_SCHEMAS = 256  # looked at for one parameter; what is beyond is taken for anything
# What a schema without a type speaks of, if it has these members.
_SPEAKING = {
    "string": ("pattern", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
}


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to fit a schema. values: the only ones, if it lists them. patterns and lengths are those of strings."""

    types: frozenset[str] = _ALL
    values: tuple[Any, ...] | None = None
    patterns: tuple[str, ...] = ()
    min_length: int = 0
    max_length: int | None = None

    @property
    def is_free_text(self) -> bool:
        """Whether any string fits."""
        bounded = self.patterns or self.min_length or self.max_length is not None
        return "string" in self.types and self.values is None and not bounded


@dataclass(frozen=True)
class Parameter:
    """The alternatives that a schema allows, references and combinations resolved; none where nothing fits."""

    alternatives: tuple[Alternative, ...] = (Alternative(),)

    @cached_property
    def types(self) -> frozenset[str]:
        """The JSON types of the values. "number" comes with "integer"."""
        return frozenset().union(*(one.types for one in self.alternatives))

    @cached_property
    def choices(self) -> frozenset[str]:
        """Strings that are listed as values."""
        listed = (value for one in self.alternatives for value in one.values or ())
        return frozenset(value for value in listed if isinstance(value, str))

    @property
    def is_text(self) -> bool:
        """Whether it is always a string."""
        return self.types == {"string"}

    def takes(self, value: Any) -> bool:
        """Whether a value is of one of the types."""
        return not self.types.isdisjoint(types_of(value))


@dataclass(frozen=True, slots=True)
class Shape:
    """One way to fit a schema of an object: the schemas of its members, and those that it cannot be without."""

    members: Mapping[str, Any]
    required: frozenset[str] = frozenset()


def parameter(schema: Any, root: Any) -> Parameter:
    """What `schema`, which is somewhere within `root`, allows."""
    found = _Resolver(root).resolve(schema, _alone, _meet)
    return Parameter((Alternative(),) if found is None else tuple(found))


def shapes(schema: Any) -> list[Shape]:
    """The shapes of objects that a schema of arguments allows; a member that is in two of its parts must fit both."""
    found = _Resolver(schema).resolve(schema, _shape, _joined) or [Shape({})]
    return [
        Shape({**one.members, **dict.fromkeys(one.required - one.members.keys(), True)}, one.required) for one in found
    ]


def member(name: str, schema: Any) -> Any:
    """The schema of one argument, whatever the shape."""
    found = [shape.members[name] for shape in shapes(schema) if name in shape.members]
    if not found:
        return schema.get("additionalProperties", True) if isinstance(schema, Mapping) else True
    return found[0] if len(found) == 1 else {"anyOf": found}


def types_of(value: Any) -> frozenset[str]:
    """The names that JSON Schema has for the type of a value."""
    name = _TYPES.get(type(value), "null")
    if name == "integer" or (name == "number" and value.is_integer()):
        return frozenset(("integer", "number"))
    return frozenset((name,))


class _Resolver:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = _MAX_SCHEMAS

    def resolve(
        self,
        schema: Any,
        alone: Callable[[Mapping[str, Any]], _T | None],
        meet: Callable[[_T, _T], _T | None],
        refs: frozenset[str] = frozenset(),
    ) -> list[_T] | None:
        """The alternatives of a schema; None if it allows anything, or is too large to say. alone: a schema without
        what it refers to and combines. meet: what fits two alternatives. Both are None where nothing fits. refs: the
        references that led here."""
        self._left -= 1
        if schema is False:
            return []
        if not isinstance(schema, Mapping) or self._left < 0:
            return None
        self._left -= len(_list(schema.get("enum"))) // _MAX_SCHEMAS
        parts: list[list[_T] | None] = []
        ref = schema.get("$ref")
        if isinstance(ref, str) and ref not in refs:
            parts.append(self.resolve(lookup(ref, self._root), alone, meet, refs | {ref}))
        parts += [self.resolve(part, alone, meet, refs) for part in _list(schema.get("allOf"))]
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                choices = [self.resolve(part, alone, meet, refs) for part in schema[key]]
                parts.append(None if None in choices else [one for choice in choices for one in choice or ()])
        one = alone(schema)
        found = [] if one is None else [one]
        for part in parts:
            if part is None:
                continue
            if len(found) * len(part) > _MAX_SCHEMAS:
                return None
            found = [met for a in found for b in part if (met := meet(a, b)) is not None]
        return found


def lookup(ref: str, root: Any) -> Any:
    """What a local reference leads to; True, which allows anything, where it leads nowhere."""
    if not ref.startswith("#"):
        return True
    node = root
    for part in ref[1:].split("/")[1:]:
        part = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            return True
    return node


def _alone(schema: Mapping[str, Any]) -> Alternative | None:
    named = schema.get("type")
    types = _ALL.intersection([named] if isinstance(named, str) else filter(_is_text, _list(named)))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    values = tuple(values) if isinstance(values, list) else None
    if not types and values is None:
        types = frozenset(kind for kind, keys in _SPEAKING.items() if any(key in schema for key in keys))
    types = types or _ALL
    if "number" in types:
        types |= {"integer"}
    if schema.get("nullable") is True:
        types |= {"null"}
    pattern = schema.get("pattern")
    return _narrowed(
        Alternative(
            types,
            values,
            (pattern,) if isinstance(pattern, str) else (),
            _length(schema.get("minLength")) or 0,
            _length(schema.get("maxLength")),
        )
    )


def _meet(one: Alternative, other: Alternative) -> Alternative | None:
    values = one.values if other.values is None else other.values
    if one.values is not None and other.values is not None:
        texts = set(map(json.dumps, other.values))  # True is not 1 there
        values = tuple(value for value in one.values if json.dumps(value) in texts)
    lengths = [length for length in (one.max_length, other.max_length) if length is not None]
    return _narrowed(
        Alternative(
            one.types & other.types,
            values,
            one.patterns + other.patterns,
            max(one.min_length, other.min_length),
            min(lengths, default=None),
        )
    )


def _narrowed(one: Alternative) -> Alternative | None:
    """With values of its types alone, and types of its values."""
    if one.values is not None:
        values = tuple(value for value in one.values if not one.types.isdisjoint(types_of(value)))
        types = frozenset[str]().union(*map(types_of, values))
        one = replace(one, values=values, types=types & one.types)
    return one if one.types else None


def _shape(schema: Mapping[str, Any]) -> Shape:
    properties = schema.get("properties")
    required = filter(_is_text, _list(schema.get("required")))
    return Shape(properties if isinstance(properties, Mapping) else {}, frozenset(required))


def _joined(one: Shape, other: Shape) -> Shape:
    twice = {name: {"allOf": [one.members[name], other.members[name]]} for name in one.members if name in other.members}
    return Shape({**one.members, **other.members, **twice}, one.required | other.required)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _length(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
