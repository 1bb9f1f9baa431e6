"""What one client may take of what all share: bytes of bodies, requests a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from warpjet.serve.http.errors import ServeError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Bodies:
    """Reads bodies, each no longer than `max_bytes` and `seconds`, all together no more than `total_bytes`: of memory,
    once they are parsed. One alone may take more than that."""

    def __init__(self, max_bytes: int, seconds: float, total_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._total_bytes = total_bytes
        self.held_bytes = 0

    async def read(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The whole body, which counts as its length; release() that, or what weigh() made of it, when nothing of it
        lives any more. Raises ServeError 400, 408, 413 or 503; ConnectionError when the client has gone."""
        declared = headers.get("content-length")
        if declared is not None and int(declared) > self._max_bytes:
            raise self._too_large()
        async with _within(self._seconds, "the body did not arrive"):
            return await self._read(receive)

    def weigh(self, held: int, size: int) -> int:
        """Counts a body, of which `held` bytes count so far, as `size` bytes, which is returned. Raises ServeError 503
        when that is too much beside the others."""
        others = self.held_bytes - held
        if others and others + size > self._total_bytes:
            raise self._too_many()
        self.held_bytes = others + size
        return size

    def release(self, size: int) -> None:
        """So many bytes are free again."""
        self.held_bytes -= size

    async def _read(self, receive: Receive) -> bytes:
        pieces, size = [], 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionError("the client has gone")
                piece = message.get("body", b"")
                size += len(piece)
                self.held_bytes += len(piece)
                pieces.append(piece)
                if size > self._max_bytes:
                    raise self._too_large()
                if self.held_bytes > self._total_bytes:
                    raise self._too_many()
                if not message.get("more_body"):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except BaseException:
            self.held_bytes -= size
            raise

    def _too_many(self) -> ServeError:
        return ServeError(503, "too many large requests at once", code="overloaded", retry_after=1)

    def _too_large(self) -> ServeError:
        return ServeError(413, f"the body is longer than {self._max_bytes} bytes", code="request_too_large")


class _within:
    def __init__(self, seconds: float, what: str) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._text = f"{what} within {seconds:g} s"

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise ServeError(408, self._text) from None


class RateLimit:
    """A bucket of `burst` requests for each tenant, filled at `per_second`; 0 is no limit."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = max(float(burst), 1.0)
        self._buckets: dict[str, tuple[float, float]] = {}  # what was left, and when

    def take(self, tenant: str) -> None:
        """Raises ServeError 429 when the bucket is empty."""
        if self._per_second <= 0:
            return
        now = time.monotonic()
        left, then = self._buckets.get(tenant, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._per_second)
        if left < 1:
            wait = (1 - left) / self._per_second
            raise ServeError(
                429,
                f"this key may send {self._per_second:g} requests a second",
                code="rate_limit_exceeded",
                retry_after=max(1, round(wait + 0.5)),
            )
        self._buckets[tenant] = (left - 1, now)
