"""State that the ports of one process share, and that routes about the server show."""

from warpjet.serve.http.counters import HttpMetrics
from warpjet.serve.http.workers import Workers
from warpjet.serve.settings import Settings


class ServerState:
    """Lives in the event loop.

    draining: users' requests are refused, as the server ends. live: users' requests between their head and the end of
    their answer."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.workers = Workers(settings.prepare_threads, settings.prepare_timeout)
        self.metrics = HttpMetrics()
        self.draining = False
        self.live = 0
