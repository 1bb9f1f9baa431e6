"""A request's tokens and log-probabilities do not depend on what runs beside it, before it, or how it is cut."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpoints import TINY, write_checkpoint

from warpjet import LLM, RequestOutput, SamplingParams, build

SEED = 11


def make_prompts(vocab: int, lengths: Sequence[int]) -> list[dict[str, list[int]]]:
    rng = random.Random(SEED)
    shared = [rng.randrange(3, vocab) for _ in range(40)]  # more than a block that prompts have in common
    return [
        {"prompt_token_ids": (shared + [rng.randrange(3, vocab) for _ in range(200)])[:length]} for length in lengths
    ]


def make_params(count: int) -> list[SamplingParams]:
    """Greedy and seeded ones in turn, with and without penalties."""
    forms: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 0.8, "top_p": 0.9, "seed": 6, "repetition_penalty": 1.2, "prompt_logprobs": 2},
        {"temperature": 1.2, "top_k": 30, "seed": 7, "n": 2},
    ]
    return [SamplingParams(max_tokens=48, ignore_eos=True, logprobs=3, **forms[i % len(forms)]) for i in range(count)]


def facts(outputs: Sequence[RequestOutput]) -> list[Any]:
    """All that must be equal."""
    return [
        (
            output.prompt_logprobs,
            [(c.index, c.token_ids, c.logprobs, c.cumulative_logprob, c.finish_reason) for c in output.outputs],
        )
        for output in outputs
    ]


class Model:
    """A checkpoint, its prompts, and what each gives alone; each of its `groups` of layers takes blocks for a text."""

    def __init__(self, path: Path, groups: int = 1) -> None:
        self.path, self.groups = path, groups
        self.windowed = "sliding_window" in (path / "config.json").read_text()
        with LLM(path, skip_tokenizer_init=True, enable_prefix_caching=False) as llm:
            self.prompts = make_prompts(llm.get_model_info().vocab_size, (1, 50, 17, 33, 90, 64, 41, 7))
            self.params = make_params(len(self.prompts))
            pairs = zip(self.prompts, self.params, strict=True)
            self.alone = facts([llm.generate(p, s, use_tqdm=False)[0] for p, s in pairs])

    def run(self, llm: LLM) -> list[Any]:
        return facts(llm.generate(self.prompts, self.params, use_tqdm=False))

    def run_with(self, **options: Any) -> list[Any]:
        with LLM(self.path, skip_tokenizer_init=True, **options) as llm:
            return self.run(llm)


@pytest.fixture(scope="module", params=["tiny", "window", "groups", "qwen3_bf16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("equality")
    if request.param == "window":
        return Model(write_checkpoint(path, "mistral", sliding_window=24, max_position_embeddings=256))
    if request.param == "groups":  # one layer sees everything, one slides
        window = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
        return Model(write_checkpoint(path, "qwen2", max_position_embeddings=256, **window), groups=2)
    if request.param == "qwen3_bf16":
        return Model(write_checkpoint(path, "qwen3", torch_dtype="bfloat16", max_position_embeddings=256))
    return Model(TINY)


def test_batched(model: Model) -> None:
    assert model.run_with() == model.alone


def test_repeated(model: Model) -> None:
    assert model.run_with() == model.run_with()


def test_chunked(model: Model) -> None:
    assert model.run_with(max_num_batched_tokens=9, max_num_seqs=4) == model.alone


def test_other_block_size(model: Model) -> None:
    assert model.run_with(block_size=16) == model.alone


def test_one_thread(model: Model) -> None:
    assert model.run_with(num_threads=1) == model.alone


def test_after_prefix_hit(model: Model) -> None:
    with LLM(model.path, skip_tokenizer_init=True) as llm:
        model.run(llm)
        assert model.run(llm) == model.alone
        assert llm.get_metrics()["cached_tokens"] > 0
        llm.reset_prefix_cache()
        assert model.run(llm) == model.alone


def test_after_preemption(model: Model) -> None:
    with LLM(model.path, skip_tokenizer_init=True, num_gpu_blocks_override=10 * model.groups, block_size=16) as llm:
        assert model.run(llm) == model.alone
        assert llm.get_metrics()["preemptions"] > 0 or model.windowed  # which releases blocks instead


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_overlapped(model: Model, depth: int) -> None:
    assert model.run_with(max_steps_in_flight=depth, max_num_seqs=5) == model.alone


@pytest.mark.parametrize("mode", ["swap", "recompute"])
@pytest.mark.parametrize("caching", [True, False])
def test_after_preemption_with_a_host_tier(model: Model, mode: str, caching: bool) -> None:
    blocks = (10 if caching else 9) * model.groups
    tight: dict[str, Any] = {"num_gpu_blocks_override": blocks, "block_size": 16, "admission_quantile": 0}
    options = {"kv_offloading_size": 0.01, "preemption_mode": mode, "enable_prefix_caching": caching}
    with LLM(model.path, skip_tokenizer_init=True, **tight, **options) as llm:
        assert model.run(llm) == model.alone
        metrics = llm.get_metrics()
        assert metrics["preemptions"] > 0 or model.windowed  # which releases blocks instead
        assert (metrics["swaps"] > 0) == (mode == "swap" and metrics["preemptions"] > 0)
        assert model.run(llm) == model.alone


def test_after_offloading(model: Model) -> None:
    """The second run finds on the host what the device had no room for."""
    with LLM(
        model.path,
        skip_tokenizer_init=True,
        num_gpu_blocks_override=14 * model.groups,
        block_size=16,
        kv_offloading_size=0.01,
    ) as llm:
        model.run(llm)
        assert model.run(llm) == model.alone
        metrics = llm.get_metrics()
        assert metrics["kv_blocks_offloaded"] > 0
        assert metrics["kv_blocks_restored"] > 0


@pytest.mark.parametrize("policy", ["priority", "fair"])
def test_other_policies(model: Model, policy: str) -> None:
    with LLM(model.path, skip_tokenizer_init=True, scheduling_policy=policy, max_num_seqs=3) as llm:
        priorities = [i % 3 for i in range(len(model.prompts))]
        assert facts(llm.generate(model.prompts, model.params, use_tqdm=False, priority=priorities)) == model.alone


def test_under_random_cancels(model: Model) -> None:
    """Cancelled at any moment, with swapping and offloading: whoever is left is not disturbed."""
    rng = random.Random(SEED)
    with LLM(
        model.path,
        skip_tokenizer_init=True,
        num_gpu_blocks_override=20 * model.groups,
        block_size=16,
        kv_offloading_size=0.01,
    ) as llm:
        for _ in range(6):
            streams = [iter(llm.stream(model.prompts, model.params)) for _ in range(2)]
            for stream in streams:
                for _ in range(rng.randrange(1, 12)):
                    next(stream)
            streams[0].close()  # type: ignore[attr-defined]
            outputs = llm.generate(model.prompts, model.params, use_tqdm=False)
            assert facts(outputs) == model.alone
            streams[1].close()  # type: ignore[attr-defined]
        assert llm.get_metrics()["kv_blocks_used"] == 0


def test_built_engine(model: Model, tmp_path: Path) -> None:
    build(model.path, tmp_path / "engine")
    with LLM(tmp_path / "engine", skip_tokenizer_init=True) as llm:
        assert model.run(llm) == model.alone


def test_beside_cancelled_requests(model: Model) -> None:
    with LLM(model.path, skip_tokenizer_init=True) as llm:
        for _ in range(3):
            stream = llm.stream(model.prompts, model.params)
            next(stream)
            stream.close()  # type: ignore[attr-defined]
        assert model.run(llm) == model.alone
        assert llm.get_metrics()["kv_blocks_used"] == 0
