"""device="null": everything but the computing, for measuring what the rest costs."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import warpjet
from warpjet import LLM, SamplingParams
from warpjet.requests.locate import EMBEDDED_MODEL

LONG = SamplingParams(max_tokens=50)


@pytest.fixture(name="null", scope="module")
def open_null() -> LLM:
    return LLM(device="null", max_num_seqs=8)


def test_the_config_and_the_tokenizer_are_enough(tmp_path: Path) -> None:
    for file in Path(EMBEDDED_MODEL).iterdir():
        if file.suffix == ".json":
            shutil.copy(file, tmp_path)
    llm = LLM(tmp_path, device="null")
    assert llm.get_load_report()["source"] == "none" and llm.get_load_report()["bytes"] == 0
    assert llm.get_model_info().parameters == LLM(device="cpu").get_model_info().parameters
    assert llm._session.engine.config.device == "null"
    output = llm.generate("Once", LONG, use_tqdm=False)[0].outputs[0]
    assert len(output.token_ids) == 50 and output.finish_reason == "length" and output.text


def test_an_engine_directory_will_do(tmp_path: Path) -> None:
    warpjet.build(EMBEDDED_MODEL, tmp_path / "engine", device="cpu")
    (tmp_path / "engine" / "weights.bin").unlink()
    output = LLM(tmp_path / "engine", device="null").generate("Once", LONG, use_tqdm=False)[0]
    assert len(output.outputs[0].token_ids) == 50


def test_tokens_are_valid_end_no_text_and_do_not_depend_on_the_neighbours(null: LLM) -> None:
    info = null.get_model_info()
    params = SamplingParams(max_tokens=None)
    alone = null.generate("Once upon a time", params, use_tqdm=False)[0].outputs[0]
    assert alone.finish_reason == "length"
    assert all(0 <= token < info.vocab_size for token in alone.token_ids)
    assert not set(alone.token_ids) & set(info.eos_token_ids) and len(set(alone.token_ids)) > 100
    crowd = null.generate(["Once upon a time"] * 20, SamplingParams(max_tokens=None, n=2), use_tqdm=False)
    assert all(c.token_ids == alone.token_ids for output in crowd for c in output.outputs)


def test_a_small_cache_preempts_and_changes_nothing() -> None:
    prompts = [{"prompt_token_ids": list(range(i, i + 40))} for i in range(5, 35)]
    params = SamplingParams(max_tokens=200)
    wide = LLM(device="null").generate(prompts, params, use_tqdm=False)
    small = LLM(device="null", num_gpu_blocks_override=40, max_model_len=512, admission_quantile=0)
    narrow = small.generate(prompts, params, use_tqdm=False)
    assert [o.outputs[0].token_ids for o in narrow] == [o.outputs[0].token_ids for o in wide]
    assert small.get_metrics()["preemptions"] > 0


def test_a_stop_token_of_the_request_ends_it(null: LLM) -> None:
    tokens = null.generate("Once", LONG, use_tqdm=False)[0].outputs[0].token_ids
    params = SamplingParams(max_tokens=50, stop_token_ids=[tokens[7]], min_tokens=3)
    output = null.generate("Once", params, use_tqdm=False)[0].outputs[0]
    assert output.token_ids == tokens[:8] and output.finish_reason == "stop" and output.stop_reason == tokens[7]


@pytest.mark.parametrize(
    "options",
    [
        {"logprobs": 1},
        {"prompt_logprobs": 0},
        {"beam_width": 2},
        {"allowed_token_ids": [5]},
        {"bad_words": ["the"]},
        {"bad_words_token_ids": [[5]]},
        {"logit_bias": {5: 1.0}},
    ],
)
def test_what_it_would_have_to_lie_about_is_refused(null: LLM, options: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match=f"{next(iter(options))}.* device null"):
        null.generate("Once", SamplingParams(**options), use_tqdm=False)


def test_weights_cannot_be_asked_for_nor_built() -> None:
    with pytest.raises(ValueError, match="load_format"):
        LLM(device="null", load_format="safetensors")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N"):
        warpjet.build(EMBEDDED_MODEL, "nowhere", device="null")
