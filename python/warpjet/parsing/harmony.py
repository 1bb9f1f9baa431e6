"""Answers of several messages, each on a channel: <|channel|>analysis<|message|>...<|end|><|start|>assistant..."""

import re
from dataclasses import dataclass

from warpjet.parsing.answer import Answer, is_name
from warpjet.parsing.json_text import copy_value
from warpjet.parsing.reader import Emit, Reader, Reading, markers

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|return|>", "<|call|>")

_HEADER_BEGINS = (CHANNEL, MESSAGE, CONSTRAIN, " to=")
_ROLE = re.compile(r"\w+")
_MAX_HEADER = 512  # characters
_RECIPIENT = re.compile(r"(?:^|\s|\|>)to=([^\s<]+)")
_CHANNEL_NAME = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmony:
    """A message on the analysis channel is reasoning, one to functions.NAME is a call, every other is content.
    with_calls: False leaves calls in the content."""

    with_calls: bool = True
    separators: str = ""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Markers that may be special tokens."""
        return (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)

    @staticmethod
    def left_open(prompt: str) -> str:
        """What a prompt has of the message that the model goes on with: its header after the role, or more."""
        _, start, tail = prompt.rpartition(START)
        return _ROLE.sub("", tail, count=1) if start else ""

    def run(self, reader: Reader, answer: Answer) -> Reading[None]:
        """Parses to the end. Text without a header is content; a header that the end cuts off is left out."""
        header_ends = markers(MESSAGE, *ENDS, START)
        kinds: set[str] = set()
        while (yield from reader.peek()):
            reader.record()
            if (yield from reader.accept(*ENDS)):
                continue
            started = yield from reader.accept(START)
            if started:
                yield from reader.while_in(_ROLE, lambda role: None)
            begin = yield from reader.accept(*_HEADER_BEGINS)
            header, end = "", MESSAGE if begin == MESSAGE or not started else ""
            if begin and begin != MESSAGE:
                header, end = yield from reader.up_to(header_ends, _MAX_HEADER)
            if end == MESSAGE:
                reader.recorded()
                yield from self._message(reader, answer, begin + header, kinds)
            elif end or (yield from reader.peek()) or not (started or begin in (CHANNEL, CONSTRAIN)):
                reader.unread(end)
                answer.text(reader.recorded())

    def _message(self, reader: Reader, answer: Answer, header: str, kinds: set[str]) -> Reading[None]:
        recipient, channel = _RECIPIENT.search(header), _CHANNEL_NAME.search(header)
        name = recipient[1].removeprefix("functions.") if recipient else ""
        emit: Emit = answer.text
        if recipient and self.with_calls and is_name(name) and (name != recipient[1] or name in answer.tools):
            answer.call(name)
            kind, emit = "call", answer.arguments
            if (yield from reader.accept(*ENDS)):
                emit("{}")
                return
        elif channel and channel[1] == "analysis":
            kind, emit = "reasoning", answer.reasoning
        else:
            kind = "content"
        if kind != "call" and kind in kinds:
            emit("\n")
        kinds.add(kind)
        answer.thinking = kind == "reasoning"
        if kind == "call" and (yield from reader.peek()) == "{":
            yield from copy_value(reader, emit)
        found = yield from reader.until(
            markers(*ENDS, START, CHANNEL), emit, answer.half_marker if kind == "call" else None
        )
        answer.thinking = False
        if found not in ENDS:
            reader.unread(found)
