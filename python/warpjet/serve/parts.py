"""Parts of bodies, as several APIs have them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from warpjet.serve.errors import ServeError, bad_request
from warpjet.serve.schema import Schema

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams


def parse_part(schema: Schema, value: Mapping[str, Any] | None, where: str, strict: bool) -> dict[str, Any]:
    """Schema.parse() for an object within a body; None is empty. Raises ServeError 400 saying where."""
    try:
        return schema.parse(value or {}, strict)
    except ServeError as error:
        raise bad_request(f"{where}.{error.message}", where, error.code) from None


def constrain(where: str, **constraint: Any) -> "StructuredOutputsParams":
    """What the text must be: one of json, regex, json_object, ... Raises ServeError 400."""
    from warpjet.structured import StructuredOutputsParams

    try:
        return StructuredOutputsParams(**constraint)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise bad_request(f"{where}: {error}", where) from None
