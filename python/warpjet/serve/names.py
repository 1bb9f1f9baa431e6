"""Names of requests, which are their tenant's own, and ids that the server makes."""

import itertools
import secrets
from weakref import WeakValueDictionary

from warpjet.serve.http.errors import bad_request
from warpjet.serve.http.exchange import HttpRequest

_BETWEEN = "\n"  # no name of a tenant has a line break


class RequestNames:
    """The names in use: each for as long as its HTTP request lives."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._live: WeakValueDictionary[tuple[str, str], HttpRequest] = WeakValueDictionary()

    def claim(self, request: HttpRequest, wanted: str | None) -> str:
        """A name for what a request starts: `wanted`, which must not be live, or one made of its X-Request-Id. Raises
        ServeError 400 when `wanted` is live."""
        name = request.request_id if wanted is None else wanted
        if (request.tenant, name) in self._live:
            if wanted is not None:
                raise bad_request(f"request_id {name!r} is live already", "request_id")
            name = f"{name}.{next(self._numbers)}"  # a proxy may send a header twice
        self._live[request.tenant, name] = request
        return name


def engine_name(tenant: str, name: str | None) -> str | None:
    """What the engine's side calls a request: two tenants may use the same name."""
    return f"{tenant}{_BETWEEN}{name}" if tenant and name is not None else name


def shown_name(name: str) -> str:
    """What its client calls a request that the engine's side calls so."""
    return name.rpartition(_BETWEEN)[2]


def new_id(prefix: str) -> str:
    """An id that cannot be guessed."""
    return f"{prefix}_{secrets.token_hex(24)}"
