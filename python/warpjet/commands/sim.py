"""warpjet sim: what a load would do to so many engines, and how many it needs."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warpjet._native import SimConfig, describe, simulate
from warpjet.bench.figures import cdf, draw_figure, lines
from warpjet.bench.records import check_plot
from warpjet.common.files import check_writable
from warpjet.common.tables import count_text, table
from warpjet.requests.locate import find_model

_METRICS = {
    "ttft_ms": "time to the first token",
    "itl_ms": "time between tokens",
    "tpot_ms": "its mean in a request",
    "e2e_ms": "whole request",
}


_DEFAULT_MODEL = "an 8.03 B model in bf16, Llama-3.1-8B's shape"


def sim(fields: Mapping[str, Any], model: str | None, as_json: bool, output: str | None, plot: str | None) -> int:
    """Prints tables or the JSON they are made from; writes the JSON and a figure where asked to.

    model: a checkpoint or an engine to take size and KV cache from; fields that are given win over it."""
    config = SimConfig(**((model_fields(model) if model else {}) | dict(fields)))
    if output:
        check_writable(output, "--output")
    if plot:
        check_plot(plot)
    start = time.perf_counter()
    text = simulate(config)
    seconds = time.perf_counter() - start
    facts = {"model": _model_name(model, config, fields)} | json.loads(text)
    if output:
        Path(output).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts) if as_json else _report(facts, seconds))
    if plot:
        draw(facts, plot)
    return 0


def model_fields(model: str) -> dict[str, float]:
    """What the simulator must know of a checkpoint or an engine: its weights and its KV cache. Reads no weights."""
    facts = json.loads(describe(find_model(model, weights=False), gpu="H100", tokens=1, context=1))
    return {
        "params_b": facts["parameters"] / 1e9,
        "weight_bytes_per_param": facts["weight_bytes"] / facts["parameters"],
        "kv_bytes_per_token": facts["kv_bytes_per_token"],
        "queries_per_kv": facts["queries_per_kv"],
    }


def _model_name(model: str | None, config: SimConfig, fields: Mapping[str, Any]) -> str:
    if model:
        return f"{model} ({config.params_b:.3g} B)"
    return f"a {config.params_b:g} B model" if "params_b" in fields else _DEFAULT_MODEL


def _report(facts: dict[str, Any], seconds: float) -> str:
    config, trace, summary = facts["config"], facts["trace"], facts["summary"]
    steps = summary["steps"]
    head = [
        ("model", facts["model"]),
        (
            "load",
            f"{trace['name']}: {trace['requests']} requests in {trace['duration_s']:.0f} s "
            f"({trace['requests_per_s']:.3g}/s), mean {trace['input_mean']:.0f} tokens in, "
            f"{trace['output_mean']:.0f} out",
        ),
        ("engines", _engines(facts)),
        ("objective", _objective(facts)),
    ]
    latencies = [
        (f"{name.removesuffix('_ms')} ms", *(f"{row[key]:.1f}" for key in ("mean", "p50", "p90", "p95", "p99")), what)
        for name, what in _METRICS.items()
        for row in (facts["percentiles"][name],)
    ]
    counts = [
        ("good requests a second", f"{summary['goodput_requests_per_s']:.3g}"),
        ("output tokens a second, while requests arrive", count_text(summary["output_tokens_per_s"])),
        ("the same, until the last answer", count_text(summary["output_tokens_per_s_to_the_end"])),
        ("requests a second, until the last answer", f"{summary['requests_per_s_to_the_end']:.3g}"),
        ("prompt tokens a second, computed", count_text(summary["computed_prompt_tokens_per_s"])),
        ("prompt tokens found in the prefix cache", f"{summary['prefix_hit_rate']:.1%}"),
        ("device busy, whatever the batch", f"{summary['utilisation']:.1%}"),
        ("its bf16 rate used", f"{summary['compute_utilisation']:.1%}"),
        ("KV blocks held", f"{summary['kv_used']:.1%}"),
        ("sequences decoding in a step", f"{summary['decodes_per_step']:.1f}"),
        ("preemptions (of them swaps)", f"{summary['preemptions']} ({summary['swaps']})"),
        ("requests refused", f"{summary['refused']}"),
    ]
    return "\n\n".join(
        [
            "\n".join(f"{key:<11}{value}" for key, value in head),
            table(("", "mean", "p50", "p90", "p95", "p99", ""), latencies),
            table(("measure", "value"), counts),
            f"{config['router']}, {config['scheduling_policy']}; steps cost by {facts['cost_model']['source']}; "
            f"simulated {count_text(steps)} steps in {seconds:.2f} s ({count_text(steps / seconds)} steps/s)",
        ]
    )


def _engines(facts: dict[str, Any]) -> str:
    config, count = facts["config"], facts["replicas"]
    engines = f"{count} engine{'s' * (count > 1)} of {config['gpus_per_replica']} x {config['gpu']}"
    text = f"{engines}, {count_text(facts['kv_tokens_per_replica'])} tokens of KV each"
    if not facts["search"]:
        return text
    if not facts["summary"]["target_met"]:
        return f"{text}; more than {config['max_replicas']} would be needed, if any number is enough"
    return f"{text}: the smallest number that meets the objective"


def _objective(facts: dict[str, Any]) -> str:
    config, summary = facts["config"], facts["summary"]
    return (
        f"TTFT <= {config['ttft_ms']:g} ms and mean ITL <= {config['itl_ms']:g} ms for "
        f"{config['goodput_target']:.4g} of requests: {'met' if summary['target_met'] else 'NOT met'}, "
        f"goodput {summary['goodput']:.4f}"
    )


def draw(facts: dict[str, Any], path: str) -> None:
    """A figure of four panels; matplotlib chooses the format by the file's name."""
    config, summary, series, points = facts["config"], facts["summary"], facts["series"], facts["cdf"]
    between = {"tokens": points["itl_ms"], "mean of a request": points["tpot_ms"]}
    time = series["t_s"]
    panels = {
        "Time to first token": cdf({"requests": points["ttft_ms"]}, "time to first token (ms)", config["ttft_ms"]),
        "Time between tokens": cdf(between, "time between tokens (ms)", config["itl_ms"]),
        "Load": lines(time, {name: series[name] for name in ("running", "waiting")}, "time (s)", "requests"),
        "Throughput": lines(time, {"": series["output_tokens_per_s"]}, "time (s)", "output tokens per second"),
    }
    load = f"{facts['trace']['name']}, {facts['trace']['requests_per_s']:.3g} requests/s"
    draw_figure(
        f"{load}: {facts['model']} on {facts['gpus']} x {config['gpu']} ({config['router']}), "
        f"goodput {summary['goodput']:.2%}",
        panels,
        path,
    )
