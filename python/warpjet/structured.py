"""What a completion must be: the constraint of a request, as its user writes it."""

import dataclasses
import json as json_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_JSON_OPTIONS = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")


@dataclass(frozen=True, slots=True, eq=True)
class StructuredOutputsParams:
    """Exactly one of the first six, for SamplingParams(structured_outputs=...).

    json: a JSON schema as a dict (or True or False), as text, or a pydantic model class (which becomes its schema). regex: the whole text
    matches it. choice: the text is one of these. grammar: Lark, or GBNF (EBNF with `::=`), which begins with the rule
    start or root. json_object: True for any JSON object. structural_tag: a dict or JSON text of the form
    {"structures": [{"begin", "schema", "end"}], "triggers": [...]}: free text in which each begin is followed by JSON of
    that schema and by end.
    For json and json_object: disable_any_whitespace; whitespace_pattern, a regex for what may stand between tokens;
    disable_additional_properties, where the schema does not say. Raises ValueError or TypeError naming the field."""

    json: dict[str, Any] | bool | str | type | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
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
            if not self.choice or not all(isinstance(text, str) and text for text in self.choice):
                raise ValueError("choice must be a list of at least one string, none of them empty")
            set_field(self, "choice", tuple(self.choice))
        for name in _JSON_OPTIONS:
            if getattr(self, name) and given[0] not in ("json", "json_object"):
                raise ValueError(f"{name} goes with json and json_object, not with {given[0]}")
        if self.disable_any_whitespace and self.whitespace_pattern is not None:
            raise ValueError("whitespace_pattern does not go with disable_any_whitespace")


def _require(name: str, value: object, types: tuple[type, ...]) -> None:
    if value is not None and not isinstance(value, types):
        raise TypeError(f"{name} must be {' or '.join(t.__name__ for t in types)}, got {type(value).__name__}")


# --- How it travels inside SamplingParams: JSON without what has its default ------------------------------------------


def to_text(value: object) -> str:
    """Of StructuredOutputsParams, or of a dict or JSON text with its fields. Raises ValueError or TypeError."""
    if isinstance(value, str):
        try:
            value = json_module.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"structured_outputs is not JSON: {error}") from None
    if isinstance(value, Mapping):
        names = [field.name for field in dataclasses.fields(StructuredOutputsParams)]
        if unknown := [key for key in value if key not in names]:
            raise TypeError(f"structured_outputs has no field {unknown[0]!r}; it has {', '.join(names)}")
        value = StructuredOutputsParams(**value)
    if not isinstance(value, StructuredOutputsParams):
        raise TypeError(f"structured_outputs must be StructuredOutputsParams, got {type(value).__name__}")
    given = {f.name: item for f in dataclasses.fields(value) if (item := getattr(value, f.name)) != f.default}
    try:
        return json_module.dumps(given, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"structured_outputs cannot be written as JSON: {error}") from None


def from_text(text: str) -> StructuredOutputsParams:
    """The inverse of to_text()."""
    return StructuredOutputsParams(**json_module.loads(text))


def dict_of(text: str) -> dict[str, Any]:
    """The same as plain values."""
    values: dict[str, Any] = json_module.loads(text)
    return values
