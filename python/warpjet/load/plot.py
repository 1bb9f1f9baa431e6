"""Figures of a load: one run by its distributions, several by what the load did to them."""

from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.load.client import Outcome
from warpjet.load.report import Wanted, samples_ms
from warpjet.load.run import Run

_BINS = 80  # in time


def draw(rows: Sequence[Mapping[str, Any]], runs: Sequence[Run], wanted: Wanted, title: str, path: str) -> None:
    """Four panels; matplotlib chooses the format by the file's name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(2, 2).flat)
    if len(runs) == 1:
        _draw_one(panels, runs[0], wanted)
    else:
        _draw_sweep(panels, rows, wanted)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=140)


def _draw_one(panels: Any, run: Run, wanted: Wanted) -> None:
    ttft, between, running, rate = panels
    good = [outcome for outcome in run.outcomes if not outcome.error]
    _draw_cdf(ttft, {"requests": samples_ms(good, "ttft")}, "time to the first token (ms)", wanted.goodput.get("ttft"))
    curves = {"pieces of text": samples_ms(good, "itl"), "requests, in the mean": samples_ms(good, "tpot")}
    _draw_cdf(between, curves, "time between tokens (ms)", wanted.goodput.get("tpot"))
    seconds = max(run.seconds, 1e-6)
    edges = [seconds * index / _BINS for index in range(_BINS)]
    at_once = [0.0] * _BINS
    tokens = [0.0] * _BINS
    for outcome in good:
        first, last = (_bin(moment - run.begin, seconds) for moment in (outcome.sent, outcome.ended))
        for index in range(first, last + 1):
            at_once[index] += 1
        _add_tokens(tokens, outcome, run.begin, seconds)
    running.plot(edges, at_once, linewidth=1.2)
    running.set(xlabel="time (s)", ylabel="requests at once")
    rate.plot(edges, tokens, linewidth=1.2)
    rate.set(xlabel="time (s)", ylabel="output tokens per second")


def _bin(second: float, seconds: float) -> int:
    return min(_BINS - 1, max(0, int(second / seconds * _BINS)))


def _add_tokens(tokens: list[float], outcome: Outcome, begin: float, seconds: float) -> None:
    """A request's tokens, spread over its chunks."""
    each = (outcome.output_tokens or 0) / max(1, len(outcome.chunks)) * _BINS / seconds
    for moment in outcome.chunks:
        tokens[_bin(moment - begin, seconds)] += each


def _draw_cdf(axes: Any, curves: Mapping[str, Sequence[float]], label: str, limit: float | None) -> None:
    for name, values in curves.items():
        if values:
            shares = [(index + 1) / len(values) for index in range(len(values))]
            axes.step(values, shares, where="post", linewidth=1.5, label=name)
    if limit is not None:
        axes.axvline(limit, color="tab:red", linestyle="--", linewidth=1, label=f"objective: {limit:g} ms")
    axes.set(xlabel=label, ylabel="share", ylim=(0, 1.01))


def _draw_sweep(panels: Any, rows: Sequence[Mapping[str, Any]], wanted: Wanted) -> None:
    throughput, ttft, tpot, trade = panels
    names = [_load(row) for row in rows]
    places = range(len(rows))
    axes_of = {"ttft": ttft, "tpot": tpot}
    throughput.plot(places, [row["output_throughput"] for row in rows], "o-", label="output tokens per second")
    highest = f"p{max(wanted.percentiles):g}" if wanted.percentiles else "mean"
    for metric, axes in axes_of.items():
        for form in ("median", highest):
            if f"{form}_{metric}_ms" in rows[0]:
                values = [_or_nan(row[f"{form}_{metric}_ms"]) for row in rows]
                axes.plot(places, values, "o-", label=f"{metric.upper()} {form} (ms)")
        if metric in wanted.goodput:
            axes.axhline(wanted.goodput[metric], color="tab:red", linestyle="--", linewidth=1, label="objective")
    for axes in (throughput, ttft, tpot):
        axes.set_xticks(places, names)
        axes.set(xlabel="load")
    key = next((f"median_{m}_ms" for m in ("tpot", "e2el", "ttft") if f"median_{m}_ms" in rows[0]), None)
    if key:
        trade.plot([_or_nan(row[key]) for row in rows], [row["output_throughput"] for row in rows], "o-")
        trade.set(xlabel=key.replace("_", " ").replace(" ms", " (ms)"), ylabel="output tokens per second")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _load(row: Mapping[str, Any]) -> str:
    at_once = row["max_concurrency"]
    rate = f"{row['request_rate']}/s" if row["request_rate"] not in ("inf", None) else ""
    return " ".join(filter(None, (rate, f"{at_once} at once" if at_once else ""))) or "all"
