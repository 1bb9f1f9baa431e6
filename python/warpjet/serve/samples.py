"""Outputs of one sample as events: its text, or the parts of it that a parser finds."""

from typing import TYPE_CHECKING

from warpjet.requests.outputs import CompletionOutput
from warpjet.serve.events import ChatEvent, Delta, Ended

if TYPE_CHECKING:
    from warpjet.parsing.chat_parser import ChatParser


class Sample:
    """Turns the outputs of one sample into events; parser reads its text."""

    def __init__(self, index: int, parser: "ChatParser | None" = None) -> None:
        self.index = index
        self.parser = parser
        self._tokens = 0
        self._ended = False

    def add(self, piece: CompletionOutput, error: str | None, events: list[ChatEvent]) -> None:
        if self._ended:
            return
        self._tokens += len(piece.token_ids)
        delta = Delta(self.index, piece.text, token_ids=piece.token_ids, logprobs=piece.logprobs)
        if self.parser is not None:
            self._parse(self.parser, piece, delta)
        if piece.token_ids or piece.text or delta.content or delta.reasoning or delta.tool_calls:
            events.append(delta)
        if piece.finish_reason is not None:
            self._ended = True
            reason = piece.finish_reason
            if reason == "stop" and self.parser is not None and self.parser.called_tools:
                reason = "tool_calls"
            events.append(
                Ended(
                    self.index,
                    reason,
                    piece.stop_reason,
                    error if reason == "error" else None,
                    self._tokens,
                    0 if self.parser is None else self.parser.reasoning_tokens,
                    piece.cumulative_logprob,
                )
            )

    def _parse(self, parser: "ChatParser", piece: CompletionOutput, delta: Delta) -> None:
        parts = [parser.push(piece.text, piece.token_ids, piece.text_ends)]
        if piece.finish_reason is not None:
            parts.append(parser.finish(piece.is_whole))
        delta.content = "".join(part.content for part in parts)
        delta.reasoning = "".join(part.reasoning for part in parts)
        delta.tool_calls = [call for part in parts for call in part.tool_calls]
