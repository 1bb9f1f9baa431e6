"""A constraint is on the answer's content, whatever else a request asks for: for samples of constraint x reasoning x
tools, the constrained text is the answer's, and what is forced is a call."""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from warpjet import LLM, SamplingParams, StructuredOutputsParams
from warpjet.parsing import ParserNames, completion_constraint
from warpjet.structured import Framed, from_text, to_text

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
TAG = {"structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}], "triggers": ["<a>"]}
ASK = [{"role": "user", "content": "hi"}]

# A constraint, and what holds of a text under it.
CONSTRAINTS: dict[str, tuple[dict[str, Any], Callable[[str], object]]] = {
    "json_object": ({"json_object": True}, lambda text: isinstance(json.loads(text), dict)),
    "json": ({"json": SCHEMA}, lambda text: set(json.loads(text)) == {"ok"}),
    "regex": ({"regex": "[0-9]{3}"}, lambda text: re.fullmatch("[0-9]{3}", text)),
    "choice": ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
    "grammar": ({"grammar": 'root ::= start "!"\nstart ::= "yes"'}, lambda text: text == "yes!"),
    "structural_tag": ({"structural_tag": TAG}, lambda text: "<a>" not in re.sub("(?s)<a>.*?</a>", "", text)),
}
BEGINS = {"plain": "", "opened": "<think>\\n", "closed": "<think>\\n\\n</think>\\n\\n"}
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + (m['content'] or '') + '<|end|>' }}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}{{ '<|assistant|>BEGIN' }}{% endif %}"
)
EVERY = [(c, b, t) for c in CONSTRAINTS for b in BEGINS for t in ("none", "auto", "required")]


@pytest.fixture(scope="module", params=BEGINS)
def thinking(request: pytest.FixtureRequest) -> Iterator[tuple[str, LLM]]:
    template = TEMPLATE.replace("BEGIN", BEGINS[request.param])
    with LLM(device="cpu", chat_template=template, reasoning_parser="qwen3", tool_call_parser="hermes") as model:
        yield request.param, model


def test_the_constrained_text_is_the_answers(thinking: tuple[str, LLM]) -> None:
    begins, model = thinking
    for constraint, _, tools in random.Random(7).sample([row for row in EVERY if row[1] == begins], 9):
        fields, holds = CONSTRAINTS[constraint]
        params = SamplingParams(
            temperature=0.6, seed=1, max_tokens=90, structured_outputs=StructuredOutputsParams(**fields)
        )
        (output,) = model.chat(ASK, params, tools=[TOOL] if tools != "none" else None, tool_choice=tools)[0].outputs
        what = (constraint, tools, output)
        assert output.finish_reason in ("stop", "length"), what
        if tools == "required":
            assert output.content == "", what
            assert output.tool_calls or output.finish_reason == "length", what
        elif output.finish_reason == "stop":
            assert output.tool_calls or holds(output.content), what
        if begins == "closed":
            assert not output.reasoning, what


def frame_of(names: ParserNames, structured: StructuredOutputsParams | None, tool_choice: Any, prompt: str = "") -> Any:
    tools = None if tool_choice == "none" else [TOOL]
    return completion_constraint(names, tools, tool_choice, structured, prompt=prompt)


@pytest.mark.parametrize(
    ("parser", "call"),
    [
        ("hermes", '<tool_call>\n{"name": "look", "arguments": {"ok": true}}\n</tool_call>'),
        ("llama3_json", '{"name": "look", "parameters": {"ok": true}}'),
        ("xlam", '[{"name": "look", "arguments": {"ok": true}}]'),
        ("mistral", '[TOOL_CALLS][{"name": "look", "arguments": {"ok": true}}]'),
        ("pythonic", "[look(ok=True)]"),
    ],
)
@pytest.mark.parametrize("lead", ["", "<think>\nso\n</think>\n\n"])
def test_an_answer_or_a_call_can_be_written_after_reasoning(llm: LLM, parser: str, call: str, lead: str) -> None:
    structured = StructuredOutputsParams(json={})
    frame = frame_of(ParserNames("qwen3", parser), structured, "auto")
    assert from_text(to_text(frame)) == frame
    for text in (call, '{"plan": [1, {"name": "Bob"}]}', '[1, "two"]', '{"name": "Bob", "parameters": 3}', "true"):
        assert accepts(llm, frame, lead + text), text
    for text in ("plain words", "<tool_call>words", "<think>\nso\n</think>\n\n" * 2 + "true"):
        assert not accepts(llm, frame, text), text


def accepts(llm: LLM, constraint: Any, text: str) -> bool:
    """Whether this whole text may be written."""
    grammar = llm._session._open_guides().compile(constraint).wait()
    matcher = grammar.start()
    tokens = llm.get_tokenizer().encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(tokens) == len(tokens) and bool(matcher.is_accepting())


def test_what_is_constrained_alone_is_left_as_it_is() -> None:
    structured = StructuredOutputsParams(regex="a")
    assert frame_of(ParserNames(), structured, "none") is structured
    assert frame_of(ParserNames("qwen3", "hermes"), None, "auto") is None
    forced = frame_of(ParserNames(None, "hermes"), structured, "required")
    assert isinstance(forced, Framed) and forced.answer is None


@pytest.mark.parametrize("fault", [{"not": {}}, {"properties": {"a": {"const": 2**60}}}])
def test_an_error_names_the_tool_at_fault_and_shows_no_grammar(llm: LLM, fault: dict[str, Any]) -> None:
    bad = {"type": "function", "function": {"name": "bad", "parameters": {"type": "object", **fault}}}
    with pytest.raises(ValueError, match="tools: the parameters of 'bad'") as caught:
        llm.chat(ASK, SamplingParams(max_tokens=4), tools=[TOOL, bad], tool_choice="required")
    assert "start:" not in str(caught.value) and "%json" not in str(caught.value)


@pytest.mark.parametrize(("strict", "open_"), [(None, False), (True, False), (False, True)])
def test_tools_arguments_are_closed_unless_strict_is_false(llm: LLM, strict: bool | None, open_: bool) -> None:
    tool = {"type": "function", "function": {**TOOL["function"], "strict": strict}}  # type: ignore[dict-item]
    frame = completion_constraint(ParserNames(None, "hermes"), [tool], "required", None)
    text = '<tool_call>\n{"name": "look", "arguments": {"ok": true, "more": 1}}\n</tool_call>'
    assert accepts(llm, frame, text) is open_
    assert accepts(llm, frame, text.replace(', "more": 1', ""))
