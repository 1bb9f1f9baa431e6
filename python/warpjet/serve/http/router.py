"""Which endpoint a request is for."""

import difflib
from collections.abc import Iterable
from urllib.parse import unquote

from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.schema import Endpoint

_LONGEST = 64  # characters of a path that are compared with the routes

Segments = tuple[str, ...]


class Router:
    """Endpoints by method and path. A path is compared segment by segment, each decoded for itself: %2F is part of a
    name, and empty segments, such as a slash at the end makes, do not count. {name} of a route is one segment,
    {name:path} one or more."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._methods: dict[Segments, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            self._methods.setdefault(_split(endpoint.path), {})[endpoint.method] = endpoint
        self._patterns = [route for route in self._methods if any(part.startswith("{") for part in route)]
        named = [one for methods in self._methods.values() for one in methods.values()]
        self._elsewhere = {path: one.path for one in named for path in one.elsewhere}
        self._shown = [one.path for one in named if one.summary and one.scope != "admin" and "{" not in one.path]

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """The endpoint, and what the path names, which is as it was sent: percent-encoded. Raises ServeError 404 or
        405."""
        segments = tuple(unquote(part) for part in _split(path))
        methods, values = self._methods.get(segments), {}
        if methods is None:
            for pattern in self._patterns:
                if (found := _match(pattern, segments)) is not None:
                    methods, values = self._methods[pattern], found
                    break
        if methods is None:
            asked = "/" + "/".join(segments)
            near = self._nearest(asked[:_LONGEST])
            advice = f"; did you mean {near}?" if near else ""
            raise ServeError(404, f"there is no route {asked[:128]!r}{advice}", code="not_found")
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            allowed = ", ".join(methods)
            raise ServeError(405, f"this route takes {allowed}", code="method_not_allowed", headers={"allow": allowed})
        return endpoint, values

    def _nearest(self, path: str) -> str | None:
        if path in self._elsewhere:
            return self._elsewhere[path]
        ends_alike = (route for route in self._shown if route.endswith(path) or path.endswith(route))
        close = difflib.get_close_matches(path, self._shown, n=1)
        return next(ends_alike, close[0] if close else None)


def _split(path: str) -> Segments:
    return tuple(part for part in path.split("/") if part)


def _match(pattern: Segments, segments: Segments) -> dict[str, str] | None:
    if pattern[-1].endswith(":path}") and len(segments) >= len(pattern):
        last = len(pattern) - 1
        segments = (*segments[:last], "/".join(segments[last:]))
    if len(pattern) != len(segments):
        return None
    values = {}
    for part, segment in zip(pattern, segments, strict=True):
        if part.startswith("{"):
            values[part[1:-1].removesuffix(":path")] = segment
        elif part != segment:
            return None
    return values
