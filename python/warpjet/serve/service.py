"""The servers of one process while they run: signals, drain, and the end."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from types import FrameType

from warpjet._native import EngineConfig, __version__
from warpjet.common.machine import cpu_name, device_name
from warpjet.serve.apis import all_endpoints
from warpjet.serve.http.app import App
from warpjet.serve.http.asgi import Application
from warpjet.serve.http.auth import load_keys
from warpjet.serve.http.connection import Limits
from warpjet.serve.http.listener import tls_context
from warpjet.serve.http.server import HttpServer, allowed_connections
from warpjet.serve.http.sites import Sites
from warpjet.serve.operating.load_log import LoadLog
from warpjet.serve.serving import Serving
from warpjet.serve.settings import Settings

_log = logging.getLogger("warpjet.serve")

_FAILED_SECONDS = 5.0  # a failed engine's server still tells why for so long


class Service:
    """The servers of one process: users' and, if wanted, administrators'."""

    def __init__(self, serving: Serving, sockets: list[socket.socket], admin_sockets: list[socket.socket]) -> None:
        self._serving = serving
        self._settings = serving.settings
        self._sockets, self._admin_sockets = sockets, admin_sockets
        self._exit_code = 0
        self._signals = 0
        self._stop = asyncio.Event()
        endpoints = all_endpoints(serving)
        keys = load_keys(self._settings)
        self._keyed = keys.needed
        self._loopback = _is_loopback(sockets[0])
        sites = None if keys.needed and not self._settings.allowed_hosts else self._make_sites()
        self._state = serving.server
        self._user = App(self._state, endpoints, keys, sites=sites)
        self._admin = App(self._state, endpoints, keys, scope="admin")
        self._load_log = None if self._settings.disable_log_stats else LoadLog(serving.llm.get_metrics)

    async def run(self) -> int:
        """Serves until a signal or the engine's end. The exit code."""
        loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends already
                loop.call_soon_threadsafe(self._on_signal, number)

        for number in draining_signals():
            signal.signal(number, on_signal)
        if self._is_open_to_all():
            _log.warning(
                "no key is needed, and other machines can reach %s (in a container, those that its published ports let "
                "in): set --api-key-file or --api-key",
                self._settings.host,
            )
        self._log_engine()
        servers = self._start()
        beside = [asyncio.create_task(self._watch())]
        if self._load_log is not None:
            beside.append(asyncio.create_task(self._load_log.run()))
        print(_greeting(self._settings, self._sockets, self._serving.model_names[0]), file=sys.stderr, flush=True)
        await self._drain()
        await asyncio.gather(*(server.close(at_once=self._signals > 1) for server in servers))
        for task in beside:
            task.cancel()
        return self._exit_code

    def _is_open_to_all(self) -> bool:
        """Whether another machine needs no more than the address."""
        settings = self._settings
        return not (self._keyed or self._loopback or settings.uds is not None or settings.ssl_ca_certs is not None)

    def _log_engine(self) -> None:
        config = self._serving.llm.session.engine.config
        blocks = config.num_gpu_blocks_override
        tokens = blocks * config.block_size
        _log.info(
            "warpjet %s on %s, %s, context %d tokens, KV cache %d tokens in %d blocks = %.1f full requests",
            *(__version__, _device_text(config), config.dtype, config.max_model_len),
            *(tokens, blocks, tokens / config.max_model_len),
        )

    def _make_sites(self) -> Sites:
        """A browser takes no page of another name for this server's where TLS proves names."""
        settings = self._settings
        check_host = bool(settings.allowed_hosts) or (self._loopback and settings.ssl_certfile is None)
        return Sites(check_host, (*settings.allowed_hosts, settings.host), settings.allowed_origins)

    def _start(self) -> list[HttpServer]:
        settings = self._settings
        limits = Limits(
            max_connections=allowed_connections(settings.max_connections),
            header_timeout=settings.header_timeout,
            body_timeout=settings.body_timeout,
            keep_alive_timeout=settings.keep_alive_timeout,
            send_timeout=settings.send_timeout,
        )
        tls = None
        if settings.ssl_certfile is not None:
            tls = tls_context(settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_ca_certs)
        users = HttpServer(_with_cors(self._user, settings), self._sockets, limits, tls, settings.root_path)
        admins = HttpServer(self._admin, self._admin_sockets, limits, root_path=settings.root_path)
        return [users, admins]

    async def _drain(self) -> None:
        """Waits for a signal; then refuses new requests and waits for those that live, but not for ever."""
        await self._stop.wait()
        self._state.draining = True
        deadline = asyncio.get_running_loop().time() + self._settings.shutdown_timeout
        number = self._state.live
        _log.info("draining %d requests, up to %g s", number, self._settings.shutdown_timeout)
        while self._state.live and self._signals < 2 and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        left = self._state.live
        _log.info("drained: %d requests have finished, %d are cut off", max(number - left, 0), left)
        await asyncio.to_thread(self._serving.llm.session.engine.close)  # their streams end with "abort"
        for _ in range(20):
            if not self._state.live or self._signals > 1:
                return
            await asyncio.sleep(0.05)

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        _log.info("%s%s", signal.Signals(number).name, " again: the server ends at once" if self._signals > 1 else "")
        self._stop.set()

    async def _watch(self) -> None:
        """A failed engine ends the process, after its clients had time to see why."""
        while self._serving.llm.session.engine.health() != "failed":
            await asyncio.sleep(0.5)
        _log.error("the engine has failed; the server ends in %g s", _FAILED_SECONDS)
        self._exit_code = 1
        await asyncio.sleep(_FAILED_SECONDS)
        self._stop.set()


def draining_signals() -> list[signal.Signals]:
    """The signals that end the server: not SIGHUP under nohup, which wants it ignored."""
    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in every if signal.getsignal(number) is not signal.SIG_IGN]


def _is_loopback(one: socket.socket) -> bool:
    return one.family != socket.AF_UNIX and ipaddress.ip_address(one.getsockname()[0]).is_loopback


def _device_text(config: EngineConfig) -> str:
    """What the engine runs on, by its own name."""
    if config.device == "cpu":
        return f"{cpu_name()}, {config.num_threads} threads"
    return config.device if config.device == "null" else f"{device_name(config.device)} ({config.device})"


def _with_cors(app: App, settings: Settings) -> Application:
    if not settings.allowed_origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=settings.allowed_origins,
        allow_methods=settings.allowed_methods,
        allow_headers=settings.allowed_headers,
        allow_credentials=settings.allow_credentials,
    )


def _greeting(settings: Settings, sockets: list[socket.socket], model: str) -> str:
    if settings.uds is not None:
        return f"warpjet serves {model} on the Unix socket {settings.uds}"
    host, port = sockets[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if settings.ssl_certfile else 'http'}://{shown}:{port}{settings.root_path}"
    return f"warpjet serves {model}: API at {url}/v1, page at {url}/"
