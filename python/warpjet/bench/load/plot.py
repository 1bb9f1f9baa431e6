"""Figures of a load: one run by its distributions, several by what the load did to them."""

from collections.abc import Mapping, Sequence
from typing import Any

from warpjet.bench.figures import Panel, cdf, draw_figure, lines
from warpjet.bench.load.client import Outcome
from warpjet.bench.load.report import Wanted, samples_ms
from warpjet.bench.load.run import Run

_BINS = 80  # in time
_LATENCIES = {"ttft": "Time to first token", "tpot": "Time per output token", "e2el": "End-to-end latency"}


def draw(rows: Sequence[Mapping[str, Any]], runs: Sequence[Run], wanted: Wanted, title: str, path: str) -> None:
    """A panel for each thing that was measured; matplotlib chooses the format by the file's name."""
    panels = _of_one(runs[0], wanted) if len(runs) == 1 else _of_sweep(rows, wanted)
    draw_figure(title, panels, path)


def _of_one(run: Run, wanted: Wanted) -> dict[str, Panel]:
    good = [outcome for outcome in run.outcomes if not outcome.error]
    seconds = max(run.seconds, 1e-6)
    edges = [seconds * index / _BINS for index in range(_BINS)]
    at_once = [0.0] * _BINS
    tokens = [0.0] * _BINS
    for outcome in good:
        first, last = (_bin(moment - run.begin, seconds) for moment in (outcome.sent, outcome.ended))
        for index in range(first, last + 1):
            at_once[index] += 1
        _add_tokens(tokens, outcome, run.begin, seconds)
    between = {"pieces of text": _points(good, "itl"), "mean of a request": _points(good, "tpot")}
    return {
        "Time to first token": cdf(
            {"requests": _points(good, "ttft")}, "time to first token (ms)", wanted.goodput.get("ttft")
        ),
        "Time between tokens": cdf(between, "time between tokens (ms)", wanted.goodput.get("tpot")),
        "Concurrency": lines(edges, {"running": at_once}, "time (s)", "requests under way"),
        "Throughput": lines(edges, {"tokens": tokens}, "time (s)", "output tokens per second"),
    }


def _points(outcomes: Sequence[Outcome], metric: str) -> list[tuple[float, float]]:
    values = samples_ms(outcomes, metric)
    return [(value, (index + 1) / len(values)) for index, value in enumerate(values)]


def _bin(second: float, seconds: float) -> int:
    return min(_BINS - 1, max(0, int(second / seconds * _BINS)))


def _add_tokens(tokens: list[float], outcome: Outcome, begin: float, seconds: float) -> None:
    """A request's tokens, spread over its chunks."""
    each = (outcome.output_tokens or 0) / max(1, len(outcome.chunks)) * _BINS / seconds
    for moment in outcome.chunks:
        tokens[_bin(moment - begin, seconds)] += each


def _of_sweep(rows: Sequence[Mapping[str, Any]], wanted: Wanted) -> dict[str, Panel]:
    x, xlabel = _axis(rows)
    requests = {"completed": _column(rows, "request_throughput")}
    if wanted.goodput:
        limits = ", ".join(f"{metric.upper()} <= {ms:g} ms" for metric, ms in wanted.goodput.items())
        requests[f"good ({limits})"] = _column(rows, "request_goodput")
    panels = {
        "Output throughput": lines(
            x, {"output": _column(rows, "output_throughput")}, xlabel, "output tokens per second"
        ),
        "Goodput" if wanted.goodput else "Request throughput": lines(x, requests, xlabel, "requests per second"),
    }
    highest = f"p{max(wanted.percentiles):g}" if wanted.percentiles else "mean"
    for metric, name in _LATENCIES.items():
        if metric in wanted.metrics:
            curves = {form: _column(rows, f"{form}_{metric}_ms") for form in ("median", highest)}
            panels[name] = _with_limit(lines(x, curves, xlabel, f"{name.lower()} (ms)"), wanted.goodput.get(metric))
    key = next((metric for metric in ("tpot", "e2el", "ttft") if metric in wanted.metrics), None)
    if key:
        latency, output = _column(rows, f"median_{key}_ms"), _column(rows, "output_throughput")
        label = f"median {_LATENCIES[key].lower()} (ms)"
        panels["Throughput against latency"] = lines(latency, {"": output}, label, "output tokens per second")
    return panels


def _with_limit(panel: Panel, limit: float | None) -> Panel:
    def draw(axes: Any) -> None:
        panel(axes)
        if limit is not None:
            axes.axhline(limit, color="tab:red", linestyle="--", linewidth=1, label=f"objective: {limit:g} ms")

    return draw


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float("nan") if row[key] is None else row[key] for row in rows]


def _axis(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], str]:
    """What differs between the runs, with its unit; their number where both or none does."""
    rates, limits = ([row[key] for row in rows] for key in ("request_rate", "max_concurrency"))
    if len({*limits}) == 1 and all(isinstance(rate, (int, float)) for rate in rates):
        return rates, "request rate (requests/s)"
    if len({*rates}) == 1 and all(limit is not None for limit in limits):
        return limits, "concurrency (requests)"
    return list(range(1, len(rows) + 1)), "run"
