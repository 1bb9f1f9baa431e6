"""When requests are sent."""

import math
import random
from collections.abc import Sequence

from warpjet.bench.load.datasets import LoadRequest


def send_times(
    requests: Sequence[LoadRequest], rate: float | None, burstiness: float, rng: random.Random
) -> list[float]:
    """Seconds from the start, ascending. rate: requests a second; None is a trace's own, and at once for what has none.

    Gaps are gamma-distributed, with `burstiness` as shape: 1 is a Poisson process, more is more even, inf is a clock. A
    trace at another rate runs faster or slower."""
    own = [request.at_s for request in requests if request.at_s is not None]
    if rate is None:
        return own or [0.0] * len(requests)
    if math.isinf(rate):
        return [0.0] * len(requests)
    if own:
        span = own[-1] * len(own) / max(1, len(own) - 1)  # the mean gap follows the last one, too
        return [at * len(own) / rate / span if span > 0 else 0.0 for at in own]
    gaps = [1.0 if math.isinf(burstiness) else rng.gammavariate(burstiness, 1 / burstiness) for _ in requests]
    stretch = len(requests) / rate / sum(gaps)  # the mean rate is what was asked for, in this sample too
    times, now = [], 0.0
    for gap in gaps:
        times.append(now)
        now += gap * stretch
    return times
