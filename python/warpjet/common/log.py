"""The log of a command: lines on stderr, and one level for Python's logger "warpjet" and the native log."""

import logging
import os
import sys

from warpjet import _native

LEVELS = ("debug", "info", "warning", "error")


def start_log(level: str | None, otherwise: str) -> None:
    """Begins to write. None: as the variable WARPJET_LOG says, or `otherwise`. Raises ValueError for another word in
    it."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    set_log_level(level or _level_of_environment() or otherwise)


def set_log_level(level: str) -> None:
    """One of LEVELS, from now on."""
    logging.getLogger("warpjet").setLevel(level.upper())
    _native.set_log_level(level)


def _level_of_environment() -> str | None:
    given = os.environ.get("WARPJET_LOG", "")
    level = "warning" if given == "warn" else given
    if level and level not in LEVELS:
        raise ValueError(f"WARPJET_LOG must be one of {', '.join(LEVELS)}, got {given!r}")
    return level or None
