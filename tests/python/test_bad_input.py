"""Bad input: a clear error, nothing lost, and the next good request gives the same as before.

Names follow the rows of the fault table in tests/README.md: B for requests, F for files."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import copy_tiny, write_checkpoint
from safetensors.numpy import load_file, save_file

from warpjet import LLM, ModelFormatError, SamplingParams, build

PROMPT = "The fox said:"
CANARY = SamplingParams(temperature=0.9, seed=3, max_tokens=12, logprobs=1)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def expected(llm: LLM) -> Any:
    return llm.generate(PROMPT, CANARY, use_tqdm=False)[0].outputs


@pytest.fixture
def canary(llm: LLM, expected: Any) -> Iterator[LLM]:
    """The model, and afterwards the proof that nothing happened to it."""
    yield llm
    assert llm.generate(PROMPT, CANARY, use_tqdm=False)[0].outputs == expected
    metrics = llm.get_metrics()
    assert (metrics["running"], metrics["waiting"], metrics["kv_blocks_used"]) == (0, 0, 0)


def refuse(llm: LLM, says: str | None = None, prompt: Any = PROMPT, error: Any = ValueError, **fields: Any) -> None:
    with pytest.raises(error, match=says):
        llm.generate(prompt, SamplingParams(**fields), use_tqdm=False)


# --- Requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [[], [[]], "", [""], {"prompt": ""}, {"prompt_token_ids": []}, {}])
def test_B5_nothing_to_go_on_from(prompt: Any, canary: LLM) -> None:
    refuse(canary, prompt=prompt)


def test_B7_unknown_field(canary: LLM) -> None:
    refuse(canary, "did you mean 'temperature'", error=TypeError, temprature=1)
    refuse(canary, "prompt_token_ids", error=TypeError, prompt={"promt": "x"})


@pytest.mark.parametrize("name", ["best_of", "guided_decoding", "use_beam_search", "regex", "extra_args"])
def test_B7_field_that_others_know(name: str, canary: LLM) -> None:
    refuse(canary, f"{name} is not supported; ", error=NotImplementedError, **{name: 2})
    assert SamplingParams(**{name: None}) == SamplingParams()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-0.1, NAN, INF, -INF, 10**400)),
        *(("top_p", value) for value in (0, -0.5, 1.01, NAN)),
        *(("min_p", value) for value in (-0.1, 1.1, NAN)),
        *(("top_k", value) for value in (-2, 10**6, 2**40)),
        *(("presence_penalty", value) for value in (-2.1, 2.1, NAN)),
        *(("frequency_penalty", value) for value in (-2.1, INF)),
        *(("repetition_penalty", value) for value in (0, -1, NAN, INF)),
    ],
)
def test_B8_number_out_of_range(name: str, value: float, canary: LLM) -> None:
    refuse(canary, name, **{name: value})


def test_B8_high_temperature_is_allowed(canary: LLM) -> None:
    assert canary.generate(PROMPT, SamplingParams(temperature=100.0), use_tqdm=False)[0].finished


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", "0.7"), ("n", True), ("top_k", 1.5), ("max_tokens", "5"), ("ignore_eos", 1), ("seed", 1.0)),
        *(("stop", 3), ("stop", [3]), ("stop_token_ids", 3), ("stop_token_ids", "ab"), ("top_p", None)),
        *(("logit_bias", [1]), ("logit_bias", {True: 1.0}), ("logit_bias", {"1": 1.0})),
        *(("allowed_token_ids", [1.5]), ("bad_words", [1])),
    ],
)
def test_B8_wrong_type(name: str, value: Any, canary: LLM) -> None:
    refuse(canary, name, error=TypeError, **{name: value})


@pytest.mark.parametrize("n", [0, -1, 129, 2**31])
def test_B9_n_out_of_range(n: int, canary: LLM) -> None:
    refuse(canary, "n must be", n=n)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 10**6},
        {"min_tokens": -1},
        {"min_tokens": 9, "max_tokens": 8},
    ],
)
def test_B10_token_counts(fields: dict[str, int], canary: LLM) -> None:
    refuse(canary, "tokens", **fields)


def test_B11_prompt_longer_than_the_context(canary: LLM) -> None:
    refuse(canary, "context", prompt={"prompt_token_ids": [5] * 1024})
    refuse(canary, "context", prompt="word " * 2000)


@pytest.mark.parametrize("text", ["a" * 10_000_000, " " * 10_000_000, "ab" * 5_000_000, "\U0001f469" * 3_000_000])
def test_B11_huge_text_is_refused_before_it_costs_time(text: str, canary: LLM) -> None:
    refuse(canary, "characters", prompt=text)


@pytest.mark.parametrize("token", [-1, 3072, 2**31, 2**70, True, 1.0, "1", None])
def test_B12_token_ids(token: Any, canary: LLM) -> None:
    refuse(canary, "prompt", prompt={"prompt_token_ids": [1, token]})


def test_B13_logprobs_beyond_the_cap(canary: LLM) -> None:
    with LLM() as capped:
        for name in ("logprobs", "prompt_logprobs"):
            refuse(capped, name, **{name: 21})
            refuse(capped, name, **{name: -1})
            refuse(canary, name, **{name: -2})
        assert len(capped.generate(PROMPT, SamplingParams(logprobs=20), use_tqdm=False)) == 1


@pytest.mark.parametrize("stop", [[""], ["a"] * 17, ["a" * (1 << 20)], "\ud800"])
def test_B14_stop_strings(stop: Any, canary: LLM) -> None:
    refuse(canary, "stop|surrogates", stop=stop)


@pytest.mark.parametrize("ids", [list(range(257)), [-1], [3072]])
def test_B14_stop_token_ids(ids: list[int], canary: LLM) -> None:
    refuse(canary, "stop_token_ids", stop_token_ids=ids)


@pytest.mark.parametrize(
    "bias",
    [{-1: 1.0}, {3072: 1.0}, {5: NAN}, {5: INF}, {5: 101.0}, dict.fromkeys(range(100_000), 1.0), {2**40: 1.0}],
)
def test_B15_logit_bias(bias: dict[int, float], canary: LLM) -> None:
    refuse(canary, "logit_bias", logit_bias=bias)


@pytest.mark.parametrize("ids", [[], [-1], [3072]])
def test_B15_allowed_token_ids(ids: list[int], canary: LLM) -> None:
    refuse(canary, "allowed_token_ids", allowed_token_ids=ids)


@pytest.mark.parametrize("words", [[""], ["a"] * 129, ["a" * 1025]])
def test_B15_bad_words(words: list[str], canary: LLM) -> None:
    refuse(canary, "bad_words", bad_words=words)


@pytest.mark.parametrize("sequences", [[[]], [[3072]], [[-1]], [[1]] * 1025])
def test_B15_bad_words_token_ids(sequences: list[list[int]], canary: LLM) -> None:
    refuse(canary, "bad_words_token_ids", bad_words_token_ids=sequences)


def test_B15_nothing_left_to_draw_ends_that_request_alone(canary: LLM) -> None:
    nothing = SamplingParams(allowed_token_ids=[5], bad_words_token_ids=[[5]])
    outputs = canary.generate([PROMPT, PROMPT], [nothing, CANARY], use_tqdm=False)
    assert outputs[0].outputs[0].finish_reason == "error" and outputs[0].error
    assert outputs[1].outputs[0].finish_reason != "error" and outputs[1].error is None


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 2**200])
def test_B16_seed_beyond_64_bits(seed: int, canary: LLM) -> None:
    refuse(canary, "seed", seed=seed)


# --- Files ------------------------------------------------------------------------------------------------------------


FileError = (ModelFormatError, NotImplementedError, OSError)


def refuse_model(directory: Path, says: str | None, error: Any = ModelFormatError) -> None:
    with pytest.raises(error, match=says):
        LLM(directory, skip_tokenizer_init=True)


def write_safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def edit_header(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "model.safetensors"
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    change(header)
    write_safetensors(path, header, raw[8 + size :])


NORM = "model.norm.weight"
F1_HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown_dtype": lambda h: h[NORM].update(dtype="Q4"),
    "shape_disagrees_with_bytes": lambda h: h[NORM].update(shape=[31]),
    "shape_overflows": lambda h: h[NORM].update(shape=[2**62, 2**62]),
    "shape_negative": lambda h: h[NORM].update(shape=[-32]),
    "shape_no_list": lambda h: h[NORM].update(shape=32),
    "shape_of_rank_nine": lambda h: h[NORM].update(shape=[1] * 8 + [32]),
    "offsets_beyond_the_file": lambda h: h[NORM].update(data_offsets=[2**40, 2**40 + 128]),
    "offsets_descending": lambda h: h[NORM].update(data_offsets=h[NORM]["data_offsets"][::-1]),
    "offsets_overlap": lambda h: h[NORM].update(data_offsets=[0, 128]),
    "offsets_negative": lambda h: h[NORM].update(data_offsets=[-128, 0]),
    "offsets_missing": lambda h: h[NORM].pop("data_offsets"),
    "tensor_missing": lambda h: h.pop(NORM),
    "tensor_of_wrong_shape": lambda h: h[NORM].update(shape=[32, 1]),
    "entry_no_object": lambda h: h.update({NORM: 3}),
}


@pytest.mark.parametrize("name", F1_HEADERS)
def test_F1_safetensors_header(name: str, tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    edit_header(directory, F1_HEADERS[name])
    refuse_model(directory, r"model\.safetensors|model\.norm\.weight")


@pytest.mark.parametrize("length", [0, 1, 2**20, 101 << 20, 2**62, 2**64 - 1])
def test_F1_safetensors_header_length(length: int, tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    write_safetensors(directory / "model.safetensors", b"{}", length=length)
    refuse_model(directory, r"model\.safetensors")


@pytest.mark.parametrize("raw", [b"", b"1234567", b"\xff" * 64])
def test_F1_safetensors_is_none(raw: bytes, tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").write_bytes(raw)
    refuse_model(directory, r"model\.safetensors")


@pytest.mark.parametrize("header", [b"[]", b"{", b"not json", b'{"a": NaN}', b'{"a":' * 200 + b"1" + b"}" * 200])
def test_F1_safetensors_header_is_not_json(header: bytes, tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    write_safetensors(directory / "model.safetensors", header)
    refuse_model(directory, r"model\.safetensors")


def test_F1_duplicate_tensor(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    entry = b'"model.norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    write_safetensors(directory / "model.safetensors", b"{" + entry + b"," + entry + b"}", b"\0" * 4)
    refuse_model(directory, r"model\.safetensors")


def test_F1_many_entries(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    entries = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)}
    write_safetensors(directory / "model.safetensors", entries)
    refuse_model(directory, None)


def test_F1_truncated_file(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    path = directory / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    refuse_model(directory, r"model\.safetensors")


def shard(directory: Path) -> dict[str, Any]:
    """Splits the weights in two, with an index."""
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    (directory / "model.safetensors").unlink()
    return {"weight_map": {name: file for file, part in files.items() for name in part}}


F1_INDEXES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "shard_missing": lambda m: m.update({NORM: "model-00009-of-00009.safetensors"}),
    "shard_outside": lambda m: m.update({NORM: "../model.safetensors"}),
    "shard_absolute": lambda m: m.update({NORM: "/etc/passwd"}),
    "shard_of_another_tensor": lambda m: m.update({NORM: next(f for f in m.values() if f != m[NORM])}),
    "shard_no_text": lambda m: m.update({NORM: 3}),
}


@pytest.mark.parametrize("name", F1_INDEXES)
def test_F1_index(name: str, tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    index = shard(directory)
    F1_INDEXES[name](index["weight_map"])
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse_model(directory, None, FileError)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}'])
def test_F1_index_is_malformed(text: str, tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    shard(directory)
    (directory / "model.safetensors.index.json").write_text(text)
    refuse_model(directory, "index")


def test_F1_good_shards_load(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    with LLM(directory, skip_tokenizer_init=True) as model:
        whole = model.generate([[1, 2, 3]], CANARY, use_tqdm=False)[0].outputs
    (directory / "model.safetensors.index.json").write_text(json.dumps(shard(directory)))
    with LLM(directory, skip_tokenizer_init=True) as model:
        assert model.generate([[1, 2, 3]], CANARY, use_tqdm=False)[0].outputs == whole


def test_F1_symlink_loop(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("model.safetensors")
    refuse_model(directory, None, FileError)


F3_CASES: dict[str, dict[str, Any]] = {
    "heads_zero": {"num_attention_heads": 0},
    "heads_negative": {"num_attention_heads": -4},
    "heads_huge": {"num_attention_heads": 2**40},
    "heads_text": {"num_attention_heads": "four"},
    "heads_null": {"num_attention_heads": None},
    "heads_not_shared_evenly": {"num_key_value_heads": 3},
    "kv_heads_zero": {"num_key_value_heads": 0},
    "head_dim_odd": {"head_dim": 7},
    "head_dim_huge": {"head_dim": 2**30},
    "layers_zero": {"num_hidden_layers": 0},
    "layers_huge": {"num_hidden_layers": 2**31},
    "layers_more_than_weights": {"num_hidden_layers": 3},
    "hidden_fraction": {"hidden_size": 32.5},
    "vocab_disagrees": {"vocab_size": 98},
    "vocab_zero": {"vocab_size": 0},
    "positions_zero": {"max_position_embeddings": 0},
    "eps_nan": {"rms_norm_eps": float("nan")},
    "eps_negative": {"rms_norm_eps": -1e-5},
    "theta_zero": {"rope_theta": 0},
    "rope_unknown": {"rope_scaling": {"rope_type": "magic", "factor": 2.0}},
    "rope_factor_missing": {"rope_scaling": {"rope_type": "linear"}},
    "rope_factor_nan": {"rope_scaling": {"rope_type": "linear", "factor": float("nan")}},
    "rope_no_object": {"rope_scaling": 3},
    "activation_unknown": {"hidden_act": "magic"},
    "architecture_unknown": {"architectures": ["MagicForCausalLM"], "model_type": "magic"},
    "architectures_empty": {"architectures": []},
    "auto_map": {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
    "key_that_changes_the_result": {"attn_logit_softcapping": 50.0},
    "eos_text": {"eos_token_id": "two"},
    "dtype_unknown": {"torch_dtype": "int7"},
    "quantized": {"quantization_config": {"quant_method": "magic"}},
}


@pytest.mark.parametrize("name", F3_CASES)
def test_F3_config(name: str, tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | F3_CASES[name]))
    refuse_model(directory, None, (ModelFormatError, NotImplementedError))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"architectures": ["LlamaForCausalLM"]}', "\ufeff{}", "\x00"]
)
def test_F3_config_is_malformed(text: str, tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "config.json").write_text(text)
    refuse_model(directory, "config", (ModelFormatError, NotImplementedError))


def test_F3_config_is_missing(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "config.json").unlink()
    refuse_model(directory, r"config\.json", FileError)


def test_F3_weights_are_missing(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    refuse_model(directory, "safetensors", FileError)


def test_F3_pickled_weights_are_refused(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    refuse_model(directory, "safetensors", FileError)


@pytest.mark.parametrize("values", [{"temperature": "hot"}, {"top_p": 2.0}, {"max_new_tokens": -1}, {"top_k": 1.5}])
def test_F3_generation_config(values: dict[str, Any], tmp_path: Path, canary: LLM) -> None:
    directory = copy_tiny(tmp_path / "model")
    (directory / "generation_config.json").write_text(json.dumps(values))
    with pytest.raises(ModelFormatError, match=r"generation_config\.json"):
        LLM(directory)
    LLM(directory, generation_config="warpjet").shutdown()


def test_F3_weights_that_are_not_numbers_end_requests_with_an_error(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    tensors[NORM] = np.full_like(tensors[NORM], NAN)
    save_file(tensors, directory / "model.safetensors")
    with LLM(directory, skip_tokenizer_init=True) as model:
        output = model.generate([1, 2], SamplingParams(), use_tqdm=False)[0]
        assert output.outputs[0].finish_reason == "error" and output.error
        assert model.get_metrics()["kv_blocks_used"] == 0


# --- Engine directories -----------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    build(write_checkpoint(tmp_path / "model"), tmp_path / "engine")
    return tmp_path / "engine"


def edit_engine(engine: Path, change: Callable[[Any], object]) -> None:
    path = engine / "engine.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def each_number(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to the integers of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from each_number(item, (*path, key))
    if isinstance(value, int) and not isinstance(value, bool):
        yield path


def set_at(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


def test_F6_good_engine_loads(engine: Path, canary: LLM) -> None:
    LLM(engine, skip_tokenizer_init=True).shutdown()


def test_F6_other_version(engine: Path, canary: LLM) -> None:
    key = next(k for k, v in json.loads((engine / "engine.json").read_text()).items() if isinstance(v, int))
    edit_engine(engine, lambda content: content.update({key: 999}))
    refuse_model(engine, "999|version|format", (ModelFormatError, NotImplementedError))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_F6_engine_json_is_malformed(text: str, engine: Path, canary: LLM) -> None:
    (engine / "engine.json").write_text(text)
    refuse_model(engine, r"engine\.json")


def test_F6_truncated_weights(engine: Path, canary: LLM) -> None:
    path = engine / "weights.bin"
    os.truncate(path, path.stat().st_size - 4096)
    refuse_model(engine, r"weights\.bin")


def test_F6_empty_weights(engine: Path, canary: LLM) -> None:
    os.truncate(engine / "weights.bin", 0)
    refuse_model(engine, r"weights\.bin", FileError)


def test_F6_missing_weights(engine: Path, canary: LLM) -> None:
    (engine / "weights.bin").unlink()
    refuse_model(engine, r"weights\.bin", FileError)


def test_F6_flipped_bit(engine: Path, canary: LLM) -> None:
    path = engine / "weights.bin"
    raw = bytearray(path.read_bytes())
    raw[5] ^= 4
    path.write_bytes(raw)
    refuse_model(engine, "checksum")


@pytest.mark.parametrize("number", [-1, 0, 2**31, 2**62])
def test_F6_hostile_numbers(number: int, engine: Path, canary: LLM) -> None:
    """Every integer in engine.json, one at a time: refused, or harmless, but never a crash."""
    original = (engine / "engine.json").read_text()
    refused = 0
    paths = list(each_number(json.loads(original)))
    for path in paths[:: max(1, len(paths) // 60)]:
        edit_engine(engine, lambda content, path=path: set_at(content, path, number))
        try:
            with LLM(engine, skip_tokenizer_init=True, max_num_seqs=2, max_num_batched_tokens=64) as model:
                model.generate([1, 2, 3], SamplingParams(max_tokens=2), use_tqdm=False)
        except (ValueError, NotImplementedError, MemoryError, OSError):
            refused += 1
        (engine / "engine.json").write_text(original)
    assert refused > len(paths[:: max(1, len(paths) // 60)]) // 2


def test_F6_a_build_over_something_else_is_refused(engine: Path, tmp_path: Path, canary: LLM) -> None:
    with pytest.raises((ValueError, OSError), match="overwrite"):
        build(tmp_path / "model", engine)
    build(tmp_path / "model", engine, overwrite=True)
    LLM(engine, skip_tokenizer_init=True).shutdown()


def test_F6_a_failed_build_leaves_nothing(tmp_path: Path, canary: LLM) -> None:
    directory = write_checkpoint(tmp_path / "model")

    def fail(done: int, total: int) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        build(directory, tmp_path / "engine", progress=fail)
    edit_header(directory, F1_HEADERS["tensor_missing"])
    with pytest.raises(ModelFormatError):
        build(directory, tmp_path / "engine")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
