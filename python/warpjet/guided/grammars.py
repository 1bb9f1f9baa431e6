"""Grammars: constraints compiled by llguidance, a few at a time, within limits of memory and time."""

import asyncio
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any

from warpjet._native import ModelInfo, QueueFullError
from warpjet.common.room import require_room
from warpjet.common.threads import Crew
from warpjet.guided.grammar_text import Part, parts_of, schemas_of, text_of
from warpjet.structured import Constraint, to_text
from warpjet.text.tokenizer import Tokenizer

COMPILE_SECONDS = 5.0  # of a core; on a busy machine that takes longer
_START_SECONDS = 60  # a first grammar waits for the tokenizer's trie
_THREADS = 2
_STACK_BYTES = 512 << 20  # the compiler recurses over chains of rules; of address space, untouched pages are not there
_ROOM_BYTES = 128 << 20  # what a large grammar takes; the compiler ends the process when memory runs out
_MAX_PENDING = 32  # grammars that are compiled or wait for that
_CACHED_GRAMMARS = 64
_CACHED_BYTES = 1 << 20  # of their texts; compiled they are a hundred times as large
_CLOSE_SECONDS = 10.0

# As the compiler counts. The rest are its own defaults.
_LIMITS: dict[str, Any] = {
    "max_grammar_size": 30_000,
    "max_items_in_row": 20_000,
    "max_lexer_states": 50_000,
    "verbose_errors": False,
}


class Grammar:
    """A compiled one: where each text starts. Safe to use from several threads."""

    def __init__(self, matcher: Any, mask: bytes) -> None:
        self.mask = mask  # of the first token
        self._matcher = matcher
        self._lock = threading.Lock()

    def start(self) -> Any:
        """A matcher of its own for one text. Raises MemoryError where memory is short."""
        require_room()
        with self._lock:
            return self._matcher.deep_copy()


class Compiler:
    """Compiles for one model, each grammar once; keeps the latest. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, model: ModelInfo) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = model.vocab_size
        eos = tokenizer.eos_token_id  # ends texts too, where the checkpoint's configs leave it out
        own = [eos] if eos is not None and eos < model.vocab_size else []
        self._eos = list(dict.fromkeys([*model.eos_token_ids, *own]))
        self._mask_bytes = (model.vocab_size + 31) // 32 * 4
        self._lock = threading.Lock()
        self._grammars: OrderedDict[str, Grammar] = OrderedDict()
        self._pending: dict[str, Job] = {}
        self._crew = Crew(_THREADS, _STACK_BYTES)
        self._trie_lock = threading.Lock()
        self._trie: Any = None

    def job(self, params: Constraint) -> "Job":
        """Starts compiling, unless that was done. Raises QueueFullError when too many are waiting, or no thread can be
        started."""
        key = to_text(params)
        with self._lock:
            if (grammar := self._grammars.get(key)) is not None:
                self._grammars.move_to_end(key)
                return Job.of(grammar)
            if (job := self._pending.get(key)) is not None:
                return job
            if len(self._pending) >= _MAX_PENDING:
                raise QueueFullError("too many grammars are being compiled; try again in a few seconds")
            job = Job(self, key, params)
            self._crew.submit(job.run)
            self._pending[key] = job
            return job

    def compile(self, params: Constraint, begin: Callable[[], None]) -> Grammar:
        """On the calling thread, whose stack must be large enough; calls begin() when the vocabulary has been read.
        Raises ValueError, QueueFullError without memory."""
        try:
            require_room(_ROOM_BYTES)
        except MemoryError:
            raise QueueFullError("there is no memory for another grammar now; try again in a few seconds") from None
        trie = self._get_trie()
        begin()
        return self._compile(params, trie)

    def keep(self, key: str, grammar: Grammar) -> None:
        """Remembers a grammar."""
        if len(key) > _CACHED_BYTES // 4:
            return
        with self._lock:
            self._grammars[key] = grammar
            while len(self._grammars) > _CACHED_GRAMMARS or sum(map(len, self._grammars)) > _CACHED_BYTES:
                self._grammars.popitem(last=False)

    def forget(self, job: "Job") -> None:
        """It is no longer pending."""
        self._crew.discard(job.run)
        with self._lock:
            self._pending.pop(job.key, None)

    def revive(self) -> None:
        """Makes sure that what waits will be compiled."""
        self._crew.revive()

    def close(self) -> None:
        """Compiles nothing more; waits for what is being compiled, which is native code and ends within seconds."""
        self._crew.close(_CLOSE_SECONDS)

    def _get_trie(self) -> Any:
        """llguidance's view of the vocabulary, which is padded to the model's."""
        with self._trie_lock:
            if self._trie is None:
                from llguidance import LLTokenizer

                size = max(self._vocab_size, self._tokenizer.vocab_size)
                vocabulary = _spelled_out(self._tokenizer.to_json())
                try:
                    self._trie = LLTokenizer(vocabulary, n_vocab=size, eos_token=self._eos or None)
                except ValueError as error:
                    raise ValueError(
                        "structured_outputs: the tokens cannot be read as bytes: tokenizer.json has a decoder that the "
                        "compiler of grammars does not know"
                    ) from error
            return self._trie

    def _compile(self, params: Constraint, trie: Any) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        parts = parts_of(params, self._tokenizer)
        limits = LLParserLimits(**_LIMITS)
        matcher = LLMatcher(trie, text_of(*parts), log_level=0, limits=limits)
        if matcher.is_error():
            reasons = (
                (what, LLMatcher.validate_grammar(text_of((what, part)), trie, limits=limits))
                for what, part in (*parts[1:], *schemas_of(params))
            )
            raise _error_of(parts, reasons, matcher.get_error())
        what = parts[0][0]
        mask = matcher.compute_bitmask()[: self._mask_bytes]
        if matcher.is_error():
            raise ValueError(f"{what}: no text satisfies it ({reason_of(matcher.get_error())})")
        if matcher.is_stopped() or (matcher.is_accepting() and allows_only(mask, trie.eos_tokens)):
            raise ValueError(f"{what}: only the empty text satisfies it")
        return Grammar(matcher, mask)


class Job:
    """One compilation. `started` comes when it is its turn."""

    def __init__(self, compiler: Compiler | None, key: str = "", params: Constraint | None = None) -> None:
        self.key = key
        self.started: Future[None] = Future()
        self.grammar: Future[Grammar | Exception] = Future()
        self._compiler = compiler
        self._params = params
        self._clock, self._begun = 0, 0.0  # CPU time of the thread that compiles

    @staticmethod
    def of(grammar: Grammar) -> "Job":
        job = Job(None)
        job.started.set_result(None)
        job.grammar.set_result(grammar)
        return job

    def run(self) -> None:
        """Compiles."""
        compiler, params = self._compiler, self._params
        if compiler is None or params is None:
            return
        result: Grammar | Exception
        try:
            result = compiler.compile(params, self._begin)
            compiler.keep(self.key, result)
        except Exception as error:
            result = error
        compiler.forget(self)
        self.grammar.set_result(result)
        if not self.started.done():
            self.started.set_result(None)

    def _begin(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        self._begun = time.clock_gettime(self._clock)
        self.started.set_result(None)

    def wait(self) -> Grammar:
        """Raises ValueError for a bad grammar, or one that takes too long; QueueFullError when others took too long, or
        memory is short."""
        for future, seconds in self._waits():
            futures.wait([future], seconds)
        return self._result()

    async def wait_async(self) -> Grammar:
        """wait() on an event loop."""
        for future, seconds in self._waits():
            await asyncio.wait([asyncio.wrap_future(future)], timeout=seconds)
        return self._result()

    def _waits(self) -> Iterator[tuple[Future[Any], float]]:
        """What to wait for, and how long; a second at a time while no thread has taken it up."""
        for _ in range(_START_SECONDS):
            if self.started.done():
                break
            yield self.started, 1.0
            if self._compiler is not None:
                self._compiler.revive()
        for _ in range(_START_SECONDS if self.started.done() else 0):
            if self.grammar.done() or time.clock_gettime(self._clock) - self._begun > COMPILE_SECONDS:
                return
            yield self.grammar, 1.0

    def _result(self) -> Grammar:
        if self.grammar.done():
            result = self.grammar.result()
            if isinstance(result, Exception):
                raise result
            return result
        if self.started.done():
            raise ValueError(f"structured_outputs takes more than {COMPILE_SECONDS:g} s to compile; make it simpler")
        if self._compiler is not None:
            self._compiler.forget(self)
        raise QueueFullError("other grammars are still being compiled; try again in a few seconds")


def _spelled_out(vocabulary: str) -> str:
    """A tokenizer.json for the compiler, which knows the decoder Metaspace by its steps alone."""
    fields = json.loads(vocabulary)
    decoder = fields.get("decoder") or {}
    if decoder.get("type") != "Metaspace":
        return vocabulary
    space = {"type": "Replace", "pattern": {"String": decoder["replacement"]}, "content": " "}
    fields["decoder"] = {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    return json.dumps(fields, ensure_ascii=False)


def _error_of(parts: list[tuple[str, Part]], reasons: Iterable[tuple[str, str]], error: str) -> ValueError:
    """Which part is at fault, and why. A frame's own text is no matter of the user's."""
    if len(parts) > 1 or parts[0][0] == "tools":
        for what, reason in reasons:
            if reason:
                return ValueError(f"{what}: {reason_of(reason)}")
        return ValueError("tools: their schemas together are more than can be compiled; offer fewer, or simpler ones")
    return ValueError(f"{parts[0][0]}: {reason_of(error)}")


def reason_of(text: str) -> str:
    """A compiler's or matcher's error in a line or two, without what it says of itself."""
    text = re.split(r"<state>|<non-verbose/>|: Regex is empty", text)[0].strip()
    if text.startswith("at 1(8): invalid regex "):  # the grammar around a regex is not the user's
        text = text.partition("(in regex): ")[2].rpartition("\n   1 | start: ")[0].strip() or text
    if text in ("", "NoExtension", "NoExtensionBias"):
        return "nothing in the vocabulary can follow"
    if text.startswith("Unimplemented keys: "):
        return f"{text.removeprefix('Unimplemented keys: ')} cannot be enforced; leave it out of the schema"
    if text.startswith("lookarounds not supported yet"):
        regex = text.partition(" in regex ")[2]
        return f"word boundaries, look-around and anchors within a text cannot be enforced, in {regex:.200}"
    return text if len(text) <= 300 else text[:300] + "..."


def allows_only(mask: bytes, tokens: Sequence[int]) -> bool:
    """Whether the mask allows none but these."""
    bits = int.from_bytes(mask, "little")
    for token in tokens:
        bits &= ~(1 << token)
    return bits == 0
