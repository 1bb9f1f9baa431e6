"""Daemon threads that are started when there is work for them, and again when they are gone."""

import _thread
import threading
import time
from collections import deque
from collections.abc import Callable

from warpjet._native import QueueFullError

_START_SECONDS = 1.0  # a thread that has not begun by then is taken for lost


class Crew:
    """Up to `size` threads that run work in its order. Any thread, event loops included: nothing here waits for a
    thread to start, so a machine without room for one costs an error and no more."""

    def __init__(self, size: int, stack_bytes: int = 0) -> None:
        self._size = size
        self._stack_bytes = stack_bytes  # address space; what is not touched takes no memory
        self._changed = threading.Condition()
        self._work: deque[Callable[[], None]] = deque()
        self._threads = 0  # that have begun and not ended
        self._idle = 0
        self._starting: deque[float] = deque()  # when threads were started that have not begun
        self._closed = False

    def submit(self, work: Callable[[], None]) -> None:
        """Runs that soon. Exceptions of work are lost: it must report them itself. Raises QueueFullError when there is
        no thread and none can be started, or when the crew is closed."""
        with self._changed:
            if self._closed:
                raise QueueFullError("the engine is closing")
            self._work.append(work)
            try:
                self._start_if_needed()
            except (RuntimeError, MemoryError):
                if not self._threads:
                    self._work.remove(work)
                    raise QueueFullError("no thread can be started now; try again in a few seconds") from None
            self._changed.notify()

    def revive(self) -> None:
        """Starts a thread if work waits and none is there: one that was started may have died for lack of memory."""
        with self._changed:
            if self._work and not self._threads and not self._closed:
                try:
                    self._start_if_needed()
                except (RuntimeError, MemoryError):
                    return

    def discard(self, work: Callable[[], None]) -> bool:
        """Takes back what has not begun. False when it has."""
        with self._changed:
            try:
                self._work.remove(work)
            except ValueError:
                return False
            return True

    def close(self, seconds: float) -> None:
        """Drops what has not begun and waits so long for the rest: the interpreter may not end within native code."""
        with self._changed:
            self._closed = True
            self._work.clear()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._threads == 0, seconds)

    def _start_if_needed(self) -> None:
        now = time.monotonic()
        while self._starting and now - self._starting[0] > _START_SECONDS:
            self._starting.popleft()
        if len(self._work) <= self._idle + len(self._starting):
            return
        if self._threads + len(self._starting) < self._size:
            before = threading.stack_size(self._stack_bytes)
            try:
                _thread.start_new_thread(self._run, ())  # threading.Thread.start() would wait for it
            finally:
                threading.stack_size(before)
            self._starting.append(now)

    def _run(self) -> None:
        with self._changed:
            if self._starting:
                self._starting.popleft()
            if self._threads >= self._size:
                return
            self._threads += 1
        try:
            while (work := self._next()) is not None:
                try:
                    work()
                except Exception:
                    continue
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._idle += 1
            try:
                self._changed.wait_for(lambda: self._work or self._closed)
            finally:
                self._idle -= 1
            return self._work.popleft() if self._work else None
