"""Responses that may be asked for later: in memory, bounded, each tenant's apart from the others'."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

MAX_COUNT = 1024  # of each tenant
MAX_BYTES = 64 << 20
MAX_RUNNING = 64
_OVERHEAD = 256  # bytes that an entry costs beside its text


@dataclass(slots=True, eq=False)
class StoredResponse:
    """A response, and the items that it answers. Lives in the event loop.

    context: every input item, those of the responses before it first. events: what has happened, kept only when it runs
    in the background, so that it can be watched. task: what answers it there."""

    response: dict[str, Any]
    context: list[dict[str, Any]]
    events: list[dict[str, Any]] | None = None
    task: asyncio.Task[None] | None = None
    size: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """As clients know it."""
        return str(self.response["id"])

    @property
    def finished(self) -> bool:
        """Nothing about it changes any more."""
        return self.response["status"] not in ("queued", "in_progress")

    def record(self, events: list[dict[str, Any]]) -> None:
        """Takes what has happened and wakes those who watch."""
        if self.events is not None:
            self.events += events
        self._news.set()
        self._news = asyncio.Event()

    async def watch(self, after: int) -> AsyncIterator[list[dict[str, Any]]]:
        """Its events with a sequence number above `after`, until the last."""
        seen = after + 1
        while self.events is not None:
            news = self._news
            if seen < len(self.events):
                fresh = self.events[seen:]
                seen = len(self.events)
                yield fresh
            elif self.finished:
                return
            else:
                await news.wait()


@dataclass(slots=True)
class _Shelf:
    """One tenant's, those used last at the end."""

    entries: OrderedDict[str, StoredResponse] = field(default_factory=OrderedDict)
    size: int = 0


class ResponseStore:
    """Keeps the latest of each tenant: at most max_count, and at most max_bytes of text."""

    def __init__(self, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._shelves: dict[str, _Shelf] = {}

    def put(self, tenant: str, stored: StoredResponse) -> None:
        """Keeps it, at the cost of those that were not used for longest."""
        self._shelves.setdefault(tenant, _Shelf()).entries[stored.id] = stored
        self.grown(tenant, stored)

    def grown(self, tenant: str, stored: StoredResponse) -> None:
        """It has changed. One that was removed stays so."""
        shelf = self._shelves[tenant]
        if stored.id not in shelf.entries:
            return
        shelf.size -= stored.size
        stored.size = len(json.dumps([stored.response, stored.context, stored.events])) + _OVERHEAD
        shelf.size += stored.size
        for name, entry in list(shelf.entries.items()):
            if len(shelf.entries) <= self._max_count and shelf.size <= self._max_bytes:
                return
            if entry.finished:  # those that run are few, and the engine bounds what each may write
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

    def running(self, tenant: str) -> int:
        """How many of a tenant's responses run in the background."""
        shelf = self._shelves.get(tenant, _Shelf())
        return sum(stored.task is not None and not stored.finished for stored in shelf.entries.values())
