"""What an answer's text must be, from the forms that the APIs have for it."""

from typing import TYPE_CHECKING, Any

from warpjet.serve.errors import bad_request

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams


def constrain(param: str, **constraint: Any) -> "StructuredOutputsParams":
    """One of json, regex, json_object, ... Raises ServeError 400 about `param`."""
    from warpjet.structured import StructuredOutputsParams

    try:
        return StructuredOutputsParams(**constraint)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise bad_request(f"{param}: {error}", param) from None
