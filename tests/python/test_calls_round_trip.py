"""What a grammar makes the model write, the parser reads back: every format of calls, every kind of schema."""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from grammar_driver import Grammars

from warpjet.parsing import TOOL_PARSERS, ChatParser, shown_tokens
from warpjet.parsing.grammar import tool_call_lark
from warpjet.parsing.pythonic import Pythonic
from warpjet.parsing.xml_calls import Xml

SIZES = ["s", "m l", "1"]
DEFS = {
    "Size": {"type": "string", "enum": SIZES},
    "Point": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
}
SIZE = {"$ref": "#/$defs/Size"}
STRINGS = [
    "",
    "Paris",
    'say "hi"',
    "it's",
    "a\n b\n",
    "\n",
    "tab\there",
    "é😀東",
    "\\d+ C:\\dir \\",
    "null",
    "True",
    "5",
]

_WALKS = 2  # of each kind and format

Fits = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(*values: Any) -> Fits:
    return lambda value: any(value == one and type(value) is type(one) for one in values)


def or_null(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


def optional(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def any_of(*choices: Fits) -> Fits:
    return lambda value: any(fits(value) for fits in choices)


# kind: (schema, values that fit it, whether a value fits)
KINDS: dict[str, tuple[Any, list[Any], Fits]] = {
    "string": ({"type": "string"}, STRINGS, is_text),
    "optional string": (optional({"type": "string"}), ["Paris", "5", "{", None], or_null(is_text)),
    "list of types": ({"type": ["string", "null"]}, ["a\nb", None], or_null(is_text)),
    "integer": ({"type": "integer"}, [0, -12], is_integer),
    "optional integer": (optional({"type": "integer"}), [7, None], or_null(is_integer)),
    "number": ({"type": "number"}, [-2.5, 3, 1e300], is_number),
    "boolean": ({"type": "boolean"}, [True, False], is_flag),
    "optional boolean": ({"type": ["boolean", "null"]}, [True, None], or_null(is_flag)),
    "null": ({"type": "null"}, [None], one_of(None)),
    "enum": ({"type": "string", "enum": SIZES}, SIZES, one_of(*SIZES)),
    "enum without a type": ({"enum": ["a", "ab", 'q"\n', 'x"']}, ["ab", 'q"\n'], one_of("a", "ab", 'q"\n', 'x"')),
    "enum of several types": ({"enum": ["a", 1, None, True]}, ["a", 1, None, True], one_of("a", 1, None, True)),
    "constant": ({"const": "1"}, ["1"], one_of("1")),
    "constant number": ({"const": 1}, [1], one_of(1)),
    "constant boolean": ({"type": "boolean", "const": True}, [True], one_of(True)),
    "array": ({"type": "array", "items": {"type": "string"}}, [[], ["a", "</parameter>", "\n"]], is_texts),
    "object": (DEFS["Point"], [{"x": 1}], lambda value: is_integer(value["x"])),
    "object of a reference": ({"$ref": "#/$defs/Point"}, [{"x": -1}], lambda value: is_integer(value["x"])),
    "reference to an enum": (SIZE, SIZES, one_of(*SIZES)),
    "reference or null": (optional(SIZE), [*SIZES, None], one_of(*SIZES, None)),
    "reference to a property": ({"$ref": "#/properties/other"}, ["a", "1"], is_text),
    "described reference": ({"allOf": [SIZE], "description": "how large"}, SIZES, one_of(*SIZES)),
    "all of three": ({"allOf": [{"enum": ["a", "b", 3]}, {"enum": ["b", 3]}, {"type": "string"}]}, ["b"], one_of("b")),
    "one of two": ({"oneOf": [{"type": "integer"}, {"const": "all"}]}, [5, "all"], any_of(is_integer, one_of("all"))),
    "string or list": (
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        ["a", ["a"]],
        any_of(is_text, lambda value: isinstance(value, list)),
    ),
    "free object": ({"type": "object"}, [{}, {"a": ["</parameter>", {"k": "'"}]}], lambda v: isinstance(v, dict)),
    "pattern": ({"type": "string", "pattern": "^[a-c]{2}/[0-9]$"}, ["ab/1"], lambda v: len(v) == 4 and v[2] == "/"),
    "pattern within": ({"type": "string", "pattern": "[0-9]"}, ["1", "a1b"], lambda v: any(map(str.isdigit, v))),
    "length": ({"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "ab\nc"], lambda v: 2 <= len(v) <= 4),
    "anything": ({}, ["Paris", 5, {"a": None}, [True]], lambda value: True),
}

ROWS = [
    name for index, (name, row) in enumerate(TOOL_PARSERS.items()) if row not in list(TOOL_PARSERS.values())[:index]
]


def function(schema: Any, name: str = "f", key: str = "p", required: bool = True) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {key: schema, "other": {"type": "string"}},
        "required": [key] if required else [],
        "additionalProperties": False,
        "$defs": DEFS,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def written(parser: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Calls as a model writes them."""
    row = TOOL_PARSERS[parser]
    begin, middle, end = row.layout.call
    texts = [begin + name + middle + arguments_text(row.format, arguments) + end for name, arguments in calls]
    return row.layout.before + (row.layout.between or "").join(texts) + row.layout.after


def arguments_text(form: Any, arguments: dict[str, Any]) -> str:
    if isinstance(form, Pythonic):
        words = {True: "True", False: "False", None: "None"}
        values = {
            k: words[v] if v is None or isinstance(v, bool) else json.dumps(v, ensure_ascii=False)
            for k, v in arguments.items()
        }
        return ", ".join(f"{key}={value}" for key, value in values.items())
    if not isinstance(form, Xml):
        return json.dumps(arguments, ensure_ascii=False)
    pad, out = "\n" if form.padded else "", ""
    for key, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        key_end = form.key_ends[1 if form.typed and not isinstance(value, str) else 0]
        out += f"{form.key}{key}{key_end}{pad}{text}{pad}{form.value_end}\n"
    return out


def read(parser: str, tools: list[dict[str, Any]], text: str, step: int) -> list[tuple[str, Any]]:
    chat = ChatParser(None, parser, tools, "required")
    calls: list[list[str]] = []
    for delta in [*(chat.push(text[at : at + step]) for at in range(0, len(text), step)), chat.finish()]:
        for call in delta.tool_calls:
            if call.name is not None:
                calls.append([call.name, ""])
            calls[-1][1] += call.arguments
    return [(name, json.loads(arguments)) for name, arguments in calls]


def read_in_any_pieces(parser: str, tools: list[dict[str, Any]], text: str) -> list[tuple[str, Any]]:
    whole = read(parser, tools, text, max(len(text), 1))
    assert all(read(parser, tools, text, step) == whole for step in (1, 3)), text
    chat = ChatParser(None, parser, tools).parse(text)  # the same without a grammar's promise
    assert chat.content == "" and len(chat.tool_calls) == len(whole), text
    return whole


def grammars_of(parser: str, with_tokens: bool) -> Grammars:
    marks = shown_tokens(None, parser)
    tokens = [one for one in marks if not any(other in one for other in marks if other != one)]
    return Grammars(tokens if with_tokens else ())


@pytest.mark.parametrize("parser", ROWS)
def test_every_value_can_be_written_and_is_read_back(parser: str) -> None:
    both = [grammars_of(parser, with_tokens) for with_tokens in (True, False)]
    for index, (kind, (schema, values, _)) in enumerate(KINDS.items()):
        grammars, tools = both[index % 2], [function(schema)]
        matcher = grammars.start(tool_call_lark(parser, tools, "required", token_id=grammars.tokenizer.token_to_id))
        for value in values:
            text = written(parser, [("f", {"p": value})])
            assert grammars.takes(matcher.deep_copy(), text), f"{kind}: {text!r}"
            assert read_in_any_pieces(parser, tools, text) == [("f", {"p": value})], f"{kind}: {text!r}"


def exits_of(parser: str) -> list[str]:
    form = TOOL_PARSERS[parser].format
    ends = ['"', "}", "]", ")", "a", "1", "\n", *TOOL_PARSERS[parser].layout.call, *form.tokens]
    if isinstance(form, Xml):
        ends += [form.value_end, "\n" + form.value_end, form.key, "</param"]
    return [end for end in ends if end]


@pytest.mark.parametrize("parser", ROWS)
def test_whatever_a_grammar_allows_is_read_as_a_value_that_fits(parser: str) -> None:
    exits, finished = exits_of(parser), 0
    both = {with_tokens: grammars_of(parser, with_tokens) for with_tokens in (True, False)}
    for index, (kind, (schema, _, fits)) in enumerate(KINDS.items()):
        grammars, tools = both[index % 2 == 0], [function(schema)]
        lark = tool_call_lark(parser, tools, "required", False, token_id=grammars.tokenizer.token_to_id)
        matcher = grammars.start(lark)
        for seed in range(_WALKS):
            text = grammars.write(matcher.deep_copy(), exits, random.Random(f"{parser} {kind} {seed}"))
            if text is None:
                continue
            finished += 1
            ((name, arguments),) = read_in_any_pieces(parser, tools, text)
            assert name == "f" and fits(arguments["p"]), f"{kind}, seed {seed}: {text!r} is {arguments}"
            assert set(arguments) <= {"p", "other"} and is_text(arguments.get("other", ""))
    assert finished > len(KINDS) * _WALKS // 2, "too few texts came to their end"


@pytest.mark.parametrize("parser", ROWS)
def test_several_calls_and_empty_arguments_are_read_back(parser: str) -> None:
    tools = [
        function({"type": "string"}, required=False),
        function({"type": "integer"}, "ns.g"),
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
        {"type": "function", "function": {"name": "bare"}},
    ]
    calls: list[tuple[str, dict[str, Any]]] = [("f", {}), ("ns.g", {"p": 5, "other": "x"}), ("now", {}), ("bare", {})]
    calls = calls if TOOL_PARSERS[parser].layout.between is not None else calls[:1]
    grammars = grammars_of(parser, True)
    lark = tool_call_lark(parser, tools, "required", token_id=grammars.tokenizer.token_to_id)
    text = written(parser, calls)
    assert grammars.accepts(lark, text), lark
    assert read_in_any_pieces(parser, tools, text) == calls


@pytest.mark.parametrize("name", ["a", "a.b", "ns:tool", "x/y-z", "1st", "functions.f"])
@pytest.mark.parametrize("parser", ROWS)
def test_a_tool_may_have_any_name_that_is_accepted(parser: str, name: str) -> None:
    tools = [function({"type": "string"}, name)]
    grammars = grammars_of(parser, True)
    text = written(parser, [(name, {"p": "x"})])
    assert grammars.accepts(tool_call_lark(parser, tools, "required", token_id=grammars.tokenizer.token_to_id), text)
    assert read_in_any_pieces(parser, tools, text) == [(name, {"p": "x"})]


@pytest.mark.parametrize("key", ["two words", "größe", 'a"b', "a>b", "<p>", "x" * 300, "a\nb"])
@pytest.mark.parametrize("parser", ROWS)
def test_a_name_of_a_parameter_is_read_back_or_refused(parser: str, key: str) -> None:
    tools = [function({"type": "string"}, key=key)]
    grammars = grammars_of(parser, True)
    try:
        lark = tool_call_lark(parser, tools, "required", token_id=grammars.tokenizer.token_to_id)
    except ValueError as error:
        assert "cannot write a parameter" in str(error)
        return
    text = written(parser, [("f", {key: "x"})])
    assert grammars.accepts(lark, text), lark
    assert read_in_any_pieces(parser, tools, text) == [("f", {key: "x"})]


@pytest.mark.parametrize("parser", ROWS)
@pytest.mark.parametrize(
    "parameters",
    [
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"p": SIZE}, "required": ["p"]}, **DEFS}},
        {"allOf": [{"properties": {"p": SIZE}, "required": ["p"]}], "$defs": DEFS},
        {"anyOf": [{"properties": {"p": SIZE}, "required": ["p"]}, {"required": ["q"]}], "$defs": DEFS},
    ],
)
def test_parameters_may_be_declared_anywhere_in_the_schema(parser: str, parameters: Mapping[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    grammars = grammars_of(parser, False)
    lark = tool_call_lark(parser, tools, "required")
    text = written(parser, [("f", {"p": "1"})])
    assert grammars.accepts(lark, text), lark
    assert not grammars.accepts(lark, written(parser, [("f", {"p": "xl"})]))
    assert not grammars.accepts(lark, written(parser, [("f", {})]))
    assert read_in_any_pieces(parser, tools, text) == [("f", {"p": "1"})]
