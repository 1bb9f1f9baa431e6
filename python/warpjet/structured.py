"""What a completion must be: the constraint of a request, as its user writes it."""

import dataclasses
import json as json_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warpjet.common.json_size import read_bounded
from warpjet.common.shown import shown

_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_JSON_OPTIONS = ("disable_any_whitespace", "whitespace_pattern")
_MAX_CHOICES = 30_000  # more than is compiled
_MAX_VALUES = 40_000  # of JSON, within one constraint
_MAX_CHARACTERS = 1 << 20  # of text, within one constraint


@dataclass(frozen=True, slots=True, eq=True)
class StructuredOutputsParams:
    """Exactly one of the first six, for SamplingParams(structured_outputs=...).

    json: a JSON schema: a dict, True, its text, or a pydantic model class, which becomes its schema. regex: the whole
    text matches it. choice: the text is one of these. grammar: Lark, whose first rule is start, or GBNF (EBNF with
    ::=), whose first rule is root. json_object: True for any JSON object. structural_tag: {"structures": [{"begin":
    ..., "schema": ..., "end": ...}], "triggers": [...]} as a dict or JSON text: free text, in which each begin, noticed
    by its trigger, is followed by JSON of that schema and by end.
    For json and json_object: disable_any_whitespace; whitespace_pattern, a regex for what may stand between tokens.

    Objects of a schema take no properties but those that it lists, unless it says additionalProperties itself;
    disable_additional_properties=False opens them. oneOf is taken for anyOf. A format is enforced where it is date,
    date-time, duration, email, hostname, ipv4, ipv6, time, uri or uuid; any other is an annotation and changes nothing.
    In a conversation the constraint is on the answer's content: reasoning before it stays free, and with tools a call
    may come instead. Raises ValueError or TypeError naming the field."""

    json: dict[str, Any] | bool | str | type | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = True
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        if self.json_object is False:
            set_field(self, "json_object", None)
        given = [name for name in _CONSTRAINTS if getattr(self, name) is not None]
        if len(given) != 1:
            wanted = ", ".join(_CONSTRAINTS)
            raise ValueError(f"structured_outputs takes exactly one of {wanted}; got {', '.join(given) or 'none'}")
        if isinstance(self.json, type):
            schema = getattr(self.json, "model_json_schema", None)
            if schema is None:
                raise TypeError(f"json must be a dict, a str or a pydantic model class, got {self.json.__name__}")
            set_field(self, "json", schema())
        _require("json", self.json, (str, dict, bool))
        _require("structural_tag", self.structural_tag, (str, dict))
        for name in ("regex", "grammar", "whitespace_pattern"):
            _require(name, getattr(self, name), (str,))
        for name in ("json_object", "disable_any_whitespace", "disable_additional_properties"):
            _require(name, getattr(self, name), (bool,))
        if self.choice is not None:
            if isinstance(self.choice, str) or not isinstance(self.choice, Sequence):
                raise TypeError(f"choice must be a list of strings, got {type(self.choice).__name__}")
            if len(self.choice) > _MAX_CHOICES:
                raise ValueError(f"choice: {len(self.choice)} texts are more than the {_MAX_CHOICES} that are compiled")
            if not self.choice or not all(isinstance(text, str) and text for text in self.choice):
                raise ValueError("choice must be a list of at least one string, none of them empty")
            set_field(self, "choice", tuple(self.choice))
        for name in _JSON_OPTIONS:
            if getattr(self, name) and given[0] not in ("json", "json_object"):
                raise ValueError(f"{name} goes with json and json_object, not with {given[0]}")
        if self.disable_any_whitespace and self.whitespace_pattern is not None:
            raise ValueError("whitespace_pattern does not go with disable_any_whitespace")


@dataclass(frozen=True, slots=True)
class Framed:
    """What a completion of a conversation must be, which the server makes of all that a request asks for.

    frame: Lark text of the whole: reasoning that may come first, tool calls, and @answer, which is constrained by
    `answer`. schemas: of the tools' parameters within the frame, by the words that errors have for them."""

    frame: str
    answer: StructuredOutputsParams | None = None
    schemas: tuple[tuple[str, dict[str, Any]], ...] = ()


Constraint = StructuredOutputsParams | Framed


def _require(name: str, value: object, types: tuple[type, ...]) -> None:
    if value is not None and not isinstance(value, types):
        raise TypeError(f"{name} must be {' or '.join(t.__name__ for t in types)}, got {type(value).__name__}")


# --- How it travels inside SamplingParams: JSON without what has its default ------------------------------------------


def to_text(value: object) -> str:
    """Of a constraint, or of a dict or JSON text with the fields of one. Raises ValueError or TypeError."""
    if isinstance(value, str):
        check_volume(value)
        try:
            value = read_bounded(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"structured_outputs is not JSON: {error}") from None
    if isinstance(value, Mapping):
        value = _from_dict(value)
    if not isinstance(value, Constraint):
        raise TypeError(f"structured_outputs must be StructuredOutputsParams, got {type(value).__name__}")
    fields = _fields_of(value)
    check_volume(fields)
    try:
        return json_module.dumps(fields, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"structured_outputs cannot be written as JSON: {error}") from None


def from_text(text: str) -> Constraint:
    """The inverse of to_text()."""
    return _from_dict(json_module.loads(text))


def dict_of(text: str) -> dict[str, Any]:
    """The same as plain values."""
    values: dict[str, Any] = json_module.loads(text)
    return values


def check_volume(value: object, what: str = "structured_outputs") -> None:
    """Bounds the work that a constraint can be, before any is done. Raises ValueError."""
    values = characters = 0
    stack = [value]
    while stack:
        one = stack.pop()
        values += 1
        if isinstance(one, str):
            characters += len(one)
        elif isinstance(one, Mapping):
            stack.extend(one.values())
            characters += sum(len(key) for key in one if isinstance(key, str))
        elif isinstance(one, (list, tuple)):
            stack.extend(one)
        if values + len(stack) > _MAX_VALUES or characters > _MAX_CHARACTERS:
            raise ValueError(
                f"{what} has more than the {_MAX_VALUES} values or {_MAX_CHARACTERS} characters that are compiled"
            )


def _fields_of(value: Constraint) -> dict[str, Any]:
    if isinstance(value, Framed):
        answer = None if value.answer is None else _fields_of(value.answer)
        return {"frame": value.frame, "answer": answer, "schemas": [list(row) for row in value.schemas]}
    return {f.name: item for f in dataclasses.fields(value) if (item := getattr(value, f.name)) != f.default}


def _from_dict(fields: Mapping[str, Any]) -> Constraint:
    if set(fields) == {"frame", "answer", "schemas"}:
        answer = None if fields["answer"] is None else StructuredOutputsParams(**fields["answer"])
        return Framed(fields["frame"], answer, tuple((what, schema) for what, schema in fields["schemas"]))
    names = [field.name for field in dataclasses.fields(StructuredOutputsParams)]
    if unknown := [key for key in fields if key not in names]:
        raise TypeError(f"structured_outputs has no field {shown(unknown[0])}; it has {', '.join(names)}")
    return StructuredOutputsParams(**fields)
