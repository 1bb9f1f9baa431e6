"""What a request that cannot be answered gets: a status, and OpenAI's error object without paths or traces."""

import math
import re
from typing import Any

from warpjet._native import EngineError, QueueFullError

# Type of an error where nothing says another, by status.
_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    431: "RequestTooLargeError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
}
_MAX_MESSAGE = 1000
_PLACE = re.compile(r"\s*\[[\w/.-]+\.(?:cpp|h|cu|cuh|py):\d+\]|(?<![\w/.:])/(?:[\w.+-]+/)+[\w.+-]*|0x[0-9a-fA-F]{6,}")


class ServeError(Exception):
    """A request ends with this status. retry_after: seconds after which the same request may succeed."""

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = clean(message)
        self.type = type or _TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def envelope(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def clean(message: str) -> str:
    """A message for clients: no file names, places in sources or addresses, and not endless."""
    text = _PLACE.sub("", message)
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "..."


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ServeError:
    """The caller's mistake."""
    return ServeError(400, message, param=param, code=code)


def from_exception(error: Exception, params: frozenset[str] = frozenset()) -> ServeError:
    """What an error of the library means to a client. `params` are the names of the request's fields: a message that
    begins with one is about it."""
    if isinstance(error, ServeError):
        return error
    if isinstance(error, QueueFullError):
        wait = re.search(r"in about ([0-9.]+) s", str(error))
        return ServeError(
            503, str(error), code="overloaded", retry_after=max(1, math.ceil(float(wait[1]))) if wait else 1
        )
    if isinstance(error, EngineError):
        return ServeError(503, "the engine does not take requests now", code="engine_unavailable", retry_after=10)
    if isinstance(error, MemoryError):
        return ServeError(503, "there is no memory for this request now", code="overloaded", retry_after=5)
    if isinstance(error, ModuleNotFoundError):
        return ServeError(501, f"this server has no {error.name}, which this request needs")
    if isinstance(error, (ValueError, TypeError, NotImplementedError, LookupError)):
        message = str(error)
        word = re.match(r"\w+", message)
        code = "context_length_exceeded" if "max_model_len" in message else None
        return bad_request(message, word[0] if word and word[0] in params else None, code)
    return ServeError(500, "internal error")
