"""LLM: prompts in every form, order, streaming, cancelling, lifetime, and what its constructor takes."""

import copy
import functools
import io
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from checkpoints import TINY, copy_tiny, write_checkpoint
from tqdm import tqdm
from waiting import PATIENCE_S, until

import warpjet
from warpjet import LLM, EngineError, QueueFullError, RequestOutputKind, SamplingParams

STORY = "Once upon a time"
GREEDY = SamplingParams(temperature=0, max_tokens=12)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)


def test_the_embedded_model_tells_a_story(llm: LLM) -> None:
    text = llm.generate(STORY, SamplingParams(temperature=0, max_tokens=64), use_tqdm=False)[0].outputs[0].text
    words = text.lower().split()
    assert len(words) > 30
    assert {"was", "a", "the"} <= set(words)


def test_the_embedded_model_answers(llm: LLM) -> None:
    output = llm.chat([{"role": "user", "content": "What is 3 + 4?"}], GREEDY, use_tqdm=False)[0]
    assert "7" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"


@pytest.mark.parametrize("form", ["str", "dict", "token_ids", "ids", "text_and_ids", "numpy"])
def test_forms_of_a_prompt_mean_the_same(form: str, llm: LLM) -> None:
    import numpy as np

    ids = llm.get_tokenizer().encode(STORY)
    forms: dict[str, Any] = {
        "str": STORY,
        "dict": {"prompt": STORY},
        "token_ids": {"prompt_token_ids": ids},
        "ids": ids,
        "text_and_ids": {"prompt": "ignored for ids", "prompt_token_ids": ids},
        "numpy": {"prompt_token_ids": np.array(ids)},
    }
    expected = llm.generate(STORY, GREEDY, use_tqdm=False)[0].outputs
    assert llm.generate(forms[form], GREEDY, use_tqdm=False)[0].outputs == expected
    assert llm.generate([forms[form]], GREEDY, use_tqdm=False)[0].outputs == expected


def test_order_is_kept(llm: LLM) -> None:
    prompts = [f"Number {i}:" for i in range(40)]
    params = [SamplingParams(temperature=0, max_tokens=1 + (7 * i) % 13) for i in range(40)]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [output.prompt for output in outputs] == prompts
    assert [int(output.request_id) for output in outputs] == sorted(int(output.request_id) for output in outputs)


def test_an_output_tells_everything(llm: LLM) -> None:
    output = llm.generate(STORY, GREEDY.replace(logprobs=1), use_tqdm=False)[0]
    assert (output.prompt, output.prompt_token_ids) == (STORY, llm.get_tokenizer().encode(STORY))
    assert output.finished and output.error is None and output.lora_request is None
    assert output.metrics.ttft_ms > 0 and output.metrics.queue_ms >= 0
    completion = output.outputs[0]
    assert completion.text == llm.get_tokenizer().decode(completion.token_ids)
    assert completion.logprobs is not None
    pieces = [
        entries[token].decoded_token for entries, token in zip(completion.logprobs, completion.token_ids, strict=True)
    ]
    assert "".join(piece or "" for piece in pieces) == completion.text


def test_default_sampling_comes_from_the_checkpoint(llm: LLM) -> None:
    params = llm.get_default_sampling_params()
    assert (params.temperature, params.top_p, params.max_tokens) == (0.7, 0.95, 256)
    with LLM(generation_config="vllm") as neutral:
        assert neutral.get_default_sampling_params() == SamplingParams()


def test_default_sampling_fits_the_context() -> None:
    with LLM(max_model_len=64) as short:
        assert short.get_default_sampling_params().max_tokens == 64
        assert short.generate(STORY, use_tqdm=False)[0].finished


def test_one_entry_for_each_prompt(llm: LLM) -> None:
    with pytest.raises(ValueError, match="2 entries for 3 prompts"):
        llm.generate([STORY] * 3, [GREEDY] * 2)


def test_more_prompts_than_the_queue_takes() -> None:
    with LLM(max_num_queued_reqs=3) as small:
        assert len(small.generate([STORY] * 20, GREEDY, use_tqdm=False)) == 20


def test_threads_share_a_model(llm: LLM) -> None:
    expected = llm.generate(STORY, GREEDY, use_tqdm=False)[0].outputs
    seen: list[Any] = []

    def work() -> None:
        seen.extend(output.outputs for output in llm.generate([STORY] * 5, GREEDY, use_tqdm=False))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 20


def test_priorities_need_their_policy(llm: LLM) -> None:
    with pytest.raises(ValueError, match="priority"):
        llm.generate(STORY, GREEDY, priority=1)
    with LLM(scheduling_policy="priority", max_num_seqs=1) as model:
        params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, output_kind="final_only")
        ended = [output.request_id for output in model.stream([STORY] * 4, params, priority=[3, 2, 1, 0])]
        assert ended.index("3") < ended.index("1")


def test_cache_salts_keep_prefixes_apart(llm: LLM) -> None:
    ids = [(13 * i) % 3000 + 8 for i in range(100)]

    def cached(**extra: str) -> int:
        return llm.generate({"prompt_token_ids": ids, **extra}, GREEDY, use_tqdm=False)[0].num_cached_tokens

    assert cached(cache_salt="a") == 0
    assert cached(cache_salt="b") == 0
    assert cached() == 0
    assert cached(cache_salt="a") > 0


def test_the_progress_bar_tells_tokens_a_second(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    bar = functools.partial(tqdm, file=said)
    monkeypatch.setattr("warpjet.llm._progress_bar", lambda total, wanted: bar(total=total, disable=not wanted))
    llm.generate([STORY] * 3, GREEDY)
    assert re.search(r"3/3 .*, \d+ tok/s\]", said.getvalue()), said.getvalue()
    llm.embed([STORY])
    llm.generate(STORY, GREEDY, use_tqdm=False)


def test_streams_tell_requests_apart(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=6, output_kind=RequestOutputKind.DELTA)
    expected = [output.outputs[0].text for output in llm.generate([STORY, "The fox"], params, use_tqdm=False)]
    texts: dict[str, str] = {}
    for output in llm.stream([STORY, "The fox"], params):
        texts[output.request_id] = texts.get(output.request_id, "") + output.outputs[0].text
    assert list(texts.values()) == expected


def test_closing_a_stream_cancels_its_requests(llm: LLM) -> None:
    stream = llm.stream([STORY] * 8, SamplingParams(max_tokens=900, ignore_eos=True))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    llm.generate(STORY, GREEDY, use_tqdm=False)
    metrics = llm.get_metrics()
    assert (metrics["running"], metrics["waiting"], metrics["kv_blocks_used"]) == (0, 0, 0)


def test_a_refused_prompt_cancels_the_ones_before_it(llm: LLM) -> None:
    before = llm.get_metrics()["generated_tokens"]
    with pytest.raises(ValueError, match="vocabulary") as raised:
        llm.generate([[1, 2, 3], [1, 10**6]], SamplingParams(max_tokens=900, ignore_eos=True), use_tqdm=False)
    assert "prompt 1 of 2" in raised.value.__notes__[0]
    llm.generate(STORY, GREEDY, use_tqdm=False)
    assert llm.get_metrics()["generated_tokens"] - before < 500


def test_a_prompt_that_the_context_cannot_hold_is_named_before_any_runs(llm: LLM) -> None:
    before = llm.get_metrics()["generated_tokens"]
    with pytest.raises(ValueError, match=r"prompt 1: 5000 tokens, but the context holds 1024 \(max_model_len\)"):
        llm.generate([[1, 2, 3], [1] * 5000], SamplingParams(max_tokens=900, ignore_eos=True), use_tqdm=False)
    assert llm.get_metrics()["generated_tokens"] == before


def test_shutdown_is_idempotent_and_final() -> None:
    model = LLM()
    model.shutdown()
    model.shutdown()
    with pytest.raises(EngineError, match="clos"):
        model.generate(STORY, GREEDY)


def test_shutdown_ends_requests_of_other_threads() -> None:
    model = LLM()
    stream = model.stream([STORY] * 3, SamplingParams(max_tokens=900, ignore_eos=True, output_kind="final_only"))
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(output.outputs[0].finish_reason for output in stream))
    thread.start()
    until(lambda: model.get_metrics()["running"] == 3)
    model.shutdown()
    thread.join(timeout=PATIENCE_S)
    assert seen == ["abort"] * 3


def test_a_checkpoint_without_tokenizer(random_checkpoint: Path) -> None:
    with pytest.raises(FileNotFoundError, match="skip_tokenizer_init"):
        LLM(random_checkpoint)
    with LLM(random_checkpoint, skip_tokenizer_init=True) as model:
        output = model.generate({"prompt_token_ids": [1, 2, 3]}, GREEDY, use_tqdm=False)[0]
        assert output.outputs[0].text == "" and output.outputs[0].token_ids
        with pytest.raises(ValueError, match="prompt_token_ids"):
            model.generate(STORY)
        with pytest.raises(ValueError, match="stop"):
            model.generate([1], SamplingParams(stop="x"))
        with pytest.raises(ValueError, match="tokenizer"):
            model.get_tokenizer()


def test_a_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    with LLM(write_checkpoint(tmp_path, vocab_size=3072), tokenizer=str(TINY)) as model:
        assert model.generate(STORY, GREEDY, use_tqdm=False)[0].prompt_token_ids[0] == 1


# --- The constructor's keywords ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error", "says"),
    [
        ("tensor_parallel_size", 2, NotImplementedError, "one device"),
        ("pipeline_parallel_size", 2, NotImplementedError, "one device"),
        ("quantization", "fp8", NotImplementedError, "dtype"),
        ("trust_remote_code", True, NotImplementedError, "never run"),
        ("enable_lora", True, NotImplementedError, "merge"),
        ("speculative_config", {"model": "x"}, NotImplementedError, "speculative"),
        ("gpu_memory_utilization", 1.5, ValueError, "at most 1"),
        ("device", "tpu", ValueError, "cuda:N"),
        ("load_format", "pt", ValueError, "safetensors"),
        ("revision", "main", NotImplementedError, "nothing is fetched"),
        ("kv_cache_dtype", "fp8", NotImplementedError, "auto"),
        ("max_seq_len", 10, TypeError, "max_model_len"),
        ("max_num_seq", 10, TypeError, "max_num_seqs"),
        ("xyzzy", 1, TypeError, "xyzzy"),
        ("max_num_seqs", 0, ValueError, "max_num_seqs"),
        ("max_num_seqs", True, TypeError, "max_num_seqs"),
        ("block_size", 7, ValueError, "16, 32 or 64"),
        ("dtype", "int8", ValueError, "dtype"),
        ("max_model_len", 10**6, ValueError, "max_model_len"),
        ("max_model_len", -1, ValueError, "max_model_len"),
        ("generation_config", "/nowhere", FileNotFoundError, "nowhere"),
    ],
)
def test_nothing_is_ignored(name: str, value: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        LLM(**{name: value})


def test_neutral_values_of_other_engines_names_are_fine() -> None:
    neutral: dict[str, Any] = {
        "tensor_parallel_size": 1,
        "trust_remote_code": False,
        "quantization": None,
        "swap_space": 4,
        "gpu_memory_utilization": 0.92,
        "disable_log_stats": True,
        "max_model_len": None,
        "hf_overrides": None,
        "tokenizer_mode": "auto",
        "load_format": "auto",
    }
    LLM(**neutral).shutdown()


def test_dummy_weights_need_only_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((TINY / "config.json").read_text())
    texts = []
    for _ in range(2):
        with LLM(tmp_path, tokenizer=TINY, load_format="dummy") as model:
            texts.append(model.generate(STORY, GREEDY, use_tqdm=False)[0].outputs[0].token_ids)
    assert texts[0] == texts[1]
    with pytest.raises(OSError, match=r"model\.safetensors"):
        LLM(tmp_path, tokenizer=TINY)


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B", "/no/such/folder", __file__])
def test_a_model_that_is_not_there(model: str) -> None:
    with pytest.raises(OSError, match=r"hf download|does not exist|is a file"):
        LLM(model)


def test_lora_requests_are_refused(llm: LLM) -> None:
    with pytest.raises(NotImplementedError, match="lora_request"):
        llm.generate(STORY, lora_request=object())  # type: ignore[arg-type]


def test_queue_full_without_own_requests_is_an_error(llm: LLM) -> None:
    with LLM(max_num_queued_tokens=4) as small, pytest.raises(QueueFullError):
        small.generate([[1] * 10], GREEDY)


# --- Life and death of the process (R11) ------------------------------------------------------------------------------


def test_importing_is_quick_and_loads_little() -> None:
    done = python(
        "import sys, warpjet; print([m for m in ('tokenizers', 'jinja2', 'warpjet._native') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert set(warpjet.__all__) <= set(dir(warpjet))


def test_R11_fork_after_init_is_an_error_not_a_hang() -> None:
    code = """
import os, sys, warpjet
llm = warpjet.LLM()
pid = os.fork()
if pid == 0:
    try:
        llm.generate("x")
    except warpjet.EngineError as error:
        print(error)
        sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(llm.generate("Once", warpjet.SamplingParams(max_tokens=2))[0].finished)
"""
    done = python(code)
    assert "fork" in done.stdout and "7\nTrue" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "llm.shutdown()",
        "raise SystemExit",
        "del llm",
        "import threading; threading.Thread(target=list, args=[it]).start()",
    ],
)
def test_R11_the_interpreter_ends_with_live_requests(ending: str) -> None:
    code = f"""
import warpjet
llm = warpjet.LLM()
it = llm.stream(["Once"] * 4, warpjet.SamplingParams(max_tokens=900, ignore_eos=True))
next(it)
{ending}
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_R11_keyboard_interrupt_cancels() -> None:
    code = """
import os, signal, threading, time, warpjet
llm = warpjet.LLM()
llm.generate("Once", warpjet.SamplingParams(max_tokens=1), use_tqdm=False)  # imports what it needs
def interrupt():
    while llm.get_metrics()["running"] < 64:  # all are submitted
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    while True:
        llm.generate(["Once"] * 64, warpjet.SamplingParams(max_tokens=900, ignore_eos=True), use_tqdm=False)
except KeyboardInterrupt:
    llm.generate("Once", warpjet.SamplingParams(max_tokens=1), use_tqdm=False)
    print(llm.get_metrics()["running"], llm.get_metrics()["kv_blocks_used"])
"""
    done = python(code)
    assert done.stdout.split() == ["0", "0"], done.stderr


def test_the_callers_files_are_left_alone(tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    os.chmod(directory, 0o555)
    LLM(directory).shutdown()
    os.chmod(directory, 0o755)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_an_llm_is_opened_where_it_is_used_not_sent(llm: LLM) -> None:
    for send in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="an LLM cannot be pickled; open it in the worker"):
            send(llm)
