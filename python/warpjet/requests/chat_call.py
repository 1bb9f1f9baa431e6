"""A call of chat(): the prompt of a conversation, the constraint of its answer, and the parsers that read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from warpjet._native import SamplingParams
from warpjet.parsing.chat_parser import ChatParser, shown_tokens
from warpjet.parsing.constraint import completion_constraint
from warpjet.parsing.detection import ParserNames
from warpjet.parsing.events import ParsedAnswer, ParsedDelta, ToolCall
from warpjet.requests.assembly import require_sampling_params
from warpjet.requests.outputs import CompletionOutput, RequestOutput
from warpjet.text.prompts import Prompt
from warpjet.text.tokenizer import Tokenizer
from warpjet.text.tools import ToolChoice, Tools, check_tool_choice, check_tools


class ChatKeywords(TypedDict, total=False):
    """Keywords of chat(), for editors and type checkers: the fields of ChatOptions."""

    chat_template: str | None
    chat_template_content_format: str | None
    add_generation_prompt: bool
    continue_final_message: bool
    tools: Tools | None
    chat_template_kwargs: Mapping[str, Any] | None
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    add_special_tokens: bool


@dataclass(slots=True, kw_only=True)
class ChatOptions:
    """The options of a call beside its messages and sampling; LLM.chat() documents them. Raises ValueError for tools or
    a tool_choice that are malformed."""

    chat_template: str | None = None
    chat_template_content_format: str | None = None  # None is the session's
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: Tools | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    add_special_tokens: bool = False  # the template writes them itself

    def __post_init__(self) -> None:
        if self.tools is not None:
            check_tools(self.tools)
        check_tool_choice(self.tools, self.tool_choice)

    @property
    def offered_tools(self) -> Tools | None:
        """The tools that the model is told of."""
        return self.tools if self.tool_choice != "none" else None


class ChatCall:
    """A conversation with its prompt. parsers: the session's. Completions show the markers that the parsers need."""

    def __init__(self, prompt: Prompt, options: ChatOptions, parsers: ParserNames, tokenizer: Tokenizer) -> None:
        self.prompt = prompt
        self.parsers = parsers.for_choice(options.tool_choice)
        self._options = options
        self._tokenizer = tokenizer
        self._is_parsed = bool(self.parsers.reasoning or (self.parsers.tool and options.offered_tools))
        if self._is_parsed:
            prompt.shown_tokens = shown_tokens(*self.parsers)

    def sampling(self, params: SamplingParams) -> SamplingParams:
        """params with the constraint of the tools and structured_outputs. Raises ValueError where there is no such
        grammar, and TypeError for anything but SamplingParams."""
        require_sampling_params(params)
        options = self._options
        if not any(self.parsers):
            return params
        constraint = completion_constraint(
            self.parsers,
            options.tools,
            options.tool_choice,
            params.structured_outputs,
            parallel=options.parallel_tool_calls,
            prompt=self.prompt.text or "",
            continued=options.continue_final_message,
            token_id=self._tokenizer.token_id,
        )
        return params if constraint is params.structured_outputs else params.replace(structured_outputs=constraint)

    def make_parser(self) -> ChatParser | None:
        """Reads one sample of the answer; None where the text is the content."""
        options = self._options
        if not self._is_parsed:
            return None
        return ChatParser(
            *self.parsers,
            options.offered_tools,
            options.tool_choice,
            self.prompt.text or "",
            parallel=options.parallel_tool_calls,
            continued=options.continue_final_message,
        )


class AnswerReader:
    """Fills in content, reasoning and tool calls of the outputs of one ChatCall, as they come. deltas: each output has
    only what is new."""

    def __init__(self, call: ChatCall, deltas: bool = False) -> None:
        self._call = call
        self._deltas = deltas
        self._answers: dict[int, _Answer] = {}  # by sample

    def read(self, output: RequestOutput) -> RequestOutput:
        """The same output; its completions are filled in if the parsers are on."""
        names = self._call.parsers
        for completion in output.outputs if any(names) else ():
            answer = self._answers.get(completion.index)
            if answer is None:
                answer = self._answers[completion.index] = _Answer(self._call.make_parser())
            answer.read(completion, self._deltas)
            if names.reasoning is None:
                completion.reasoning = None
            if names.tool is None:
                completion.tool_calls = None
        return output


class _Answer:
    """One sample so far."""

    def __init__(self, parser: ChatParser | None) -> None:
        self._parser = parser
        self._parsed = ParsedAnswer()
        self._chars = 0  # of the text that is parsed
        self._has_ended = False

    def read(self, completion: CompletionOutput, is_delta: bool) -> None:
        """Fills in the completion. A call that still grows is left out."""
        parsed = self._parsed
        content, reasoning, calls = len(parsed.content), len(parsed.reasoning), len(self._complete_calls())
        text = completion.text if is_delta else completion.text[self._chars :]
        self._chars += len(text)
        parsed.add(ParsedDelta(text) if self._parser is None else self._parser.push(text))
        if completion.finish_reason is not None and not self._has_ended:
            self._has_ended = True
            if self._parser is not None:
                parsed.add(self._parser.finish(completion.is_whole))
        if not is_delta:
            content = reasoning = calls = 0
        completion.content = parsed.content[content:]
        completion.reasoning = parsed.reasoning[reasoning:]
        completion.tool_calls = self._complete_calls()[calls:]

    def _complete_calls(self) -> list[ToolCall]:
        calls = self._parsed.tool_calls
        return calls[:] if self._has_ended else calls[:-1]
