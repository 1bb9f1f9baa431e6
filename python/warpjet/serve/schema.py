"""The bodies that endpoints take, declared once: parsing with errors that name the field, and the OpenAPI document."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from warpjet.serve.conversation import Serving
    from warpjet.serve.exchange import EventStream, HttpRequest, Response

Handler = Callable[["Serving", "HttpRequest"], Awaitable["Response | EventStream"]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the routing table. A path may hold {name}. scope: open needs no key, admin its own key and port."""

    method: str
    path: str
    handler: Handler
    request_schema: "Schema | None" = None
    summary: str = ""
    scope: Literal["open", "user", "admin"] = "user"


class Schema:
    """A JSON object with these fields."""
