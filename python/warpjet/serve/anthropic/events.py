"""An answer as Anthropic's Messages API tells it: content blocks that grow, an event for each step."""

import json
from collections.abc import Iterable
from typing import Any

from warpjet.parsing.events import ToolCallDelta
from warpjet.serve.events import ChatEvent, Delta, Ended, Started

Event = dict[str, Any]

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageWriter:
    """Turns what happens into events, and keeps `message` as they leave it. with_thinking: it has blocks of
    thinking; not in_full: they are empty. error: why there is no good answer, once it ended so."""

    def __init__(self, message_id: str, model: str, with_thinking: bool = True, in_full: bool = True) -> None:
        self.message: dict[str, Any] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {},
        }
        self.error: str | None = None
        self._with_thinking = with_thinking
        self._in_full = in_full
        self._events: list[Event] = []  # not given out yet
        self._open_kind: str | int | None = None  # text, thinking, or the index of a call
        self._pieces: list[str] = []

    def write(self, happened: Iterable[ChatEvent]) -> list[Event]:
        """Events for what came together."""
        for one in happened:
            if isinstance(one, Started):
                self._start(one)
            elif isinstance(one, Delta):
                self._delta(one)
            else:
                self._end(one)
        events, self._events = self._events, []
        return events

    def _start(self, started: Started) -> None:
        self.message["usage"] = {
            "input_tokens": started.prompt_tokens - started.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": started.cached_tokens,
            "output_tokens": 0,
        }
        shown = {**self.message, "content": [], "usage": dict(self.message["usage"])}
        self._events += [{"type": "message_start", "message": shown}, {"type": "ping"}]

    def _delta(self, delta: Delta) -> None:
        if delta.reasoning and self._with_thinking:
            self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            if self._in_full:
                self._grow(delta.reasoning, "thinking_delta", "thinking")
        if delta.content:
            self._open("text", {"type": "text", "text": ""})
            self._grow(delta.content, "text_delta", "text")
        for call in delta.tool_calls:
            self._open(call.index, _tool_use(call))
            if call.arguments:
                self._grow(call.arguments, "input_json_delta", "partial_json")

    def _open(self, kind: str | int, block: dict[str, Any]) -> None:
        """Makes sure that the last block is of this kind."""
        if self._open_kind == kind:
            return
        self._close()
        self._open_kind = kind
        self.message["content"].append(block)
        self._events.append({"type": "content_block_start", "index": self._index(), "content_block": dict(block)})

    def _grow(self, text: str, kind: str, key: str) -> None:
        self._pieces.append(text)
        delta = {"type": kind, key: text}
        self._events.append({"type": "content_block_delta", "index": self._index(), "delta": delta})

    def _close(self) -> None:
        if self._open_kind is None:
            return
        block, text = self.message["content"][-1], "".join(self._pieces)
        if block["type"] == "tool_use":
            block["input"] = _arguments(text)
        else:
            block[block["type"]] = text
        self._events.append({"type": "content_block_stop", "index": self._index()})
        self._open_kind, self._pieces = None, []

    def _end(self, ended: Ended) -> None:
        self._close()
        if ended.finish_reason in ("error", "abort"):
            self.error = ended.error or "the answer was cut off"
            return
        reason = _STOP_REASONS[ended.finish_reason]
        if reason == "end_turn" and isinstance(ended.stop_reason, str):
            reason, self.message["stop_sequence"] = "stop_sequence", ended.stop_reason
        self.message["stop_reason"] = reason
        self.message["usage"]["output_tokens"] = ended.completion_tokens
        delta = {"stop_reason": reason, "stop_sequence": self.message["stop_sequence"]}
        usage = dict(self.message["usage"])
        self._events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]

    def _index(self) -> int:
        return len(self.message["content"]) - 1


def _tool_use(call: ToolCallDelta) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id or "", "name": call.name or "", "input": {}}


def _arguments(text: str) -> Any:
    """What a call's JSON says; an answer that was cut off has but a piece of it."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"partial_json": text}
