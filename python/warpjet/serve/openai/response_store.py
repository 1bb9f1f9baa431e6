"""Responses that may be asked for later: in memory, bounded, each tenant's apart from the others'.

What has ended is kept as the bytes that it is sent as, so that a bound in bytes is one of memory."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.exchange import to_json

MAX_COUNT = 1024  # of each tenant
MAX_BYTES = 64 << 20
MAX_RUNNING = 64  # in the background
MAX_RUNNING_BYTES = 32 << 20  # of their requests
_OVERHEAD = 1024  # bytes that an entry costs beside its text


@dataclass(slots=True, eq=False)
class StoredResponse:
    """A response, and the items that it answers. Lives in the event loop.

    context: JSON of every input item, those of the responses before it first. events: those so far, kept only for one
    that may be watched. task: what answers it in the background. request_bytes: of what asked for it."""

    response: dict[str, Any] | bytes
    context: bytes
    events: list[bytes] | None = None
    task: asyncio.Task[None] | None = None
    request_bytes: int = 0
    id: str = field(init=False)
    status: str = field(init=False)
    size: int = field(init=False, default=0)
    _news: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        if isinstance(self.response, dict):
            self.id, self.status = self.response["id"], self.response["status"]

    @property
    def running(self) -> bool:
        """It still changes."""
        return isinstance(self.response, dict)

    @property
    def body(self) -> bytes:
        """Its JSON, as it is now."""
        return to_json(self.response) if isinstance(self.response, dict) else self.response

    def end(self) -> None:
        """Nothing about it changes any more."""
        if isinstance(self.response, dict):
            self.status = self.response["status"]
            self.response = to_json(self.response)
            self.record([])

    def record(self, events: list[bytes]) -> None:
        """Keeps events and wakes the watchers."""
        if self.events is not None:
            self.events += events
        self._news.set()
        self._news = asyncio.Event()

    async def watch(self, after: int) -> AsyncIterator[bytes]:
        """Its events with a sequence number above `after`, until the last."""
        seen = max(after + 1, 0)
        while self.events is not None:
            news = self._news
            if fresh := self.events[seen:]:
                seen += len(fresh)
                yield b"".join(fresh)
            elif not self.running:
                return
            else:
                await news.wait()


@dataclass(slots=True)
class _Shelf:
    """One tenant's, those used last at the end."""

    entries: OrderedDict[str, StoredResponse] = field(default_factory=OrderedDict)
    size: int = 0


class ResponseStore:
    """Keeps the latest of each tenant: at most max_count, and at most max_bytes."""

    def __init__(self, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._shelves: dict[str, _Shelf] = {}

    def put(self, tenant: str, stored: StoredResponse) -> None:
        """Keeps it, at the cost of those that were not used for longest. Raises ServeError 429 for one more that runs
        than a tenant may have."""
        shelf = self._shelves.setdefault(tenant, _Shelf())
        if stored.running:
            running = [entry.request_bytes for entry in shelf.entries.values() if entry.running]
            if len(running) >= MAX_RUNNING or sum(running) + stored.request_bytes > MAX_RUNNING_BYTES:
                message = f"{len(running)} responses run in the background already, which is as much as there may be"
                raise ServeError(429, message, param="background", code="rate_limit_exceeded", retry_after=1)
        shelf.entries[stored.id] = stored
        self.ended(tenant, stored)

    def ended(self, tenant: str, stored: StoredResponse) -> None:
        """It has the size that it will keep. One that was removed stays so."""
        shelf = self._shelves[tenant]
        if stored.id not in shelf.entries:
            return
        shelf.size -= stored.size
        events = sum(len(event) + 64 for event in stored.events or ())
        stored.size = _OVERHEAD + len(stored.context) + len(stored.body) + events
        shelf.size += stored.size
        for name, entry in list(shelf.entries.items()):
            if len(shelf.entries) <= self._max_count and shelf.size <= self._max_bytes:
                return
            if not entry.running:
                self.remove(tenant, name)

    def get(self, tenant: str, response_id: str) -> StoredResponse | None:
        """None for an id that is unknown, forgotten, or another tenant's."""
        shelf = self._shelves.get(tenant)
        if shelf is None or response_id not in shelf.entries:
            return None
        shelf.entries.move_to_end(response_id)
        return shelf.entries[response_id]

    def remove(self, tenant: str, response_id: str) -> None:
        """Unknown ids are no error."""
        if (shelf := self._shelves.get(tenant)) and (stored := shelf.entries.pop(response_id, None)):
            shelf.size -= stored.size
