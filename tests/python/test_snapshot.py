"""Engine.snapshot(): what an engine shows of itself to whoever watches it."""

import json
import threading
import time
from typing import Any

import pytest
from waiting import PATIENCE_S, until

from warpjet import LLM, EngineError, SamplingParams
from warpjet._native import Engine, EngineConfig, OutputQueue
from warpjet.requests.locate import EMBEDDED_MODEL

LOOK_S, FORGOTTEN_S = 0.1, 2.1  # who has not looked for two seconds is no longer there
KEYS = {
    *("step", "now_us", "block_size", "kv_blocks", "max_model_len", "max_num_seqs"),
    *("pool", "sequences", "steps", "first_tokens", "finished"),
}


def run(engine: Engine, prompt: list[int], watched: bool = True, **params: Any) -> int:
    """Submits a request; returns its id once it has ended."""
    queue = OutputQueue()
    request = engine.submit(prompt, SamplingParams(ignore_eos=True, **params), queue)
    left = params.get("n", 1)
    while left:
        left -= sum(output.finish is not None for output in queue.poll(LOOK_S))
        if watched:
            engine.snapshot()
    return request


@pytest.fixture(name="engine")
def open_engine() -> Engine:
    return Engine.open(EMBEDDED_MODEL, EngineConfig(device="cpu", max_num_batched_tokens=64, seed=0))


def test_a_snapshot_is_plain_values_under_the_agreed_names(engine: Engine) -> None:
    engine.snapshot()
    run(engine, list(range(5, 55)), max_tokens=5)
    snapshot = engine.snapshot()
    assert set(snapshot) == KEYS
    pool = snapshot.pop("pool")
    assert isinstance(pool, bytes) and len(pool) == snapshot["kv_blocks"] == engine.stats()["kv_blocks"]
    assert json.loads(json.dumps(snapshot)) == snapshot


def test_steps_add_up_to_the_prompt_and_the_output(engine: Engine) -> None:
    assert engine.snapshot()["steps"] == []
    request = run(engine, list(range(5, 155)), max_tokens=9)
    snapshot = engine.snapshot()
    rows = [row for step in snapshot["steps"] for row in step["rows"]]
    assert all(row[:2] == [request, 0] for row in rows)
    assert [row[2] for row in rows] == [sum(row[3] for row in rows[:i]) for i in range(len(rows))]
    assert sum(row[3] for row in rows) == 150 + 9 - 1  # the last token is not computed
    assert [s["step"] for s in snapshot["steps"]] == list(range(1, snapshot["step"] + 1))
    assert all(step["us"] > 0 and step["start_us"] < snapshot["now_us"] for step in snapshot["steps"])
    [(first, step, ttft_ms)] = snapshot["first_tokens"]
    [(last, sample, end, reason, output_tokens, total_ms)] = snapshot["finished"]
    assert (first, last, sample, reason, output_tokens) == (request, request, 0, "length", 9)
    assert 0 < step < end == snapshot["step"] and 0 < ttft_ms < total_ms
    assert engine.snapshot(snapshot["step"])["steps"] == engine.snapshot(snapshot["step"])["finished"] == []


def test_the_blocks_of_a_request_appear_and_go_and_a_shared_prefix_counts_twice(engine: Engine) -> None:
    shared = list(range(5, 70))
    run(engine, shared, max_tokens=1)
    assert engine.snapshot()["pool"].count(255) == 2
    queue = OutputQueue()
    ids = [engine.submit([*shared, i], SamplingParams(max_tokens=900, ignore_eos=True), queue) for i in (7, 8)]

    def both() -> dict[str, Any] | None:
        snapshot = engine.snapshot()
        return snapshot if sum(s["output"] > 0 for s in snapshot["sequences"]) == 2 else None

    snapshot = until(both)
    sequences = {s["id"]: s for s in snapshot["sequences"]}
    assert {s["state"] for s in sequences.values()} == {"running"}
    assert [sequences[i]["cached"] for i in ids] == [64, 64]
    first, second = (sequences[i]["blocks"] for i in ids)
    assert set(first) & set(second) == set(first[:2]) and first[:2] == second[:2]
    assert [snapshot["pool"][block] for block in first] == [2, 2] + [1] * (len(first) - 2)
    for i in ids:
        engine.cancel(i)
    after = engine.snapshot(snapshot["step"])
    assert after["sequences"] == [] and not any(0 < holders < 255 for holders in after["pool"])
    assert sorted((row[0], row[3]) for row in after["finished"]) == [(i, "abort") for i in ids]


def test_nothing_is_recorded_when_nobody_looks(engine: Engine) -> None:
    run(engine, [5, 6, 7], max_tokens=5, watched=False)
    snapshot = engine.snapshot()
    assert snapshot["step"] > 0 and snapshot["steps"] == snapshot["finished"] == snapshot["first_tokens"] == []
    time.sleep(FORGOTTEN_S)
    run(engine, [5, 6, 7], max_tokens=5, watched=False)
    assert engine.snapshot()["steps"] == []


def test_watchers_on_several_threads_harm_nobody_and_learn_of_the_end() -> None:
    llm = LLM(device="cpu", max_model_len=256)
    engine = llm._session.engine
    expected = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=64), use_tqdm=False)
    errors: list[str] = []

    def watch() -> None:
        step = 0
        try:
            while True:
                step = engine.snapshot(step)["step"]
        except EngineError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    got = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=64), use_tqdm=False)
    llm.shutdown()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert got[0].outputs[0].token_ids == expected[0].outputs[0].token_ids
    assert len(errors) == 2 and all("closed" in error for error in errors)


@pytest.mark.parametrize("step", [-1, "1", 1.5, 2**64])
def test_a_step_is_a_number_from_zero(engine: Engine, step: Any) -> None:
    with pytest.raises(TypeError):
        engine.snapshot(step)
