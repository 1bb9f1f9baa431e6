"""warpjet sim: what a load would do to so many engines, and how many it needs."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warpjet._native import SimConfig, simulate
from warpjet.records import check_plot, check_writable
from warpjet.tables import count_text, table

_METRICS = {
    "ttft_ms": "time to the first token",
    "itl_ms": "time between tokens",
    "tpot_ms": "its mean in a request",
    "e2e_ms": "whole request",
}


def sim(fields: Mapping[str, Any], as_json: bool, output: str | None, plot: str | None) -> int:
    """Prints tables or the JSON they are made from; writes the JSON and a figure where asked to."""
    config = SimConfig(**fields)
    if output:
        check_writable(output, "--output")
    if plot:
        check_plot(plot)
    start = time.perf_counter()
    text = simulate(config)
    seconds = time.perf_counter() - start
    facts = json.loads(text)
    if output:
        Path(output).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(text if as_json else _report(facts, seconds))
    if plot:
        draw(facts, plot)
    return 0


def _report(facts: dict[str, Any], seconds: float) -> str:
    config, trace, summary = facts["config"], facts["trace"], facts["summary"]
    steps = summary["steps"]
    head = [
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
        ("device busy", f"{summary['utilisation']:.1%}"),
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
    each = f"{config['gpus_per_replica']} x {config['gpu']}"
    text = f"{count} of {each} = {facts['gpus']} GPUs, {count_text(facts['kv_tokens_per_replica'])} tokens of KV each"
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    (ttft, itl), (queue, rate) = figure.subplots(2, 2)
    config, summary, series = facts["config"], facts["summary"], facts["series"]
    cdf = facts["cdf"]
    _draw_cdf(ttft, {"requests": cdf["ttft_ms"]}, "time to the first token (ms)", config["ttft_ms"])
    both = {"tokens": cdf["itl_ms"], "requests, in the mean": cdf["tpot_ms"]}
    _draw_cdf(itl, both, "time between tokens (ms)", config["itl_ms"])
    for axes, names, label in (
        (queue, ("running", "waiting"), "requests"),
        (rate, ("output_tokens_per_s",), "output tokens per second"),
    ):
        for name in names:
            axes.plot(series["t_s"], series[name], label=name, linewidth=1.2)
        axes.set(xlabel="time (s)", ylabel=label, xlim=(0, series["t_s"][-1]))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    queue.legend(frameon=False)
    figure.suptitle(
        f"{facts['trace']['name']}, {facts['trace']['requests_per_s']:.3g} requests/s on {facts['gpus']} x "
        f"{config['gpu']} ({config['router']}): goodput {summary['goodput']:.2%}"
    )
    figure.savefig(path, dpi=140)


def _draw_cdf(axes: Any, curves: dict[str, list[list[float]]], label: str, limit: float) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    for name, points in curves.items():
        axes.step([ms for ms, _ in points], [share for _, share in points], where="post", linewidth=1.5, label=name)
    axes.axvline(limit, color="tab:red", linestyle="--", linewidth=1, label=f"objective: {limit:g} ms")
    axes.set(xlabel=label, ylabel="share", ylim=(0, 1.01), xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
