"""OpenAI's Responses API: create, watch, fetch, cancel and delete responses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from warpjet.serve.conversation import ChatRequest, Serving
from warpjet.serve.http.errors import ServeError, bad_request, from_exception
from warpjet.serve.http.exchange import EventStream, HttpRequest, Response, json_response, sse, to_json
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.openai.models import check_model
from warpjet.serve.openai.response_events import Event, ResponseWriter
from warpjet.serve.openai.response_request import (
    COUNT,
    CREATE,
    SEALED_REASONING,
    chat_request,
    context_of,
    new_response,
)
from warpjet.serve.openai.response_store import ResponseStore, StoredResponse
from warpjet.serve.openai.response_tools import offer_tools

_PAGE, _MAX_PAGE = 20, 100  # input items
_LARGE = 8 << 10  # bytes of JSON that a thread makes a conversation of
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded", 503: "rate_limit_exceeded"}


@dataclass(slots=True)
class _Run:
    """A response on its way. kept: it can be asked for later."""

    chat: ChatRequest
    writer: ResponseWriter
    stored: StoredResponse
    kept: bool


async def create(serving: Serving, request: HttpRequest) -> Response | EventStream:
    """Answers: whole, as events, or in the background."""
    body = request.body
    if body["background"] and not body["store"]:
        raise bad_request("background needs store: what is not kept cannot be fetched", "background")
    run = await _planned(serving, request)
    if body["background"]:
        await serving.prepare_chat(run.chat)  # what cannot run is refused now
        _start(serving, run)
        return EventStream(run.stored.watch(-1)) if body["stream"] else Response(run.stored.body)
    if body["stream"]:
        return EventStream(_events(serving, run))
    async for _ in _events(serving, run):
        pass
    return Response(run.stored.body)


async def _planned(serving: Serving, request: HttpRequest) -> _Run:
    """Everything that the request says. A thread reads it when it is large."""
    previous = _previous(serving.responses, request)
    if request.body_bytes + (len(previous.context) if previous else 0) > _LARGE:
        return await serving.workers.run(lambda: _plan(serving, request, previous), request.tenant)
    return _plan(serving, request, previous)


def _plan(serving: Serving, request: HttpRequest, previous: StoredResponse | None) -> _Run:
    """Everything that the request says. Raises ServeError."""
    body = request.body
    model = check_model(serving, body.get("model"))
    context = context_of(body, previous)
    offer = offer_tools(body.get("tools") or [], body["tool_choice"], serving.settings.strict)
    chat = chat_request(serving, request, context, offer)
    response = new_response(body, chat, model, offer)
    chat.request_id = response["id"]
    sealed = SEALED_REASONING in body.get("include", ())
    stored = StoredResponse(
        response,
        to_json(context) if body["store"] else b"",
        events=[] if body["background"] and body["stream"] else None,
        request_bytes=request.body_bytes,
    )
    writer = ResponseWriter(response, chat.sampling.logprobs, sealed, offer.origins)
    return _Run(chat, writer, stored, body["store"])


async def _events(serving: Serving, run: _Run) -> AsyncIterator[bytes]:
    """Runs while somebody reads. What goes wrong before anything was told is raised, later it is an event. It is kept
    before its end is told."""
    writer, begun = run.writer, False
    try:
        async with aclosing(serving.answer(run.chat)) as stream:
            async for happened in stream:
                events = ([] if begun else writer.begin()) + writer.write(happened)
                begun = True
                _keep_ended(serving, run)
                if events:
                    yield b"".join(map(_sse, events))
    except Exception as error:
        if not begun:
            raise
        events = _failure(writer, error)
        _keep_ended(serving, run)
        yield b"".join(map(_sse, events))


async def count_tokens(serving: Serving, request: HttpRequest) -> Response:
    """How many tokens a request's prompt has."""
    run = await _planned(serving, request)
    prompt = await serving.prepare_chat(run.chat)
    return json_response({"object": "response.input_tokens", "input_tokens": len(prompt.token_ids or ())})


def _keep_ended(serving: Serving, run: _Run) -> None:
    if run.writer.ended:
        run.stored.end()
        if run.kept:
            serving.responses.put(run.chat.tenant, run.stored)


def _start(serving: Serving, run: _Run) -> None:
    """Runs in a task of its own."""
    store, tenant, stored = serving.responses, run.chat.tenant, run.stored
    store.put(tenant, stored)
    stored.record([*map(_sse, run.writer.begin())])
    stored.task = asyncio.get_running_loop().create_task(_in_background(serving, run))

    def ended(_: asyncio.Task[None]) -> None:
        run.writer.cancel()  # unless it has another end; a task may be cancelled before it begins
        stored.end()
        store.ended(tenant, stored)

    stored.task.add_done_callback(ended)


async def _in_background(serving: Serving, run: _Run) -> None:
    writer, begun = run.writer, False
    try:
        async with aclosing(serving.answer(run.chat)) as stream:
            async for happened in stream:
                events = ([] if begun else writer.run()) + writer.write(happened)
                begun = True
                run.stored.record([*map(_sse, events)])
    except Exception as error:
        run.stored.record([*map(_sse, _failure(writer, error))])


def _failure(writer: ResponseWriter, error: Exception) -> list[Event]:
    said = from_exception(error)
    return writer.fail(said.message, _ERROR_CODES.get(said.status, "server_error"))


# --- Responses that are kept -----------------------------------------------------------------------------------------


async def fetch(serving: Serving, request: HttpRequest) -> Response | EventStream:
    """A response as it is now, or its events."""
    stored = _find(serving.responses, request)
    query = _query(request, "stream", "starting_after")
    if query.get("stream", "false") == "false":
        return Response(stored.body)
    if stored.events is None:
        raise bad_request("only responses that run in the background can be watched", "stream")
    return EventStream(stored.watch(_integer(query, "starting_after", -1)))


async def cancel(serving: Serving, request: HttpRequest) -> Response:
    """Ends a response that runs in the background. One that has ended stays as it is."""
    stored = _find(serving.responses, request)
    if stored.task is None:
        raise bad_request("only responses that run in the background can be cancelled")
    stored.task.cancel()
    await asyncio.wait([stored.task])
    await asyncio.sleep(0)  # until its callback has run
    return Response(stored.body)


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
    items = json.loads(_find(serving.responses, request).context)
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
    if stored.running or stored.status not in ("completed", "incomplete"):
        message = (
            f"the previous response is {'running' if stored.running else stored.status}, so it cannot be gone on from"
        )
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


def _sse(event: Event) -> bytes:
    return f"event: {event['type']}\n".encode() + sse(event)


_ONE = "/v1/responses/{response_id}"

ROUTES = [
    Endpoint("POST", "/v1/responses", create, CREATE, "answer a conversation, and keep it"),
    Endpoint("POST", "/v1/responses/input_tokens", count_tokens, COUNT, "how many tokens a request's prompt has"),
    Endpoint("GET", _ONE, fetch, None, "a response, or its events"),
    Endpoint("DELETE", _ONE, delete, None, "forget a response"),
    Endpoint("POST", _ONE + "/cancel", cancel, None, "End a response that runs in the background"),
    Endpoint("GET", _ONE + "/input_items", input_items, None, "what a response answers"),
]
