"""OpenAI's Responses API: create, watch, fetch, cancel and delete responses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from warpjet.serve.http.errors import ServeError, bad_request, from_exception
from warpjet.serve.http.exchange import EventStream, HttpRequest, Response, json_response, sse, to_json
from warpjet.serve.http.schema import Endpoint
from warpjet.serve.openai.response_events import Event, ResponseWriter
from warpjet.serve.openai.response_request import COUNT, CREATE, ResponseRequest, read
from warpjet.serve.openai.response_store import ResponseStore, StoredResponse
from warpjet.serve.serving import Serving

_PAGE, _MAX_PAGE = 20, 100  # input items
_LARGE = 8 << 10  # bytes of JSON that a thread makes a conversation of
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded", 503: "rate_limit_exceeded"}


@dataclass(slots=True)
class _Run:
    """A response on its way."""

    asked: ResponseRequest
    writer: ResponseWriter
    stored: StoredResponse


class Responses:
    """The handlers, and the responses that are kept for them."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._store = ResponseStore()

    async def create(self, request: HttpRequest) -> Response | EventStream:
        """Answers: whole, as events, or in the background."""
        body = request.body
        if body["background"] and not body["store"]:
            raise bad_request("background needs store: what is not kept cannot be fetched", "background")
        run = await self._planned(request)
        if run.asked.background:
            await self._serving.prepare_chat(run.asked.chat)  # what cannot run is refused now
            self._start(run)
            return EventStream(run.stored.watch(-1)) if run.asked.stream else Response(run.stored.body)
        if run.asked.stream:
            return EventStream(self._events(run))
        async for _ in self._events(run):
            pass
        return Response(run.stored.body)

    async def _planned(self, request: HttpRequest) -> _Run:
        """Everything that the request says. A thread reads it when it is large."""
        previous = self._previous(request)
        if request.body_bytes + (len(previous.context) if previous else 0) > _LARGE:
            return await self._serving.server.workers.run(lambda: self._plan(request, previous), request.tenant)
        return self._plan(request, previous)

    def _plan(self, request: HttpRequest, previous: StoredResponse | None) -> _Run:
        """Raises ServeError."""
        asked = read(self._serving, request, previous)
        stored = StoredResponse(
            asked.response,
            to_json(asked.context) if asked.stored else b"",
            events=[] if asked.background and asked.stream else None,
            request_bytes=request.body_bytes,
        )
        top = asked.chat.sampling.logprobs
        return _Run(asked, ResponseWriter(asked.response, top, asked.with_sealed_reasoning, asked.origins), stored)

    async def _events(self, run: _Run) -> AsyncIterator[bytes]:
        """Runs while somebody reads. What goes wrong before the first event is raised, later it is an event. The
        response is kept before its last event."""
        writer, begun = run.writer, False
        try:
            async with aclosing(self._serving.answer(run.asked.chat)) as stream:
                async for happened in stream:
                    events = ([] if begun else writer.begin()) + writer.write(happened)
                    begun = True
                    self._keep_ended(run)
                    if events:
                        yield b"".join(map(_sse, events))
        except Exception as error:
            if not begun:
                raise
            events = _failure(writer, error)
            self._keep_ended(run)
            yield b"".join(map(_sse, events))

    async def count_tokens(self, request: HttpRequest) -> Response:
        """How many tokens a request's prompt has."""
        run = await self._planned(request)
        prompt = await self._serving.prepare_chat(run.asked.chat)
        return json_response({"object": "response.input_tokens", "input_tokens": len(prompt.token_ids or ())})

    def _keep_ended(self, run: _Run) -> None:
        if run.writer.ended:
            run.stored.end()
            if run.asked.stored:
                self._store.put(run.asked.chat.tenant, run.stored)

    def _start(self, run: _Run) -> None:
        """Runs in a task of its own."""
        store, tenant, stored = self._store, run.asked.chat.tenant, run.stored
        store.put(tenant, stored)
        stored.record([*map(_sse, run.writer.begin())])
        stored.task = asyncio.get_running_loop().create_task(self._in_background(run))

        def ended(_: asyncio.Task[None]) -> None:
            run.writer.cancel()  # unless it has another end; a task may be cancelled before it begins
            stored.end()
            store.ended(tenant, stored)

        stored.task.add_done_callback(ended)

    async def _in_background(self, run: _Run) -> None:
        writer, begun = run.writer, False
        try:
            async with aclosing(self._serving.answer(run.asked.chat)) as stream:
                async for happened in stream:
                    events = ([] if begun else writer.run()) + writer.write(happened)
                    begun = True
                    run.stored.record([*map(_sse, events)])
        except Exception as error:
            run.stored.record([*map(_sse, _failure(writer, error))])

    # --- Responses that are kept ---

    async def fetch(self, request: HttpRequest) -> Response | EventStream:
        """A response as it is now, or its events."""
        stored = self._find(request)
        query = _query(request, "stream", "starting_after")
        if query.get("stream", "false") == "false":
            return Response(stored.body)
        if stored.events is None:
            raise bad_request("only responses that run in the background can be watched", "stream")
        return EventStream(stored.watch(_integer(query, "starting_after", -1)))

    async def cancel(self, request: HttpRequest) -> Response:
        """Ends a response that runs in the background. One that has ended stays as it is."""
        stored = self._find(request)
        if stored.task is None:
            raise bad_request("only responses that run in the background can be cancelled")
        stored.task.cancel()
        await asyncio.wait([stored.task])
        await asyncio.sleep(0)  # until its callback has run
        return Response(stored.body)

    async def delete(self, request: HttpRequest) -> Response:
        """Forgets a response, and ends it if it still runs."""
        stored = self._find(request)
        self._store.remove(request.tenant, stored.id)
        if stored.task is not None:
            stored.task.cancel()
        return json_response({"id": stored.id, "object": "response", "deleted": True})

    async def input_items(self, request: HttpRequest) -> Response:
        """A page of the items that a response answers, the last first unless order=asc."""
        query = _query(request, "after", "limit", "order")
        items = json.loads(self._find(request).context)
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

    def _find(self, request: HttpRequest) -> StoredResponse:
        response_id = request.path_params["response_id"]
        if stored := self._store.get(request.tenant, response_id):
            return stored
        raise ServeError(404, f"there is no response {response_id[:64]!r}", param="response_id")

    def _previous(self, request: HttpRequest) -> StoredResponse | None:
        if (name := request.body.get("previous_response_id")) is None:
            return None
        if (stored := self._store.get(request.tenant, name)) is None:
            message = f"there is no response {name[:64]!r}"
            raise ServeError(404, message, param="previous_response_id", code="previous_response_not_found")
        if stored.running or stored.status not in ("completed", "incomplete"):
            state = "running" if stored.running else stored.status
            message = f"the previous response is {state}, so it cannot be gone on from"
            raise bad_request(message, "previous_response_id")
        return stored


def _failure(writer: ResponseWriter, error: Exception) -> list[Event]:
    said = from_exception(error)
    return writer.fail(said.message, _ERROR_CODES.get(said.status, "server_error"))


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


def routes(serving: Serving) -> list[Endpoint]:
    api = Responses(serving)
    return [
        Endpoint("POST", "/v1/responses", api.create, CREATE, "answer a conversation, and keep it"),
        Endpoint(
            "POST", "/v1/responses/input_tokens", api.count_tokens, COUNT, "how many tokens a request's prompt has"
        ),
        Endpoint("GET", _ONE, api.fetch, None, "a response, or its events"),
        Endpoint("DELETE", _ONE, api.delete, None, "forget a response"),
        Endpoint("POST", _ONE + "/cancel", api.cancel, None, "End a response that runs in the background"),
        Endpoint("GET", _ONE + "/input_items", api.input_items, None, "what a response answers"),
    ]
