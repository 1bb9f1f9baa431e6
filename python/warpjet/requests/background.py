"""Requests that run while their caller does something else: handles with result(), await and iteration."""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import Future
from typing import Any

from warpjet._native import Output, OutputQueue, SamplingParams
from warpjet.requests.assembly import Assembly
from warpjet.requests.outputs import RequestOutput
from warpjet.requests.session import Session
from warpjet.text.prompts import Prompt

_POLL_SECONDS = 1.0


class Generation:
    """A request that was submitted. It goes on whether or not somebody waits; abort() ends it.

    result() and await give the whole output. Iteration, plain or async, gives outputs by the request's output_kind as
    they come, to one reader. A failure while it runs gives finish_reason "error", as in LLM.generate()."""

    def __init__(self, session: Session, assembly: Assembly) -> None:
        self.request_id = assembly.request_id
        self._session = session
        self._assembly = assembly
        self._native_id = -1
        self._final: Future[RequestOutput] = Future()
        self._final.set_running_or_notify_cancel()  # a caller that stops waiting does not end the request
        self._changed = threading.Condition()
        self._waiter: Future[None] | None = None  # of an async reader

    def done(self) -> bool:
        """True when nothing more will come."""
        return self._final.done()

    def result(self, timeout: float | None = None) -> RequestOutput:
        """The final output. Raises TimeoutError when it is not there after `timeout` seconds."""
        return self._final.result(timeout)

    def abort(self) -> None:
        """Ends it with finish_reason "abort", unless it has ended. Idempotent."""
        self._session.engine.cancel(self._native_id)

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return asyncio.wrap_future(self._final).__await__()

    def __iter__(self) -> Iterator[RequestOutput]:
        return self

    def __next__(self) -> RequestOutput:
        with self._changed:
            while (output := self._take()) is None:
                if self.done():
                    raise StopIteration
                self._changed.wait()
            return output

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        while True:
            with self._changed:
                if (output := self._take()) is not None:
                    return output
                if self.done():
                    raise StopAsyncIteration
                waiter: Future[None] = Future()
                waiter.set_running_or_notify_cancel()
                self._waiter = waiter
            await asyncio.wrap_future(waiter)

    def _take(self) -> RequestOutput | None:
        if self._final.done() and (error := self._final.exception()):
            raise error
        return self._assembly.take()

    def _feed(self, output: Output) -> bool:
        """True when it has ended. On the reader's thread."""
        with self._changed:
            try:
                if self._assembly.feed(output):
                    self._session.engine.cancel(output.id, output.sample)
                if self._assembly.finished:
                    self._final.set_result(self._assembly.everything())
            except Exception as error:  # a bug of ours must not leave anybody waiting
                self._session.engine.cancel(output.id)
                self._final.set_exception(error)
            self._changed.notify_all()
            if self._waiter is not None:
                self._waiter.set_result(None)
                self._waiter = None
            return self._final.done()


class Background:
    """The requests of one session that have no caller waiting, and the thread that reads for them while there are any.
    Safe to use from several threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue = OutputQueue()
        self._lock = threading.Lock()
        self._live: dict[int, Generation] = {}  # by the engine's id
        self._reader: threading.Thread | None = None

    def submit(self, prompt: Prompt, params: SamplingParams, priority: int) -> Generation:
        """Raises as LLM.generate()."""
        session = self._session
        native = session.native_params(params)
        assembly = Assembly(session.next_request_id(), prompt, params, session.tokenizer, params.output_kind)
        generation = Generation(session, assembly)
        with self._lock:  # the reader must not see outputs of what it does not know
            generation._native_id = session.submit(prompt, native, self._queue, priority)
            self._live[generation._native_id] = generation
            if self._reader is None:
                self._start_reader(generation)
        return generation

    def join(self) -> None:
        """Waits until nothing is live any more."""
        with self._lock:
            reader = self._reader
        if reader is not None:
            reader.join()

    def _start_reader(self, generation: Generation) -> None:
        """The lock is held. Without a thread to read for it, the request ends."""
        reader = threading.Thread(target=self._read, name="warpjet-reader", daemon=True)
        try:
            reader.start()
        except Exception:
            del self._live[generation._native_id]
            generation.abort()
            raise
        self._reader = reader

    def _read(self) -> None:
        while True:
            try:
                outputs = self._queue.poll(_POLL_SECONDS)
            except MemoryError:  # they wait there until there is some
                continue
            with self._lock:
                for output in outputs:
                    generation = self._live.get(output.id)
                    if generation is not None and generation._feed(output):
                        del self._live[output.id]
                if not self._live:
                    self._reader = None
                    return
