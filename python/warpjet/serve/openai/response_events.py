"""An answer as the Responses API tells it: output items that grow, an event for each step."""

import copy
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from warpjet.common.json_size import value_or_none
from warpjet.parsing.events import ToolCallDelta
from warpjet.serve.events import ChatEvent, Delta, Ended, Started
from warpjet.serve.names import new_id
from warpjet.serve.openai.custom_tools import input_of
from warpjet.serve.openai.logprobs import chat_logprobs
from warpjet.serve.openai.response_items import seal
from warpjet.serve.openai.response_tools import Origin

Event = dict[str, Any]


@dataclass(slots=True)
class _Growing:
    """The output item that is being written. tool_index: of the call that it is."""

    item: dict[str, Any]
    index: int
    tool_index: int | None = None
    pieces: list[str] = field(default_factory=list)

    @property
    def place(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": self.index}


class ResponseWriter:
    """Turns what happens into events, and keeps `response` as they leave it.

    top_logprobs: text comes with log-probabilities, and those of so many alternatives. with_sealed: reasoning comes
    with encrypted_content. origins: tools by the function that the model calls."""

    def __init__(
        self,
        response: dict[str, Any],
        top_logprobs: int | None = None,
        with_sealed: bool = False,
        origins: Mapping[str, Origin] | None = None,
    ) -> None:
        self.response = response
        self._origins = origins or {}
        self._top_logprobs = top_logprobs
        self._with_sealed = with_sealed
        self._events: list[Event] = []  # not given out yet
        self._number = 0
        self._growing: _Growing | None = None
        self._started = Started(0, 0, [])
        self._held: list[dict[str, Any]] = []  # log-probabilities of tokens that have no text yet

    @property
    def ended(self) -> bool:
        """Nothing more happens to the response."""
        return self.response["status"] not in ("queued", "in_progress")

    def begin(self) -> list[Event]:
        """The response exists, queued or in progress."""
        self._lifecycle("response.created")
        self._lifecycle(f"response.{self.response['status']}")
        return self._take()

    def run(self) -> list[Event]:
        """A queued one is being answered now."""
        self.response["status"] = "in_progress"
        self._lifecycle("response.in_progress")
        return self._take()

    def write(self, happened: Iterable[ChatEvent]) -> list[Event]:
        """Events for what came together."""
        for one in happened:
            if isinstance(one, Started):
                self._started = one
            elif isinstance(one, Delta):
                self._delta(one)
            else:
                self._end(one)
        return self._take()

    def fail(self, message: str, code: str = "server_error") -> list[Event]:
        """It ended by an error."""
        self._finish("failed", error={"code": code, "message": message})
        return self._take()

    def cancel(self) -> None:
        """The client has ended it. No event says so, as the client knows."""
        self._finish("cancelled")
        self._take()

    # --- What the model does ---

    def _delta(self, delta: Delta) -> None:
        if delta.reasoning:
            self._text("reasoning", "response.reasoning_text.delta", delta.reasoning, {})
        rows = self._logprobs(delta)
        if delta.content:
            growing = self._text("message", "response.output_text.delta", delta.content, {"logprobs": rows})
            growing.item["content"][0]["logprobs"] += rows
        for call in delta.tool_calls:
            self._call(call)

    def _text(self, kind: str, event: str, text: str, extra: dict[str, Any]) -> _Growing:
        growing = self._growing
        if growing is None or growing.item["type"] != kind:
            growing = self._open(_new_item(kind))
            part = copy.deepcopy(growing.item["content"][0])
            self._emit("response.content_part.added", **growing.place, content_index=0, part=part)
        growing.pieces.append(text)
        self._emit(event, **growing.place, content_index=0, delta=text, **extra)
        return growing

    def _logprobs(self, delta: Delta) -> list[dict[str, Any]]:
        """Of the tokens of the content, those before it included whose text was held back."""
        if self._top_logprobs is None or delta.logprobs is None:
            return []
        rows = self._held + chat_logprobs(delta.token_ids, delta.logprobs, self._top_logprobs, as_ids=False)
        self._held = [] if delta.content or delta.reasoning or delta.tool_calls else rows
        return rows

    def _call(self, call: ToolCallDelta) -> None:
        growing = self._growing
        if growing is None or growing.tool_index != call.index:
            growing = self._open(self._new_call(call), call.index)
        if call.arguments:
            growing.pieces.append(call.arguments)
            if growing.item["type"] == "function_call":
                self._emit("response.function_call_arguments.delta", **growing.place, delta=call.arguments)

    def _new_call(self, call: ToolCallDelta) -> dict[str, Any]:
        name = call.name or ""
        origin = self._origins.get(name, Origin(name))
        names = {"call_id": call.id or new_id("call"), "name": origin.name}
        if origin.namespace:
            names["namespace"] = origin.namespace
        kind, prefix, key = (
            ("custom_tool_call", "ctc", "input") if origin.custom else ("function_call", "fc", "arguments")
        )
        return {"id": new_id(prefix), "type": kind, "status": "in_progress", **names, key: ""}

    def _end(self, ended: Ended) -> None:
        self.response["usage"] = {
            "input_tokens": self._started.prompt_tokens,
            "input_tokens_details": {"cached_tokens": self._started.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": ended.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": ended.reasoning_tokens},
            "total_tokens": self._started.prompt_tokens + ended.completion_tokens,
        }
        if ended.finish_reason == "length":
            self._finish("incomplete", incomplete_details={"reason": "max_output_tokens"})
        elif ended.finish_reason in ("error", "abort"):
            message = ended.error or "the answer was cut off"
            self._finish("failed", error={"code": "server_error", "message": message})
        else:
            self._finish("completed", completed_at=int(time.time()))

    # --- Output items ---

    def _open(self, item: dict[str, Any], tool_index: int | None = None) -> _Growing:
        """Begins an item; the one before it is complete."""
        self._close("completed")
        self._growing = growing = _Growing(item, len(self.response["output"]), tool_index)
        self.response["output"].append(item)
        shown = {**item, "content": []} if "content" in item else dict(item)
        self._emit("response.output_item.added", output_index=growing.index, item=shown)
        return growing

    def _close(self, status: str) -> None:
        """The item that grows is complete, or will never be. A call whose arguments are whole is complete."""
        if (growing := self._growing) is None:
            return
        self._growing = None
        item, text = growing.item, "".join(growing.pieces)
        if growing.tool_index is not None:
            arguments = value_or_none(text)  # None unless all of it is there, wherever the answer ended
            item["status"] = status if arguments is None else "completed"
            self._close_call(growing, text)
        else:
            item["status"] = status
            self._close_text(growing, text)
        self._emit("response.output_item.done", output_index=growing.index, item=copy.deepcopy(item))

    def _close_call(self, growing: _Growing, text: str) -> None:
        item = growing.item
        if item["type"] == "function_call":
            item["arguments"] = text
            self._emit("response.function_call_arguments.done", **growing.place, name=item["name"], arguments=text)
            return
        item["input"] = input_of(text)  # a text within JSON, so it is told when that is whole
        self._emit("response.custom_tool_call_input.delta", **growing.place, delta=item["input"])
        self._emit("response.custom_tool_call_input.done", **growing.place, input=item["input"])

    def _close_text(self, growing: _Growing, text: str) -> None:
        item, part = growing.item, growing.item["content"][0]
        part["text"] = text
        rest = {key: part[key] for key in ("logprobs",) if key in part}
        self._emit(f"response.{part['type']}.done", **growing.place, content_index=0, text=text, **rest)
        self._emit("response.content_part.done", **growing.place, content_index=0, part=dict(part))
        if item["type"] == "reasoning" and self._with_sealed:
            item["encrypted_content"] = seal(text)

    def _finish(self, status: str, **changes: Any) -> None:
        if not self.ended:
            self._close("completed" if status == "completed" else "incomplete")
            self.response.update(status=status, **changes)
            self._lifecycle(f"response.{status}")

    # --- Events ---

    def _lifecycle(self, kind: str) -> None:
        self._emit(kind, response=copy.deepcopy(self.response))

    def _emit(self, kind: str, **fields: Any) -> None:
        self._events.append({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _new_item(kind: str) -> dict[str, Any]:
    if kind == "reasoning":
        content: list[dict[str, Any]] = [{"type": "reasoning_text", "text": ""}]
        return {"id": new_id("rs"), "type": kind, "status": "in_progress", "summary": [], "content": content}
    content = [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
    return {"id": new_id("msg"), "type": kind, "status": "in_progress", "role": "assistant", "content": content}
