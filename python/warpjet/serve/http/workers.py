"""Threads for what takes long to read or to prepare, so that the event loop does not wait for it."""

import _thread
import asyncio
import ctypes
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from warpjet.serve.http.errors import ServeError

T = TypeVar("T")

_CLOSE_SECONDS = 2.0


class Workers:
    """Runs jobs, `threads` at a time, each on a daemon thread of its own: none of them keeps the process alive.

    A job that takes longer than `seconds` is cancelled: it ends at its next step of Python code, and keeps its place
    until then. Jobs wait in one line for each tenant, and the lines take turns. One place is for short jobs alone, so
    that they pass the long ones, whoever sends those. On the event loop's thread."""

    def __init__(self, threads: int, seconds: float) -> None:
        self._threads = threads
        self._seconds = seconds
        self._short, self._long = _Lines(), _Lines()
        self._jobs: dict[_Job[Any], bool] = {}  # running, and whether it is long

    async def run(self, function: Callable[[], T], tenant: str = "", long: bool = False) -> T:
        """Raises ServeError 400 when it takes longer than `seconds`, and 503 when it did not begin within that. Being
        cancelled cancels the job."""
        job = _Job(function, asyncio.get_running_loop())
        lines = self._long if long else self._short
        lines.add(tenant, job)
        self._begin_some()
        try:
            async with asyncio.timeout(self._seconds):
                await job.begun
            async with asyncio.timeout(self._seconds):
                return await job.result
        except TimeoutError:
            if job.begun.done():
                raise ServeError(400, f"preparing the request takes longer than {self._seconds:g} s") from None
            raise ServeError(503, "too many large requests at once", code="overloaded", retry_after=2) from None
        finally:
            job.cancel()
            if not job.begun.done():
                lines.remove(tenant, job)
            elif not job.entered:  # where memory is short, a thread may end before it begins
                self._ended(job)

    def close(self) -> bool:
        """Cancels what runs. False when some of it is in native code still, and has not ended within two seconds."""
        for job in self._jobs:
            job.cancel()
        deadline = time.monotonic() + _CLOSE_SECONDS
        return all([job.thread_ended.wait(max(0.0, deadline - time.monotonic())) for job in self._jobs])

    def _begin_some(self) -> None:
        while len(self._jobs) < self._threads:
            num_long = sum(self._jobs.values())
            long = bool(self._long) and num_long < max(1, self._threads - 1) and not (self._short and num_long)
            lines = self._long if long else self._short
            if not lines:
                return
            job = lines.take()
            try:
                job.start(self._ended)
            except (RuntimeError, MemoryError):
                job.fail(ServeError(503, "there is no thread for this request now", code="overloaded", retry_after=2))
            else:
                self._jobs[job] = long

    def _ended(self, job: "_Job[Any]") -> None:
        self._jobs.pop(job, None)
        self._begin_some()


class _Cancelled(BaseException):
    """Raised in the thread of a job."""


class _Job(Generic[T]):
    """A call on a thread of its own. `begun` and `result` are the event loop's."""

    def __init__(self, function: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.begun: asyncio.Future[None] = loop.create_future()
        self.result: asyncio.Future[T] = loop.create_future()
        self.entered = False  # the thread is there
        self.thread_ended = threading.Event()
        self._function = function
        self._loop = loop
        self._lock = threading.Lock()
        self._thread = 0  # while the function runs
        self._cancelled = False
        self._outcome: T | BaseException = _Cancelled()

    def start(self, ended: "Callable[[_Job[T]], None]") -> None:
        """Raises RuntimeError or MemoryError when there is no thread. Does not wait for it, as Thread.start() does."""
        _thread.start_new_thread(self._run, (ended,))
        if not self.begun.done():
            self.begun.set_result(None)

    def fail(self, error: Exception) -> None:
        """Ends it without a thread."""
        for future in (self.begun, self.result):
            if not future.done():
                future.set_exception(error)
                future.exception()  # it may be that nobody waits any more

    def cancel(self) -> None:
        """Ends the function, if it runs; it does not begin any more. Idempotent."""
        with self._lock:
            if not self._cancelled and self._thread:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Cancelled))
            self._cancelled = True

    def _run(self, ended: "Callable[[_Job[T]], None]") -> None:
        try:
            self._call()
        except BaseException as error:  # _Cancelled may come late
            self._outcome = error
        try:
            self._loop.call_soon_threadsafe(self._report, ended)
        except RuntimeError:  # the loop is closed
            pass
        finally:
            self.thread_ended.set()

    def _call(self) -> None:
        with self._lock:
            self.entered = True
            if self._cancelled:
                return
            self._thread = _thread.get_ident()
        try:
            self._outcome = self._function()
        finally:
            with self._lock:
                self._thread = 0

    def _report(self, ended: "Callable[[_Job[T]], None]") -> None:
        ended(self)
        outcome = self._outcome
        if self.result.done() or isinstance(outcome, _Cancelled):
            return
        if isinstance(outcome, BaseException):
            self.result.set_exception(outcome)
        else:
            self.result.set_result(outcome)


class _Lines:
    """Jobs that wait: in one line for each tenant, and the lines take turns."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[_Job[Any]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, tenant: str, job: "_Job[Any]") -> None:
        self._lines.setdefault(tenant, deque()).append(job)

    def take(self) -> "_Job[Any]":
        """The first of the line whose turn it is."""
        tenant, line = next(iter(self._lines.items()))
        job = line.popleft()
        self._lines.move_to_end(tenant)
        if not line:
            del self._lines[tenant]
        return job

    def remove(self, tenant: str, job: "_Job[Any]") -> None:
        """It does not wait any more."""
        line = self._lines[tenant]
        line.remove(job)
        if not line:
            del self._lines[tenant]
