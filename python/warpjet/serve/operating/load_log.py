"""What the log says of the engine's load, every ten seconds while there is work."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

_log = logging.getLogger("warpjet.serve")

_PERIOD = 10.0


class LoadLog:
    """Looks at the engine's counters from the event loop: no step of the engine knows of it.

    stats: Engine.stats(). clock: seconds that never go back."""

    def __init__(self, stats: Callable[[], Mapping[str, int]], clock: Callable[[], float] = time.monotonic) -> None:
        self._stats = stats
        self._clock = clock
        self._before, self._at = stats(), clock()

    async def run(self) -> None:
        """Logs until it is cancelled."""
        while True:
            await asyncio.sleep(_PERIOD)
            if line := self.line():
                _log.info("%s", line)

    def line(self) -> str | None:
        """The load since the last look; None when there was no work. So the last line after work shows an idle
        engine."""
        before, began = self._before, self._at
        now, self._at = self._stats(), self._clock()
        self._before = now
        prompt, output, cached = (
            now[name] - before[name] for name in ("prompt_tokens", "generated_tokens", "cached_tokens")
        )
        live = any(stats[name] for stats in (before, now) for name in ("running", "waiting"))
        if not (live or prompt or output or now["finished"] > before["finished"]):
            return None
        seconds = max(self._at - began, 1e-9)
        found = prompt + cached
        return (
            f"running {now['running']}, waiting {now['waiting']}, "
            f"KV cache {100 * now['kv_blocks_used'] / max(now['kv_blocks'], 1):.1f}%, "
            f"prompt {prompt / seconds:.1f} tok/s, output {output / seconds:.1f} tok/s, "
            f"prefix cache hits {100 * cached / found if found else 0:.1f}%"
        )
