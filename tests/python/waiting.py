"""How tests wait: for the event itself, and as long as a busy machine needs."""

import time
from collections.abc import Callable
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
