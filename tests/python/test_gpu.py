"""A GPU against transformers on the same GPU, against itself under every way to run, and against the CPU.

WARPJET_TEST_DEVICE=cpu runs the same tests there instead, which checks the tests and not the GPU."""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import TINY, write_checkpoint
from waiting import PATIENCE_S

from warpjet import LLM, PoolingParams, RequestOutput, SamplingParams, StructuredOutputsParams, build
from warpjet._native import cuda_status

DEVICE = os.environ.get("WARPJET_TEST_DEVICE", "cuda")
ON_GPU = DEVICE != "cpu"
REASON = cuda_status().unavailable_reason

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(ON_GPU and bool(REASON), reason=REASON)]
only_on_a_gpu = pytest.mark.skipif(not ON_GPU, reason="it is about memory and kernels of a GPU")

SEED = 23
VOCAB = 512  # a GPU reports log-probabilities of up to 1024 tokens
# Head sizes, groups, windows and biases that the kernels tell apart; large enough for every kernel of a matrix product.
WIDE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 256,
    "intermediate_size": 384,
    "max_position_embeddings": 1024,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama_hd64": {"family": "llama", "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 2},
    "llama_hd128": {"family": "llama", "head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 1},
    "llama_hd96": {"family": "llama", "head_dim": 96, "num_attention_heads": 4, "num_key_value_heads": 4},
    "qwen2_hd64": {"family": "qwen2", "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen3_hd128": {"family": "qwen3", "head_dim": 128, "num_attention_heads": 8, "num_key_value_heads": 4},
    "mistral_window_hd96": {
        "family": "mistral",
        "head_dim": 96,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "sliding_window": 40,
    },
}
LENGTHS = (1, 7, 64, 129, 300, 513)  # around the tiles of 64 and 128 rows and the splits of 256 keys


def checkpoint(folder: Path, shape: str, dtype: str) -> Path:
    """Weights so small that logits have a deviation of about one, as a trained model's have."""
    return write_checkpoint(folder, seed=SEED, torch_dtype=dtype, scale=0.025, **WIDE | SHAPES[shape])


def make_prompts(vocab: int, lengths: Sequence[int]) -> list[dict[str, list[int]]]:
    """The first tokens are common to all, so that prefixes are found."""
    rng = random.Random(SEED)
    shared = [rng.randrange(3, vocab) for _ in range(70)]
    return [{"prompt_token_ids": (shared + rng.choices(range(3, vocab), k=length))[:length]} for length in lengths]


def open_llm(path: Path, device: str = DEVICE, **options: Any) -> LLM:
    return LLM(path, device=device, skip_tokenizer_init=True, generation_config="warpjet", **options)


# --- Against transformers ---------------------------------------------------------------------------------------------


def dense(entry: dict[int, Any]) -> np.ndarray[Any, Any]:
    return np.array([entry[token].logprob for token in range(VOCAB)])


def our_logprobs(output: RequestOutput) -> np.ndarray[Any, Any]:
    """[positions, vocabulary]: after each token of the prompt, then after each generated one but the last."""
    assert output.prompt_logprobs is not None and output.outputs[0].logprobs is not None
    rows = [dense(entry) for entry in output.prompt_logprobs[1:] if entry is not None]
    return np.stack(rows + [dense(entry) for entry in output.outputs[0].logprobs])


class Peer:
    """transformers on the same device; its distribution after each token of a text, in one pass."""

    def __init__(self, folder: Path, dtype: str) -> None:
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        if ON_GPU and not torch.cuda.is_available():
            pytest.skip("torch sees no GPU")
        load = transformers.AutoModelForCausalLM.from_pretrained
        attention = "eager" if dtype == "float32" else "sdpa"  # whose kernels may round fp32 operands
        self.model = load(folder, dtype=getattr(torch, dtype), attn_implementation=attention).eval().to(DEVICE)

    def logprobs(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([tokens], device=DEVICE)).logits[0]
            return torch.log_softmax(logits.double(), -1).cpu().numpy()  # type: ignore[no-any-return]


def kl(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """The mean over positions of the divergence of b from a."""
    return float((np.exp(a) * (a - b)).sum(-1).mean())


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_transformers_on_the_same_device(shape: str, dtype: str, tmp_path: Path) -> None:
    """Log-probabilities as near to fp32's as torch's own are, and the same most likely token wherever rounding leaves
    one: both round, differently, and where two tokens are nearer than that there is nothing to agree on."""
    path = checkpoint(tmp_path, shape, dtype)
    peer, exact = Peer(path, dtype), Peer(path, "float32")
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=-1, prompt_logprobs=-1)
    with open_llm(path, dtype=dtype, max_logprobs=-1) as llm:
        outputs = llm.generate(make_prompts(VOCAB, LENGTHS), params, use_tqdm=False)
    ours = np.concatenate([our_logprobs(output) for output in outputs])
    texts = [output.prompt_token_ids + output.outputs[0].token_ids[:-1] for output in outputs]
    theirs, truth = (np.concatenate([model.logprobs(text) for text in texts]) for model in (peer, exact))

    noise = math.sqrt(np.square(theirs - truth).mean())
    assert math.sqrt(np.square(ours - truth).mean()) <= max(1.5 * noise, 1e-5)
    assert kl(theirs, ours) <= {"bfloat16": 1e-4, "float16": 3e-6, "float32": 1e-7}[dtype]
    best = np.sort(truth, -1)
    decided = best[:, -1] - best[:, -2] > 4 * noise
    assert decided.mean() > 0.8
    assert (ours.argmax(-1) == theirs.argmax(-1))[decided].mean() >= 0.99


# --- Against itself ---------------------------------------------------------------------------------------------------


def facts(outputs: Sequence[RequestOutput]) -> list[Any]:
    """All that must be equal, bit for bit."""
    return [
        (
            output.prompt_logprobs,
            [(c.index, c.token_ids, c.logprobs, c.cumulative_logprob, c.finish_reason) for c in output.outputs],
        )
        for output in outputs
    ]


# Greedy and seeded, with and without all that changes logits; two completions of one prompt.
FORMS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.8, "top_p": 0.9, "seed": 6, "repetition_penalty": 1.2, "prompt_logprobs": 2},
    {"temperature": 1.2, "top_k": 30, "seed": 7, "n": 2},
    {"temperature": 1.1, "min_p": 0.02, "seed": 8, "presence_penalty": 0.5, "frequency_penalty": 0.3},
)


class Texts:
    """A checkpoint, 15 requests, and what each gives alone."""

    def __init__(self, path: Path, lengths: Sequence[int]) -> None:
        self.path = path
        self.windowed = "sliding_window" in (path / "config.json").read_text()
        with open_llm(path, enable_prefix_caching=False) as llm:
            self.prompts = make_prompts(llm.get_model_info().vocab_size, lengths)
            fixed: dict[str, Any] = {"max_tokens": 16, "ignore_eos": True, "logprobs": 3}
            self.params = [SamplingParams(**fixed | FORMS[i % len(FORMS)]) for i in range(len(self.prompts))]
            pairs = zip(self.prompts, self.params, strict=True)
            self.alone = facts([llm.generate(prompt, params, use_tqdm=False)[0] for prompt, params in pairs])

    def run(self, llm: LLM) -> list[Any]:
        return facts(llm.generate(self.prompts, self.params, use_tqdm=False))

    def run_with(self, **options: Any) -> list[Any]:
        with open_llm(self.path, **options) as llm:
            return self.run(llm)


@pytest.fixture(scope="module", params=["tiny", "llama_hd128", "qwen3_hd128", "mistral_window_hd96"])
def texts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Texts:
    lengths = (*LENGTHS, 33, 90, 2, 257, 31, 100, 65, 200, 17)
    if request.param == "tiny":
        return Texts(TINY, lengths)
    dtype = "float16" if request.param == "qwen3_hd128" else "bfloat16"
    return Texts(checkpoint(tmp_path_factory.mktemp("texts"), request.param, dtype), lengths)


WAYS: dict[str, dict[str, Any]] = {
    "batched": {},
    "eager": {"enforce_eager": True},
    "one_step_at_a_time": {"max_steps_in_flight": 1},
    "three_steps_in_flight": {"max_steps_in_flight": 3, "max_num_seqs": 5},
    "eager_one_step_at_a_time": {"enforce_eager": True, "max_steps_in_flight": 1},
    "chunks_of_48": {"max_num_batched_tokens": 48, "max_num_seqs": 16},
    "chunks_of_300_eager": {"max_num_batched_tokens": 300, "max_num_seqs": 4, "enforce_eager": True},
    "blocks_of_16": {"block_size": 16},
    "blocks_of_64": {"block_size": 64},
}


@pytest.mark.parametrize("way", WAYS)
def test_alone_is_the_same_as(way: str, texts: Texts) -> None:
    assert texts.run_with(**WAYS[way]) == texts.alone


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_alone_are_the_same_as(pooling: str, texts: Texts) -> None:
    params = PoolingParams(pooling=pooling)
    with open_llm(texts.path, enable_prefix_caching=False) as llm:
        alone = [llm.embed(prompt, pooling_params=params, use_tqdm=False)[0].outputs for prompt in texts.prompts]
    for way in ("batched", "eager", "three_steps_in_flight", "chunks_of_48"):
        with open_llm(texts.path, **WAYS[way]) as llm:
            busy = [llm.generate_async(prompt, texts.params[0]) for prompt in texts.prompts[:3]]
            together = llm.embed(texts.prompts, pooling_params=params, use_tqdm=False)
            assert [output.outputs for output in together] == alone, way
            assert all(text.result(PATIENCE_S).finished for text in busy)


def test_alone_is_the_same_as_after_a_prefix_hit(texts: Texts) -> None:
    with open_llm(texts.path) as llm:
        texts.run(llm)
        before = llm.get_metrics()["cached_tokens"]
        assert texts.run(llm) == texts.alone
        assert llm.get_metrics()["cached_tokens"] > before


@pytest.mark.parametrize("mode", ["recompute", "swap"])
def test_alone_is_the_same_as_after_preemption(mode: str, texts: Texts) -> None:
    tight: dict[str, Any] = {"num_gpu_blocks_override": 14, "block_size": 16, "admission_quantile": 0}
    params = [params.replace(max_tokens=100) for params in texts.params[:8]]
    with open_llm(texts.path) as llm:
        prompts = make_prompts(llm.get_model_info().vocab_size, (1, 50, 17, 33, 90, 64, 41, 7))
        alone = facts([llm.generate(p, s, use_tqdm=False)[0] for p, s in zip(prompts, params, strict=True)])
    with open_llm(texts.path, preemption_mode=mode, kv_offloading_size=0.05, **tight) as llm:
        assert facts(llm.generate(prompts, params, use_tqdm=False)) == alone
        metrics = llm.get_metrics()
        assert metrics["preemptions"] > 0 or texts.windowed  # which lets go of blocks instead
        assert (metrics["swaps"] > 0) == (mode == "swap" and metrics["preemptions"] > 0)
        assert metrics["kv_blocks_used"] == 0


def test_alone_is_the_same_as_beside_many(texts: Texts) -> None:
    """More sequences than the largest tile for few rows has, so that decoding takes the kernels for many."""
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=3)
    with open_llm(texts.path, enable_prefix_caching=False) as llm:
        prompts = make_prompts(llm.get_model_info().vocab_size, [3 + 5 * i % 97 for i in range(150)])
        together = facts(llm.generate(prompts, params, use_tqdm=False))
        some = range(0, len(prompts), 17)
        alone = facts([llm.generate(prompts[i], params, use_tqdm=False)[0] for i in some])
    assert alone == [together[i] for i in some]


def test_a_built_engine_is_the_same(texts: Texts, tmp_path: Path) -> None:
    """With kernels that were timed on this device."""
    build(texts.path, tmp_path / "engine", device=DEVICE)
    with open_llm(tmp_path / "engine") as llm:
        assert texts.run(llm) == texts.alone


# --- Against the CPU --------------------------------------------------------------------------------------------------

PROMPT = list(range(40, 70))
FEW = list(range(100, 160, 3))
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {},
    "hot": {"temperature": 1.5},
    "top_k": {"temperature": 1.3, "top_k": 5},
    "top_p": {"temperature": 1.3, "top_p": 0.6},
    "min_p": {"temperature": 1.3, "min_p": 0.05},
    "all_cuts": {"temperature": 1.5, "min_p": 0.01, "top_k": 40, "top_p": 0.8},
    "repetition_penalty": {"temperature": 0, "repetition_penalty": 1.5},
    "presence_penalty": {"temperature": 0, "presence_penalty": 1.5},
    "frequency_penalty": {"temperature": 0, "frequency_penalty": 1.0},
    "all_penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.7},
    "logit_bias": {"temperature": 0, "logit_bias": {300: 8.0, 301: 7.5, 40: -100.0}},
    "allowed_token_ids": {"allowed_token_ids": FEW},
    "bad_words": {"temperature": 0, "bad_words_token_ids": [[t] for t in range(0, 3072, 4)] + [[40, 41], [7, 8, 10]]},
    "min_tokens": {"temperature": 0, "min_tokens": 9, "ignore_eos": False, "allowed_token_ids": [2, *FEW]},
    "min_tokens_stop": {"min_tokens": 5, "stop_token_ids": FEW, "allowed_token_ids": [*FEW, 7, 9]},
    "n": {"n": 4},
    "n_greedy_logprobs": {"n": 2, "temperature": 0, "logprobs": 5, "prompt_logprobs": 3},
    "logprobs": {"logprobs": 20, "prompt_logprobs": 20},
    "together": {"n": 3, "temperature": 1.3, "top_k": 50, "repetition_penalty": 1.3, "logit_bias": {8: 3.0}},
    "beams": {"beam_width": 4},
    "beams_long": {"beam_width": 3, "length_penalty": 2.0, "max_tokens": 40},
}


def sampling_of(name: str) -> SamplingParams:
    fields = SAMPLING[name]
    if "beam_width" in fields:
        return SamplingParams(**{"max_tokens": 16} | fields)
    return SamplingParams(**{"seed": SEED, "max_tokens": 24, "ignore_eos": True} | fields)


@pytest.fixture(scope="module")
def exact() -> Iterator[LLM]:
    """The embedded model in fp32, on the device."""
    with open_llm(TINY, dtype="float32") as llm:
        yield llm


@pytest.fixture(scope="module")
def expected() -> dict[str, RequestOutput]:
    """What the CPU gives."""
    with open_llm(TINY, "cpu", dtype="float32") as llm:
        return {name: llm.generate(PROMPT, sampling_of(name), use_tqdm=False)[0] for name in SAMPLING}


def assert_same_texts(ours: RequestOutput, theirs: RequestOutput) -> None:
    """Equal tokens; log-probabilities but for the order of fp32 sums."""

    def ends(output: RequestOutput) -> list[Any]:
        return [(c.index, c.token_ids, c.finish_reason, c.stop_reason) for c in output.outputs]

    def entries(output: RequestOutput) -> list[tuple[int, float]]:
        """Each token and its own entry: the least of the others may be another one where two are all but equal."""
        rows = [*zip(output.prompt_token_ids, output.prompt_logprobs or (), strict=False)]
        rows += [row for c in output.outputs for row in zip(c.token_ids, c.logprobs or (), strict=False)]
        return [(token, row[token].logprob) for token, row in rows if row is not None]

    assert ends(ours) == ends(theirs)
    assert [token for token, _ in entries(ours)] == [token for token, _ in entries(theirs)]
    assert [value for _, value in entries(ours)] == pytest.approx([value for _, value in entries(theirs)], abs=2e-4)
    for a, b in zip(ours.outputs, theirs.outputs, strict=True):
        wanted = b.cumulative_logprob
        assert a.cumulative_logprob == (None if wanted is None else pytest.approx(wanted, abs=2e-3))


@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_is_that_of_the_cpu(name: str, exact: LLM, expected: dict[str, RequestOutput]) -> None:
    assert_same_texts(exact.generate(PROMPT, sampling_of(name), use_tqdm=False)[0], expected[name])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_are_those_of_the_cpu(pooling: str, exact: LLM) -> None:
    params = PoolingParams(pooling=pooling, normalize=False)
    prompts = [PROMPT, PROMPT * 20, PROMPT[:1]]
    with open_llm(TINY, "cpu", dtype="float32") as llm:
        theirs = llm.embed(prompts, pooling_params=params, use_tqdm=False)
    for a, b in zip(exact.embed(prompts, pooling_params=params, use_tqdm=False), theirs, strict=True):
        x, y = np.array(a.outputs.embedding), np.array(b.outputs.embedding)
        assert np.linalg.norm(x - y) <= 1e-4 * np.linalg.norm(y)


def test_sampling_in_one_batch_is_that_of_the_cpu(exact: LLM, expected: dict[str, RequestOutput]) -> None:
    names = [name for name in SAMPLING for _ in range(3)]
    outputs = exact.generate([PROMPT] * len(names), [sampling_of(name) for name in names], use_tqdm=False)
    for name, output in zip(names, outputs, strict=True):
        assert_same_texts(output, expected[name])


def test_completions_differ_and_are_each_reproducible(exact: LLM) -> None:
    params = SamplingParams(n=4, seed=SEED, max_tokens=24, ignore_eos=True)
    first, again = (exact.generate(PROMPT, params, use_tqdm=False)[0] for _ in range(2))
    assert facts([first]) == facts([again])
    assert len({tuple(c.token_ids) for c in first.outputs}) == 4


def test_the_rank_of_log_probabilities(exact: LLM) -> None:
    params = SamplingParams(seed=SEED, temperature=1.5, max_tokens=12, ignore_eos=True, logprobs=20)
    completion = exact.generate(PROMPT, params, use_tqdm=False)[0].outputs[0]
    for token, row in zip(completion.token_ids, completion.logprobs or (), strict=True):
        best = sorted((entry.rank or 0, -entry.logprob) for other, entry in row.items() if (entry.rank or 0) <= 20)
        assert [rank for rank, _ in best] == list(range(1, 21))
        assert best == sorted(best, key=lambda pair: pair[1]) and token in row


# --- Opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu", "cuda:-1", "cuda:x", "cuda:", "CUDA", "cpu:0", ""])
def test_a_device_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device"):
        open_llm(TINY, name)


@only_on_a_gpu
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda:99"):
        open_llm(TINY, "cuda:99")


@only_on_a_gpu
def test_too_little_memory_is_said_in_numbers() -> None:
    with pytest.raises(ValueError, match=r"does not fit.*GiB.*gpu_memory_utilization"):
        open_llm(TINY, gpu_memory_utilization=1e-4)
    with pytest.raises(ValueError, match=r"KV cache of .* does not fit.*kv_cache_memory_bytes"):
        open_llm(TINY, num_gpu_blocks_override=1 << 24)
    with open_llm(TINY) as llm:  # nothing of it stays
        assert llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=2, ignore_eos=True), use_tqdm=False)


@only_on_a_gpu
def test_more_log_probabilities_than_a_gpu_reports_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="max_logprobs"):
        open_llm(TINY, max_logprobs=-1)


@only_on_a_gpu
def test_gpu_memory_utilization_bounds_the_cache() -> None:
    sizes = []
    for share in (0.05, 0.02):
        with open_llm(TINY, gpu_memory_utilization=share, max_num_seqs=2048) as llm:
            sizes.append(llm.get_metrics()["kv_blocks"])
    assert sizes[0] > sizes[1] > 0


def test_random_weights_need_no_more_than_a_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((TINY / "config.json").read_text())
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=2)
    seen = []
    for _ in range(2):
        with open_llm(tmp_path, load_format="dummy") as llm:
            seen.append(facts(llm.generate(PROMPT, params, use_tqdm=False)))
    assert seen[0] == seen[1]


@only_on_a_gpu
def test_bench_kernels_times_those_of_a_step() -> None:
    command = (sys.executable, "-m", "warpjet", "bench", "kernels", "--device", DEVICE, "--rows", "1", "128", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["rows"] for row in rows} == {1, 128}
    assert {"gemm", "norm", "attention", "embed"} <= {row["op"] for row in rows}
    assert all(row["us"] > 0 and row["bytes"] > 0 and row["kernel"].startswith("sm") for row in rows)


# --- Guides -----------------------------------------------------------------------------------------------------------


def test_guided_requests_are_what_they_ask_for_alone_and_beside_others() -> None:
    pet = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 30}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    guided = SamplingParams(structured_outputs=StructuredOutputsParams(json=pet), max_tokens=150, n=2)
    free = SamplingParams(max_tokens=100, ignore_eos=True)
    params = [(free if i % 4 == 0 else guided).replace(seed=i) for i in range(200)]
    prompts = [f"Once upon a time, {i}" for i in range(200)]
    with LLM(TINY, device=DEVICE) as llm:
        together = [output.outputs for output in llm.generate(prompts, params, use_tqdm=False)]
        for i in range(0, 200, 23):
            assert llm.generate(prompts[i], params[i], use_tqdm=False)[0].outputs == together[i]
        for i, completions in enumerate(together):
            for completion in completions if i % 4 else []:
                assert completion.finish_reason == "stop" and set(json.loads(completion.text)) == {"name", "age"}
