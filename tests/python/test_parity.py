"""Log-probabilities and greedy tokens against Hugging Face transformers, for random tiny models of every family.

fp32: relative L2 distance of the log-probabilities at most 1e-5, prompt and decode. bf16: as close to the fp32 result
of the same weights as torch's own bf16 computation is (times 1.5, since both are noise), and fp16 likewise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from warpjet import LLM, PoolingParams, SamplingParams, build  # noqa: E402

pytestmark = pytest.mark.parity

VOCAB = 199
SMALL = dict(
    vocab_size=VOCAB,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.2,
    bos_token_id=1,
    eos_token_id=2,
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)

GEMMA3: dict[str, Any] = dict(
    num_hidden_layers=3,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    sliding_window=9,
    query_pre_attn_scalar=24,
    rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=4.0, rope_theta=20000.0),
        sliding_attention=dict(rope_type="default", rope_theta=5000.0),
    ),
)

# name -> (config class, overrides)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama_tied": ("LlamaConfig", dict(tie_word_embeddings=True)),
    "llama_mha": ("LlamaConfig", dict(num_key_value_heads=4)),
    "llama_mqa": ("LlamaConfig", dict(num_key_value_heads=1)),
    "llama_biases": ("LlamaConfig", dict(attention_bias=True, mlp_bias=True)),
    "llama_head_dim": ("LlamaConfig", dict(head_dim=32)),
    "llama_gelu": ("LlamaConfig", dict(hidden_act="gelu_pytorch_tanh")),
    "llama_theta": ("LlamaConfig", dict(rope=dict(rope_type="default", rope_theta=500000.0))),
    "llama_linear": ("LlamaConfig", dict(rope=dict(rope_type="linear", factor=4.0))),
    "llama_dynamic": ("LlamaConfig", dict(rope=dict(rope_type="dynamic", factor=4.0), max_position_embeddings=24)),
    "llama_yarn": ("LlamaConfig", dict(rope=YARN)),
    "llama_yarn_mscale": ("LlamaConfig", dict(rope=YARN | dict(mscale=1.0, mscale_all_dim=0.8, beta_fast=16.0))),
    "llama_yarn_attention_factor": ("LlamaConfig", dict(rope=YARN | dict(attention_factor=0.7))),
    "llama_llama3": ("LlamaConfig", dict(rope=LLAMA3)),
    "mistral": ("MistralConfig", dict(sliding_window=None)),
    "mistral_window": ("MistralConfig", dict(sliding_window=9)),
    "qwen2": ("Qwen2Config", {}),
    "qwen2_tied": ("Qwen2Config", dict(tie_word_embeddings=True)),
    "qwen2_window": (
        "Qwen2Config",
        dict(use_sliding_window=True, sliding_window=7, max_window_layers=1, num_hidden_layers=3),
    ),
    "qwen3": ("Qwen3Config", dict(head_dim=32)),
    "fp8": ("LlamaConfig", dict(hidden_size=256, intermediate_size=384, head_dim=64)),
    "qwen3_bias": ("Qwen3Config", dict(head_dim=16, attention_bias=True)),
    "gemma3": ("Gemma3TextConfig", dict(head_dim=32) | GEMMA3),
    "gemma3_untied": ("Gemma3TextConfig", dict(head_dim=16, tie_word_embeddings=False, attention_bias=True) | GEMMA3),
}
PROMPT_LENGTHS = (1, 5, 31, 47)
NEW_TOKENS = 12


def make_checkpoint(folder: Path, case: str, dtype: Any, spelling: str) -> Path:
    """A random model, saved by transformers; `spelling` 4 rewrites config.json as transformers 4 wrote it."""
    cls, overrides = CASES[case]
    values = SMALL | {k: v for k, v in overrides.items() if k != "rope"}
    config = getattr(transformers, cls)(**values)
    rope = overrides.get("rope")
    if rope:
        config.rope_parameters = {"rope_theta": 10000.0} | rope
    torch.manual_seed(sum(map(ord, case)))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    if spelling == "4":
        file = folder / "config.json"
        raw = json.loads(file.read_text())
        parameters = raw.pop("rope_parameters", None) or {}
        if "full_attention" in parameters:
            raw["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
            parameters = parameters["full_attention"]
        raw["rope_theta"] = parameters.pop("rope_theta", 10000.0)
        kind = parameters.get("rope_type", "default")
        raw["rope_scaling"] = None if kind == "default" else parameters | {"type": kind}
        raw["torch_dtype"] = raw.pop("dtype", str(dtype).removeprefix("torch."))
        file.write_text(json.dumps(raw))
    return folder


def hf_logprobs(folder: Path, dtype: Any, tokens: list[int], prompt: int) -> np.ndarray[Any, Any]:
    """[len(tokens), vocab]: the prompt in one forward, the rest token by token with a cache, as generation runs."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    rows = []
    with torch.no_grad():
        out = model(torch.tensor([tokens[:prompt]]), use_cache=True)
        rows.append(out.logits[0])
        for token in tokens[prompt:]:
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            rows.append(out.logits[0])
    return torch.log_softmax(torch.cat(rows).float(), -1).numpy()


def dense(entry: dict[int, Any]) -> np.ndarray[Any, Any]:
    assert len(entry) == VOCAB
    return np.array([entry[i].logprob for i in range(VOCAB)])


def our_logprobs(output: Any) -> np.ndarray[Any, Any]:
    """Row i: the distribution after token i of the prompt, then after each generated token but the last."""
    rows = [dense(entry) for entry in output.prompt_logprobs[1:]]
    return np.stack(rows + [dense(entry) for entry in output.outputs[0].logprobs])


def relative(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def prompts(seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB, n).tolist() for n in PROMPT_LENGTHS]


def run_ours(folder: Path, batch: list[list[int]], **options: Any) -> list[Any]:
    params = SamplingParams(
        temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=-1, prompt_logprobs=-1, detokenize=False
    )
    with LLM(str(folder), skip_tokenizer_init=True, max_logprobs=-1, generation_config="warpjet", **options) as llm:
        return llm.generate([{"prompt_token_ids": p} for p in batch], params, use_tqdm=False)


@pytest.mark.parametrize("spelling", ["4", "5"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_fp32_matches_transformers(case: str, spelling: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, case, torch.float32, spelling)
    batch = prompts(7)
    for prompt, output in zip(batch, run_ours(folder, batch), strict=True):
        tokens = prompt + list(output.outputs[0].token_ids)
        expected = hf_logprobs(folder, torch.float32, tokens[:-1], len(prompt))
        assert relative(our_logprobs(output), expected) <= 1e-5
        greedy = expected[len(prompt) - 1 :].argmax(-1).tolist()
        assert list(output.outputs[0].token_ids) == greedy


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["llama", "llama_biases", "llama_llama3", "mistral_window", "qwen2", "qwen3"])
def test_half_precision_is_as_close_as_torch(case: str, dtype: str, tmp_path: Path) -> None:
    half = getattr(torch, dtype)
    folder = make_checkpoint(tmp_path, case, half, "5")
    batch = prompts(11)
    ours_error, torch_error = [], []
    for prompt, output in zip(batch, run_ours(folder, batch), strict=True):
        tokens = prompt + list(output.outputs[0].token_ids)
        exact = hf_logprobs(folder, torch.float32, tokens[:-1], len(prompt))
        ours_error.append(relative(our_logprobs(output), exact))
        torch_error.append(relative(hf_logprobs(folder, half, tokens[:-1], len(prompt)), exact))
    assert np.mean(ours_error) <= 1.5 * np.mean(torch_error), (ours_error, torch_error)


def quantise_blocks(folder: Path, plain: Path) -> None:
    """Makes `folder` a checkpoint as DeepSeek writes fp8, and `plain` one of the values that it means, in fp32."""
    from safetensors.torch import load_file, save_file

    quantised, meant = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        meant[name] = tensor.float()
        quantised[name] = tensor
        if not name.endswith("_proj.weight") or name == "model.layers.1.self_attn.o_proj.weight":
            continue
        rows, columns = tensor.shape
        blocks = tensor.float().unflatten(0, (rows // 128, 128)).unflatten(2, (columns // 128, 128))
        scales = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        quantised[name] = codes.reshape(rows, columns)
        quantised[name + "_scale_inv"] = scales
        meant[name] = (codes.float() * scales[:, None, :, None]).reshape(rows, columns)
    config = json.loads((folder / "config.json").read_text())
    plain.mkdir()
    save_file(meant, plain / "model.safetensors", {"format": "pt"})
    (plain / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    save_file(quantised, folder / "model.safetensors", {"format": "pt"})
    method = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    ignored = {"modules_to_not_convert": ["lm_head", "model.layers.1.self_attn.o_proj"]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": method | ignored}))


def test_block_fp8_is_what_its_codes_and_scales_mean(tmp_path: Path) -> None:
    folder, plain = make_checkpoint(tmp_path / "fp8", "fp8", torch.bfloat16, "5"), tmp_path / "plain"
    quantise_blocks(folder, plain)
    batch = prompts(23)
    for prompt, output in zip(batch, run_ours(folder, batch, dtype="float32"), strict=True):  # decoded when loaded
        tokens = prompt + list(output.outputs[0].token_ids)
        exact = hf_logprobs(plain, torch.float32, tokens[:-1], len(prompt))
        assert relative(our_logprobs(output), exact) <= 1e-5
    ours_error, torch_error = [], []
    outputs = run_ours(folder, batch)
    for prompt, output in zip(batch, outputs, strict=True):
        tokens = prompt + list(output.outputs[0].token_ids)
        exact = hf_logprobs(plain, torch.float32, tokens[:-1], len(prompt))
        ours_error.append(relative(our_logprobs(output), exact))
        torch_error.append(relative(hf_logprobs(plain, torch.bfloat16, tokens[:-1], len(prompt)), exact))
    assert np.mean(ours_error) <= 1.5 * np.mean(torch_error), (ours_error, torch_error)
    assert build(str(folder), str(tmp_path / "engine")).scheme == "fp8_block"
    built = run_ours(tmp_path / "engine", batch)
    assert [o.outputs[0].token_ids for o in built] == [o.outputs[0].token_ids for o in outputs]


@pytest.mark.parametrize("case", sorted(CASES))
def test_embeddings_are_the_last_hidden_states_of_transformers(case: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, case, torch.float32, "5")
    batch = prompts(19)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden = [model(torch.tensor([prompt])).last_hidden_state[0].numpy() for prompt in batch]
    with LLM(str(folder), skip_tokenizer_init=True) as llm:
        for pooling, expected in (("last", [h[-1] for h in hidden]), ("mean", [h.mean(0) for h in hidden])):
            for normalize in (False, True):
                params = PoolingParams(pooling=pooling, normalize=normalize)
                outputs = llm.embed([{"prompt_token_ids": p} for p in batch], pooling_params=params, use_tqdm=False)
                for output, row in zip(outputs, expected, strict=True):
                    ours = np.array(output.outputs.embedding)
                    assert relative(ours, row / np.linalg.norm(row) if normalize else row) <= 1e-5


def test_batched_equals_alone_bit_for_bit(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "qwen3", torch.bfloat16, "5")
    batch = prompts(13)
    together = run_ours(folder, batch)
    for prompt, output in zip(batch, together, strict=True):
        alone = run_ours(folder, [prompt])[0]
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
        np.testing.assert_array_equal(our_logprobs(alone), our_logprobs(output))


def test_long_context_beyond_the_trained_length(tmp_path: Path) -> None:
    """Dynamic rope scaling: a prompt longer than max_position_embeddings, then decoding."""
    folder = make_checkpoint(tmp_path, "llama_dynamic", torch.float32, "5")
    prompt = np.random.default_rng(3).integers(3, VOCAB, 70).tolist()
    for options in ({}, {"max_num_batched_tokens": 16}):
        output = run_ours(folder, [prompt], **options)[0]
        tokens = prompt + list(output.outputs[0].token_ids)
        expected = hf_logprobs(folder, torch.float32, tokens[:-1], len(prompt))
        assert relative(our_logprobs(output), expected) <= 1e-5


@pytest.mark.parametrize("name", ["tiny", "draft"])
def test_the_trained_models_match_transformers(name: str) -> None:
    root = Path(__file__).resolve().parents[2]
    folder = root / ("python/warpjet/models" if name == "tiny" else "tests/models") / name
    ids = transformers.AutoTokenizer.from_pretrained(folder)("Once upon a time, there was a fox").input_ids
    with LLM(str(folder), dtype="float32") as llm:
        params = SamplingParams(temperature=0.0, max_tokens=40)
        output = llm.generate({"prompt_token_ids": ids}, params, use_tqdm=False)[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0].tolist()[len(ids) :]
    assert list(output.outputs[0].token_ids) == expected


@pytest.mark.parametrize(("beams", "length_penalty"), [(2, 1.0), (4, 1.0), (3, 0.0), (5, 2.0), (4, -1.0)])
def test_beam_search_matches_transformers(beams: int, length_penalty: float, tmp_path: Path) -> None:
    """A random model whose texts end at different lengths: one token in seven is an end of sequence."""
    folder = make_checkpoint(tmp_path, "llama", torch.float32, "5")
    eos = list(range(2, VOCAB, 7))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": eos}
    (folder / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    params = SamplingParams(beam_width=beams, length_penalty=length_penalty, max_tokens=12)
    with LLM(str(folder), skip_tokenizer_init=True, dtype="float32") as llm:
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts(17)], params, use_tqdm=False)
    for prompt, output in zip(prompts(17), outputs, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=12,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=length_penalty,
            do_sample=False,
            early_stopping=False,
            eos_token_id=eos,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        for ours, theirs, score in zip(output.outputs, expected.sequences, expected.sequences_scores, strict=True):
            length = len(ours.token_ids)
            assert list(ours.token_ids) == theirs[len(prompt) :][:length].tolist()
            assert length == 12 or ours.token_ids[-1] in eos  # what follows theirs is padding
            assert ours.cumulative_logprob is not None
            assert ours.cumulative_logprob / length**length_penalty == pytest.approx(float(score), rel=1e-4)
