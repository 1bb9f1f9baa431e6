"""AsyncLLM in real event loops."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE_S, asleep, becomes, settle, until

from warpjet import LLM, AsyncLLM, RequestOutput, SamplingParams
from warpjet._native import Output
from warpjet.requests.assembly import Assembly

STORY = "Once upon a time"
GREEDY = SamplingParams(temperature=0, max_tokens=24)
LONG = SamplingParams(max_tokens=900, ignore_eos=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncLLM]:
    model = AsyncLLM()
    yield model
    model.shutdown()


async def collect(stream: AsyncIterator[RequestOutput]) -> list[RequestOutput]:
    return [output async for output in stream]


async def wait_until_idle(engine: AsyncLLM) -> None:
    await becomes(lambda: not any(engine.get_metrics()[name] for name in ("running", "waiting", "kv_blocks_used")))


def test_the_text_is_that_of_llm(engine: AsyncLLM, llm: LLM) -> None:
    outputs = asyncio.run(collect(engine.generate(STORY, GREEDY, request_id="mine")))
    assert outputs[-1].outputs == llm.generate(STORY, GREEDY, use_tqdm=False)[0].outputs
    assert outputs[-1].finished and not any(output.finished for output in outputs[:-1])
    assert {output.request_id for output in outputs} == {"mine"}


def test_deltas_join_to_the_text(engine: AsyncLLM, llm: LLM) -> None:
    outputs = asyncio.run(collect(engine.generate(STORY, GREEDY.replace(output_kind="delta"))))
    text = "".join(output.outputs[0].text for output in outputs)
    assert text == llm.generate(STORY, GREEDY, use_tqdm=False)[0].outputs[0].text


def test_chat(engine: AsyncLLM, llm: LLM) -> None:
    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    outputs = asyncio.run(collect(engine.chat(messages, GREEDY)))
    assert outputs[-1].outputs == llm.chat(messages, GREEDY, use_tqdm=False)[0].outputs


def test_requests_run_together(engine: AsyncLLM, llm: LLM) -> None:
    prompts = [f"Number {i}:" for i in range(30)]

    async def main() -> list[Any]:
        runs = await asyncio.gather(*(collect(engine.generate(prompt, GREEDY)) for prompt in prompts))
        return [run[-1].outputs for run in runs]

    assert asyncio.run(main()) == [o.outputs for o in llm.generate(prompts, GREEDY, use_tqdm=False)]


def test_each_asyncio_run_is_a_new_loop(engine: AsyncLLM) -> None:
    for _ in range(3):
        assert asyncio.run(collect(engine.generate(STORY, GREEDY)))[-1].finished


def test_a_slow_reader_gets_everything_at_once(engine: AsyncLLM, llm: LLM) -> None:
    async def main() -> list[RequestOutput]:
        outputs = []
        async for output in engine.generate(STORY, GREEDY.replace(output_kind="delta")):
            outputs.append(output)
            await becomes(lambda: not engine.get_metrics()["running"])
        return outputs

    outputs = asyncio.run(main())
    expected = llm.generate(STORY, GREEDY, use_tqdm=False)[0].outputs[0]
    assert [t for output in outputs for t in output.outputs[0].token_ids] == expected.token_ids


def test_abort_gives_a_last_output(engine: AsyncLLM) -> None:
    async def main() -> RequestOutput:
        outputs = []
        async for output in engine.generate(STORY, LONG, request_id="long"):
            outputs.append(output)
            await engine.abort("long")
        await engine.abort("never there")
        return outputs[-1]

    output = asyncio.run(main())
    assert (output.finished, output.outputs[0].finish_reason) == (True, "abort")


def test_leaving_the_loop_cancels(engine: AsyncLLM) -> None:
    async def main() -> None:
        async for _ in engine.generate(STORY, LONG):
            break
        await wait_until_idle(engine)

    asyncio.run(main())


def test_cancelling_the_task_cancels(engine: AsyncLLM) -> None:
    async def main() -> None:
        task = asyncio.create_task(collect(engine.generate(STORY, LONG)))
        await becomes(lambda: engine.get_metrics()["running"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until_idle(engine)

    asyncio.run(main())


def test_stop_strings_end_the_request_in_the_engine_too(engine: AsyncLLM, llm: LLM) -> None:
    free = llm.generate(STORY, GREEDY, use_tqdm=False)[0].outputs[0].text
    stop = free[17:22]

    async def main() -> RequestOutput:
        outputs = await collect(engine.generate(STORY, LONG.replace(temperature=0, stop=stop)))
        await wait_until_idle(engine)
        return outputs[-1]

    output = asyncio.run(main())
    assert (output.outputs[0].text, output.outputs[0].stop_reason) == (free[: free.index(stop)], stop)


def test_B28_a_request_id_that_is_live_is_refused(engine: AsyncLLM) -> None:
    async def main() -> None:
        async for _ in engine.generate(STORY, LONG, request_id="twin"):
            with pytest.raises(ValueError, match="twin"):
                await collect(engine.generate(STORY, GREEDY, request_id="twin"))
            break

    asyncio.run(main())


def test_bad_requests_raise_in_the_caller(engine: AsyncLLM, llm: LLM) -> None:
    for prompt in ("", {"prompt_token_ids": [10**6]}, ["a", "b"]):
        with pytest.raises(ValueError):
            asyncio.run(collect(engine.generate(prompt, GREEDY)))  # type: ignore[arg-type]
    outputs = asyncio.run(collect(engine.generate(STORY, GREEDY)))
    assert outputs[-1].outputs == llm.generate(STORY, GREEDY, use_tqdm=False)[0].outputs


def test_shutdown_ends_streams() -> None:
    async def main() -> RequestOutput:
        engine = AsyncLLM()
        outputs = []
        async for output in engine.generate(STORY, LONG):
            outputs.append(output)
            engine.shutdown()
        return outputs[-1]

    assert asyncio.run(main()).outputs[0].finish_reason == "abort"


class Tokens:
    """Collects one token an output; take() is how many came since the last one."""

    token_work = 1

    def __init__(self, ends_after: int) -> None:
        self.unread_tokens, self.begun, self.left = 0, False, ends_after

    @property
    def finished(self) -> bool:
        return self.left == 0

    def feed(self, output: Output) -> bool:
        self.unread_tokens, self.left = self.unread_tokens + 1, self.left - 1
        return False

    def catch_up(self, most: float) -> bool:
        return False

    def take(self) -> int:
        count, self.unread_tokens, self.begun = self.unread_tokens, 0, True
        return count


@pytest.mark.parametrize(
    ("interval", "sizes"), [(1, [1] * 21), (10, [1, 10, 10]), (6, [1, 6, 6, 6, 2]), (50, [1, 20]), (0, [21])]
)
def test_a_stream_shows_its_first_token_at_once_and_then_so_many_together(
    engine: AsyncLLM, interval: int, sizes: list[int]
) -> None:
    async def main() -> list[int]:
        stream = engine._follow("steps", lambda queue: 1 << 40, Tokens(21), interval)
        taken: list[int] = []

        async def read() -> None:
            async for size in stream:
                taken.append(size)

        reader = asyncio.create_task(read())
        await settle()
        hub = engine._current_hub()
        for _ in range(21):
            hub._take_slice([SimpleNamespace(id=1 << 40, sample=0)], 0)  # type: ignore[list-item]
            await settle()
        await reader
        return taken

    assert asyncio.run(main()) == sizes


def test_an_idle_engine_costs_no_cpu(engine: AsyncLLM) -> None:
    async def main() -> None:
        await collect(engine.generate(STORY, GREEDY))
        await asyncio.to_thread(until, asleep)  # the event loop's thread too

    asyncio.run(main())


def test_requests_that_fail_together_keep_no_memory_errors(engine: AsyncLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 crashes where memory is short and more than sixteen of them are alive."""
    made: list[weakref.ref[MemoryError]] = []
    alive: list[int] = []

    class Failure(MemoryError):
        pass

    def failure() -> Failure:
        error = Failure()
        made.append(weakref.ref(error))
        return error

    def feed(self: Assembly, output: Output) -> bool:
        alive.append(sum(ref() is not None for ref in made))
        raise failure()

    monkeypatch.setattr(Assembly, "feed", feed)

    async def run() -> None:
        streams = (collect(engine.generate(STORY, GREEDY)) for _ in range(8))
        for error in await asyncio.gather(*streams, return_exceptions=True):
            assert isinstance(error, MemoryError)

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))
    assert max(alive) == 0
    assert len(made) == 8


def test_outputs_are_taken_where_there_is_no_memory_for_another_turn(
    engine: AsyncLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpjet.async_llm._SLICE", 1)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        call_soon, refused = loop.call_soon, []

        def refusing(callback: Callable[..., object], *args: Any, **options: Any) -> Any:
            if getattr(callback, "__name__", "") == "_take_slice":
                refused.append(callback)
                raise MemoryError
            return call_soon(callback, *args, **options)

        monkeypatch.setattr(loop, "call_soon", refusing)
        params = GREEDY.replace(n=8, temperature=1.0, logprobs=2)
        streams = [collect(engine.generate(STORY, params)) for _ in range(4)]
        for outputs in await asyncio.gather(*streams):
            assert all(len(one.token_ids) == 24 for one in outputs[-1].outputs)
        assert refused

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_log_probabilities_of_a_prompt_are_read_in_slices(engine: AsyncLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpjet.async_llm._SLICE", 60)
    rows, turns = [], [0]

    def row(entries: list[Any], tokenizer: object) -> Any:
        rows.append(len(entries))
        return {entry[0]: entry for entry in entries}

    monkeypatch.setattr("warpjet.requests.assembly.entries_to_dict", row)

    async def run() -> RequestOutput:
        reading = asyncio.create_task(collect(engine.generate([5] * 200, GREEDY.replace(prompt_logprobs=3))))
        while not reading.done():
            before = len(rows)
            await asyncio.sleep(0)
            turns.append(len(rows) - before)
        return (await reading)[-1]

    output = asyncio.run(run())
    assert output.prompt_logprobs is not None and len(output.prompt_logprobs) == 200
    assert output.prompt_logprobs[0] is None and len(rows) == 199
    assert max(turns) * 3 <= 60 + 2 * max(rows)


def test_an_error_in_one_request_is_its_own(engine: AsyncLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Assembly.feed

    def feed_or_fail(self: Assembly, output: Output) -> bool:
        if self.request_id == "bad":
            raise MemoryError("no memory for this one")
        return feed(self, output)

    monkeypatch.setattr(Assembly, "feed", feed_or_fail)
    monkeypatch.setattr("warpjet.async_llm._SLICE", 1)  # the error comes between two slices

    async def run() -> None:
        names = ["good 1", "bad", "good 2", "good 3"]
        streams = (collect(engine.generate(STORY, GREEDY, request_id=name)) for name in names)
        first, bad, *others = await asyncio.gather(*streams, return_exceptions=True)
        assert isinstance(bad, MemoryError)
        for outputs in (first, *others, await collect(engine.generate(STORY, GREEDY))):
            assert isinstance(outputs, list) and len(outputs[-1].outputs[0].token_ids) == 24
        await wait_until_idle(engine)

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))
