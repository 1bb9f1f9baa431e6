"""warpjet bench: medians over repeats after a warm-up, on random tokens."""

import json
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from warpjet._native import EngineConfig, SamplingParams, describe, measure_engine, measure_kernels
from warpjet.bench.histograms import quantile
from warpjet.bench.records import circumstances, engine_options, write_record
from warpjet.common.machine import device_name
from warpjet.common.tables import table
from warpjet.llm import LLM
from warpjet.requests.locate import find_model, model_name


@dataclass(frozen=True, slots=True)
class Workload:
    """`requests` at once (latency) or queued together (throughput), each of input_len and output_len tokens."""

    what: str
    requests: int
    input_len: int
    output_len: int
    repeats: int


def bench(model: str | None, load: Workload, engine: Mapping[str, Any], as_json: bool, output: str | None) -> int:
    """Prints a table or a JSON line, and writes the JSON to a file if one is named."""
    measure, units = _MEASURES[load.what]
    options: dict[str, Any] = engine_options(engine)
    with LLM(model, **options) as llm:
        rng = random.Random(0)
        measure(llm, load, rng)  # warm-up
        runs = [measure(llm, load, rng) for _ in range(load.repeats)]
    results = {key: round(statistics.median(run[key] for run in runs), 3) for key in units}
    record = {
        "bench": load.what,
        "model": model_name(model),
        "workload": asdict(load),
        "engine": dict(engine),
        "results": results,
        "runs": [{key: round(value, 3) for key, value in run.items()} for run in runs],
    } | circumstances(engine.get("device", "auto"))
    if output:
        write_record(output, record)
    if as_json:
        print(json.dumps(record))
    else:
        print(table(("measure", "median", "unit"), [(key, f"{results[key]:.2f}", units[key]) for key in units]))
    return 0


def bench_engine(repeats: int, as_json: bool, output: str | None) -> int:
    """The host side alone, on a device that computes nothing: a JSON line or a table row for each measurement."""
    rows: list[dict[str, Any]] = []

    def show(text: str) -> None:
        rows.append(json.loads(text))
        if as_json:
            print(json.dumps(rows[-1]), flush=True)

    measure_engine(repeats, show)
    if output:
        write_record(output, {"bench": "engine", "results": _engine_results(rows), "rows": rows} | circumstances())
    if not as_json:
        names = ("bench", "batch", "host_us")
        cells = [
            (
                row["bench"],
                row["batch"],
                f"{row['host_us']:.3f}",
                ", ".join(f"{key} {value:,.4g}" for key, value in row.items() if key not in names),
            )
            for row in rows
        ]
        print(table((*names, "more"), cells))
    return 0


def _ceilings(model: Path, gpu: str) -> dict[str, Any]:
    """What this GPU reaches at best, from the library's table; nothing if it does not know the GPU."""
    name = re.search(r"\b[A-Z]{1,8}\d{1,8}\b", gpu)
    try:
        found: dict[str, Any] = json.loads(describe(model, gpu=name[0] if name else gpu))["gpu"]
    except ValueError:
        return {}
    return found


def bench_kernels(
    model: str | None,
    rows: Sequence[int],
    context: int,
    every: bool,
    engine: Mapping[str, Any],
    as_json: bool,
    output: str | None,
) -> int:
    """The kernels of a model one by one: time, bandwidth, flops, and the share of what the GPU could reach."""
    found: list[dict[str, Any]] = []
    directory = find_model(model, weights=False)
    ceiling = _ceilings(directory, device_name(engine.get("device", "auto")))

    def add(text: str) -> None:
        row = json.loads(text)
        row["gb_per_s"] = round(row["bytes"] / row["us"] / 1e3, 1)
        row["tflops"] = round(row["flops"] / row["us"] / 1e6, 1)
        if ceiling:
            least = max(row["bytes"] / ceiling["gb_per_s"] / 1e3, row["flops"] / ceiling["bf16_tflops"] / 1e6)
            row["roofline"] = round(least / row["us"], 3)
        row["us"] = round(row["us"], 2)
        found.append(row)
        if as_json:
            print(json.dumps(row), flush=True)

    measure_kernels(directory, EngineConfig(**engine), add, rows=rows, context=context, all=every)
    if output:
        results = {f"{row['step']}_{row['rows']}_{row['kernel']}_us": row["us"] for row in found}
        write_record(
            output,
            {"bench": "kernels", "model": model_name(model), "results": results, "rows": found}
            | circumstances(engine.get("device", "auto")),
        )
    if not as_json:
        names = ("step", "rows", "kernel", "us", "gb_per_s", "tflops", "roofline")
        print(table(names, [tuple(row.get(name, "") for name in names) for row in found]))
    return 0


def _engine_results(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The rows by what was measured and its size."""
    results: dict[str, float] = {"step_allocations": sum(row.get("allocations_per_step") or 0 for row in rows)}
    for row in rows:
        what, us = row["bench"], row["host_us"]
        if what == "evict":
            results[f"evict_{row['blocks']}_ns"] = us * 1e3
        elif what in ("submit", "admit"):
            results[f"{what}_per_s"] = row["requests_per_s"]
        else:
            size = {"step": "batch", "schedule": "waiting", "match": "tokens"}[what]
            results[f"{what}_{row[size]}_us"] = us
    return results


def _prompts(llm: LLM, load: Workload, rng: random.Random) -> list[dict[str, list[int]]]:
    vocab = llm.get_model_info().vocab_size
    return [{"prompt_token_ids": [rng.randrange(vocab) for _ in range(load.input_len)]} for _ in range(load.requests)]


def _params(load: Workload) -> SamplingParams:
    return SamplingParams(
        temperature=0, ignore_eos=True, max_tokens=load.output_len, detokenize=False, output_kind="delta"
    )


def _latency(llm: LLM, load: Workload, rng: random.Random) -> dict[str, float]:
    prompts, before = _prompts(llm, load, rng), llm.get_prometheus_metrics()
    start = time.perf_counter()
    first: dict[str, float] = {}
    for output in llm.stream(prompts, _params(load)):
        first.setdefault(output.request_id, time.perf_counter() - start)
    end = time.perf_counter() - start
    ttft = max(first.values())
    step = (end - ttft) / (load.output_len - 1)
    return {
        "ttft_ms": ttft * 1e3,
        "step_ms": step * 1e3,
        "tokens_per_s": load.requests / step,
        "total_ms": end * 1e3,
        "idle_us": 1e6 * quantile(before, llm.get_prometheus_metrics(), "device_idle_between_steps_seconds", 0.5),
    }


def _throughput(llm: LLM, load: Workload, rng: random.Random) -> dict[str, float]:
    start = time.perf_counter()
    outputs = llm.generate(_prompts(llm, load, rng), _params(load), use_tqdm=False)
    seconds = time.perf_counter() - start
    generated = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {
        "requests_per_s": len(outputs) / seconds,
        "output_tokens_per_s": generated / seconds,
        "total_tokens_per_s": (generated + load.requests * load.input_len) / seconds,
        "total_s": seconds,
    }


_Measure = Callable[[LLM, Workload, random.Random], dict[str, float]]
_MEASURES: dict[str, tuple[_Measure, dict[str, str]]] = {
    "latency": (
        _latency,
        {
            "ttft_ms": "ms to the first token of every request",
            "step_ms": "ms between tokens after that",
            "tokens_per_s": "tokens generated a second after that",
            "total_ms": "ms for all",
            "idle_us": "us that the device has no work between two steps",
        },
    ),
    "throughput": (
        _throughput,
        {
            "requests_per_s": "requests a second",
            "output_tokens_per_s": "tokens generated a second",
            "total_tokens_per_s": "tokens a second, prompts included",
            "total_s": "s for all",
        },
    ),
}
