"""Calls as models write them, with what they forget and get wrong, and text that only looks like calls."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from warpjet.parsing import TOOL_PARSERS, ChatParser

SIZE = {"$ref": "#/$defs/Size"}
PROPERTIES: dict[str, Any] = {
    "path": {"type": "string"},
    "line": {"type": "integer"},
    "ok": {"type": "boolean"},
    "opts": {"type": "object"},
    "rows": {"type": "array"},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "listed": {"type": ["null", "string"]},
    "count": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "size": SIZE,
    "size_or_none": {"anyOf": [SIZE, {"type": "null"}]},
    "narrow": {"allOf": [{"type": ["string", "integer"]}, {"type": ["string", "null"]}]},
    "described": {"allOf": [SIZE], "description": "how large"},
    "constant": {"const": "1"},
    "mixed": {"enum": ["1", 1, None]},
    "patterned": {"pattern": "^[0-9]+$"},
    "chain": {"$ref": "#/$defs/Chain"},
    "pointer": {"$ref": "#/properties/path"},
    "loop": {"$ref": "#/$defs/Loop"},
    "any": {},
}
PARAMETERS = {
    "type": "object",
    "properties": PROPERTIES,
    "additionalProperties": {"type": "string"},
    "$defs": {
        "Size": {"type": "string", "enum": ["1", "2", "true"]},
        "Chain": {"$ref": "#/$defs/Size"},
        "Loop": {"$ref": "#/$defs/Loop"},
    },
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in ("f", "g")]

Calls = list[tuple[str, Any]]


def parse(parser: str, pieces: Iterable[str], *, is_whole: bool = False, **options: Any) -> tuple[str, Calls]:
    """Content, and each call with its arguments, which must be JSON."""
    chat = ChatParser(None, parser, TOOLS, **options)
    content, calls = "", list[list[str]]()
    for delta in [*map(chat.push, pieces), chat.finish(is_whole)]:
        content += delta.content
        for call in delta.tool_calls:
            if call.name is not None:
                calls.append([call.name, ""])
            calls[-1][1] += call.arguments
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


def cut(text: str) -> Iterable[list[str]]:
    yield [text]
    for step in (1, 2, 3, 7):
        yield [text[at : at + step] for at in range(0, len(text), step)]


def assert_means(parser: str, text: str, content: str, calls: Calls, **options: Any) -> None:
    for pieces in cut(text):
        assert parse(parser, pieces, **options) == (content, calls), pieces


# --- Values are of the schema's type ---


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("path", "1", "1"),
        ("path", "null", "null"),
        ("path", '"quoted"', '"quoted"'),
        ("line", "5", 5),
        ("line", "five", "five"),
        ("ok", "TRUE", True),
        ("ok", "False", False),
        ("opts", '{"a": [1]}', {"a": [1]}),
        ("opts", "{'a': 1, 'b': (True, None)}", {"a": 1, "b": [True, None]}),
        ("opts", '{"a": "x\ty",}', {"a": "x\ty"}),
        ("opts", '{"a": "</parameter>"}', {"a": "</parameter>"}),
        ("opts", '{"a": "\\"</function>\\\\"}', {"a": '"</function>\\'}),
        ("opts", "{broken", "{broken"),
        ("rows", "['a', \"it's\"]", ["a", "it's"]),
        ("maybe", "Paris", "Paris"),
        ("maybe", "5", "5"),
        ("maybe", "null", None),
        ("maybe", "None", None),
        ("listed", "true", "true"),
        ("count", "NULL", None),
        ("count", "7", 7),
        ("size", "1", "1"),
        ("size", "true", "true"),
        ("size_or_none", "2", "2"),
        ("size_or_none", "null", None),
        ("narrow", "1", "1"),
        ("described", "1", "1"),
        ("constant", "1", "1"),
        ("mixed", "null", None),
        ("patterned", "12", "12"),
        ("chain", "true", "true"),
        ("pointer", "1", "1"),
        ("loop", "1", 1),
        ("any", "1", 1),
        ("any", "some text", "some text"),
        ("undeclared", "1", "1"),
    ],
)
def test_a_value_has_the_type_that_its_schema_wants(name: str, written: str, value: Any) -> None:
    text = f"<tool_call>\n<function=f>\n<parameter={name}>\n{written}\n</parameter>\n</function>\n</tool_call>"
    assert_means("qwen3_coder", text, "", [("f", {name: value})])


@pytest.mark.parametrize(
    ("name", "flag", "written", "value"),
    [
        ("any", "true", "5", "5"),
        ("any", "false", "5", 5),
        ("any", "false", '"5"', "5"),
        ("size", "false", '"1"', "1"),
        ("size", "false", "1", "1"),
        ("line", "true", "5", 5),
        ("maybe", "true", "null", "null"),
        ("maybe", "false", "null", None),
    ],
)
def test_a_value_is_what_its_element_calls_it_within_the_schema(name: str, flag: str, written: str, value: Any) -> None:
    one = f'<｜DSML｜parameter name="{name}" string="{flag}">{written}</｜DSML｜parameter>'
    text = f'<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n{one}\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
    assert_means("deepseek_v32", text, "", [("f", {name: value})])


@pytest.mark.parametrize(
    ("parameters", "value"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"p": {"type": "string"}}}}}, "1"),
        ({"allOf": [{"properties": {"q": {}}}, {"properties": {"p": {"type": "string"}}}]}, "1"),
        ({"anyOf": [{"properties": {"p": {"type": "string"}}}, {"properties": {"p": {"type": "null"}}}]}, "1"),
        ({"properties": {"p": {"type": "integer"}}}, 1),
        ({"properties": {"p": {"$ref": "#/$defs/missing"}}}, 1),
        ({"properties": {"p": {"$ref": "https://example.com/schema"}}}, 1),
        ({"properties": {"p": False}}, "1"),
        ({}, 1),
        (None, 1),
    ],
)
def test_parameters_are_found_wherever_the_schema_declares_them(parameters: Any, value: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    text = "<tool_call>\n<function=f>\n<parameter=p>\n1\n</parameter>\n</function>\n</tool_call>"
    (call,) = ChatParser(None, "qwen3_coder", tools).parse(text).tool_calls
    assert json.loads(call.function.arguments) == {"p": value}


def test_a_schema_that_multiplies_is_looked_at_within_bounds() -> None:
    defs = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(200)}
    parameters = {"properties": {"p": {"$ref": "#/$defs/d0"}}, "$defs": {**defs, "d200": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    text = "<function=f>\n<parameter=p>\nx\n</parameter>\n</function>"
    (call,) = ChatParser(None, "qwen3_coder", tools).parse(text).tool_calls
    assert call.function.arguments == '{"p": "x"}'


# --- Markers that are missing ---

XML = {
    "qwen3_coder": (
        "<tool_call>\n<function=f>\n",
        ["<parameter=path>\na.txt\n", "</parameter>\n", "<parameter=line>\n5\n", "</parameter>\n"],
        ["</function>\n", "</tool_call>"],
    ),
    "seed_oss": (
        "<seed:tool_call>\n<function=f>\n",
        ["<parameter=path>a.txt", "</parameter>\n", "<parameter=line>5", "</parameter>\n"],
        ["</function>\n", "</seed:tool_call>"],
    ),
    "minimax_m2": (
        '<minimax:tool_call>\n<invoke name="f">\n',
        ['<parameter name="path">a.txt', "</parameter>\n", '<parameter name="line">5', "</parameter>\n"],
        ["</invoke>\n", "</minimax:tool_call>"],
    ),
    "deepseek_v32": (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n',
        [
            '<｜DSML｜parameter name="path" string="true">a.txt',
            "</｜DSML｜parameter>\n",
            '<｜DSML｜parameter name="line" string="false">5',
            "</｜DSML｜parameter>\n",
        ],
        ["</｜DSML｜invoke>\n", "</｜DSML｜function_calls>"],
    ),
    "glm45": (
        "<tool_call>f\n",
        [
            "<arg_key>path</arg_key>\n<arg_value>a.txt",
            "</arg_value>\n",
            "<arg_key>line</arg_key>\n<arg_value>5",
            "</arg_value>\n",
        ],
        ["", "</tool_call>"],
    ),
}


def test_every_format_of_elements_is_tried_without_its_ends() -> None:
    from warpjet.parsing.xml_calls import Xml

    assert set(XML) == {name for name, row in TOOL_PARSERS.items() if isinstance(row.format, Xml)}


@pytest.mark.parametrize("missing", range(16))
@pytest.mark.parametrize("parser", XML)
def test_a_value_ends_where_its_end_marker_is_missing(parser: str, missing: int) -> None:
    """Any of: the ends of both values, of the call, of the section. With all of them away, only the end of the answer
    ends the call."""
    begin, parameters, ends = XML[parser]
    ending = [parameters[1], parameters[3], *ends]
    first, second, *rest = (one * (not missing >> bit & 1) for bit, one in enumerate(ending))
    text = begin + parameters[0] + first + parameters[2] + second + "".join(rest)
    values = {"path": "a.txt", "line": 5}
    assert_means(parser, text, "", [("f", values)], is_whole=True)
    if any(rest):
        again = text + "\n" + begin + parameters[0] + "".join(ending[1:])
        assert_means(parser, again, "", [("f", values), ("f", {"path": "a.txt"})])


@pytest.mark.parametrize("parser", XML)
def test_the_next_call_ends_a_call_without_any_end(parser: str) -> None:
    begin, parameters, ends = XML[parser]
    whole = begin + "".join(parameters) + "".join(ends)
    values = {"path": "a.txt", "line": 5}
    assert_means(parser, begin + parameters[0] + whole, "", [("f", {"path": "a.txt"}), ("f", values)])
    assert_means(parser, begin + parameters[2] + whole, "", [("f", {"line": 5}), ("f", values)])


def test_a_value_keeps_markers_that_end_nothing() -> None:
    text = "<tool_call>\n<function=f>\n<parameter=path>\na <tool_call> b\n\n</parameter>\n</function>\n</tool_call>"
    assert_means("qwen3_coder", text, "", [("f", {"path": "a <tool_call> b\n"})])


# --- JSON that models get wrong ---


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('{"path": "a\nb\tc\r\x01\x1f"}', {"path": "a\nb\tc\r\x01\x1f"}),
        ('{"path": "a\\\nb"}', {"path": "a\\\nb"}),
        ('{"path": "C:\\dir, \\d+, it\\\'s, \\u12"}', {"path": "C:\\dir, \\d+, it's, \\u12"}),
        ('{"path": "\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9"}', {"path": '"\\/\b\f\n\r\té'}),
        ('{"a\nb": {"c": ["\n"]}}', {"a\nb": {"c": ["\n"]}}),
        ("{'path': 'say \"hi\"', \"b\": 'it\\'s'}", {"path": 'say "hi"', "b": "it's"}),
        (
            '{"ok": True, "no": False, "x": None, "y": NaN, "z": -Infinity}',
            dict(ok=True, no=False, x=None, y=None, z=None),
        ),
        ('{"n": [.5, 5., +3, 1_000, -2e-3]}', {"n": [0.5, 5.0, 3, 1000, -0.002]}),
        ('{"a": [1, 2, ], "b": {"c": 1,\n}, }', {"a": [1, 2], "b": {"c": 1}}),
        ('"{\\"path\\": \\"a\\nb\\"}"', {"path": "a\nb"}),
        ("null", {}),
    ],
)
def test_arguments_are_json_whatever_is_wrong_with_them(written: str, value: Any) -> None:
    before, after = '<tool_call>\n{"name": "f", "arguments": ', "}\n</tool_call>"
    assert_means("hermes", before + written + after, "", [("f", value)])
    if written.startswith("{"):
        assert_means("llama3_json", f'{{"name": "f", "parameters": {written}}}', "", [("f", value)])
        text = f"<|channel|>commentary to=functions.f <|constrain|>json<|message|>{written}<|call|>"
        assert_means("openai", text, "", [("f", value)])


def test_arguments_that_are_json_stay_as_they_are_written() -> None:
    written = '{ "a" :[1,2.50,-1e+5,true , null],"b":"\\u00e9\\/ \\ud83d\\ude00 \x7f", "c": {}}'
    call = f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>'
    for pieces in cut(call):
        chat = ChatParser(None, "hermes", TOOLS)
        deltas = [*map(chat.push, pieces), chat.finish()]
        assert "".join(one.arguments for delta in deltas for one in delta.tool_calls) == written


def test_a_marker_within_the_arguments_of_a_message_is_part_of_them() -> None:
    text = '<|channel|>commentary to=functions.f<|message|>{"path": "<|end|>"}<|call|>'
    assert_means("openai", text, "", [("f", {"path": "<|end|>"})])


# --- Objects after a marker ---


@pytest.mark.parametrize("between", ["\n", "", ", ", ";\n"])
def test_two_objects_after_one_marker_are_two_calls(between: str) -> None:
    one, two = '{"name": "f", "arguments": {"line": 1}}', '{"name": "g", "arguments": {}}'
    text = f"<tool_call>\n{one}{between}{two}\n</tool_call>"
    assert_means("hermes", text, "", [("f", {"line": 1}), ("g", {})])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "path": "a.txt"}</tool_call>',
        '<tool_call>{"path": "a.txt", "name": "f"}</tool_call>',
        '<tool_call>{"arguments": {"path": "a.txt"}}</tool_call>',
        '<tool_call>{"path": "a.txt"}</tool_call>',
    ],
)
def test_an_object_that_lacks_its_name_or_arguments_stays_content(text: str) -> None:
    assert_means("hermes", text, text, [])


def test_an_object_after_a_call_that_is_none_stays_content() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n{"path": "a.txt"}\n</tool_call>'
    assert_means("hermes", text, '\n{"path": "a.txt"}\n', [("f", {})])


def test_a_name_alone_is_a_call_without_arguments() -> None:
    assert_means("hermes", '<tool_call>{"type": "function", "name": "f", "id": "1"}</tool_call>', "", [("f", {})])
    text = "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|><|tool_call_end|>"
    assert_means("kimi_k2", text + "<|tool_calls_section_end|>", "", [("f", {})])


# --- Calls without a marker ---

OBJECT, LIST = '{"name": "f", "parameters": {"path": "x"}}', '[f(path="x")]'
BARE = [
    ("llama3_json", OBJECT),
    ("xlam", f"[{OBJECT}]"),
    ("pythonic", LIST),
    ("llama4_pythonic", LIST),
]
VALUES = [("f", {"path": "x"})]


@pytest.mark.parametrize(("parser", "call"), BARE)
def test_a_call_that_stands_by_itself_needs_no_marker(parser: str, call: str) -> None:
    assert_means(parser, call, "", VALUES)
    for before in (
        "Sure: ",
        "See [1] and {a}.\n\n",
        "`code` and ```\nmore\n```\n",
        "a :( b\n",
        'He said "go": ',
        "it's\n",
    ):
        assert_means(parser, before + call, before.rstrip() if not before.strip() else before, VALUES)


@pytest.mark.parametrize(
    "around",
    [
        '{{"plan": [{}], "steps": 1}}',
        '{{"type": "example", "value": {}}}',
        "[[{}], 1]",
        "[{{'a': {}}}]",
        '{{"a": "[", "b": {}}}',
        '{{"a": "\\"}}", "b": {}}}',
        "```json\n{}\n```",
        "Use ```\n{}``` or so",
        "write `{}` there",
        "say `x = {}`",
        'as "{}"',
        "print({})",
        "run(a, [1], {})",
        "def f(x):\n  return g({})\n",
    ],
)
@pytest.mark.parametrize(("parser", "call"), BARE)
def test_a_call_within_other_json_or_code_is_content(parser: str, call: str, around: str) -> None:
    text = around.format(call)
    assert_means(parser, text, text, [])


def test_an_object_with_other_members_is_content_as_a_whole() -> None:
    for text in (
        '{"name": "f", "parameters": {"path": "x"}, "expected": 1}',
        '{"expected": 1, "name": "f", "parameters": {"path": "x"}}',
        '{"name": "f", "parameters": [1]}',
        '{"name": "unknown", "parameters": {}}',
    ):
        assert_means("llama3_json", text, text, [])


def test_a_marker_makes_a_call_wherever_it_stands() -> None:
    assert_means("llama3_json", "Use [1, <|python_tag|>" + OBJECT, "Use [1, ", VALUES)


# --- Answers that are cut off ---

FORCED = [
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"path": "x"}}\n</tool_call>'),
    ("llama3_json", OBJECT),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"path": "x"}}]'),
    (
        "deepseek_v3",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
        '{"path": "x"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ),
    ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=path>\nx\n</parameter>\n</function>\n</tool_call>"),
    ("pythonic", LIST),
    ("openai", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"path": "x"}<|call|>'),
]


@pytest.mark.parametrize(("parser", "text"), FORCED)
def test_what_the_end_left_of_a_forced_call_is_never_content(parser: str, text: str) -> None:
    for end in range(len(text) + 1):
        answer = ChatParser(None, parser, TOOLS, "required").parse(text[:end])
        assert answer.content == ""
        assert len(answer.tool_calls) <= 1
        assert all('{"path": "x"}'.startswith(call.function.arguments) for call in answer.tool_calls)
    assert answer.tool_calls[0].function.arguments == '{"path": "x"}'


@pytest.mark.parametrize("parser", ["hermes", "qwen3_coder", "mistral_v11", "openai"])
def test_half_a_marker_after_a_call_is_layout(parser: str) -> None:
    text = {
        "hermes": '<tool_call>\n{"name": "f", "arguments": {"path": "x"}}\n</tool_call>',
        "mistral_v11": '[TOOL_CALLS]f[ARGS]{"path": "x"}[TOOL_CALLS]',
    }.get(parser) or dict(FORCED)[parser]
    last = text.rindex("<" if "<" in text else "[")
    for end in range(last, len(text)):
        assert_means(parser, text[:end], "", VALUES)


def test_what_looks_like_half_a_marker_is_content_where_the_model_ended() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call> <'
    assert_means("hermes", text, " <", [("f", {})], is_whole=True)
    assert_means("hermes", "a <tool_", "a <tool_", [])


def test_a_call_within_reasoning_is_a_thought() -> None:
    """Also where the reasoning has no end: nothing shall be run that was only thought of."""
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    for text, calls in ((f"<think>hm {call}", 0), (f"<think>hm {call}</think>", 0), (f"<think>hm</think>{call}", 1)):
        answer = ChatParser("qwen3", "hermes", TOOLS).parse(text, is_whole=True)
        assert len(answer.tool_calls) == calls
        assert answer.content == ""
        assert (call in answer.reasoning) == (not calls)
