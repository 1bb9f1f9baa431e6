"""What a parser gives out."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of tool call `index` of an answer. id and name come with its first delta, then pieces of `arguments`,
    which joined are the JSON text that the model wrote."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class ParsedDelta:
    """What a piece of generated text has made certain. False when that is nothing."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


@dataclass(slots=True)
class FunctionCall:
    """`arguments` is JSON text; it is what the model wrote, so it may be malformed or cut off."""

    name: str
    arguments: str


@dataclass(slots=True)
class ToolCall:
    """One complete call, in the OpenAI API's shape."""

    id: str
    function: FunctionCall
    type: str = "function"


@dataclass(slots=True)
class ParsedAnswer:
    """An answer, whole or so far."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)

    def add(self, delta: ParsedDelta) -> None:
        """What follows."""
        self.content += delta.content
        self.reasoning += delta.reasoning
        for call in delta.tool_calls:
            if call.id is not None and call.name is not None:
                self.tool_calls.append(ToolCall(call.id, FunctionCall(call.name, "")))
            self.tool_calls[-1].function.arguments += call.arguments
