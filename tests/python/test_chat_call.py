"""A request to chat() is the same whoever takes it: LLM, AsyncLLM or the server, whole or as a stream."""

import asyncio
import dataclasses
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("httptools")

from warpjet import LLM, AsyncLLM, RequestOutput, SamplingParams, StructuredOutputsParams
from warpjet.guided.guides import Guides
from warpjet.parsing import ChatParser, ParserNames
from warpjet.requests.chat_call import AnswerReader, ChatCall, ChatKeywords, ChatOptions
from warpjet.requests.outputs import CompletionOutput
from warpjet.serve.events import ChatRequest, Delta, Ended, Started, each
from warpjet.serve.serving import Serving
from warpjet.serve.settings import Settings
from warpjet.structured import to_text
from warpjet.text.prompts import Prompt

PARSERS: dict[str, dict[str, Any]] = {
    "calls": {"tool_call_parser": "hermes"},
    "reasoning and calls": {"reasoning_parser": "qwen3", "tool_call_parser": "hermes"},
}
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
ASK = [{"role": "user", "content": "What is the weather?"}]
BEGUN = [*ASK, {"role": "assistant", "content": "It is"}]
NOW = {"type": "function", "function": {"name": "now"}}

# Messages, fields of the sampling, and options of chat().
REQUESTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]] = {
    "plain": (ASK, {}, {}),
    "two samples": (ASK, {"n": 2}, {}),
    "tools": (ASK, {}, {"tools": TOOLS}),
    "no tool": (ASK, {}, {"tools": TOOLS, "tool_choice": "none"}),
    "some tool": (ASK, {}, {"tools": TOOLS, "tool_choice": "required"}),
    "one call": (ASK, {}, {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}),
    "this tool": (ASK, {"n": 2}, {"tools": TOOLS, "tool_choice": NOW}),
    "an answer or a call": (ASK, {"structured_outputs": StructuredOutputsParams(json=SCHEMA)}, {"tools": TOOLS}),
    "an answer": (ASK, {"structured_outputs": StructuredOutputsParams(choice=["yes", "no"])}, {}),
    "continued": (BEGUN, {}, {"continue_final_message": True, "add_generation_prompt": False}),
    "variables": (ASK, {}, {"chat_template_kwargs": {"x": 1}, "add_special_tokens": True}),
    "own template": (ASK, {}, {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}<think>"}),
}


@dataclasses.dataclass
class Sample:
    """One sample of an answer."""

    token_ids: list[int]
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = dataclasses.field(default_factory=list)


Answer = tuple[list[int], list[Sample]]  # the prompt's token ids, and samples


def joined(outputs: Sequence[RequestOutput], deltas: bool) -> Answer:
    """A stream's answer: its last output, or all of its deltas."""
    samples: dict[int, Sample] = {}
    for output in outputs if deltas else outputs[-1:]:
        for one in output.outputs:
            sample = samples.setdefault(one.index, Sample([]))
            assert one.content is not None and one.tool_calls is not None
            sample.token_ids += one.token_ids
            sample.content += one.content
            sample.reasoning += one.reasoning or ""
            sample.calls += [(call.function.name, call.function.arguments) for call in one.tool_calls]
    return outputs[-1].prompt_token_ids, [samples[index] for index in sorted(samples)]


async def collected(stream: AsyncIterator[RequestOutput]) -> list[RequestOutput]:
    return [output async for output in stream]


async def served(serving: Serving, request: ChatRequest) -> Answer:
    """The server's answer."""
    prompt: list[int] = []
    samples: dict[int, Sample] = {}
    calls: dict[tuple[int, int], list[str]] = {}
    async for event in each(serving.answer(request)):
        if isinstance(event, Started):
            prompt = event.prompt_token_ids
        elif isinstance(event, Delta):
            sample = samples.setdefault(event.index, Sample([]))
            sample.token_ids += event.token_ids
            sample.content += event.content
            sample.reasoning += event.reasoning
            for piece in event.tool_calls:
                call = calls.setdefault((event.index, piece.index), [piece.name or "", ""])
                call[1] += piece.arguments
        else:
            assert isinstance(event, Ended) and event.error is None
    for (index, _), (name, arguments) in sorted(calls.items()):
        samples[index].calls.append((name, arguments))
    return prompt, [samples[index] for index in sorted(samples)]


@pytest.fixture(scope="module", params=PARSERS)
def models(request: pytest.FixtureRequest) -> Iterator[tuple[LLM, AsyncLLM, Serving]]:
    parsers = PARSERS[request.param]
    with LLM(**parsers) as llm, AsyncLLM(**parsers) as async_llm:
        yield llm, async_llm, Serving(async_llm, Settings(), ["tiny"])


@pytest.mark.parametrize("name", REQUESTS)
def test_all_give_the_same_prompt_the_same_grammar_and_the_same_answer(
    name: str, models: tuple[LLM, AsyncLLM, Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, async_llm, serving = models
    messages, fields, options = REQUESTS[name]
    params = SamplingParams(temperature=0.8, seed=7, max_tokens=60, **fields)
    grammars: list[str] = []
    compile_one = Guides.compile

    def compile_and_note(self: Guides, constraint: Any) -> Any:
        grammars.append(to_text(constraint))
        return compile_one(self, constraint)

    monkeypatch.setattr(Guides, "compile", compile_and_note)

    def request(kind: str) -> ChatRequest:
        sampling = params.replace(structured_outputs=None, output_kind=kind)
        return ChatRequest(messages, sampling, structured=params.structured_outputs, **options)

    ways: dict[str, Callable[[], Answer]] = {"chat": lambda: joined(llm.chat(messages, params, **options), False)}
    for kind in ("cumulative", "delta", "final_only"):
        own, deltas = params.replace(output_kind=kind), kind == "delta"
        ways |= {
            f"stream_chat {kind}": lambda own=own, deltas=deltas: joined(
                [*llm.stream_chat(messages, own, **options)], deltas
            ),
            f"AsyncLLM {kind}": lambda own=own, deltas=deltas: joined(
                asyncio.run(collected(async_llm.chat(messages, own, **options))), deltas
            ),
            f"server {kind}": lambda kind=kind: asyncio.run(served(serving, request(kind))),
        }
    answers, asked = {}, {}
    for way, answer in ways.items():
        grammars.clear()
        answers[way], asked[way] = answer(), [*grammars]
    assert asked == dict.fromkeys(ways, asked["chat"])
    assert answers == dict.fromkeys(ways, answers["chat"])
    _, samples = answers["chat"]
    assert len(samples) == params.n and all(sample.token_ids for sample in samples)
    forced = options.get("tool_choice", "auto") not in ("auto", "none")
    assert bool(asked["chat"]) == bool(forced or params.structured_outputs)
    if forced:  # where there are thoughts, they may take every token
        assert all((sample.calls or sample.reasoning) and not sample.content for sample in samples)
        assert llm.session.parsers.reasoning or all(sample.calls for sample in samples)


def test_what_cannot_be_is_refused_by_all(models: tuple[LLM, AsyncLLM, Serving]) -> None:
    llm, async_llm, _ = models
    wrong: dict[str, dict[str, Any]] = {
        "tool_choice": {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "gone"}}},
        "another tool's too": {"tools": [TOOLS[0], TOOLS[0]]},
        "needs tools": {"tool_choice": "required"},
        "chat_template_content_format": {"chat_template_content_format": "xml"},
    }
    for says, options in wrong.items():
        for ask in (
            lambda options=options: llm.chat(ASK, **options),
            lambda options=options: llm.stream_chat(ASK, **options),
            lambda options=options: asyncio.run(collected(async_llm.chat(ASK, **options))),
        ):
            with pytest.raises(ValueError, match=says):
                ask()


@pytest.mark.parametrize("wrong", [{"temperature": 0}, [{"temperature": 0}], "greedy"])
def test_sampling_of_another_type_is_refused_by_all(wrong: Any, models: tuple[LLM, AsyncLLM, Serving]) -> None:
    llm, async_llm, _ = models
    for ask in (
        lambda: llm.chat([ASK] * 6 if isinstance(wrong, str) else ASK, wrong),
        lambda: llm.stream_chat([ASK] * 6 if isinstance(wrong, str) else ASK, wrong),
        lambda: asyncio.run(collected(async_llm.chat(ASK, wrong))),
    ):
        with pytest.raises(TypeError, match="sampling_params must be SamplingParams, got"):
            ask()


def test_every_option_of_chat_is_one_of_all() -> None:
    names = {field.name for field in dataclasses.fields(ChatOptions)}
    assert names == set(ChatKeywords.__annotations__)
    own = set(inspect.signature(LLM.chat).parameters) - {"self", "messages", "sampling_params", "use_tqdm"}
    assert names == own - {"lora_request"}
    assert names <= {field.name for field in dataclasses.fields(ChatRequest)}
    for name, parameter in inspect.signature(LLM.chat).parameters.items():
        if name in names:
            assert parameter.default == getattr(ChatOptions(), name), name


TEXT = (
    "<think>\nIt asks for the weather.\n</think>\n\nI look it up."
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
@pytest.mark.parametrize("deltas", [True, False])
def test_a_call_is_given_once_it_is_complete(size: int, deltas: bool, llm: LLM) -> None:
    call = ChatCall(Prompt("", []), ChatOptions(tools=TOOLS), ParserNames("qwen3", "hermes"), llm.get_tokenizer())
    reader = AnswerReader(call, deltas)
    content, reasoning, calls = "", "", []
    for end in range(size, len(TEXT) + size, size):
        shown = TEXT[end - size : end] if deltas else TEXT[:end]
        ends = end >= len(TEXT)
        piece = CompletionOutput(0, shown, [], finish_reason="stop" if ends else None)
        reader.read(RequestOutput("0", "", [], None, [piece], finished=ends))
        assert piece.tool_calls is not None and piece.content is not None and piece.reasoning is not None
        assert all(json.loads(one.function.arguments) is not None for one in piece.tool_calls)
        if deltas:
            content, reasoning, calls = content + piece.content, reasoning + piece.reasoning, calls + piece.tool_calls
        else:
            assert piece.content.startswith(content) and piece.tool_calls[: len(calls)] == calls
            content, reasoning, calls = piece.content, piece.reasoning, piece.tool_calls
    whole = ChatParser("qwen3", "hermes", TOOLS).parse(TEXT, is_whole=True)
    assert (content, reasoning) == (whole.content, whole.reasoning)
    assert [one.function for one in calls] == [one.function for one in whole.tool_calls]
    assert len({one.id for one in calls}) == 2


def test_without_parsers_an_answer_is_its_text(llm: LLM) -> None:
    (output,) = llm.chat(ASK, SamplingParams(max_tokens=4), tools=TOOLS, use_tqdm=False)
    (one,) = output.outputs
    assert one.text and (one.content, one.reasoning, one.tool_calls) == (None, None, None)
