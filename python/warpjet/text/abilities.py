"""What a chat template can write, found by rendering short conversations with it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from warpjet.text.template_values import Arguments, content_for

_SECONDS = 0.2  # of processor time, for one of at most 16 renderings
_MARKS = ("warpjetfirst", "warpjetsecond", "warpjetthird")
_SYSTEM: dict[str, Any] = {"role": "system", "content": _MARKS[0]}
_USER: dict[str, Any] = {"role": "user", "content": "hi"}
_PARTS: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": mark} for mark in _MARKS[:2]]}
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "description": "a"}}, "required": ["a"]}
_FUNCTION = {"name": _MARKS[0], "description": "does something", "parameters": _SCHEMA}
_TOOLS = [{"type": "function", "function": _FUNCTION}]
_CALL = {
    "id": "call00001",  # Mistral's templates want 9 letters and digits
    "type": "function",
    "function": {"name": _MARKS[0], "arguments": Arguments({"a": _MARKS[2]}, f'{{"a": "{_MARKS[2]}"}}')},
}
_ASSISTANT: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "call00001", "name": _MARKS[0], "content": _MARKS[1]}

Render = Callable[[Sequence[dict[str, Any]], Any, float], str]  # messages, tools and seconds to a text, or ValueError


@dataclass(frozen=True, slots=True)
class Abilities:
    """parts_read: of content that is a list of parts, the template writes none, the first, or all (2). The others: it
    writes messages of the system, the tools that there are, calls of tools and their results, or it writes no
    messages at all."""

    parts_read: int
    writes_system: bool
    writes_tools: bool
    writes_calls: bool
    writes_results: bool


def find_abilities(render: Render) -> Abilities:
    """A template that refuses a conversation cannot write it."""
    parts_read = max((_parts_in(text) for text in _texts(render, [_PARTS], None)), default=0)

    def render_as_chat(messages: Sequence[dict[str, Any]], tools: Any, seconds: float) -> str:
        given = [message | {"content": content_for(message["content"], parts_read)} for message in messages]
        return render(given, tools, seconds)

    def writes(mark: str, messages: Sequence[dict[str, Any]], *tools: Any) -> bool:
        return any(mark in text for text in _texts(render_as_chat, messages, *tools))

    called = [_USER, _ASSISTANT, _RESULT]
    if not parts_read and not writes(_MARKS[0], [_USER | {"content": _MARKS[0]}], None):
        return Abilities(0, True, True, True, True)
    return Abilities(
        parts_read,
        writes(_MARKS[0], [_SYSTEM, _USER], None),
        writes(_MARKS[0], [_USER], _TOOLS),
        # Tools and results may name the function as well.
        writes(_MARKS[0], called[:2], None) or writes(_MARKS[2], called, None, _TOOLS),
        writes(_MARKS[1], called, None, _TOOLS),
    )


def _texts(render: Render, messages: Sequence[dict[str, Any]], *tools: Any) -> Iterator[str]:
    for one in tools:
        for head in ([], [_SYSTEM | {"content": "hi"}]):
            try:
                yield render([*head, *messages], one, _SECONDS)
            except ValueError:
                continue


def _parts_in(text: str) -> int:
    if "'text'" in text or '"text"' in text or _MARKS[0] not in text:
        return 0  # the list itself was written, or nothing
    return 2 if _MARKS[1] in text else 1
