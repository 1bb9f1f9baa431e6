"""response_format and structured_outputs: what the text of an answer must be."""

from collections.abc import Mapping
from typing import Any

from warpjet.common.json_size import read_bounded
from warpjet.common.shown import shown
from warpjet.serve.http.errors import bad_request
from warpjet.structured import StructuredOutputsParams, check_volume

_PARAM = "response_format"
_MAX_TEXT = 1 << 20  # characters of a schema that is sent as text
_MAX_DEPTH = 64

# THE TABLE of types, with the members that each takes: those of OpenAI's API, of llama.cpp ("schema" beside
# json_object) and of TGI ("value").
FORMATS: dict[str, tuple[str, ...]] = {
    "text": (),
    "json_object": ("schema", "value"),
    "json_schema": ("json_schema", "schema", "value", "name", "description", "strict"),
    "json": ("value", "schema"),
    "regex": ("value", "regex"),
    "grammar": ("value", "grammar"),
    "structural_tag": ("structures", "triggers", "format"),
}


def structured_outputs(body: Mapping[str, Any]) -> StructuredOutputsParams | None:
    """response_format or structured_outputs. Raises ServeError 400 for both, or for one that is malformed."""
    form, given = body.get("response_format"), body.get("structured_outputs")
    constraint = {} if form is None else _constraint(form)
    if given is None and not constraint:
        return None
    if given and constraint:
        raise bad_request("response_format and structured_outputs are two constraints; send one", "structured_outputs")
    try:
        return StructuredOutputsParams(**(given or constraint))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise bad_request(str(error), _PARAM if given is None else "structured_outputs") from None


def _constraint(form: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of StructuredOutputsParams; none for text."""
    kind = form.get("type")
    if not isinstance(kind, str) or (members := FORMATS.get(kind)) is None:
        raise bad_request(f"response_format.type must be one of {', '.join(FORMATS)}, got {shown(kind)}", _PARAM)
    given = {name: value for name, value in form.items() if value is not None and name != "type"}
    if unknown := next((name for name in given if name not in members), None):
        takes = ", ".join(members) or "no other members"
        raise bad_request(f"response_format of type {kind} has no {shown(unknown)}; it takes {takes}", _PARAM)
    if kind in ("json_object", "json_schema", "json"):
        return _of_json(kind, given)
    if kind in ("regex", "grammar"):
        return {kind: given.get("value") or given.get(kind)}
    return {} if kind == "text" else {kind: dict(form)}


def _of_json(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    sources = [name for name in ("json_schema", "schema", "value") if name in given]
    if not sources and kind == "json_object":
        return {"json_object": True}
    if len(sources) != 1:
        wanted = " or ".join(name for name in FORMATS[kind] if name in ("json_schema", "schema", "value"))
        raise bad_request(f"response_format of type {kind} needs one of {wanted}", _PARAM)
    source = sources[0]
    schema, strict = given[source], given.get("strict")
    if kind == "json_schema" and source != "schema":
        strict = schema.get("strict") if isinstance(schema, Mapping) else None
        schema = schema.get("schema") if isinstance(schema, Mapping) else None
    if source == "value":
        schema = tgi_schema(schema, _PARAM)
    if not isinstance(schema, (dict, bool)):
        raise bad_request(f"response_format.{source} needs a schema, which is an object", _PARAM)
    return {"json": schema, "disable_additional_properties": strict is not False}


def tgi_schema(value: Any, param: str) -> Any:
    """TGI's dialect as JSON Schema: it may be JSON text, and where it lists properties it means an object. Raises
    ServeError 400 for text that is not JSON."""
    if isinstance(value, str):
        if len(value) > _MAX_TEXT:
            raise bad_request(f"{param} has a schema of {len(value)} characters, more than {_MAX_TEXT}", param)
        try:
            value = read_bounded(value)
        except (ValueError, RecursionError) as error:
            raise bad_request(f"{param}: the schema is not JSON: {error}", param) from None
    try:
        check_volume(value)
    except ValueError as error:
        raise bad_request(f"{param}: {error}", param) from None
    return _typed(value)


def _typed(schema: Any, level: int = 0) -> Any:
    if isinstance(schema, list):
        return [_typed(one, level + 1) for one in schema]
    if not isinstance(schema, dict) or level > _MAX_DEPTH:
        return schema
    out: dict[str, Any] = {"type": "object"} if "properties" in schema and "type" not in schema else {}
    for name, value in schema.items():
        if name in _NAMED and isinstance(value, dict):
            out[name] = {key: _typed(one, level + 1) for key, one in value.items()}
        else:
            out[name] = _typed(value, level + 1) if name in _SCHEMAS else value
    return out


_NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_SCHEMAS = {
    *("items", "prefixItems", "additionalItems", "additionalProperties", "unevaluatedProperties", "contains"),
    *("anyOf", "oneOf", "allOf", "not", "if", "then", "else"),
}
