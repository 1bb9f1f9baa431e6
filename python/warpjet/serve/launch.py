"""`warpjet serve`: binds, loads, serves, drains."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from warpjet.async_llm import AsyncLLM
from warpjet.common.log import start_log
from warpjet.parsing.detection import default_tool_parser
from warpjet.requests.locate import find_model, served_names
from warpjet.requests.session import Session
from warpjet.serve.flags import Plan
from warpjet.serve.http.auth import load_keys
from warpjet.serve.http.listener import tls_context
from warpjet.serve.http.sockets import listening
from warpjet.serve.service import Service, draining_signals
from warpjet.serve.serving import Serving

_log = logging.getLogger("warpjet.serve")


def serve(plan: Plan, dry_run: bool = False) -> int:
    """Runs until a signal. Exit code: 0 after a drain, 1 when the engine fails. Raises ValueError or OSError for what
    keeps it from starting."""
    settings = plan.settings
    start_log(settings.log_level, "info")
    for notice in plan.notices:
        _log.warning("%s", notice)
    if settings.ssl_certfile is not None:
        tls_context(settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_ca_certs)
    load_keys(settings)
    if dry_run:
        check_model_directory(plan)
        print("the configuration is good")
        return 0
    with listening(settings) as (sockets, admin_sockets):
        serving = _open_interruptibly(plan)
        if serving is None:
            return 130
        try:
            gc.freeze()  # the collector, which stops everything, need not look at what stays for good
            runner = asyncio.Runner(loop_factory=_loop_factory())
            with runner:
                code = runner.run(Service(serving, sockets, admin_sockets).run())
        finally:
            ended = serving.close()
    if not ended:
        _end_process(code)
    return code


def open_serving(plan: Plan) -> Serving:
    """Loads the model."""
    settings = plan.settings
    llm = AsyncLLM(
        plan.model,
        tokenizer=settings.tokenizer,
        skip_tokenizer_init=settings.skip_tokenizer_init,
        chat_template=settings.chat_template,
        generation_config=settings.generation_config,
        reasoning_parser=_parser(settings.reasoning_parser),
        tool_call_parser=_parser(settings.tool_call_parser),
        **plan.engine,
    )
    names = [name for name in settings.served_model_name if name != "*"] or served_names(plan.model)
    llm.session.content_format = settings.chat_template_content_format
    try:
        warn_of_another_format(llm.session)
        serving = Serving(llm, settings, names)
        serving.default_sampling  # noqa: B018 - raises for what is wrong with it, before the first request
        return serving
    except BaseException:
        llm.shutdown()
        raise


def _parser(name: str) -> str | None:
    return None if name == "none" else name


def warn_of_another_format(session: Session) -> None:
    """Where the parser of tool calls reads another format than the model is told of."""
    template, parsers = session.chat_template, session.parsers
    if template is None or template.writes_tools:
        return
    if parsers.tool not in (None, default := default_tool_parser(parsers.reasoning)):
        _log.warning(
            "the chat template writes no tools, so the model is told of them in the format of %s, but "
            "--tool-call-parser %s reads another: leave it out, or pass a --chat-template that writes tools",
            default,
            parsers.tool,
        )


def check_model_directory(plan: Plan) -> None:
    """Raises what keeps the model from being found."""
    find_model(plan.model, weights=plan.engine.get("device") != "null" and plan.engine.get("load_format") != "dummy")


def _open_interruptibly(plan: Plan) -> Serving | None:
    """Loads in a thread, so that a signal ends the process at once: there is nothing to be undone."""
    result: list[Any] = []

    def load() -> None:
        try:
            result.append(open_serving(plan))
        except BaseException as error:
            result.append(error)

    def leave(number: int, frame: FrameType | None) -> None:
        _log.info("%s while the model loads: there is nothing to drain", signal.Signals(number).name)
        _end_process(0 if number == signal.SIGTERM else 130)

    before = {number: signal.signal(number, leave) for number in draining_signals()}
    thread = threading.Thread(target=load, name="warpjet-load", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    for number, handler in before.items():
        signal.signal(number, handler)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]  # type: ignore[no-any-return]


def _end_process(code: int) -> NoReturn:
    """At once, beside a thread in native code, which the interpreter's own end must not meet. The log is written."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
            stream.flush()
    os._exit(code)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
