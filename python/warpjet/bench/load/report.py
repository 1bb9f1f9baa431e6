"""What a run's numbers are, and how they are shown. Names are those of other engines' load tools."""

import collections
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from warpjet.common.tables import table

if TYPE_CHECKING:
    from warpjet.bench.load.client import Outcome
    from warpjet.bench.load.run import Run

# name: what it is
METRICS = {
    "ttft": "to the first token",
    "tpot": "a token after that, in the mean of a request",
    "itl": "from one piece of text to the next",
    "e2el": "whole request",
}
_BUSY = 0.85  # share of a core from which on the client may be what is measured
_LATE_S = 0.05


@dataclass(frozen=True, slots=True)
class Wanted:
    """goodput: metric (no itl) -> most milliseconds."""

    metrics: Sequence[str] = tuple(METRICS)
    percentiles: Sequence[float] = (95, 99)
    goodput: Mapping[str, float] = field(default_factory=dict)


def percentile(ascending: Sequence[float], share: float) -> float:
    """Of a hundred, straight between neighbours. At least one value."""
    at = (len(ascending) - 1) * share / 100
    low = math.floor(at)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (ascending[high] - ascending[low]) * (at - low)


def samples_ms(outcomes: "Sequence[Outcome]", metric: str) -> list[float]:
    """All values of a metric, ascending."""
    if metric == "itl":
        gaps = (b - a for o in outcomes for a, b in zip(o.chunks, o.chunks[1:], strict=False))
        return sorted(gap * 1e3 for gap in gaps)
    values = (getattr(outcome, metric) for outcome in outcomes)
    return sorted(value * 1e3 for value in values if value is not None)


def summarise(run: "Run", wanted: Wanted) -> dict[str, Any]:
    """Flat, rounded. A metric that no request has is None."""
    good = [outcome for outcome in run.outcomes if not outcome.error]
    seconds = max(run.seconds, 1e-9)
    inputs, outputs = (sum(getattr(o, name) or 0 for o in good) for name in ("input_tokens", "output_tokens"))
    row: dict[str, Any] = {
        "duration": run.seconds,
        "completed": len(good),
        "failed": len(run.outcomes) - len(good),
        "total_input_tokens": inputs,
        "total_cached_tokens": sum(outcome.cached_tokens for outcome in good),
        "total_output_tokens": outputs,
        "request_throughput": len(good) / seconds,
        "input_throughput": inputs / seconds,
        "output_throughput": outputs / seconds,
        "total_token_throughput": (inputs + outputs) / seconds,
        "max_concurrent_requests": run.most_running,
        "client_cpu_share": run.cpu_share,
        "client_late_ms": run.late_s * 1e3,
    }
    if wanted.goodput:
        row["request_goodput"] = sum(_is_good(outcome, wanted.goodput) for outcome in good) / seconds
    for metric in wanted.metrics:
        values = samples_ms(good, metric)
        row[f"mean_{metric}_ms"] = statistics.fmean(values) if values else None
        row[f"median_{metric}_ms"] = percentile(values, 50) if values else None
        row[f"std_{metric}_ms"] = statistics.pstdev(values) if values else None
        for share in wanted.percentiles:
            row[f"p{share:g}_{metric}_ms"] = percentile(values, share) if values else None
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


def _is_good(outcome: "Outcome", limits_ms: Mapping[str, float]) -> bool:
    """What a request does not have is no fault of it."""
    values = {metric: getattr(outcome, metric) for metric in limits_ms}
    return all(value is None or value * 1e3 <= limits_ms[metric] for metric, value in values.items())


def notes(run: "Run") -> list[str]:
    """What a reader of the numbers must know: failures, answers that ended early, and a client that was too slow."""
    lines = []
    errors = collections.Counter(outcome.error for outcome in run.outcomes if outcome.error)
    if errors:
        (text, count), total = errors.most_common(1)[0], errors.total()
        first = next(outcome.error for outcome in run.outcomes if outcome.error)
        lines.append(f"{total} of {len(run.outcomes)} requests failed; the first: {first}")
        if text != first:
            lines.append(f"{count} of them: {text}")
    if early := [outcome for outcome in run.outcomes if _ended_early(outcome)]:
        got, asked = (sum(getattr(one, name) for one in early) for name in ("output_tokens", "asked_tokens"))
        lines.append(
            f"{len(early)} of {len(run.outcomes)} answers ended early, with {got} of {asked} tokens: the model ended "
            "them (--ignore-eos), or the prompt left no more room in the context"
        )
    if run.cpu_share > _BUSY:
        lines.append(f"the client used {run.cpu_share:.0%} of a core: it may be what was measured")
    if run.late_s > _LATE_S:
        lines.append(f"requests were sent {run.late_s * 1e3:.0f} ms late: this machine does not keep up with the rate")
    return lines


def _ended_early(outcome: "Outcome") -> bool:
    got, asked = outcome.output_tokens, outcome.asked_tokens
    return not outcome.error and got is not None and asked is not None and got < asked


# --- Tables ----------------------------------------------------------------------------------------------------------

_COUNTS = {
    "request_throughput": "requests a second",
    "request_goodput": "good requests a second",
    "output_throughput": "output tokens a second",
    "input_throughput": "input tokens a second",
    "total_token_throughput": "tokens a second",
    "total_input_tokens": "input tokens",
    "total_cached_tokens": "of them found in the prefix cache",
    "total_output_tokens": "output tokens",
    "max_concurrent_requests": "requests at once, at most",
    "completed": "requests that succeeded",
    "failed": "requests that failed",
    "duration": "seconds",
}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def one_table(row: Mapping[str, Any], wanted: Wanted) -> str:
    """All numbers of one run."""
    forms = {"mean": "mean", "median": "median", "std": "std"} | {f"p{p:g}": f"p{p:g}" for p in wanted.percentiles}
    latencies = [
        (f"{metric} ms", *(_number(row[f"{form}_{metric}_ms"]) for form in forms), METRICS[metric])
        for metric in wanted.metrics
    ]
    counts = [(text, _number(row[key])) for key, text in _COUNTS.items() if key in row]
    return f"{table(('measure', 'value'), counts)}\n\n{table(('', *forms, ''), latencies)}"


def sweep_table(rows: Sequence[Mapping[str, Any]], wanted: Wanted) -> str:
    """A line for each run: median and highest percentile of each metric."""
    columns = {
        "asked req/s": "request_rate",
        "at once": "max_concurrency",
        "ok": "completed",
        "failed": "failed",
        "req/s": "request_throughput",
        "good/s": "request_goodput",
        "out tok/s": "output_throughput",
    }
    highest = f"p{max(wanted.percentiles):g}" if wanted.percentiles else "mean"
    for metric in wanted.metrics:
        columns[f"{metric} p50 ms"] = f"median_{metric}_ms"
        columns[f"{metric} {highest} ms"] = f"{highest}_{metric}_ms"
    columns = {name: key for name, key in columns.items() if any(row.get(key) is not None for row in rows)}
    cells = [[_cell(row.get(key)) for key in columns.values()] for row in rows]
    return table(list(columns), cells)


def _cell(value: object) -> str:
    return value if isinstance(value, str) else _number(value)  # type: ignore[arg-type]
