"""Quantiles of the engine's histograms."""

import math

from warpjet.bench.histograms import histogram, quantile


def text(counts: dict[str, int]) -> str:
    rows = [f'warpjet:gap_seconds_bucket{{model_name="tiny",le="{bound}"}} {count}' for bound, count in counts.items()]
    return "\n".join([*rows, 'warpjet:other_seconds_bucket{le="1"} 7', "warpjet:gap_seconds_sum 3"])


EMPTY = text({"1e-06": 0, "1e-05": 0, "+Inf": 0})


def test_a_histogram_is_read_with_its_bounds() -> None:
    assert histogram(text({"1e-06": 1, "+Inf": 4}), "gap_seconds") == [(1e-6, 1), (math.inf, 4)]


def test_a_quantile_lies_within_its_bucket() -> None:
    after = text({"1e-06": 2, "1e-05": 4, "+Inf": 4})
    assert quantile(EMPTY, after, "gap_seconds", 0.5) == 1e-6
    assert math.isclose(quantile(EMPTY, after, "gap_seconds", 0.75), 5.5e-6)


def test_only_what_was_counted_in_between_counts() -> None:
    early, late = text({"1e-06": 5, "1e-05": 5, "+Inf": 5}), text({"1e-06": 5, "1e-05": 9, "+Inf": 9})
    assert 1e-6 < quantile(early, late, "gap_seconds", 0.5) < 1e-5


def test_nothing_counted_has_no_quantile() -> None:
    assert math.isnan(quantile(EMPTY, EMPTY, "gap_seconds", 0.5))
    assert math.isnan(quantile(EMPTY, EMPTY, "absent", 0.5))


def test_beyond_the_last_bound_is_the_last_bound() -> None:
    assert quantile(EMPTY, text({"1e-06": 0, "1e-05": 0, "+Inf": 3}), "gap_seconds", 0.5) == 1e-5
