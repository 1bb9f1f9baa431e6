"""Threads for large requests: shared fairly, cancelled for good, and never in the way of the process' end."""

import _thread
import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from waiting import PATIENCE_S

from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.workers import Workers


class Holds:
    """A job that runs until it is released, in native code as far as Python can see."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        self.release.wait()
        return "done"


def spins(begun: threading.Event, ended: threading.Event) -> Callable[[], None]:
    """A job of Python code that never ends by itself."""

    def run() -> None:
        begun.set()
        try:
            while True:
                pass
        finally:
            ended.set()

    return run


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE_S)


def test_a_job_gives_its_result_or_its_error() -> None:
    async def check() -> None:
        workers = Workers(2, PATIENCE_S)
        assert await workers.run(lambda: 7) == 7
        with pytest.raises(ValueError, match="what is wrong"):
            await workers.run(lambda: int("what is wrong"))

    asyncio.run(check())


def test_a_job_that_takes_too_long_ends_and_leaves_its_place() -> None:
    async def check() -> None:
        workers = Workers(1, 0.05)
        begun, ended = threading.Event(), threading.Event()
        with pytest.raises(ServeError) as caught:
            await workers.run(spins(begun, ended))
        assert caught.value.status == (400 if begun.is_set() else 503)
        if begun.is_set():
            await until(ended)
        workers._seconds = 60
        assert await workers.run(lambda: 7) == 7

    asyncio.run(check())


def test_a_client_that_goes_away_ends_its_job() -> None:
    async def check() -> None:
        workers = Workers(1, PATIENCE_S)
        begun, ended = threading.Event(), threading.Event()
        task = asyncio.create_task(workers.run(spins(begun, ended)))
        await asyncio.sleep(0)
        await until(begun)
        task.cancel()
        await until(ended)
        assert await workers.run(lambda: 7) == 7

    asyncio.run(check())


def test_long_jobs_leave_a_place_to_short_ones() -> None:
    async def check() -> None:
        workers, holds = Workers(2, PATIENCE_S), [Holds() for _ in range(4)]
        tasks = [asyncio.create_task(workers.run(hold, long=True)) for hold in holds]
        await asyncio.sleep(0)
        await until(holds[0].begun)
        assert await workers.run(lambda: "short") == "short"
        assert [hold.begun.is_set() for hold in holds] == [True, False, False, False]
        for hold in holds:
            hold.release.set()
        assert await asyncio.gather(*tasks) == ["done"] * 4

    asyncio.run(check())


def test_a_tenant_waits_for_one_job_of_another_not_for_all() -> None:
    async def check() -> None:
        workers, order = Workers(1, PATIENCE_S), []
        hold = Holds()
        tasks = [asyncio.create_task(workers.run(hold, "a"))]
        tasks += [asyncio.create_task(workers.run(lambda: order.append("a"), "a")) for _ in range(5)]
        tasks += [asyncio.create_task(workers.run(lambda: order.append("b"), "b"))]
        await asyncio.sleep(0)
        await until(hold.begun)
        hold.release.set()
        await asyncio.gather(*tasks)
        assert order.index("b") <= 1

    asyncio.run(check())


def test_without_threads_a_job_is_refused_and_the_next_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> int:
        raise RuntimeError("can't start new thread")

    async def check() -> None:
        workers = Workers(1, PATIENCE_S)
        with monkeypatch.context() as patch:
            patch.setattr(_thread, "start_new_thread", none)
            for _ in range(3):
                with pytest.raises(ServeError) as caught:
                    await workers.run(lambda: 7)
                assert caught.value.status == 503
        assert await workers.run(lambda: 7) == 7

    asyncio.run(check())


def test_a_thread_that_never_begins_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        workers = Workers(1, 0.01)
        with monkeypatch.context() as patch:
            patch.setattr(_thread, "start_new_thread", lambda *_: 1)
            with pytest.raises(ServeError):
                await workers.run(lambda: 7)
        workers._seconds = 60
        assert await workers.run(lambda: 7) == 7

    asyncio.run(check())


def test_jobs_do_not_keep_the_process_alive() -> None:
    code = """
import asyncio, time
from warpjet.serve.http.workers import Workers
async def main():
    workers = Workers(4, 60)
    for _ in range(4):
        task = asyncio.create_task(workers.run(lambda: time.sleep(10_000)))
    await asyncio.sleep(0)
    return workers
workers = asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)


def test_closing_says_whether_everything_has_ended() -> None:
    async def check() -> None:
        workers = Workers(1, PATIENCE_S)
        begun, ended = threading.Event(), threading.Event()
        task = asyncio.create_task(workers.run(spins(begun, ended)))
        await asyncio.sleep(0)
        await until(begun)
        assert workers.close()
        assert ended.is_set()
        task.cancel()

    asyncio.run(check())
