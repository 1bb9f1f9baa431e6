"""A load: requests sent at their times, and what became of them."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from warpjet.bench.load.client import Client, Outcome


@dataclass(frozen=True, slots=True)
class Run:
    """begin: perf_counter() at the start. late_s: how long after its time the median request was sent, for want of this
    machine's speed. cpu_share: of one core, that the client used."""

    outcomes: list[Outcome]
    begin: float
    seconds: float
    late_s: float
    cpu_share: float
    most_running: int


async def run_load(
    client: Client,
    bodies: Sequence[bytes],
    times: Sequence[float],
    max_concurrency: int | None,
    on_end: Callable[[Outcome], object] = lambda outcome: None,
) -> Run:
    """Sends each body at its time (seconds from now, ascending), but no more than max_concurrency at once: others wait
    here, in order. on_end is called as requests end. Cancelling it cancels what runs."""
    slots = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
    running = most_running = 0
    lateness: list[float] = []
    begin, cpu = time.perf_counter(), time.process_time()

    async def send(body: bytes) -> Outcome:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        try:
            outcome = await client.send(body)
        finally:
            running -= 1
            if isinstance(slots, asyncio.Semaphore):
                slots.release()
        on_end(outcome)
        return outcome

    async with asyncio.TaskGroup() as group:
        tasks = []
        for body, at in zip(bodies, times, strict=True):
            if (wait := begin + at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
                lateness.append(time.perf_counter() - begin - at)
            elif at > 0:
                lateness.append(-wait)
            if isinstance(slots, asyncio.Semaphore):
                await slots.acquire()
            tasks.append(group.create_task(send(body)))
    outcomes = [task.result() for task in tasks]
    seconds = max((outcome.ended for outcome in outcomes), default=begin) - begin
    late = sorted(lateness)[len(lateness) // 2] if lateness and not max_concurrency else 0.0
    return Run(outcomes, begin, seconds, late, (time.process_time() - cpu) / max(seconds, 1e-9), most_running)
