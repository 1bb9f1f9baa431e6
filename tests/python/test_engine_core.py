"""What the engine offers beyond text: beams, metrics, traces, cache events, and its own cost."""

import json
import math
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import TINY, config_of, tensors_of, write_checkpoint
from safetensors.numpy import save_file
from waiting import PATIENCE_S, asleep, until

from warpjet import LLM, SamplingParams
from warpjet._native import BuildConfig, Engine, EngineConfig, OutputQueue, build_engine, cuda_status

PROMPT = "Once upon a time"


def beams_alone(llm: LLM, prompt: list[int], width: int, max_tokens: int, length_penalty: float) -> list[list[int]]:
    """The textbook: every beam's next tokens by a request of its own."""
    eos = set(llm.get_model_info().eos_token_ids)
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    one = SamplingParams(temperature=0, max_tokens=1, logprobs=2 * width, detokenize=False, ignore_eos=True)
    for step in range(1, max_tokens + 1):
        outputs = llm.generate([{"prompt_token_ids": prompt + tokens} for _, tokens in running], one, use_tqdm=False)
        candidates = []
        for (score, tokens), output in zip(running, outputs, strict=True):
            logprobs = output.outputs[0].logprobs
            assert logprobs is not None
            entries = sorted(logprobs[0].items(), key=lambda item: -item[1].logprob)[: 2 * width]
            candidates += [(score + entry.logprob, [*tokens, token]) for token, entry in entries]
        candidates = sorted(candidates, key=lambda c: -c[0])[: 2 * width]
        running = []
        for rank, (score, tokens) in enumerate(candidates):
            if tokens[-1] in eos or step == max_tokens:
                if rank < width:
                    finished.append((score / step**length_penalty, tokens))
            elif len(running) < width:
                running.append((score, tokens))
        finished = sorted(finished, key=lambda f: -f[0])[:width]
        if len(finished) == width and running and running[0][0] / step**length_penalty <= finished[-1][0]:
            break
    return [tokens for _, tokens in finished]


@pytest.mark.parametrize(("width", "length_penalty"), [(2, 1.0), (4, 0.0), (5, 2.0)])
def test_beams_are_those_of_the_textbook(llm: LLM, width: int, length_penalty: float) -> None:
    prompt = llm.get_tokenizer().encode(PROMPT)
    params = SamplingParams(beam_width=width, length_penalty=length_penalty, max_tokens=12)
    output = llm.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)[0]
    assert [c.token_ids for c in output.outputs] == beams_alone(llm, prompt, width, 12, length_penalty)
    scores = [(c.cumulative_logprob or 0) / len(c.token_ids) ** length_penalty for c in output.outputs]
    assert scores == sorted(scores, reverse=True)
    assert output.finished and llm.get_metrics()["kv_blocks_used"] == 0


@pytest.mark.parametrize("options", [{"n": 2}, {"temperature": 0.5}, {"top_k": 4}, {"logprobs": 1}, {"min_tokens": 3}])
def test_beams_refuse_what_they_do_not_mean(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SamplingParams(beam_width=2, **options)  # type: ignore[arg-type]


def test_beams_under_pressure_are_the_same(llm: LLM) -> None:
    params = SamplingParams(beam_width=4, max_tokens=40)
    expected = [c.token_ids for c in llm.generate(PROMPT, params, use_tqdm=False)[0].outputs]
    with LLM(num_gpu_blocks_override=7, block_size=16, max_model_len=64, max_num_seqs=4) as tight:
        outputs = tight.generate([PROMPT, PROMPT, PROMPT], params, use_tqdm=False)
        assert tight.get_metrics()["preemptions"] > 0
    assert [[c.token_ids for c in output.outputs] for output in outputs] == [expected] * 3


def test_siblings_compute_their_prompt_once() -> None:
    with LLM(enable_prefix_caching=False) as llm:
        prompt = {"prompt_token_ids": list(range(3, 103))}
        llm.generate(prompt, SamplingParams(n=8, max_tokens=4, seed=1), use_tqdm=False)
        assert llm.get_metrics()["prompt_tokens"] == 100


def native(model: Path = TINY, **options: object) -> tuple[Engine, OutputQueue]:
    return Engine.open(model, EngineConfig(**options)), OutputQueue()  # type: ignore[arg-type]


def run(engine: Engine, queue: OutputQueue, prompt: list[int], **params: object) -> dict[str, float]:
    engine.submit(prompt, SamplingParams(**params), queue)  # type: ignore[arg-type]
    while True:
        for output in queue.poll(1.0):
            if output.finish is not None:
                return output.times


def test_the_engine_tells_how_its_weights_were_loaded() -> None:
    engine, _ = native()
    report = engine.load_report
    assert report["source"] == "checkpoint" and report["bytes"] == engine.model.weight_bytes
    assert report["threads"] == 1 and report["seconds"] > 0  # type: ignore[operator]
    engine.close()


def test_metrics_are_prometheus_text() -> None:
    engine, queue = native()
    run(engine, queue, [3, 4, 5], max_tokens=6, ignore_eos=True)
    text = engine.metrics()
    sample = re.compile(r'^[a-z0-9_:]+(\{([a-z_]+="[^"]*",?)*\})? [-+0-9.e]+(inf)?$')
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or sample.match(line), line
    values = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}
    assert values["warpjet:generation_tokens_total"] == 6
    assert values["warpjet:prompt_tokens_total"] == 3
    assert values["warpjet:time_to_first_token_seconds_count"] == 1
    assert values["warpjet:inter_token_latency_seconds_count"] == 5
    assert values["warpjet:e2e_request_latency_seconds_sum"] > 0
    engine.close()


def test_the_times_of_a_request_add_up() -> None:
    engine, queue = native()
    times = run(engine, queue, [3, 4, 5], max_tokens=20, ignore_eos=True)
    assert math.isclose(sum(v for k, v in times.items() if k.endswith("_ms") and k != "total_ms"), times["total_ms"])
    assert times["decode_ms"] > 0 and times["preemptions"] == 0
    engine.close()


def test_a_trace_shows_steps_and_why_requests_waited(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with LLM(trace=str(path), num_gpu_blocks_override=14, block_size=16, admission_quantile=0) as llm:
        params = SamplingParams(max_tokens=100, ignore_eos=True, temperature=0)
        llm.generate([{"prompt_token_ids": [i] * 30} for i in range(3, 9)], params, use_tqdm=False)
        steps = llm.get_metrics()["steps"]
    events = json.loads(path.read_text())["traceEvents"]
    names = [event["name"] for event in events if event["ph"] == "X"]
    assert sum(name.startswith("step ") for name in names) == steps
    assert "running" in names
    assert {"waiting: preempted", "waiting: blocks"} & set(names)


def test_events_rebuild_the_cache() -> None:
    engine, queue = native(kv_events=1000, block_size=16)
    run(engine, queue, list(range(3, 70)), max_tokens=1)
    run(engine, queue, list(range(3, 40)) + list(range(100, 150)), max_tokens=1)
    events = engine.kv_events()
    assert [event["number"] for event in events] == list(range(len(events)))
    held = {event["key"] for event in events if event["kind"] == "stored"}
    assert len(held) == engine.stats()["kv_blocks_cached"]
    parents = {event["parent_key"] for event in events}
    assert len(parents - held) == 1, "one root"
    engine.reset_prefix_cache()
    for event in engine.kv_events(len(events)):
        assert event["kind"] == "removed"
        held.remove(event["key"])
    assert not held
    engine.close()


def test_pause_holds_a_request_and_nothing_else() -> None:
    engine, queue = native()
    first = engine.submit([3, 4], SamplingParams(max_tokens=400, ignore_eos=True), queue)
    engine.pause(first)
    second = engine.submit([5, 6], SamplingParams(max_tokens=20, ignore_eos=True), queue)
    finals: list[int] = []
    while second not in finals:
        finals += [output.id for output in queue.poll(1.0) if output.finish is not None]
    assert finals == [second]
    engine.resume(first)
    while first not in finals:
        finals += [output.id for output in queue.poll(1.0) if output.finish is not None]
    engine.close()


def test_bench_engine_prints_a_json_line_a_row() -> None:
    command = [sys.executable, "-m", "warpjet", "bench", "engine", "--json", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(row["host_us"] > 0 and row["batch"] >= 1 for row in rows)
    steps = {row["batch"]: row for row in rows if row["bench"] == "step"}
    assert {32, 256, 2048} <= steps.keys()
    assert all(row["allocations_per_step"] == 0 for row in steps.values())


def test_an_idle_engine_uses_no_processor(llm: LLM) -> None:
    llm.generate(PROMPT, SamplingParams(max_tokens=2), use_tqdm=False)
    until(asleep)  # threads spin briefly before they sleep


def test_the_configuration_says_which_device_it_is() -> None:
    config = EngineConfig(device="cpu", max_num_seqs=2)
    assert Engine.open(TINY, config).config.device == "cpu"
    status = cuda_status()
    found = Engine.open(TINY, EngineConfig(max_num_seqs=2)).config.device
    assert found == (f"cuda:{status.usable}" if status.usable >= 0 else "cpu")


def test_tokens_of_beams_are_measured(llm: LLM) -> None:
    def generated() -> float:
        return float(re.search(r"warpjet:request_generation_tokens_sum{.*} (\S+)", llm.get_prometheus_metrics())[1])

    before = generated()
    llm.generate("Once", SamplingParams(beam_width=3, max_tokens=8, ignore_eos=True), use_tqdm=False)
    assert generated() - before == 3 * 8


@pytest.mark.parametrize("timeout", [1e9, 1e10, 1e300, math.inf])
def test_a_deadline_may_be_as_far_as_a_float_goes(timeout: float) -> None:
    engine, queue = Engine.open(TINY, EngineConfig(device="null")), OutputQueue()
    engine.submit([5, 6], SamplingParams(max_tokens=2), queue, timeout=timeout)
    finish = None
    while finish is None:
        finish = queue.poll(timeout)[-1].finish
    assert finish == "length"


@pytest.mark.parametrize("timeout", [0.0, -1.0, -math.inf, math.nan])
def test_a_deadline_is_in_the_future(timeout: float) -> None:
    engine, queue = Engine.open(TINY, EngineConfig(device="null")), OutputQueue()
    with pytest.raises(ValueError, match="timeout must be positive"):
        engine.submit([5, 6], SamplingParams(max_tokens=2), queue, timeout=timeout)
    if timeout != 0:
        with pytest.raises(ValueError, match="timeout must be 0 or more"):
            queue.poll(timeout)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("fp32", "fp32"), ("float", "fp32"), ("half", "fp16"), ("fp16", "fp16"), ("bf16", "bf16"), ("bfloat16", "bf16")],
)
def test_a_precision_has_the_same_names_everywhere(tmp_path: Path, name: str, scheme: str) -> None:
    build = build_engine(TINY, tmp_path / "engine", BuildConfig(device="cpu", scheme=name, kv_cache_dtype=name))
    assert build.scheme == scheme
    assert Engine.open(TINY, EngineConfig(device="null", dtype=name)).model.scheme == scheme


def test_keys_of_config_json_are_replaced_and_dropped(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", a_key_of_tomorrow=1)
    options: dict[str, Any] = {"model": checkpoint, "skip_tokenizer_init": True, "device": "cpu"}
    with pytest.raises(NotImplementedError, match="a_key_of_tomorrow"):
        LLM(**options)
    changes = {"a_key_of_tomorrow": None, "max_position_embeddings": 64}
    with LLM(**options, hf_overrides=changes) as llm:
        assert llm.get_model_info().max_model_len == 64
    with LLM(**options, hf_overrides=json.dumps(changes)) as llm:
        assert llm.get_model_info().max_model_len == 64


def test_the_model_below_the_head_embeds_and_does_not_generate(tmp_path: Path) -> None:
    config = config_of()
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors_of(config).items() if "lm_head" not in name}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(bare, tmp_path / "model.safetensors")
    whole = write_checkpoint(tmp_path / "whole")
    vectors = []
    for path in (tmp_path, whole):
        with LLM(path, skip_tokenizer_init=True, device="cpu") as llm:
            vectors.append(llm.embed([[5, 6, 7]])[0].outputs.embedding)
            if path == tmp_path:
                with pytest.raises(ValueError, match="no output head"):
                    llm.generate([[5, 6, 7]], use_tqdm=False)
    assert vectors[0] == vectors[1]


def test_no_output_is_lost_where_memory_is_short(llm: LLM) -> None:
    testcapi = pytest.importorskip("_testcapi")
    queue, engine = OutputQueue(), llm._session.engine
    failures = 0
    for allocation in range(8):  # of poll(), that fails
        ids = {engine.submit([5, 6], SamplingParams(max_tokens=1, temperature=0), queue) for _ in range(4)}
        select.select([queue.wait_fd()], [], [], PATIENCE_S)
        outputs, failed = [], False
        testcapi.set_nomemory(allocation, allocation + 1)
        try:
            outputs = queue.poll()
        except MemoryError:
            failed = True
        finally:
            testcapi.remove_mem_hooks()
        failures += failed
        assert not failed or select.select([queue.wait_fd()], [], [], 0)[0]  # it wakes its reader again
        while len(outputs) < 4 and (more := queue.poll(PATIENCE_S)):
            outputs += more
        assert {output.id for output in outputs} == ids
    assert failures
