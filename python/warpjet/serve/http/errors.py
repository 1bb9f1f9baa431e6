"""What a request that cannot be answered gets: a status, and OpenAI's error object."""

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
_WORD = re.compile(r"\w{1,64}")


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
        self.message = _shortened(message)
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


def _shortened(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "..."


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ServeError:
    """The caller's mistake."""
    return ServeError(400, message, param=param, code=code)


def from_exception(error: Exception, params: frozenset[str] = frozenset()) -> ServeError:
    """What an error of the library means to a client: ValueError, TypeError and NotImplementedError say what is wrong
    with the request; what any other says stays in the log, for it may name files of the server. `params` are the names
    of the request's fields: a message that begins with one is about it."""
    if isinstance(error, ServeError):
        return error
    if isinstance(error, QueueFullError):
        return ServeError(503, str(error), code="overloaded", retry_after=_seconds_in(str(error)))
    if isinstance(error, EngineError):
        return ServeError(503, "the engine does not take requests now", code="engine_unavailable", retry_after=10)
    if isinstance(error, MemoryError):
        return ServeError(503, "there is no memory for this request now", code="overloaded", retry_after=5)
    if isinstance(error, ModuleNotFoundError):
        return ServeError(501, f"this server has no {error.name}, which this request needs")
    if isinstance(error, (ValueError, TypeError, NotImplementedError)):
        message = str(error)
        word = _first_word(message)
        code = "context_length_exceeded" if "max_model_len" in message else None
        return bad_request(message, word if word in params else None, code)
    return ServeError(500, "internal error")


def forget_memory_errors(error: BaseException) -> None:
    """Cuts them off its chain. They are few: CPython 3.11 has sixteen to give out where memory is short, and crashes
    when more are alive than that."""
    if isinstance(error.__cause__, MemoryError):
        error.__cause__ = None
    if isinstance(error.__context__, MemoryError):
        error.__context__ = None


def _first_word(message: str) -> str:
    match = _WORD.match(message)
    return match[0] if match else ""


def _seconds_in(message: str) -> int:
    """How long the queue is, where its message says so: "... in about 2.5 s"."""
    number = message.partition("in about ")[2].partition(" ")[0]
    return max(1, math.ceil(float(number))) if number.replace(".", "", 1).isdecimal() else 1
