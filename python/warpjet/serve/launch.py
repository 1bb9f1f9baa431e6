"""`warpjet serve`: binds, loads, serves, drains."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from warpjet.async_llm import AsyncLLM
from warpjet.locate import find_model, served_names
from warpjet.serve.app import App, all_endpoints
from warpjet.serve.auth import Keys
from warpjet.serve.connection import Connection
from warpjet.serve.conversation import Serving
from warpjet.serve.flags import Plan
from warpjet.serve.listener import Listener
from warpjet.serve.parsers import find_parser_names
from warpjet.serve.settings import Settings

_log = logging.getLogger("warpjet.serve")

# What the kernel holds for a client that does not read; more would let its request run far ahead of it.
_SEND_BUFFER_BYTES = 256 << 10
_OTHER_FILES = 96  # what the process opens beside connections, and connections that are being refused
_FAILED_SECONDS = 5.0  # a failed engine's server still tells why for so long


def serve(plan: Plan, dry_run: bool = False) -> int:
    """Runs until a signal. Exit code: 0 after a drain, 1 when the engine fails. Raises ValueError or OSError for what
    keeps it from starting."""
    settings = plan.settings
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("warpjet").setLevel(settings.log_level.upper())
    for notice in plan.notices:
        _log.warning("%s", notice)
    if settings.ssl_certfile is not None:
        _tls_context(settings)
    _read_key_file(settings.api_key_file)
    if dry_run:
        check_model_directory(plan)
        print("the configuration is good")
        return 0
    with _listening(settings) as (sockets, admin_sockets):
        serving = _open_interruptibly(plan)
        if serving is None:
            return 130
        try:
            runner = asyncio.Runner(loop_factory=_loop_factory())
            with runner:
                return runner.run(_Service(serving, sockets, admin_sockets).run())
        finally:
            serving.close()


def open_serving(plan: Plan) -> Serving:
    """Loads the model."""
    settings = plan.settings
    llm = AsyncLLM(
        plan.model,
        tokenizer=settings.tokenizer,
        skip_tokenizer_init=settings.skip_tokenizer_init,
        chat_template=settings.chat_template,
        generation_config=settings.generation_config,
        **plan.engine,
    )
    names = list(settings.served_model_name) or served_names(plan.model)
    try:
        serving = Serving(llm, settings, names, find_parser_names(llm.session, settings))
        serving.default_sampling  # noqa: B018 - raises for what is wrong with it, before the first request
        return serving
    except BaseException:
        llm.shutdown()
        raise


def check_model_directory(plan: Plan) -> None:
    """Raises what keeps the model from being found."""
    find_model(plan.model, weights=plan.engine.get("device") != "null" and plan.engine.get("load_format") != "dummy")


def make_keys(settings: Settings) -> Keys:
    """The keys of the settings and of their file."""
    return Keys((*settings.api_key, *_read_key_file(settings.api_key_file)), settings.admin_api_key)


def _open_interruptibly(plan: Plan) -> Serving | None:
    """Loads in a thread, so that a signal ends the process at once: there is nothing to be undone."""
    result: list[Any] = []

    def load() -> None:
        try:
            result.append(open_serving(plan))
        except BaseException as error:
            result.append(error)

    def leave(number: int, frame: FrameType | None) -> None:
        sys.stderr.flush()
        os._exit(0 if number == signal.SIGTERM else 130)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=load, name="warpjet-load", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    for number, handler in before.items():
        signal.signal(number, handler)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]  # type: ignore[no-any-return]


class _Service:
    """The servers of one process: users' and, if wanted, administrators'."""

    def __init__(self, serving: Serving, sockets: list[socket.socket], admin_sockets: list[socket.socket]) -> None:
        self._serving = serving
        self._settings = serving.settings
        self._sockets, self._admin_sockets = sockets, admin_sockets
        self._exit_code = 0
        self._signals = 0
        self._stop = asyncio.Event()
        endpoints = all_endpoints()
        keys = make_keys(self._settings)
        self._user = App(serving, endpoints, keys, serving.http_metrics)
        self._admin = App(serving, endpoints, keys, serving.http_metrics, scope="admin")
        serving.live_requests = lambda: self._user.live
        self._servers = [_Server(_uvicorn_config(self._settings, _with_cors(self._user, self._settings)))]
        if admin_sockets:
            self._servers.append(_Server(_uvicorn_config(self._settings, self._admin, tls=False)))

    async def run(self) -> int:
        loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends already
                loop.call_soon_threadsafe(self._on_signal)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
        pairs = zip(self._servers, (self._sockets, self._admin_sockets), strict=False)
        running = [asyncio.create_task(server.serve(sockets)) for server, sockets in pairs]
        watching = asyncio.create_task(self._watch())
        while not all(server.started for server in self._servers):
            await asyncio.sleep(0.01)
        print(_greeting(self._settings, self._sockets, self._serving.model_names[0]), file=sys.stderr, flush=True)
        await self._drain()
        for server in self._servers:
            server.should_exit = True
            server.force_exit = self._signals > 1
        await asyncio.gather(*running)
        watching.cancel()
        return self._exit_code

    async def _drain(self) -> None:
        """Waits for a signal; then refuses new requests and waits for those that live, but not for ever."""
        await self._stop.wait()
        self._serving.draining = True
        deadline = asyncio.get_running_loop().time() + self._settings.shutdown_timeout
        if self._user.live:
            _log.info("draining: %d requests have %g s to finish", self._user.live, self._settings.shutdown_timeout)
        while self._user.live and self._signals < 2 and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        if self._user.live:
            _log.warning("ending %d requests that have not finished", self._user.live)
        await asyncio.to_thread(self._serving.llm.session.engine.close)  # their streams end with "abort"
        for _ in range(20):
            if not self._user.live or self._signals > 1:
                return
            await asyncio.sleep(0.05)

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()

    async def _watch(self) -> None:
        """A failed engine ends the process, after its clients had time to see why."""
        while self._serving.llm.session.engine.health() != "failed":
            await asyncio.sleep(0.5)
        _log.error("the engine has failed; the server ends in %g s", _FAILED_SECONDS)
        self._exit_code = 1
        await asyncio.sleep(_FAILED_SECONDS)
        self._stop.set()


class _Server(uvicorn.Server):
    """Signals are the service's business, and listening is a Listener's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        config, loop = self.config, asyncio.get_running_loop()

        def make_protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        self.servers = [Listener(one, make_protocol, config.ssl, config.backlog) for one in sockets or ()]  # type: ignore[misc]
        self.started = True


def _max_connections(wanted: int) -> int:
    """As many as are wanted and the process may have files open: what is accepted can be answered, if only with 503."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return wanted
    return max(min(wanted, allowed - _OTHER_FILES), 1)


def _uvicorn_config(settings: Settings, app: Any, tls: bool = True) -> uvicorn.Config:
    limits = {
        "max_connections": _max_connections(settings.max_connections),
        "header_timeout": settings.header_timeout,
        "send_timeout": settings.send_timeout,
    }
    return uvicorn.Config(
        app,
        http=type("BoundedConnection", (Connection,), limits),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        root_path=settings.root_path,
        timeout_keep_alive=settings.keep_alive_timeout,  # type: ignore[arg-type]
        timeout_graceful_shutdown=1,
        ssl_keyfile=settings.ssl_keyfile if tls else None,
        ssl_certfile=settings.ssl_certfile if tls else None,
        ssl_ca_certs=settings.ssl_ca_certs if tls else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.ssl_ca_certs else ssl.CERT_NONE,
    )


def _with_cors(app: App, settings: Settings) -> Any:
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


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[tuple[list[socket.socket], list[socket.socket]]]:
    """The sockets, bound before the model is loaded so that a taken port costs no time. They listen when served."""
    bound: list[socket.socket] = []
    unix: list[str] = []
    try:
        if settings.uds is not None:
            bound.append(_unix_socket(settings.uds))
            unix.append(settings.uds)
        else:
            bound.append(_tcp_socket(settings.host, settings.port))
        users = len(bound)
        if settings.admin_uds is not None:
            bound.append(_unix_socket(settings.admin_uds))
            unix.append(settings.admin_uds)
        elif settings.admin_port is not None:
            bound.append(_tcp_socket("127.0.0.1", settings.admin_port))
        yield bound[:users], bound[users:]
    finally:
        for one in bound:
            one.close()
        for path in unix:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"host {host!r} is no address: {error.strerror}") from None
    one = socket.socket(family, kind, protocol)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    try:
        one.bind(address)
    except OSError as error:
        one.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    return one


def _unix_socket(path: str) -> socket.socket:
    """A socket file that nobody listens on any more is replaced."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise OSError("another process listens on it")
            os.unlink(path)
        one.bind(path)
        os.chmod(path, 0o600)
    except OSError as error:
        one.close()
        raise OSError(f"cannot listen on the Unix socket {path}: {error.strerror or error}") from None
    return one


def _tls_context(settings: Settings) -> None:
    """Raises OSError or ValueError for certificates that cannot be used."""
    for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        path = getattr(settings, name)
        if path is not None and not Path(path).is_file():
            raise OSError(f"{name} {path} does not exist")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.ssl_certfile or "", settings.ssl_keyfile)
    except ssl.SSLError as error:
        raise ValueError(f"ssl_certfile and ssl_keyfile cannot be used: {error.reason or error}") from None


def _read_key_file(path: str | None) -> list[str]:
    if path is None:
        return []
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ValueError(f"api_key_file {path} holds no key")
    return keys


def _greeting(settings: Settings, sockets: list[socket.socket], model: str) -> str:
    if settings.uds is not None:
        return f"warpjet serves {model} on the Unix socket {settings.uds}"
    host, port = sockets[0].getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url = f"{'https' if settings.ssl_certfile else 'http'}://{shown}:{port}{settings.root_path}"
    return f"warpjet serves {model}: API at {url}/v1, page at {url}/"
