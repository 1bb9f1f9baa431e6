"""A server for tests: the real application on a port of its own. To the messages of SCRIPT it answers what they say
there, whatever the model; everything else is the embedded model's."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from waiting import PATIENCE_S, until

from warpjet.async_llm import AsyncLLM
from warpjet.parsing.detection import ParserNames
from warpjet.parsing.events import ToolCallDelta
from warpjet.serve.apis import all_endpoints
from warpjet.serve.events import ChatEvent, ChatRequest, Delta, Ended, Started
from warpjet.serve.http.app import App
from warpjet.serve.http.auth import Keys
from warpjet.serve.http.connection import Limits
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.http.server import HttpServer
from warpjet.serve.http.sockets import listening
from warpjet.serve.serving import Serving
from warpjet.serve.settings import Settings

MODEL = "tiny"
HERMES = ParserNames(None, "hermes")
KEY, OTHER_KEY = "key-of-ann", "key-of-bob"

THINK_SAY_CALL: list[list[ChatEvent]] = [
    [Started(12, 4, list(range(12))), Delta(0, reasoning="Let me ")],
    [Delta(0, reasoning="see.")],
    [Delta(0, content="I ask.")],
    [Delta(0, tool_calls=[ToolCallDelta(0, "call_a", "weather", '{"city": ')])],
    [Delta(0, tool_calls=[ToolCallDelta(0, None, None, '"Rome"}'), ToolCallDelta(1, "call_b", "time", "")])],
    [Delta(0, tool_calls=[ToolCallDelta(1, None, None, "{}")]), Ended(0, "tool_calls", None, None, 20, 6)],
]
BREAK: list[list[ChatEvent]] = [
    [Started(3, 0, [1, 2, 3]), Delta(0, content="Once")],
    [Ended(0, "error", None, "the logits are not finite", 1)],
]
SCRIPT: dict[str, list[list[ChatEvent]]] = {"Call a tool.": THINK_SAY_CALL, "Break.": BREAK}


class _Scripted(Serving):
    async def answer(self, request: ChatRequest) -> AsyncIterator[list[ChatEvent]]:
        said = str(request.messages[-1].get("content"))
        if said == "Overload.":
            raise ServeError(503, "the queue is full", code="overloaded", retry_after=1)
        if said in SCRIPT:
            for happened in SCRIPT[said]:
                yield happened
            return
        async for happened in super().answer(request):
            yield happened


@contextlib.contextmanager
def api_server(
    tokenizer: str | None = None, parsers: ParserNames = HERMES, **settings: Any
) -> Iterator[tuple[str, Serving]]:
    """Its address without a path, and what it serves. Keys are KEY and OTHER_KEY, of two tenants."""
    llm = AsyncLLM(device="cpu", tokenizer=tokenizer, reasoning_parser=parsers.reasoning, tool_call_parser=parsers.tool)
    serving = _Scripted(llm, Settings(**settings), [MODEL])
    keys = Keys((f"ann:{KEY}", f"bob:{OTHER_KEY}"))
    app: Any = App(serving.server, all_endpoints(serving), keys)
    with listening(Settings(port=0)) as (sockets, _), running(app, sockets):
        try:
            yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}", serving
        finally:
            serving.close()


@contextlib.contextmanager
def running(app: Any, sockets: list[Any]) -> Iterator[None]:
    """Serves in a thread."""
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        server = HttpServer(app, sockets, Limits())
        started.set()
        await ended.wait()
        await server.close()

    started = threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(PATIENCE_S)
        loop.close()


def endpoints() -> list[Endpoint]:
    """Every endpoint, of a server without a model."""
    no_model: Any = None
    return all_endpoints(Serving(no_model, Settings(), [MODEL]))


def becomes_idle(serving: Serving) -> bool:
    """Nothing runs in the engine any more, and no block is held."""
    until(lambda: not any(serving.llm.get_metrics()[name] for name in ("running", "waiting", "kv_blocks_used")))
    return True
