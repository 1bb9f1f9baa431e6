"""What the server counts of the requests it answers."""

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class HttpMetrics:
    """Requests by route and status, and how long they took."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._buckets = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def count(self, route: str, status: int, seconds: float) -> None:
        """One request has ended. Status 499: its client had gone."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._sum += seconds
        for index, bound in enumerate(_SECONDS):
            if seconds <= bound:
                self._buckets[index] += 1
                return
        self._buckets[-1] += 1

    def text(self, live: int) -> str:
        """In Prometheus' format."""
        lines = ["# HELP warpjet:http_requests_total Requests answered; 499 are those whose client had gone."]
        lines.append("# TYPE warpjet:http_requests_total counter")
        for (route, status), number in sorted(self._requests.items()):
            lines.append(f'warpjet:http_requests_total{{route="{route}",status="{status}"}} {number}')
        lines.append("# HELP warpjet:http_requests_live Requests being answered now.")
        lines.append("# TYPE warpjet:http_requests_live gauge")
        lines.append(f"warpjet:http_requests_live {live}")
        lines.append("# HELP warpjet:http_request_duration_seconds From a request's head to the end of its answer.")
        lines.append("# TYPE warpjet:http_request_duration_seconds histogram")
        total = 0
        for bound, number in zip((*_SECONDS, "+Inf"), self._buckets, strict=True):
            total += number
            lines.append(f'warpjet:http_request_duration_seconds_bucket{{le="{bound}"}} {total}')
        lines.append(f"warpjet:http_request_duration_seconds_sum {self._sum:.6f}")
        lines.append(f"warpjet:http_request_duration_seconds_count {total}")
        return "\n".join(lines) + "\n"
