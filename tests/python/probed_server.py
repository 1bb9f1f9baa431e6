"""`warpjet serve` with a route of its own: GET /stall, how long its event loop stood still at most since the last call.

In seconds of CPU time of the whole process, so that a busy machine makes it no longer: a thread that keeps the
interpreter locked counts as the loop's own work does."""

import asyncio
import sys
import time

from warpjet.commands.main import main
from warpjet.serve.http.exchange import HttpRequest, Response, json_response
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.operating import health

_TICK_SECONDS = 0.002
_WORK = 4_500_000  # turns of a loop: a tenth of a second where nothing else runs


class Probe:
    """Looks at the clock whenever the event loop lets it."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def answer(self, request: HttpRequest) -> Response:
        """Starts it, or reads it: after its next look, which sees what was until now."""
        if self._task is None:
            self._task = asyncio.create_task(self._tick())
        self._looked.clear()
        await self._looked.wait()
        longest, self._longest = self._longest, 0.0
        return json_response({"seconds": longest})

    async def work(self, request: HttpRequest) -> Response:
        """Stands still for work that is always the same. How long it takes, in CPU time, says how fast the machine is
        just now."""
        begun = time.thread_time()
        for _ in range(_WORK):
            pass
        return json_response({"seconds": time.thread_time() - begun})

    async def _tick(self) -> None:
        while True:
            begun, used = time.monotonic(), time.process_time()
            await asyncio.sleep(_TICK_SECONDS)
            stall = min(time.monotonic() - begun - _TICK_SECONDS, time.process_time() - used)
            self._longest = max(self._longest, stall)
            self._looked.set()


if __name__ == "__main__":
    probe = Probe()
    routes = health.routes
    probes = [Endpoint("GET", "/stall", probe.answer, scope="open"), Endpoint("GET", "/work", probe.work, scope="open")]
    health.routes = lambda serving: [*routes(serving), *probes]
    sys.exit(main())
