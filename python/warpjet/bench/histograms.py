"""Quantiles from the engine's histograms, in Prometheus' text format."""

import itertools


def histogram(metrics: str, name: str) -> list[tuple[float, int]]:
    """(upper bound, how many were not above it), ascending; the last bound is infinite."""
    prefix = f"warpjet:{name}_bucket{{"
    rows = [line.rpartition('le="')[2] for line in metrics.splitlines() if line.startswith(prefix)]
    return [(float(bound), int(count)) for bound, _, count in (row.partition('"} ') for row in rows)]


def quantile(before: str, after: str, name: str, share: float) -> float:
    """Of what was counted between two readings: linear within its bucket, as Prometheus' histogram_quantile. NaN when
    nothing was."""
    counts = [
        (bound, late - early)
        for (bound, late), (_, early) in zip(histogram(after, name), histogram(before, name), strict=True)
    ]
    wanted = share * counts[-1][1] if counts else 0.0
    if not wanted:
        return float("nan")
    for (low, below), (high, count) in itertools.pairwise([(0.0, 0), *counts]):
        if count >= wanted:
            return low if high == float("inf") else low + (high - low) * (wanted - below) / (count - below)
    raise AssertionError("the last bucket holds all")
