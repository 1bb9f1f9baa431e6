"""Requests that run beside their caller: handles, the queue of a batch, and beam search by its usual names."""

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import copy_tiny
from waiting import PATIENCE_S, asleep, until

from warpjet import LLM, BeamSearchParams, EngineError, Generation, QueueFullError, SamplingParams

PROMPT = "Once upon a time"
TOO_SHORT_S = 0.001  # for a request that is paused
GREEDY = SamplingParams(temperature=0, max_tokens=24)


@pytest.fixture(name="llm", scope="module")
def open_llm() -> Iterator[LLM]:
    with LLM(device="cpu") as llm:
        yield llm


@pytest.fixture(name="expected", scope="module")
def complete(llm: LLM) -> list[int]:
    return llm.generate(PROMPT, GREEDY, use_tqdm=False)[0].outputs[0].token_ids


def test_a_handle_gives_what_generate_gives(llm: LLM, expected: list[int]) -> None:
    handles = [llm.generate_async(PROMPT, GREEDY) for _ in range(8)]
    results = [handle.result(PATIENCE_S) for handle in handles]
    assert all(handle.done() for handle in handles)
    assert [r.outputs[0].token_ids for r in results] == [expected] * 8
    assert [r.request_id for r in results] == [handle.request_id for handle in handles]
    assert len({r.request_id for r in results}) == 8 and results[0].finished


@pytest.mark.parametrize("kind", ["cumulative", "delta", "final_only"])
def test_a_handle_is_a_stream_by_the_output_kind(llm: LLM, expected: list[int], kind: str) -> None:
    handle = llm.generate_async(PROMPT, GREEDY.replace(output_kind=kind))
    outputs = list(handle)
    tokens = [output.outputs[0].token_ids for output in outputs]
    assert (list(itertools.chain(*tokens)) if kind == "delta" else tokens[-1]) == expected
    assert len(outputs) == 1 or kind != "final_only"
    assert outputs[-1].finished and list(handle) == []
    assert handle.result(0).outputs[0].token_ids == expected


def test_streaming_says_whether_iteration_gives_more_than_the_last_output(llm: LLM, expected: list[int]) -> None:
    def lengths(kind: str, streaming: bool | None) -> list[int]:
        handle = llm.generate_async(PROMPT, GREEDY.replace(output_kind=kind), streaming=streaming)
        outputs = list(handle)
        assert handle.result(PATIENCE_S).outputs[0].token_ids == expected
        return [len(output.outputs[0].token_ids) for output in outputs]

    for kind in ("cumulative", "delta", "final_only"):
        assert lengths(kind, False) == [24]
    assert lengths("final_only", True)[-1] == lengths("cumulative", True)[-1] == 24
    assert sum(lengths("delta", True)) == 24


def test_a_handle_can_be_awaited_and_iterated_in_an_event_loop(llm: LLM, expected: list[int]) -> None:
    async def run() -> None:
        handles = [llm.generate_async(PROMPT, GREEDY.replace(output_kind="delta")) for _ in range(4)]
        assert [r.outputs[0].token_ids for r in await asyncio.gather(*handles)] == [expected] * 4

        async def read(handle: Generation) -> list[int]:
            return [token async for output in handle for token in output.outputs[0].token_ids]

        assert await asyncio.gather(*(read(handle) for handle in handles)) == [expected] * 4
        fresh = llm.generate_async(PROMPT, GREEDY.replace(output_kind="delta"))
        assert await read(fresh) == expected

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


def test_who_stops_waiting_does_not_end_the_request(llm: LLM) -> None:
    handle = llm.generate_async(PROMPT, SamplingParams(max_tokens=900, ignore_eos=True))
    llm._session.engine.pause(handle._native_id)
    with pytest.raises(TimeoutError):
        handle.result(TOO_SHORT_S)

    async def give_up() -> None:
        await asyncio.wait_for(handle, TOO_SHORT_S)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    llm._session.engine.resume(handle._native_id)
    assert len(handle.result(PATIENCE_S).outputs[0].token_ids) == 900


def test_abort_ends_a_request(llm: LLM) -> None:
    handle = llm.generate_async(PROMPT, SamplingParams(max_tokens=900, ignore_eos=True))
    handle.abort()
    result = handle.result(PATIENCE_S)
    assert result.outputs[0].finish_reason == "abort" and len(result.outputs[0].token_ids) < 900
    handle.abort()


def test_stop_strings_end_the_engines_work(llm: LLM, expected: list[int]) -> None:
    text = llm.get_tokenizer().decode(expected)
    stop = text.split()[3]
    result = llm.generate_async(PROMPT, GREEDY.replace(stop=[stop], max_tokens=900)).result(PATIENCE_S)
    assert result.outputs[0].finish_reason == "stop" and result.outputs[0].stop_reason == stop


def test_many_threads_may_submit_and_wait(llm: LLM, expected: list[int]) -> None:
    results: list[list[int]] = []

    def run() -> None:
        for _ in range(5):
            results.append(llm.generate_async(PROMPT, GREEDY).result(PATIENCE_S).outputs[0].token_ids)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 20


def test_bad_requests_raise_at_once(llm: LLM) -> None:
    with pytest.raises(ValueError, match="takes one prompt"):
        llm.generate_async(["a", "b"])
    with pytest.raises(TypeError, match="sampling_params must be SamplingParams"):
        llm.generate_async("a", {"n": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the context holds"):
        llm.generate_async([5] * 2000)


def test_shutdown_ends_handles_and_the_thread_that_reads() -> None:
    llm = LLM(device="cpu")
    handles = [llm.generate_async(PROMPT, SamplingParams(max_tokens=1000, ignore_eos=True)) for _ in range(3)]
    llm.shutdown()
    assert [handle.result(PATIENCE_S).outputs[0].finish_reason for handle in handles] == ["abort"] * 3
    assert not any(thread.name == "warpjet-reader" for thread in threading.enumerate())
    with pytest.raises(EngineError, match="closed"):
        llm.generate_async(PROMPT)


def test_closing_waits_for_a_reader_that_is_about_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[BaseException] = []

    def close() -> None:
        try:
            llm.shutdown()
        except BaseException as error:
            errors.append(error)

    closer = threading.Thread(target=close)

    class SlowToStart(threading.Thread):
        def start(self) -> None:
            closer.start()
            until(asleep)  # it has come as far as it does without this reader
            super().start()

    llm = LLM(device="null")
    monkeypatch.setattr("warpjet.requests.background.threading.Thread", SlowToStart)
    handle = llm.generate_async(PROMPT, SamplingParams(max_tokens=1))
    closer.join()
    assert handle.result(PATIENCE_S).finished and errors == []


def test_a_request_ends_when_no_thread_can_read_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRoom(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with LLM(device="null") as llm:
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="new thread"):
            patch.setattr("warpjet.requests.background.threading.Thread", NoRoom)
            llm.generate_async(PROMPT, SamplingParams(max_tokens=500))
        output = llm.generate_async(PROMPT, SamplingParams(max_tokens=3)).result(PATIENCE_S)
        assert len(output.outputs[0].token_ids) == 3


def test_the_process_may_end_while_requests_run() -> None:
    code = (
        "from warpjet import LLM, SamplingParams\n"
        "llm = LLM(device='cpu')\n"
        "h = llm.generate_async('Once', SamplingParams(max_tokens=1000, ignore_eos=True))\n"
        "next(h)\nprint('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# --- enqueue and wait_for_completion ----------------------------------------------------------------------------------


def test_what_was_enqueued_comes_in_order(llm: LLM, expected: list[int]) -> None:
    first = llm.enqueue([PROMPT, "The fox"], GREEDY)
    second = llm.enqueue(PROMPT, GREEDY.replace(max_tokens=3))
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [output.request_id for output in outputs] == first + second
    assert outputs[0].outputs[0].token_ids == expected
    assert outputs[2].outputs[0].token_ids == expected[:3]
    assert all(output.finished for output in outputs) and llm.wait_for_completion(use_tqdm=False) == []


def test_more_than_the_queue_holds_can_be_enqueued() -> None:
    with LLM(device="null", max_num_queued_reqs=4) as llm:
        ids = llm.enqueue(["a"] * 20, SamplingParams(max_tokens=50))
        outputs = llm.wait_for_completion(use_tqdm=False)
        assert [output.request_id for output in outputs] == ids and len(ids) == 20


def test_a_bad_prompt_takes_back_what_was_enqueued_with_it(llm: LLM) -> None:
    with pytest.raises(ValueError, match="the context holds"):
        llm.enqueue([[5, 6], [5] * 2000], SamplingParams(max_tokens=900, ignore_eos=True))
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_an_engine_that_is_full_refuses_and_keeps_what_it_has() -> None:
    with LLM(device="cpu", max_num_queued_reqs=1) as llm:
        busy = llm.generate_async(PROMPT, SamplingParams(max_tokens=900, ignore_eos=True))
        llm._session.engine.pause(busy._native_id)
        with pytest.raises(QueueFullError):
            llm.generate_async(PROMPT)
        with pytest.raises(QueueFullError):
            llm.enqueue([PROMPT, PROMPT])
        busy.abort()
        assert busy.result(PATIENCE_S).finished and llm.wait_for_completion(use_tqdm=False) == []


# --- beam_search ------------------------------------------------------------------------------------------------------


def test_beam_search_gives_the_native_beams(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=3, max_tokens=10, length_penalty=0.5)
    [output] = llm.beam_search(PROMPT, params)
    native = SamplingParams(beam_width=3, max_tokens=10, length_penalty=0.5, temperature=0)
    [plain] = llm.generate(PROMPT, native, use_tqdm=False)
    assert len(output.sequences) == 3
    for sequence, completion in zip(output.sequences, plain.outputs, strict=True):
        ended = completion.finish_reason == "stop"
        assert sequence.tokens == plain.prompt_token_ids + completion.token_ids[: -1 if ended else None]
        assert sequence.cum_logprob == completion.cumulative_logprob
        assert sequence.text == llm.get_tokenizer().decode(sequence.tokens)
        assert sequence.text is not None and sequence.text.startswith(PROMPT)


def test_one_beam_is_greedy_and_has_its_log_probability(llm: LLM, expected: list[int]) -> None:
    [output] = llm.beam_search([{"prompt": PROMPT}], BeamSearchParams(beam_width=1, max_tokens=24))
    [greedy] = llm.generate(PROMPT, GREEDY.replace(logprobs=0), use_tqdm=False)
    [sequence] = output.sequences
    assert sequence.tokens == greedy.prompt_token_ids + expected
    assert sequence.cum_logprob == pytest.approx(greedy.outputs[0].cumulative_logprob)


def test_the_end_token_is_kept_on_demand(llm: LLM) -> None:
    prompt = "The end."
    for keep in (False, True):
        params = BeamSearchParams(beam_width=4, max_tokens=400, include_stop_str_in_output=keep)
        [output] = llm.beam_search(prompt, params)
        ended = [s for s in output.sequences if s.finish_reason == "stop"]
        eos = set(llm.get_model_info().eos_token_ids)
        assert all((s.tokens[-1] in eos) == keep for s in ended) and ended


def test_beams_end_with_the_tokenizers_end_of_text_where_the_configs_leave_it_out(llm: LLM, tmp_path: Path) -> None:
    params = BeamSearchParams(beam_width=4, max_tokens=400)
    [expected] = llm.beam_search("The end.", params)
    model = copy_tiny(tmp_path / "model")
    end = llm.get_tokenizer().eos_token_id
    for name in ("config.json", "generation_config.json"):
        values = json.loads((model / name).read_text())
        values["eos_token_id"] = [token for token in values["eos_token_id"] if token != end]
        (model / name).write_text(json.dumps(values))
    with LLM(model, device="cpu") as other:
        assert end not in other.get_model_info().eos_token_ids
        [output] = other.beam_search("The end.", params)
    assert any(sequence.finish_reason == "stop" for sequence in expected.sequences)
    assert [sequence.tokens for sequence in output.sequences] == [sequence.tokens for sequence in expected.sequences]


@pytest.mark.parametrize(
    ("options", "error"), [({"temperature": 0.7}, "temperature must be 0"), ({"beam_width": 17}, "beam_width")]
)
def test_beams_refuse_what_they_do_not_mean(llm: LLM, options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        llm.beam_search(PROMPT, BeamSearchParams(**({"beam_width": 2, "max_tokens": 5} | options)))
    with pytest.raises(TypeError, match="BeamSearchParams"):
        llm.beam_search(PROMPT, SamplingParams(beam_width=2))  # type: ignore[arg-type]
