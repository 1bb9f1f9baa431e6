"""How tests wait: for the event itself, and as long as a busy machine needs."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

PATIENCE_S = 300.0  # bounds a hang; no test measures with it


def until(what: Callable[[], Value], seconds: float = PATIENCE_S) -> Value:
    """The first true value of what(). Raises AssertionError when there is none within this time."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.005)
    return value


async def becomes(what: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Returns when what() is true; other tasks run meanwhile. Raises AssertionError as until() does."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.005)


async def settle() -> None:
    """Every task and callback that can run has run: none of them waits for more than a few turns of the loop."""
    for _ in range(20):
        await asyncio.sleep(0)


def asleep(process: int | None = None) -> bool:
    """Whether, in each of 20 looks, every thread of a process but the caller's waits for something. A thread that spins
    never does, however busy the machine is."""
    tasks = Path(f"/proc/{process or os.getpid()}/task")
    return all(_state(task) in "SX" for _ in range(20) for task in tasks.iterdir() if task.name != _own_task())


def _own_task() -> str:
    return str(threading.get_native_id())


def _state(task: Path) -> str:
    """As /proc/[pid]/stat has it; X for one that has ended."""
    try:
        return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"
