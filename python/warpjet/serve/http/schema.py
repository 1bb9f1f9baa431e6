"""The bodies that endpoints take, declared once: parsing with errors that name the field, and the OpenAPI document."""

import difflib
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from warpjet.common.foreign import rows
from warpjet.common.shown import shown
from warpjet.serve.http.errors import ServeError, bad_request
from warpjet.serve.http.exchange import EventStream, HttpRequest, Response

_log = logging.getLogger("warpjet.serve")

_MAX_WARNED = 100  # unknown fields of one schema that are logged
_MAX_WARNED_AT_ONCE = 8  # of one request: finding the field that was meant takes a millisecond

Handler = Callable[[HttpRequest], Awaitable[Response | EventStream]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the routing table. A path may hold {name}, and end in {name:path}, which takes slashes too. scope: open
    needs no key, admin its own key and port.
    summary: what it is for, in /openapi.json; without one it is not in there.
    error_body: what an error looks like on this route.
    elsewhere: paths that other servers have for it; the error for one of them names this one."""

    method: str
    path: str
    handler: Handler
    request_schema: "Schema | None" = None
    summary: str = ""
    scope: Literal["open", "user", "admin"] = "user"
    error_body: Callable[[ServeError], dict[str, Any]] = ServeError.envelope
    elsewhere: tuple[str, ...] = ()


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 1 << 1000  # as a float it is finite
    return type(value) is float and math.isfinite(value)


def _all(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_str, _bool, _dict = _is(str), _is(bool), _is(dict)

# THE TABLE of kinds: what a value must be, in words, as a test, and as JSON Schema.
_KINDS: dict[str, tuple[str, Callable[[Any], bool], dict[str, Any]]] = {
    "any": ("a value", lambda value: True, {}),
    "boolean": ("true or false", _bool, {"type": "boolean"}),
    "integer": ("an integer", _is_int, {"type": "integer"}),
    "number": ("a number", _is_number, {"type": "number"}),
    "string": ("a string", _str, {"type": "string"}),
    "object": ("an object", _dict, {"type": "object"}),
    "strings": ("a list of strings", _all(_str), {"type": "array", "items": {"type": "string"}}),
    "integers": ("a list of integers", _all(_is_int), {"type": "array", "items": {"type": "integer"}}),
    "objects": ("a list of objects", _all(_dict), {"type": "array", "items": {"type": "object"}}),
    "list": ("a list", _is(list), {"type": "array", "items": {}}),
    "string or strings": (
        "a string or a list of strings",
        lambda value: _str(value) or _all(_str)(value),
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    ),
    "string or object": (
        "a string or an object",
        lambda value: isinstance(value, (str, dict)),
        {"anyOf": [{"type": "string"}, {"type": "object"}]},
    ),
    "string or list": (
        "a string or a list",
        lambda value: isinstance(value, (str, list)),
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]},
    ),
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a body. null is the same as leaving it out.

    low, high: bounds of a number, or of the length of a string, list or object. choices: the values it may have.
    only: the values that change nothing; any other is refused, and `doc` says what to do instead.
    shape: what else the OpenAPI document says of it, where something behind the schema checks the value."""

    name: str
    kind: str
    doc: str = ""
    required: bool = False
    default: Any = None
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    only: tuple[Any, ...] | None = None
    shape: Mapping[str, Any] | None = None

    def check(self, value: Any) -> None:
        """Raises ServeError (400) naming the field."""
        if self.only is not None:
            if not any(type(value) is type(known) and value == known for known in self.only):
                advice = f"; {self.doc}" if self.doc else ""
                raise bad_request(f"{self.name} is not supported{advice}", self.name, "unsupported_parameter")
            return
        words, test, _ = _KINDS[self.kind]
        if not test(value):
            raise bad_request(f"{self.name} must be {words}, got {shown(value)}", self.name)
        if self.choices and value not in self.choices:
            allowed = ", ".join(map(repr, self.choices))
            raise bad_request(f"{self.name} must be one of {allowed}, got {shown(value)}", self.name)
        measured = value if _is_number(value) else len(value) if isinstance(value, (str, list, dict)) else None
        if measured is None or (self.low is None and self.high is None):
            return
        if (self.low is not None and measured < self.low) or (self.high is not None and measured > self.high):
            what = "" if measured is value else "entries " if isinstance(value, (list, dict)) else "characters "
            bounds = f"{what}from {self.low or 0:g}" + ("" if self.high is None else f" to {self.high:.0f}")
            raise bad_request(f"{self.name} must have {bounds}, got {measured}", self.name)

    def json_schema(self) -> dict[str, Any]:
        """For the OpenAPI document."""
        schema = {**_KINDS[self.kind][2], **(self.shape or {})}
        if self.only is not None:
            schema = {"enum": list(self.only)}
        if self.choices:
            schema["enum"] = list(self.choices)
        bounded = {"number": "imum", "integer": "imum", "string": "Length", "array": "Items", "object": "Properties"}
        suffix = bounded.get(str(schema.get("type")))
        if suffix and self.low is not None:
            schema["min" + suffix] = self.low
        if suffix and self.high is not None:
            schema["max" + suffix] = self.high
        if self.doc:
            schema["description"] = self.doc
        if self.default is not None:
            schema["default"] = self.default
        return schema if self.required else {"anyOf": [schema, {"type": "null"}]} if schema else {}


class Schema:
    """A JSON object with these fields."""

    def __init__(self, name: str, fields: Iterable[Field]) -> None:
        self.name = name
        self.fields = {field.name: field for field in fields}
        self.names = frozenset(self.fields)
        self._required = [field for field in self.fields.values() if field.required]
        self._defaults = {field.name: field.default for field in self.fields.values() if field.default is not None}
        self._warned: set[str] = set()

    def parse(self, value: Mapping[str, Any], strict: bool = False) -> dict[str, Any]:
        """The fields that were given, and the defaults of those that have one. An unknown field is logged once, or
        refused when strict. Raises ServeError (400) naming the field."""
        out, unknown = dict(self._defaults), []
        for name, entry in value.items():
            field = self.fields.get(name)
            if field is None:
                if strict:
                    raise self._refuse_unknown(name)
                unknown.append(name)
            elif entry is not None:
                field.check(entry)
                if field.only is None:
                    out[name] = entry
        for name in unknown[:_MAX_WARNED_AT_ONCE]:
            self._warn_of(name)
        for field in self._required:
            if out.get(field.name) is None:
                raise bad_request(f"{field.name} is missing", field.name, "missing_required_parameter")
        return out

    def json_schema(self) -> dict[str, Any]:
        """For the OpenAPI document."""
        return {
            "type": "object",
            "properties": {field.name: field.json_schema() for field in self.fields.values()},
            "required": [field.name for field in self._required],
        }

    def _refuse_unknown(self, name: str) -> ServeError:
        return bad_request(f"there is no field {name[:64]!r}{self._advice(name)}", name[:64], "unknown_parameter")

    def _warn_of(self, name: str) -> None:
        """Once of each name, and of so many names only: what is unknown may have any number of them."""
        if len(self._warned) >= _MAX_WARNED or (name := name[:64]) in self._warned:
            return
        self._warned.add(name)
        advice = self._advice(name)
        _log.warning("a request for %s has the unknown field %r, which changes nothing%s", self.name, name, advice)

    def _advice(self, name: str) -> str:
        row = rows("sampling").get(name)
        if row is not None and row.ours in self.fields:
            return f"; {row.answer()}"
        near = difflib.get_close_matches(name[:64], self.fields, n=1)
        return f"; did you mean {near[0]!r}?" if near else ""


def openapi(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these endpoints."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for endpoint in endpoints:
        operation: dict[str, Any] = {
            "summary": endpoint.summary,
            "responses": {"200": {"description": "the answer"}, "default": _error_response(endpoint)},
        }
        if endpoint.scope != "open":
            operation["security"] = [{"key": []}, {}]
        path = endpoint.path.replace(":path}", "}")
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        if names:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        if schema := endpoint.request_schema:
            schemas[schema.name] = schema.json_schema()
            reference = {"$ref": f"#/components/schemas/{schema.name}"}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Warpjet", "version": version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _error_response(endpoint: Endpoint) -> dict[str, Any]:
    example = endpoint.error_body(ServeError(400, "what is wrong"))
    return {"description": "an error", "content": {"application/json": {"schema": _schema_of(example)}}}


def _schema_of(value: Any) -> dict[str, Any]:
    """What an error like this one looks like; what it leaves open may be text."""
    if isinstance(value, dict):
        properties = {key: _schema_of(inner) for key, inner in value.items()}
        return {"type": "object", "properties": properties, "required": list(value)}
    return {"type": ["string", "null"] if value is None else "string" if isinstance(value, str) else "integer"}


__all__ = ["Endpoint", "Field", "Handler", "Schema", "ServeError", "openapi"]
