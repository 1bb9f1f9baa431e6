"""Many requests run together: submitted as the engine takes them, polled, cancelled when nobody wants them any more."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from warpjet._native import OutputQueue, QueueFullError, SamplingParams
from warpjet.assembly import Assembly
from warpjet.outputs import RequestOutput
from warpjet.prompts import Prompt
from warpjet.session import Session

_POLL_SECONDS = 0.1  # how late Ctrl-C may be noticed while nothing happens

ParamsType = SamplingParams | Sequence[SamplingParams]


class Batch:
    """One call's prompts. `kind` overrides the requests' output_kind."""

    def __init__(
        self,
        session: Session,
        prompts: list[Prompt],
        sampling_params: ParamsType | None,
        priority: int | Sequence[int] | None,
        kind: str | None = None,
    ) -> None:
        params = session.default_params if sampling_params is None else sampling_params
        self._session = session
        self._prompts = prompts
        self._params: list[SamplingParams] = _one_each("sampling_params", params, len(prompts))
        self._priorities: list[int] = _one_each("priority", 0 if priority is None else priority, len(prompts))
        lowered = {id(p): session.native_params(p) for p in {id(p): p for p in self._params}.values()}
        self._native = [lowered[id(p)] for p in self._params]
        self._kind = kind
        self._queue = OutputQueue()
        self._submitted = 0
        self._live: dict[int, tuple[int, Assembly]] = {}  # by the engine's id: prompt index, output so far

    def run(self) -> Generator[tuple[int, RequestOutput], None, None]:
        """(prompt index, output) as they come. Closing it, or an error, cancels what is left."""
        try:
            while self._live or self._submitted < len(self._prompts):
                self._submit()
                yield from self._poll()
        finally:
            for native_id in self._live:
                self._session.engine.cancel(native_id)

    def outputs(self) -> Iterator[RequestOutput]:
        """run() without the indices."""
        with contextlib.closing(self.run()) as items:
            for _, output in items:
                yield output

    def _submit(self) -> None:
        """As many as the engine takes."""
        while self._submitted < len(self._prompts):
            index = self._submitted
            prompt, params = self._prompts[index], self._params[index]
            try:
                native_id = self._session.submit(prompt, self._native[index], self._queue, self._priorities[index])
            except QueueFullError:
                if not self._live:
                    raise
                return  # some of ours will finish
            except Exception as error:
                error.add_note(f"while submitting prompt {index} of {len(self._prompts)}")
                raise
            kind = self._kind or params.output_kind
            assembly = Assembly(self._session.next_request_id(), prompt, params, self._session.tokenizer, kind)
            self._live[native_id] = (index, assembly)
            self._submitted += 1

    def _poll(self) -> list[tuple[int, RequestOutput]]:
        """What is to be shown now. Lets go of requests that have finished."""
        touched: dict[int, tuple[int, Assembly]] = {}
        for output in self._queue.poll(_POLL_SECONDS):
            if entry := self._live.get(output.id):
                if entry[1].feed(output):
                    self._session.engine.cancel(output.id, output.sample)
                touched[output.id] = entry
        for native_id, (_, assembly) in touched.items():
            if assembly.finished:
                del self._live[native_id]
        return [(index, shown) for index, assembly in touched.values() if (shown := assembly.take())]


def _one_each(name: str, values: Any, count: int) -> list[Any]:
    if isinstance(values, Sequence):
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} prompts")
        return list(values)
    return [values] * count
