"""Guides: while requests are guided, a thread hears of their tokens, advances their grammars and tells the engine what
may follow. It runs beside the device, so what it costs shows only where it is slower than a step."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from warpjet._native import Engine, Output, OutputQueue, QueueFullError, SamplingParams
from warpjet.common.room import require_room
from warpjet.common.threads import Crew
from warpjet.guided.grammars import Compiler, Grammar, Job, reason_of
from warpjet.structured import Constraint
from warpjet.text.tokenizer import Tokenizer

_LINGER_SECONDS = 0.1  # the thread goes when nothing has been guided for so long
_SEND_SECONDS = 0.001  # answers that are ready wait this long for others, to run in one step with them
_CLOSE_SECONDS = 10.0
_SLOW_SECONDS = 0.002  # whose answer takes longer than this is answered on a thread of its own

_Answer = tuple[int, int, int, bytes | str | None]


class _Guided:
    """One sample. The request's own stop tokens may come where the text may end, and nowhere else."""

    __slots__ = ("matcher", "position", "slow", "stops")

    def __init__(self, matcher: Any, stops: Sequence[int]) -> None:
        self.matcher = matcher
        self.position = 0
        self.slow = False
        self.stops = sum(1 << token for token in set(stops))

    def advance(self, tokens: list[int], mask_bytes: int) -> bytes | str | None:
        """What may follow: a mask, None when the text is complete, or why nothing can."""
        matcher = self.matcher
        self.position += len(tokens)
        for token in tokens:
            if not matcher.consume_token(token):
                return f"token {token} does not fit the grammar: {reason_of(matcher.get_error())}"
        if not matcher.is_stopped():
            mask: bytes = matcher.compute_bitmask()[:mask_bytes]
            if not matcher.is_error():
                return self.gated(mask)
        if matcher.is_error():
            return f"the grammar came to a dead end after {self.position} tokens: {reason_of(matcher.get_error())}"
        return None

    def gated(self, mask: bytes) -> bytes | str:
        """The mask with the stop tokens, or without them."""
        if not self.stops:
            return mask
        bits = int.from_bytes(mask, "little")
        bits = bits | self.stops if self.matcher.is_accepting() else bits & ~self.stops
        return bits.to_bytes(len(mask), "little") if bits else "nothing but stop_token_ids can follow, before the end"


class Guides:
    """Of one engine. Any thread."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._engine = engine
        self._compiler = Compiler(tokenizer, engine.model)
        self._mask_bytes = (engine.model.vocab_size + 31) // 32 * 4
        self._queue = OutputQueue()
        self._lock = threading.Lock()
        self._live: dict[int, dict[int, _Guided]] = {}
        self._crew, self._slow = Crew(1), Crew(1)
        self._running = False

    def compile(self, params: Constraint) -> Job:
        """Starts that: wait() or wait_async() gives the grammar."""
        return self._compiler.job(params)

    def submit(self, grammar: Grammar, params: SamplingParams, submit: Callable[[bytes, OutputQueue], int]) -> int:
        """Calls submit(first mask, guide queue), and guides the request that it returns. Raises QueueFullError when no
        thread can be started, ValueError where no text can begin."""
        stops = [token for token in params.stop_token_ids if token < 8 * len(grammar.mask)]  # the engine refuses others
        guided = {index: _Guided(grammar.start(), stops) for index in range(params.n)}
        mask = guided[0].gated(grammar.mask)
        if isinstance(mask, str):
            raise ValueError(f"structured_outputs: {mask}")
        with self._lock:  # no token of it is looked at before it is known
            if not self._running:  # or it was started and did not begin
                self._crew.discard(self._run)
                self._crew.submit(self._run)
            native_id = submit(mask, self._queue)
            self._live[native_id] = guided
        return native_id

    def join(self) -> None:
        """After the engine was closed: everything has its final output, so this is short."""
        self._compiler.close()
        self._crew.close(_CLOSE_SECONDS)
        self._slow.close(_CLOSE_SECONDS)

    @property
    def num_live(self) -> int:
        """Requests that are guided now."""
        return len(self._live)

    @property
    def running(self) -> bool:
        """Whether the thread is at work, or was a moment ago."""
        return self._running

    def _run(self) -> None:
        with self._lock:
            self._running = True
        while True:
            try:
                outputs = self._queue.poll(_LINGER_SECONDS)
            except MemoryError:  # they wait there until there is some
                continue
            with self._lock:
                if not outputs and not self._live:
                    self._running = False
                    return
            try:
                self._answer_all([item for output in outputs if (item := self._take(output)) is not None])
            except Exception:  # memory is short: without an answer, guide_timeout ends these
                for output in outputs:
                    self._live.pop(output.id, None)

    def _take(self, output: Output) -> tuple[int, int, _Guided, list[int]] | None:
        """What there is to do for it: nothing, when it has ended."""
        samples = self._live.get(output.id)
        if samples is None:
            return None
        if output.finish is None:
            guided = samples.get(output.sample)
            return None if guided is None else (output.id, output.sample, guided, output.tokens)
        samples.pop(output.sample, None)
        if not samples:
            del self._live[output.id]
        return None

    def _answer_all(self, work: list[tuple[int, int, _Guided, list[int]]]) -> None:
        answers: list[_Answer] = []
        begun = time.monotonic()
        for native_id, sample, guided, tokens in work:
            if guided.slow and self._answer_apart(native_id, sample, guided, tokens):
                continue
            start = time.monotonic()
            answer = self._advance(guided, tokens)
            answers.append((native_id, sample, guided.position, answer))
            now = time.monotonic()
            guided.slow = now - start > _SLOW_SECONDS
            if now - begun > _SEND_SECONDS:
                self._engine.guide(answers)
                answers, begun = [], now
        if answers:
            self._engine.guide(answers)

    def _answer_apart(self, native_id: int, sample: int, guided: _Guided, tokens: list[int]) -> bool:
        """On a thread of its own. False when there is none."""

        def answer() -> None:
            start = time.monotonic()
            answer = self._advance(guided, tokens)
            guided.slow = time.monotonic() - start > _SLOW_SECONDS
            self._engine.guide([(native_id, sample, guided.position, answer)])

        try:
            self._slow.submit(answer)
        except QueueFullError:
            return False
        return True

    def _advance(self, guided: _Guided, tokens: list[int]) -> bytes | str | None:
        """Whatever goes wrong costs this sample alone."""
        try:
            require_room()
            return guided.advance(tokens, self._mask_bytes)
        except Exception as error:
            return f"the grammar failed: {error}"
