"""A steady load for a long time, and whether anything of the server grows.

python tests/serve/soak.py [--seconds S] [--clients N] [--seed N] [--output FILE]      needs warpjet[server]

Requests come and go, some of their clients leave early; every now and then the load pauses and the server is looked at:
resident memory, descriptors, threads and KV blocks must be what they were, but for noise."""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from chaos import (
    CLIENTS,
    PATIENT,
    Client,
    Tally,
    canary,
    for_seconds,
    leaves_at_once,
    leaves_in_the_middle,
    reads_a_stream,
    reads_an_answer,
    storm,
    visits,
)
from server import ServerProcess, idle_problems

# Few KV blocks: memory is touched when a block is first used, so it grows until each has been.
FLAGS = ("--max-num-queued-reqs", "256", "--num-gpu-blocks-override", "256")
_KINDS = (reads_a_stream, reads_an_answer, leaves_in_the_middle, leaves_at_once)
_WARM_UP = 0.3  # of the looks: caches fill, the allocator finds its size
_MIB = 1 << 20
Sample = dict[str, float]


def run(
    looks: int, clients: int, seed: int, among: Callable[[Iterator[Client]], Iterator[Client]]
) -> tuple[list[Sample], list[str]]:
    """Samples after the warm-up, and what is wrong with them. among: which of the endless visits come before a look."""
    rng, tally = random.Random(seed), Tally()
    kinds = [(kind, weight) for kind, weight in CLIENTS if kind in _KINDS]
    samples: list[Sample] = []
    with ServerProcess((*FLAGS, *PATIENT)) as server:
        before = canary(server)
        begin = time.monotonic()
        for look in range(looks):
            asyncio.run(storm(server.address, rng, tally, clients, among(visits(rng, kinds))))
            tally.problems += idle_problems(server)
            if look >= _WARM_UP * looks:
                found = server.metrics()
                blocks = {"kv_cache_usage": found["kv_cache_usage_perc"], "ended": found["request_success_total"]}
                samples.append({"second": time.monotonic() - begin} | server.resources() | blocks)
        tally.expect("canary", canary(server) == before, "it sings another tune")
    return samples, tally.problems + growth(samples)


def growth(samples: Sequence[Sample]) -> list[str]:
    """What grows: by the slope, over the whole time that was watched."""
    problems = []
    seconds = samples[-1]["second"] - samples[0]["second"]
    # Resident memory may grow by a page here and there; descriptors and threads by none that stays.
    allowed = {"rss_bytes": max(4.0 * _MIB, 0.02 * samples[0]["rss_bytes"]), "fds": 2.0, "threads": 1.0}
    for name, limit in allowed.items():
        grown = slope([(sample["second"], sample[name]) for sample in samples]) * seconds
        if grown > limit:
            values = [sample[name] for sample in samples]
            problems.append(f"{name} grows by {grown:g} in {seconds:.0f} s: {values[0]:g} ... {values[-1]:g}")
    if any(sample["kv_cache_usage"] for sample in samples):
        problems.append("KV blocks are held by nobody")
    return problems


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's: the median of the slopes of all pairs. An outlier does not move it."""
    pairs = [(a, b) for i, a in enumerate(points) for b in points[i + 1 :] if b[0] > a[0]]
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs) if pairs else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--looks", type=int, default=20, help="times that the server is looked at")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", metavar="FILE", help="write the samples as JSON")
    args = parser.parse_args()
    each = args.seconds / args.looks
    samples, problems = run(args.looks, args.clients, args.seed, lambda coming: for_seconds(coming, each))
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump({"seconds": args.seconds, "seed": args.seed, "samples": samples, "problems": problems}, file)
    for sample in samples:
        print("  ".join(f"{name} {value:,.0f}" for name, value in sample.items()))
    for problem in problems[:50]:
        print(f"PROBLEM {problem}")
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
