"""Reasoning and tool call parsers: golden transcripts, however they are cut; hostile text; grammars; detection."""

import json
import random
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from grammar_driver import Grammars
from waiting import PATIENCE_S

from warpjet.parsing import (
    REASONING_PARSERS,
    TOOL_PARSERS,
    ChatParser,
    ParsedAnswer,
    find_parsers,
    shown_tokens,
)
from warpjet.parsing.events import FunctionCall, ToolCall
from warpjet.parsing.grammar import tool_call_lark
from warpjet.parsing.reader import Markers
from warpjet.text.tools import check_tool_choice, check_tools


def function(name: str, **properties: object) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = function(
    "get_weather",
    city={"type": "string"},
    days={"type": "integer"},
    opts={"type": "object"},
    ok={"type": "boolean"},
)
TOOLS = [WEATHER, function("now")]

TRANSCRIPTS = {
    f"{path.stem}: {one['title']}": one
    for path in sorted((Path(__file__).parent / "transcripts").glob("*.json"))
    for one in json.loads(path.read_text(encoding="utf-8"))
}


def parser_of(transcript: dict[str, Any]) -> ChatParser:
    return ChatParser(
        transcript.get("reasoning_parser"),
        transcript.get("tool_parser"),
        TOOLS,
        transcript.get("tool_choice", "auto"),
        transcript.get("prompt", ""),
        parallel=transcript.get("parallel", True),
    )


def parse(parser: ChatParser, pieces: Iterable[str]) -> ParsedAnswer:
    out = ParsedAnswer()
    for delta in (*map(parser.push, pieces), parser.finish()):
        out.content += delta.content
        out.reasoning += delta.reasoning
        for call in delta.tool_calls:
            if call.id is not None:
                assert call.name and call.index == len(out.tool_calls)
                out.tool_calls.append(ToolCall(call.id, FunctionCall(call.name, "")))
            else:
                assert call.name is None
            out.tool_calls[call.index].function.arguments += call.arguments
    return out


def plain(answer: ParsedAnswer) -> tuple[str, str, list[tuple[str, str]]]:
    return answer.content, answer.reasoning, [(c.function.name, c.function.arguments) for c in answer.tool_calls]


def cuts(text: str, rng: random.Random) -> Iterable[Sequence[str]]:
    """The text in pieces: whole, in characters, in two at every place, at random."""
    yield [text]
    yield list(text)
    for at in range(1, len(text)):
        yield [text[:at], text[at:]]
    for _ in range(10):
        places = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(1, 12))))
        yield [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts_mean_the_same_however_they_are_cut(name: str) -> None:
    transcript = TRANSCRIPTS[name]
    calls = [(call["name"], call["arguments"]) for call in transcript.get("calls", ())]
    expected = (transcript["content"], transcript["reasoning"], calls)
    answer = parse(parser_of(transcript), transcript["pieces"])
    assert plain(answer) == expected
    assert [call.id for call in answer.tool_calls] == transcript.get("ids", [call.id for call in answer.tool_calls])
    assert len({call.id for call in answer.tool_calls}) == len(calls)
    seed = 1
    for pieces in cuts("".join(transcript["pieces"]), random.Random(seed)):
        assert plain(parse(parser_of(transcript), pieces)) == expected, f"seed {seed}, pieces {pieces}"


def test_every_parser_has_a_transcript() -> None:
    used = {one.get("tool_parser") for one in TRANSCRIPTS.values()}
    formats = [row.format for name, row in TOOL_PARSERS.items() if name in used]
    assert [name for name, row in TOOL_PARSERS.items() if row.format not in formats] == []
    used = {one.get("reasoning_parser") for one in TRANSCRIPTS.values()}
    formats = [row.format for name, row in REASONING_PARSERS.items() if name in used]
    assert [name for name, row in REASONING_PARSERS.items() if row.format not in formats] == []


WORDS = [
    '{"name": "now", ',
    '"arguments": {',
    '"parameters": {',
    "}",
    "]",
    "[",
    '"',
    "\\",
    "\n",
    " ",
    "a",
    "now(",
    "x=",
]
WORDS += ["get_weather", '"city": "é😀"', ",", ")", "'", ";", "<", "|", "to=functions.now", "1", "analysis", "final"]


def soup(parser: str, rng: random.Random) -> str:
    """Markers and pieces of calls in any order."""
    words = [*WORDS, *TOOL_PARSERS[parser].format.tokens * 3, *(TOOL_PARSERS[parser].layout.call * 2)]
    return "".join(rng.choice(words) for _ in range(rng.randint(1, 40)))


@pytest.mark.parametrize("parser", TOOL_PARSERS)
def test_whatever_a_model_writes_means_the_same_however_it_is_cut(parser: str) -> None:
    for seed in range(150):
        rng = random.Random(f"{parser}{seed}")
        text = soup(parser, rng)
        reasoning = None if parser in ("openai", "gpt-oss") else rng.choice([None, "qwen3", "mistral", "deepseek_r1"])
        whole = plain(parse(ChatParser(reasoning, parser, TOOLS), [text]))
        assert plain(parse(ChatParser(reasoning, parser, TOOLS), text)) == whole, f"seed {parser}{seed}: {text!r}"
        at = rng.randint(0, len(text))
        assert plain(parse(ChatParser(reasoning, parser, TOOLS), [text[:at], text[at:]])) == whole, f"{parser}{seed}"


@pytest.mark.parametrize("parser", [name for name in TOOL_PARSERS if name not in ("openai", "gpt-oss")])
def test_no_text_is_lost(parser: str) -> None:
    """A word that is no part of any format comes out again, wherever it stands."""
    for seed in range(100):
        rng = random.Random(f"{parser}{seed}")
        text = soup(parser, rng)
        at = rng.randint(0, len(text))
        text = text[:at] + "WORD" + text[at:]
        answer = parse(ChatParser(None, parser, TOOLS), [text])
        ignored = re.search(r'"[^"]*WORD', text)  # a member that calls do not have is left out with its value
        everything = answer.content + str(answer.tool_calls)
        assert "WORD" in everything or ignored or "[CALL_ID]" in text, f"seed {parser}{seed}: {text!r}"


@pytest.mark.parametrize("parser", TOOL_PARSERS)
def test_text_that_is_no_call_is_not_held_back(parser: str) -> None:
    shown = ""
    reader = ChatParser(None, parser, TOOLS)
    text = "Hello, world. 1 (2) 3;\n x = a.b\n"
    for at, char in enumerate(text, 1):
        shown += reader.push(char).content
        assert shown == text[:at]


def test_a_possible_marker_is_held_back_only_as_long_as_it_is_possible() -> None:
    parser = ChatParser(None, "hermes", TOOLS)
    assert parser.push("a <tool").content == "a "
    assert parser.push("_x").content == "<tool_x"
    assert parser.push(" <").content == " "
    assert parser.finish().content == "<"


def test_arguments_stream() -> None:
    parser = ChatParser(None, "hermes", TOOLS)
    first = parser.push('<tool_call>{"name": "get_weather", "arguments": {"city": "Pa')
    assert (first.tool_calls[0].name, first.tool_calls[0].arguments) == ("get_weather", '{"city": "Pa')
    assert parser.called_tools
    (second,) = parser.push("ris").tool_calls
    assert (second.index, second.id, second.name, second.arguments) == (0, None, None, "ris")


@pytest.mark.parametrize("parser", ["pythonic", "qwen3_coder"])
def test_strings_of_formats_without_json_stream(parser: str) -> None:
    begin = {
        "pythonic": '[get_weather(city="',
        "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\n",
    }
    reader = ChatParser(None, parser, TOOLS)
    reader.push(begin[parser])
    reader.push("Pa")
    assert reader.push("ris").tool_calls[0].arguments == "ris"


def test_without_tools_calls_stay_content() -> None:
    text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    assert plain(parse(ChatParser(None, "hermes", []), [text])) == (text, "", [])
    assert plain(parse(ChatParser(None, None, TOOLS), [text])) == (text, "", [])


def test_ids_are_as_clients_expect_them() -> None:
    text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    (call,) = ChatParser(None, "hermes", TOOLS).parse(text).tool_calls
    assert re.fullmatch(r"call_[0-9a-f]{24}", call.id)
    (call,) = ChatParser(None, "mistral", TOOLS).parse('[TOOL_CALLS][{"name": "now", "arguments": {}}]').tool_calls
    assert re.fullmatch(r"[A-Za-z0-9]{9}", call.id)


def test_tokens_of_reasoning_are_counted() -> None:
    parser = ChatParser("qwen3", None)
    for token, piece in enumerate(["<think>", "a", "b", "</think>", "c", "d"]):
        parser.push(piece, [token])
    assert parser.reasoning_tokens == 3  # with the marker that ends it
    together = ChatParser("qwen3", None)
    delta = together.push("<think>ab</think>cd", range(6), [7, 8, 9, 17, 18, 19])
    assert (together.reasoning_tokens, delta.reasoning, delta.content) == (3, "ab", "cd")


def test_a_continued_answer_is_where_the_prompt_left_it() -> None:
    def state(prompt: str) -> str:
        answer = parse(ChatParser("deepseek_r1", None, prompt=prompt, continued=True), ["x"])
        return "reasoning" if answer.reasoning else "content"

    assert state("hi<think>I think") == "reasoning"
    assert state("hi<think>I think</think>I say") == "content"
    assert state("hi") == "reasoning"


@pytest.mark.parametrize("parser", TOOL_PARSERS)
def test_a_megabyte_takes_linear_time(parser: str) -> None:
    row = TOOL_PARSERS[parser]
    opens = row.layout.before + row.layout.call[0] + "get_weather" + row.layout.call[1]
    texts = [
        "a " * 250_000,
        "[{(<" * 20_000,
        opens + '{"city": "' + "x" * 400_000,
        opens + "[" * 200_000,
        (row.format.tokens[0] if row.format.tokens else "[") * 20_000,
        opens * 2_000,
        " \n" * 100_000,
    ]
    for text in texts:
        reader = ChatParser(None, parser, TOOLS)
        start = time.process_time()
        parse_size = sum(len(reader.push(text[at : at + 4096]).content) for at in range(0, len(text), 4096))
        reader.finish()
        assert time.process_time() - start < PATIENCE_S, f"{text[:40]!r}... {parse_size}"


def test_a_long_answer_in_single_characters() -> None:
    text = "<think>" + "r\n" * 40_000 + '</think><tool_call>{"name": "now", "arguments": {"a": "' + "x\\n" * 40_000
    reader = ChatParser("qwen3", "hermes", TOOLS)
    start = time.process_time()
    for char in text:
        reader.push(char)
    reader.finish()
    assert time.process_time() - start < PATIENCE_S  # quadratic would be an hour


@pytest.mark.parametrize("opening", ["[", "{", '{"a":', "(", "[("])
@pytest.mark.parametrize("parser", ["hermes", "pythonic", "llama3_json", "qwen3_coder"])
def test_nesting_is_bounded(parser: str, opening: str) -> None:
    begin = {
        "hermes": '<tool_call>{"name": "get_weather", "arguments": ',
        "pythonic": "[get_weather(opts=",
        "llama3_json": '{"name": "get_weather", "parameters": ',
        "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=opts>\n",
    }[parser]
    text = begin + opening * 100_000
    answer = ChatParser(None, parser, TOOLS).parse(text)
    assert len(answer.content) + sum(len(c.function.arguments) for c in answer.tool_calls) >= len(opening) * 100_000


def test_arguments_that_are_well_formed_stay_so() -> None:
    rng = random.Random(7)

    def value(depth: int) -> Any:
        kind = rng.randrange(7 if depth < 4 else 5)
        if kind == 0:
            return "".join(rng.choice('ab"\\/{}[]<>é😀\n\t\x7f ') for _ in range(rng.randrange(8)))
        if kind < 5:
            return [None, True, -3, 2.5e-3, 10**20][kind - 1 if kind < 4 else 4]
        if kind == 5:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        return {f"k{i}": value(depth + 1) for i in range(rng.randrange(4))}

    for _ in range(200):
        arguments = {"city": "x", "opts": {"v": value(0)}}
        keywords = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        opts = json.dumps(arguments["opts"])
        texts = {
            "hermes": f'<tool_call>{{"name": "get_weather", "arguments": {json.dumps(arguments)}}}</tool_call>',
            "pythonic": f"[get_weather({keywords})]",
            "qwen3_coder": "<tool_call><function=get_weather><parameter=city>\nx\n</parameter><parameter=opts>\n"
            f"{opts}\n</parameter></function></tool_call>",
        }
        for parser, text in texts.items():
            (call,) = parse(ChatParser(None, parser, TOOLS), text).tool_calls
            assert json.loads(call.function.arguments) == arguments, text


def test_markers_may_not_hold_one_another() -> None:
    with pytest.raises(ValueError, match="part of another"):
        Markers("abc", "b")
    with pytest.raises(ValueError, match="part of another"):
        Markers("ab", "abc")
    Markers("ab", "b")  # both are complete at once


@pytest.mark.parametrize(
    ("reasoning", "tool", "match"),
    [
        ("nope", None, "no reasoning_parser 'nope'"),
        (None, "nope", "no tool_call_parser 'nope'"),
        ("qwen3", "openai", "exclude each other"),
        ("openai_gptoss", "hermes", "exclude each other"),
    ],
)
def test_parsers_that_cannot_be(reasoning: str | None, tool: str | None, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ChatParser(reasoning, tool)
    with pytest.raises(ValueError, match=match):
        find_parsers("", names_given=(reasoning, tool))


@pytest.mark.parametrize(
    ("source", "reasoning", "tool"),
    [
        ("{{ '<tool_call>\\n{\"name\": ' }}", None, "hermes"),
        ("<tool_call> {%- if '</think>' in content %}", "qwen3", "hermes"),
        ("<tool_call>\n<function=example>", None, "qwen3_coder"),
        ("<tool_call>{{ name }}<arg_key></think>", "glm45", "glm45"),
        ("[TOOL_CALLS] [", None, "mistral"),
        ("[TOOL_CALLS]name[ARGS] [THINK]", "mistral", "mistral_v11"),
        ('Respond in the format {"name": function name, "parameters": dictionary}', None, "llama3_json"),
        ("<|channel|>analysis functions", "openai_gptoss", "openai"),
        ("<｜Assistant｜> </think> <｜tool▁sep｜> ```json", "deepseek_v3", "deepseek_v3"),
        ("<｜tool▁sep｜>", None, "deepseek_v31"),
        ("{{ messages }}", None, None),
        ("", None, None),
    ],
)
def test_a_template_tells_which_parsers_fit(source: str, reasoning: str | None, tool: str | None) -> None:
    assert find_parsers(source) == (reasoning, tool)
    assert find_parsers(source, names_given=(None, None)) == (None, None)
    assert find_parsers(source, names_given=(None, "jamba")) == (None, "jamba")


def test_special_tokens_tell_where_the_template_does_not() -> None:
    assert find_parsers("{{ messages }}", ["[TOOL_CALLS]", "[INST]"]).tool == "mistral"
    assert find_parsers("<tool_call>", ["[TOOL_CALLS]"]).tool == "hermes"


def test_markers_are_shown() -> None:
    assert shown_tokens("mistral", "mistral") >= {"[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}
    assert shown_tokens(None, None) == frozenset()


BAD_TOOLS: dict[str, Any] = {
    "text": "f",
    "number": 3,
    "strings": ["f"],
    "no_type": [{"function": {"name": "f"}}],
    "other_type": [{"type": "retrieval"}],
    "no_function": [{"type": "function"}],
    "no_name": [{"type": "function", "function": {}}],
    "empty_name": [{"type": "function", "function": {"name": ""}}],
    "name_with_spaces": [{"type": "function", "function": {"name": "a b"}}],
    "long_name": [{"type": "function", "function": {"name": "a" * 200}}],
    "twice": [function("f"), function("f")],
    "parameters": [{"type": "function", "function": {"name": "f", "parameters": []}}],
    "description": [{"type": "function", "function": {"name": "f", "description": 1}}],
    "too_many": [function(f"f{i}") for i in range(2000)],
}


@pytest.mark.parametrize("name", BAD_TOOLS)
def test_B21_malformed_tools(name: str) -> None:
    with pytest.raises(ValueError, match="tools"):
        check_tools(BAD_TOOLS[name])


@pytest.mark.parametrize(
    "choice",
    [
        "sometimes",
        None,
        3,
        {},
        {"type": "function"},
        {"type": "function", "function": {"name": 3}},
        {"type": "function", "function": {"name": "missing"}},
        {"function": {"name": "now"}},
    ],
)
def test_B21_malformed_tool_choice(choice: Any) -> None:
    with pytest.raises(ValueError, match="tool_choice"):
        check_tool_choice(TOOLS, choice)


def test_B21_a_call_is_required_but_there_are_no_tools() -> None:
    for tools in (None, []):
        with pytest.raises(ValueError, match="needs tools"):
            check_tool_choice(tools, "required")


# --- Calls that must be made ------------------------------------------------------------------------------------------

NAMED = {"type": "function", "function": {"name": "now"}}
PYTHON, XML = 'city="Paris", days=3', (("city", "Paris"), ("days", "3"))
GLM = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in XML)
LAYOUT_ARGUMENTS = {
    "pythonic": (PYTHON, ""),
    "llama4_pythonic": (PYTHON, ""),
    "olmo3": (PYTHON, ""),
    "qwen3_coder": ("".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in XML), ""),
    "seed_oss": ("".join(f"<parameter={k}>{v}</parameter>\n" for k, v in XML), ""),
    "minimax_m2": ("".join(f'<parameter name="{k}">{v}</parameter>\n' for k, v in XML), ""),
    "glm45": (GLM, ""),
    "deepseek_v32": (
        '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n',
        "",
    ),
    "lfm2": (PYTHON, ""),
}


def written(parser: str, names: Sequence[str]) -> str:
    """Calls as the layout of a parser has them."""
    layout = TOOL_PARSERS[parser].layout
    weather, now = LAYOUT_ARGUMENTS.get(parser, ('{"city": "Paris", "days": 3}', "{}"))
    begin, middle, end = layout.call
    calls = [begin + name + middle + (now if name == "now" else weather) + end for name in names]
    return layout.before + (layout.between or "").join(calls) + layout.after


@pytest.mark.parametrize("with_tokens", [True, False])
@pytest.mark.parametrize("parser", TOOL_PARSERS)
def test_a_grammar_makes_calls_that_the_parser_reads(parser: str, with_tokens: bool) -> None:
    harmony = parser in ("openai", "gpt-oss")
    thinker = "openai_gptoss" if harmony else "qwen3"
    marks = shown_tokens(thinker, parser)
    tokens = [one for one in marks if not any(other in one for other in marks if other != one)]
    grammars = Grammars(tokens if with_tokens else ())
    token_id = grammars.tokenizer.token_to_id
    one, two = written(parser, ["get_weather"]), written(parser, ["get_weather", "now"])
    many = TOOL_PARSERS[parser].layout.between is not None

    lark = tool_call_lark(parser, TOOLS, "required", token_id=token_id)
    assert grammars.accepts(lark, one)
    assert grammars.accepts(lark, two) == many
    assert not grammars.accepts(lark, "Hello")
    assert not grammars.accepts(lark, one.replace("get_weather", "other"))
    assert not grammars.accepts(lark, one.replace("3", "three"))
    assert not grammars.accepts(tool_call_lark(parser, TOOLS, "required", False, token_id=token_id), two)
    named = tool_call_lark(parser, TOOLS, NAMED, token_id=token_id)
    assert grammars.accepts(named, written(parser, ["now"]))
    assert not grammars.accepts(named, one)

    reasoning = "<think>\nhm\n</think>\n\n"
    if harmony:
        reasoning = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    thoughtful = tool_call_lark(parser, TOOLS, "required", reasoning_parser=thinker, token_id=token_id)
    text = reasoning + (two if many else one)
    assert grammars.accepts(thoughtful, one)
    assert grammars.accepts(thoughtful, text)
    answer = parse(ChatParser(thinker, parser, TOOLS, prompt="<|start|>assistant"), text)
    assert (answer.content, answer.reasoning) == ("", "hm")
    arguments = {call.function.name: json.loads(call.function.arguments) for call in answer.tool_calls}
    assert arguments == {"get_weather": {"city": "Paris", "days": 3}} | ({"now": {}} if many else {})


def test_a_grammar_goes_on_where_the_prompt_has_opened_the_reasoning() -> None:
    grammars = Grammars(())
    lark = tool_call_lark("hermes", TOOLS, "required", True, "qwen3", "<think>\n")
    call = written("hermes", ["now"])
    assert grammars.accepts(lark, f"hm\n</think>\n\n{call}")
    assert not grammars.accepts(lark, call)


def test_references_within_parameters_still_lead_where_they_led() -> None:
    parameters = {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/point"}},
        "required": ["p"],
        "$defs": {"point": {"type": "array", "items": {"type": "integer"}}},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    grammars = Grammars(())
    hermes, pythonic = tool_call_lark("hermes", tools, "required"), tool_call_lark("pythonic", tools, "required")
    assert grammars.accepts(hermes, '<tool_call>\n{"name": "f", "arguments": {"p": [1, 2]}}\n</tool_call>')
    assert not grammars.accepts(hermes, '<tool_call>\n{"name": "f", "arguments": {"p": "x"}}\n</tool_call>')
    assert grammars.accepts(pythonic, "[f(p=[1, 2])]")
    assert not grammars.accepts(pythonic, "[f()]")


def test_python_has_its_own_words() -> None:
    lark = tool_call_lark("pythonic", TOOLS, "required")
    assert Grammars(()).accepts(lark, "[get_weather(ok=True)]")


def test_a_call_cannot_be_required_without_a_format() -> None:
    with pytest.raises(ValueError, match="tool_call_parser"):
        tool_call_lark(None, TOOLS, "required")
