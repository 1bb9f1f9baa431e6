"""Many requests run together: submitted as the engine takes them, polled, cancelled when nobody wants them any more."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from warpjet._native import Output, OutputQueue, QueueFullError, SamplingParams
from warpjet.requests.assembly import Assembly
from warpjet.requests.outputs import RequestOutput
from warpjet.requests.session import Session
from warpjet.text.prompts import Prompt

_POLL_SECONDS = 0.1  # how late Ctrl-C may be noticed while nothing happens

ParamsType = SamplingParams | Sequence[SamplingParams]
Answer = TypeVar("Answer")
Made = TypeVar("Made", covariant=True)


class Collector(Protocol[Made]):
    """What the engine says of one request goes in, what its user is shown comes out."""

    unread_tokens: int  # generated since the last take()
    begun: bool  # take() has shown something
    token_work: int  # to feed a token: one, and one for each entry of its log-probabilities

    @property
    def finished(self) -> bool: ...
    def feed(self, output: Output) -> bool: ...
    def catch_up(self, most: float = ...) -> bool: ...
    def take(self) -> Made | None: ...


class Requests(Generic[Answer]):
    """One call's prompts. Subclasses know what is asked of the engine and what becomes of the answer."""

    def __init__(self, session: Session, prompts: list[Prompt], priority: int | Sequence[int] | None) -> None:
        self.request_ids = [session.next_request_id() for _ in prompts]
        self._session = session
        self._prompts = prompts
        self._priorities: list[int] = one_each("priority", 0 if priority is None else priority, len(prompts))
        self._queue = OutputQueue()
        self._submitted = 0
        self._live: dict[int, tuple[int, Collector[Answer]]] = {}  # by the engine's id: prompt index, output so far

    def _submit_one(self, index: int) -> int:
        """The engine's id."""
        raise NotImplementedError

    def _collector(self, index: int) -> Collector[Answer]:
        raise NotImplementedError

    def run(self) -> Generator[tuple[int, Answer], None, None]:
        """(prompt index, output) as they come. Closing it, or an error, cancels what is left."""
        try:
            while self._live or self._submitted < len(self._prompts):
                self.submit()
                yield from self._poll()
        finally:
            self.cancel()

    def outputs(self) -> Iterator[Answer]:
        """run() without the indices."""
        with contextlib.closing(self.run()) as items:
            for _, output in items:
                yield output

    def submit(self) -> None:
        """As many as the engine takes now."""
        while self._submitted < len(self._prompts):
            index = self._submitted
            try:
                native_id = self._submit_one(index)
            except QueueFullError:
                if not self._live:
                    raise
                return  # some of ours will finish
            except Exception as error:
                error.add_note(f"while submitting prompt {index} of {len(self._prompts)}")
                raise
            self._live[native_id] = (index, self._collector(index))
            self._submitted += 1

    def cancel(self) -> None:
        """Nobody wants what is still running."""
        for native_id in self._live:
            self._session.engine.cancel(native_id)

    def _poll(self) -> list[tuple[int, Answer]]:
        """What is to be shown now. Lets go of requests that have finished."""
        touched: dict[int, tuple[int, Collector[Answer]]] = {}
        for output in self._queue.poll(_POLL_SECONDS):
            if entry := self._live.get(output.id):
                if entry[1].feed(output):
                    self._session.engine.cancel(output.id, output.sample)
                touched[output.id] = entry
        for native_id, (_, collector) in touched.items():
            if collector.finished:
                del self._live[native_id]
        return [(index, shown) for index, collector in touched.values() if (shown := collector.take()) is not None]


class Batch(Requests[RequestOutput]):
    """Prompts to be completed. `kind` overrides the requests' output_kind."""

    def __init__(
        self,
        session: Session,
        prompts: list[Prompt],
        sampling_params: ParamsType | None,
        priority: int | Sequence[int] | None,
        kind: str | None = None,
    ) -> None:
        params = session.default_params if sampling_params is None else sampling_params
        self._params: list[SamplingParams] = one_each("sampling_params", params, len(prompts))
        lowered = {id(p): session.native_params(p) for p in {id(p): p for p in self._params}.values()}
        self._native = [lowered[id(p)] for p in self._params]
        self._kind = kind
        super().__init__(session, prompts, priority)

    def _submit_one(self, index: int) -> int:
        return self._session.submit(self._prompts[index], self._native[index], self._queue, self._priorities[index])

    def _collector(self, index: int) -> Assembly:
        params = self._params[index]
        kind = self._kind or params.output_kind
        return Assembly(self.request_ids[index], self._prompts[index], params, self._session.tokenizer, kind)


def one_each(name: str, values: Any, count: int) -> list[Any]:
    """One value for all, or a list of one for each. Raises ValueError when there are not as many."""
    if isinstance(values, Sequence):
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} prompts")
        return list(values)
    return [values] * count
