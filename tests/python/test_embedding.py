"""Embeddings: against an independent computation, and against themselves however they are computed."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint
from reference import Llama
from waiting import PATIENCE_S, becomes

from warpjet import LLM, AsyncLLM, EmbeddingRequestOutput, EngineError, PoolingParams, SamplingParams
from warpjet._native import Output, OutputQueue

POOLINGS = ("last", "mean")
RAW = {name: PoolingParams(pooling=name, normalize=False) for name in POOLINGS}
TINY_PROMPTS = [list(range(5, 5 + length)) for length in (1, 2, 31, 32, 33, 70, 200)]


def embed(llm: LLM, prompts: list[list[int]], pooling: PoolingParams) -> list[EmbeddingRequestOutput]:
    return llm.embed([{"prompt_token_ids": p} for p in prompts], pooling_params=pooling, use_tqdm=False)


def vectors(llm: LLM, prompts: list[list[int]], pooling: PoolingParams) -> list[list[float]]:
    return [output.outputs.embedding for output in embed(llm, prompts, pooling)]


@pytest.fixture(name="alone", scope="module")
def compute_alone() -> dict[str, list[list[float]]]:
    """Of each of TINY_PROMPTS by itself."""
    with LLM(device="cpu", enable_prefix_caching=False) as llm:
        return {name: [vectors(llm, [p], RAW[name])[0] for p in TINY_PROMPTS] for name in POOLINGS}


def test_embeddings_are_the_hidden_states_of_an_independent_computation(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "llama")
    model = Llama()
    prompts = [[7], [5, 9, 30], list(range(3, 60))]
    with LLM(tmp_path, skip_tokenizer_init=True, device="cpu", dtype="float32") as llm:
        for prompt, last, mean in zip(
            prompts, vectors(llm, prompts, RAW["last"]), vectors(llm, prompts, RAW["mean"]), strict=True
        ):
            hidden = model.hidden(prompt)
            np.testing.assert_allclose(last, hidden[-1], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
        assert llm.get_model_info().hidden_size == len(last)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_num_batched_tokens": 16, "max_num_seqs": 3},
        {"max_num_batched_tokens": 64, "enable_prefix_caching": False, "max_steps_in_flight": 3},
        {"num_gpu_blocks_override": 9, "max_model_len": 256, "max_num_batched_tokens": 48, "admission_quantile": 0},
        {
            "num_gpu_blocks_override": 9,
            "max_model_len": 256,
            "max_num_batched_tokens": 48,
            "admission_quantile": 0,
            "kv_offloading_size": 0.1,
        },
    ],
)
def test_embeddings_do_not_depend_on_neighbours_chunks_or_preemption(
    options: dict[str, Any], alone: dict[str, list[list[float]]]
) -> None:
    with LLM(device="cpu", **options) as llm:
        busy = [llm.generate_async({"prompt_token_ids": [9, 8, 7]}, SamplingParams(max_tokens=60)) for _ in range(3)]
        for _ in range(2):
            for name in POOLINGS:
                assert vectors(llm, TINY_PROMPTS, RAW[name]) == alone[name]
        assert all(generation.result(PATIENCE_S).finished for generation in busy)
        assert llm.get_metrics()["kv_blocks_used"] == 0


@pytest.mark.parametrize("offloading", [0.0, 0.1])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_prompt_that_loses_its_place_half_way_counts_each_token_once(pooling: str, offloading: float) -> None:
    prompt = list(range(5, 605))
    with LLM(device="cpu", max_num_batched_tokens=16, kv_offloading_size=offloading) as llm:
        [expected] = vectors(llm, [prompt], RAW[pooling])
        engine, queue, places = llm._session.engine, OutputQueue(), set()
        request = engine.submit(prompt, SamplingParams(), queue, cache_salt="anew", pooling=RAW[pooling])
        outputs: list[Output] = []
        while not outputs:
            for sequence in engine.snapshot()["sequences"]:
                if sequence["computed"] > max(places, default=0):
                    places.add(sequence["computed"])
                    engine.pause(request)
                    engine.resume(request)
            outputs = queue.poll(0.0)
        assert outputs[0].embedding == expected and len(places) > 3


def test_last_reads_the_prefix_cache_and_mean_computes_anew() -> None:
    prompt = list(range(5, 105))
    with LLM(device="cpu") as llm:
        vectors(llm, [prompt], RAW["last"])
        assert embed(llm, [prompt], RAW["last"])[0].num_cached_tokens >= 96
        assert embed(llm, [prompt], RAW["mean"])[0].num_cached_tokens == 0


def test_they_are_normalized_and_cut_on_demand() -> None:
    with LLM(device="cpu") as llm:
        [raw] = vectors(llm, [[5, 6, 7]], RAW["last"])
        [unit] = llm.embed({"prompt_token_ids": [5, 6, 7]}, use_tqdm=False)
        np.testing.assert_allclose(unit.outputs.embedding, np.array(raw) / np.linalg.norm(raw), rtol=1e-6)
        assert unit.outputs.hidden_size == 256 and unit.prompt_token_ids == [5, 6, 7] and unit.finished
        [short] = vectors(llm, [[5, 6, 7]], PoolingParams(dimensions=10))
        np.testing.assert_allclose(short, np.array(raw[:10]) / np.linalg.norm(raw[:10]), rtol=1e-6)
        both = [PoolingParams(dimensions=4, normalize=False), PoolingParams(pooling="mean")]
        first, second = llm.embed(["Once", "upon a time"], pooling_params=both, use_tqdm=False)
        assert first.outputs.hidden_size == 4 and second.outputs.hidden_size == 256
        assert first.request_id != second.request_id


def test_a_prompt_may_fill_the_context() -> None:
    with LLM(device="cpu", max_model_len=64) as llm:
        assert len(vectors(llm, [[5] * 64], RAW["mean"])[0]) == 256
        assert len(vectors(llm, [[5] * 64], RAW["last"])[0]) == 256
        with pytest.raises(ValueError, match="65 tokens, but the context holds 64"):
            vectors(llm, [[5] * 65], RAW["last"])


def test_what_makes_no_sense_is_refused() -> None:
    with LLM(device="cpu") as llm:
        with pytest.raises(ValueError, match="dimensions: 257 asked for, but the model's embeddings have 256"):
            vectors(llm, [[5]], PoolingParams(dimensions=257))
        with pytest.raises(ValueError, match="pooling must be one of last, mean"):
            PoolingParams(pooling="max")
        with pytest.raises(ValueError, match="dimensions must be at least 1"):
            PoolingParams(dimensions=0)
        with pytest.raises(TypeError, match="pooling_params must be PoolingParams"):
            llm.embed("Once", pooling_params={"pooling": "last"})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="2 entries for 1 prompts"):
            llm.embed("Once", pooling_params=[PoolingParams()] * 2)
        with pytest.raises(ValueError, match="an embedding draws no tokens"):
            llm._session.engine.submit([5], SamplingParams(n=2), OutputQueue(), pooling=PoolingParams())
        assert llm.get_metrics()["steps"] == 0
    with LLM(device="null") as llm, pytest.raises(NotImplementedError, match=r"an embedding .* device null"):
        llm.embed("Once")


def test_an_engine_that_closes_says_why_there_is_no_embedding() -> None:
    llm = LLM(device="cpu")
    llm.shutdown()
    with pytest.raises(EngineError, match="closed"):
        llm.embed("Once")


def test_async_embeddings_are_the_same_and_can_be_aborted() -> None:
    async def run() -> None:
        with LLM(device="cpu") as llm:
            expected = [output.outputs.embedding for output in llm.embed(["Once", "upon a time"], use_tqdm=False)]
        llm = AsyncLLM(device="cpu", max_num_batched_tokens=16)
        outputs = await asyncio.gather(*(llm.embed(text) for text in ("Once", "upon a time")))
        assert [output.outputs.embedding for output in outputs] == expected
        long = asyncio.create_task(llm.embed([5] * 1000, PoolingParams(pooling="mean"), "long"))
        while not llm.is_live("long"):
            await asyncio.sleep(0)
        with pytest.raises(ValueError, match="'long' is live already"):
            await llm.embed("Once", request_id="long")
        await llm.abort("long")
        with pytest.raises(EngineError, match="aborted"):
            await long
        cancelled = asyncio.create_task(llm.embed([6] * 1000))
        while not llm.live_requests():
            await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await becomes(lambda: not llm.get_metrics()["kv_blocks_used"])
        llm.shutdown()

    asyncio.run(asyncio.wait_for(run(), PATIENCE_S))
