"""OpenAI's Responses API: create, watch, fetch, cancel and delete responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from warpjet.serve.conversation import ChatRequest, Serving
from warpjet.serve.errors import ServeError, bad_request, from_exception
from warpjet.serve.exchange import EventStream, HttpRequest, Response, json_response, sse
from warpjet.serve.models import check_model
from warpjet.serve.response_events import Event, ResponseWriter
from warpjet.serve.response_request import CREATE, chat_request, context_of, new_response
from warpjet.serve.response_store import MAX_RUNNING, ResponseStore, StoredResponse
from warpjet.serve.schema import Endpoint

_PAGE, _MAX_PAGE = 20, 100  # input items
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded", 503: "rate_limit_exceeded"}


@dataclass(slots=True)
class _Run:
    """A response on its way. store: None when it shall not be kept."""

    serving: Serving
    chat: ChatRequest
    writer: ResponseWriter
    stored: StoredResponse
    store: ResponseStore | None
    tenant: str


async def create(serving: Serving, request: HttpRequest) -> Response | EventStream:
    """Answers: whole, as events, or in the background."""
    body, store = request.body, serving.responses
    background, stream = body["background"], body["stream"]
    if background and not body["store"]:
        raise bad_request("background needs store: what is not kept cannot be fetched", "background")
    model = check_model(serving, body.get("model"))
    context = context_of(body, _previous(store, request))
    chat = chat_request(serving, request, context)
    response = new_response(body, chat, model)
    chat.request_id = response["id"]
    include = body.get("include", ())
    writer = ResponseWriter(response, chat.sampling.logprobs, "reasoning.encrypted_content" in include)
    stored = StoredResponse(response, context, events=[] if background and stream else None)
    run = _Run(serving, chat, writer, stored, store if body["store"] else None, request.tenant)
    if background:
        await serving.prepare_chat(chat)  # what cannot run is refused now
        _start(run, store)
        return EventStream(_sse(stored.watch(-1))) if stream else json_response(response)
    if stream:
        return EventStream(_sse(_events(run)))
    async for _ in _events(run):
        pass
    return json_response(response)


async def _events(run: _Run) -> AsyncIterator[list[Event]]:
    """Runs while somebody reads. What goes wrong before anything was told is raised, later it is an event."""
    begun = False
    try:
        async with aclosing(run.serving.answer(run.chat)) as stream:
            async for happened in stream:
                before = [] if begun else run.writer.begin()
                begun = True
                yield before + run.writer.write(happened)
    except Exception as error:
        if not begun:
            raise
        yield _failure(run, error)
    if run.store:
        run.store.put(run.tenant, run.stored)


def _start(run: _Run, store: ResponseStore) -> None:
    """Runs in a task of its own."""
    if store.running(run.tenant) >= MAX_RUNNING:
        raise ServeError(
            429, f"{MAX_RUNNING} responses run in the background already", param="background", retry_after=1
        )
    run.stored.record(run.writer.begin())
    run.stored.task = task = asyncio.get_running_loop().create_task(_in_background(run))
    store.put(run.tenant, run.stored)

    def ended(_: asyncio.Task[None]) -> None:  # also a task that was cancelled before it began
        run.writer.cancel()
        run.stored.record([])
        store.grown(run.tenant, run.stored)

    task.add_done_callback(ended)


async def _in_background(run: _Run) -> None:
    begun = False
    try:
        async with aclosing(run.serving.answer(run.chat)) as stream:
            async for happened in stream:
                before = [] if begun else run.writer.run()
                begun = True
                run.stored.record(before + run.writer.write(happened))
    except Exception as error:
        run.stored.record(_failure(run, error))


def _failure(run: _Run, error: Exception) -> list[Event]:
    said = from_exception(error)
    return run.writer.fail(said.message, _ERROR_CODES.get(said.status, "server_error"))


# --- Responses that are kept -----------------------------------------------------------------------------------------


async def fetch(serving: Serving, request: HttpRequest) -> Response | EventStream:
    """A response as it is now, or its events."""
    stored = _find(serving.responses, request)
    query = _query(request, "stream", "starting_after")
    if query.get("stream", "false") == "false":
        return json_response(stored.response)
    if stored.events is None:
        raise bad_request("only responses that run in the background can be watched", "stream")
    return EventStream(_sse(stored.watch(_integer(query, "starting_after", -1))))


async def cancel(serving: Serving, request: HttpRequest) -> Response:
    """Ends a response that runs in the background. One that has ended stays as it is."""
    stored = _find(serving.responses, request)
    if stored.task is None:
        raise bad_request("only responses that run in the background can be cancelled")
    stored.task.cancel()
    await asyncio.wait([stored.task])
    await asyncio.sleep(0)  # until its callback has run
    return json_response(stored.response)


async def delete(serving: Serving, request: HttpRequest) -> Response:
    """Forgets a response, and ends it if it still runs."""
    stored = _find(serving.responses, request)
    serving.responses.remove(request.tenant, stored.id)
    if stored.task is not None:
        stored.task.cancel()
    return json_response({"id": stored.id, "object": "response", "deleted": True})


async def input_items(serving: Serving, request: HttpRequest) -> Response:
    """A page of the items that a response answers, the last first unless order=asc."""
    query = _query(request, "after", "limit", "order")
    items = list(_find(serving.responses, request).context)
    if (order := query.get("order", "desc")) not in ("asc", "desc"):
        raise bad_request(f"order must be asc or desc, got {order[:32]!r}", "order")
    if order == "desc":
        items.reverse()
    limit = _integer(query, "limit", _PAGE)
    if not 1 <= limit <= _MAX_PAGE:
        raise bad_request(f"limit must be from 1 to {_MAX_PAGE}, got {limit}", "limit")
    start = 0
    if (after := query.get("after")) is not None:
        start = next((i for i, item in enumerate(items, 1) if item["id"] == after), 0)
        if start == 0:
            raise ServeError(404, f"there is no item {after[:64]!r}", param="after")
    page = items[start : start + limit]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return json_response({"object": "list", "data": page, **ends, "has_more": start + limit < len(items)})


def _find(store: ResponseStore, request: HttpRequest) -> StoredResponse:
    response_id = request.path_params["response_id"]
    if stored := store.get(request.tenant, response_id):
        return stored
    raise ServeError(404, f"there is no response {response_id[:64]!r}", param="response_id")


def _previous(store: ResponseStore, request: HttpRequest) -> StoredResponse | None:
    if (name := request.body.get("previous_response_id")) is None:
        return None
    if (stored := store.get(request.tenant, name)) is None:
        message = f"there is no response {name[:64]!r}"
        raise ServeError(404, message, param="previous_response_id", code="previous_response_not_found")
    if stored.response["status"] not in ("completed", "incomplete"):
        message = f"the previous response is {stored.response['status']}, so it cannot be gone on from"
        raise bad_request(message, "previous_response_id")
    return stored


def _query(request: HttpRequest, *names: str) -> dict[str, str]:
    """Refuses what is not known."""
    for name in request.query:
        if name not in names:
            raise bad_request(f"{name[:64]} is not supported here", name[:64])
    return dict(request.query)


def _integer(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.removeprefix("-").isdecimal() or len(text) > 9:
        raise bad_request(f"{name} must be an integer, got {text[:32]!r}", name)
    return int(text)


async def _sse(batches: AsyncIterator[list[Event]]) -> AsyncIterator[bytes]:
    async with aclosing(batches) as stream:  # type: ignore[type-var]
        async for events in stream:
            if events:
                yield b"".join(f"event: {e['type']}\n".encode() + sse(e) for e in events)


_ONE = "/v1/responses/{response_id}"

ROUTES = [
    Endpoint("POST", "/v1/responses", create, CREATE, "answer a conversation, and keep it"),
    Endpoint("GET", _ONE, fetch, None, "a response, or its events"),
    Endpoint("DELETE", _ONE, delete, None, "forget a response"),
    Endpoint("POST", _ONE + "/cancel", cancel, None, "End a response that runs in the background"),
    Endpoint("GET", _ONE + "/input_items", input_items, None, "what a response answers"),
]
