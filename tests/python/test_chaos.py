"""A short storm; tests/serve/chaos.py makes longer ones, of other seeds, and tests/serve/soak.py the long calm."""

import itertools
import sys
from pathlib import Path

import pytest

pytest.importorskip("httptools")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serve"))

import chaos
import http_client
import soak

SEED = 20260101


def test_after_a_storm_every_request_has_ended_once_and_the_canary_sings_the_same() -> None:
    shares = {kind.__name__: 3 * count for kind, count in chaos.CLIENTS}
    tally = chaos.run(SEED, clients=100, among=lambda coming: itertools.islice(coming, sum(shares.values())))
    assert not tally.problems, f"seed {SEED}: {tally.problems[:20]}"
    assert tally.counts["stream 200"] == shares["reads_a_stream"], tally.counts
    assert tally.counts["answer 200"] == shares["reads_an_answer"], tally.counts
    assert tally.counts["slow reader 200"] == shares["stops_reading"], tally.counts
    assert tally.counts["left in the middle 200"] == shares["leaves_in_the_middle"], tally.counts
    assert tally.counts["flood refused"] == shares["floods"], tally.counts
    assert tally.counts["canary"] > 0 and tally.counts["drained: ['length']"] >= 24, tally.counts


def test_steady_work_leaves_nothing_behind() -> None:
    looks = 8
    samples, problems = soak.run(looks, clients=12, seed=SEED, among=lambda coming: itertools.islice(coming, 40))
    problems = [problem for problem in problems if not problem.startswith("rss_bytes")]  # still warming up
    assert len(samples) == 5 and not problems, problems
    assert max(sample["rss_bytes"] for sample in samples) < 256 << 20


def test_a_slope_is_seen_through_noise() -> None:
    flat = [(float(t), 1e8 + (t * 7919 % 13) * 1e5) for t in range(60)]
    leaking = [(t, value + 2e5 * t) for t, value in flat]
    assert soak.slope(flat) == pytest.approx(0, abs=2e4) and soak.slope(leaking) == pytest.approx(2e5, rel=0.1)


def test_a_stream_with_two_ends_is_noticed() -> None:
    def stream(*choices: str) -> http_client.Answer:
        body = b"".join(b'data: {"choices": [' + choice.encode() + b"]}\n\n" for choice in choices)
        return http_client.Answer(200, {}, body + b"data: [DONE]\n\n", whole=True)

    text, end = '{"index": 0, "text": "a", "finish_reason": null}', '{"index": 0, "text": "", "finish_reason": "stop"}'
    assert not http_client.stream_problems(stream(text, end), 1, None)
    assert http_client.stream_problems(stream(text, end, end), 1, None)
    assert http_client.stream_problems(stream(text, end, text), 1, None)
    assert http_client.stream_problems(stream(text), 1, None)
    assert http_client.stream_problems(stream(text, end), 2, None)
