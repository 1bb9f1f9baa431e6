"""Fields of requests to OpenAI's routes, without a server."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from warpjet import SamplingParams
from warpjet.parsing.detection import parsers_for
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.schema import Field
from warpjet.serve.launch import warn_of_another_format
from warpjet.serve.openai.chat import chosen_tools
from warpjet.serve.openai.fields import SAMPLING_FIELDS
from warpjet.serve.openai.response_format import structured_outputs, tgi_schema


def beyond(shape: dict[str, Any]) -> list[Any]:
    """The nearest values outside of what a JSON Schema of a number says."""
    step = 1 if shape["type"] == "integer" else 1e-6
    outside = [shape["minimum"] - step] if "minimum" in shape else []
    outside += [shape["exclusiveMinimum"]] if "exclusiveMinimum" in shape else []
    return outside + ([shape["maximum"] + step] if "maximum" in shape else [])


def within(shape: dict[str, Any]) -> list[Any]:
    """The outermost values inside; a number without an end is taken however large."""
    inside = [shape["exclusiveMinimum"] + 1e-6] if "exclusiveMinimum" in shape else [shape.get("minimum", -1e9)]
    return [*inside, shape.get("maximum", 1e9)]


@pytest.mark.parametrize("field", SAMPLING_FIELDS, ids=lambda field: field.name)
def test_every_range_of_the_document_is_the_engine_s(field: Field) -> None:
    shape = field.json_schema()["anyOf"][0]
    if field.name == "repeat_penalty" or shape.get("type") not in ("integer", "number"):
        return
    rest: dict[str, Any] = {"max_tokens": None, "prompt_logprobs": 0}
    for value in beyond(shape):
        with pytest.raises((ValueError, TypeError), match=field.name):
            SamplingParams(**rest | {field.name: value})
    for value in within(shape):
        SamplingParams(**rest | {field.name: value})


def test_every_field_of_sampling_has_the_document_s_range_from_the_native_list() -> None:
    document = {field.name: field.json_schema()["anyOf"][0] for field in SAMPLING_FIELDS}
    shown = [
        field
        for field in SamplingParams.__fields__
        if field.name in document and field.name not in ("stop", "logit_bias")
    ]
    assert len(shown) > 15
    for native in shown:
        for word, value in native.shape.items():
            entry = document[native.name][word]
            assert entry == value or (word == "items" and entry.items() >= value.items()), native.name
    assert document["stop"]["anyOf"][1]["maxItems"] == 16 and document["logit_bias"]["maxProperties"] == 4096


def test_allowed_tools_are_the_ones_that_are_offered() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools[1:]}}
    assert chosen_tools({"tools": tools, "tool_choice": choice}) == (tools[1:], "required")
    for wrong in (
        {"mode": "any", "tools": tools},
        {"mode": "auto", "tools": [{"type": "function", "function": {"name": "h"}}]},
        {"mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        {"mode": "auto"},
        None,
    ):
        with pytest.raises(ServeError, match="tool_choice"):
            chosen_tools({"tools": tools, "tool_choice": {**choice, "allowed_tools": wrong}})


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
UNTYPED = {key: value for key, value in OBJECT.items() if key != "type"}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": OBJECT},
        {"type": "json_object", "value": OBJECT},
        {"type": "json", "value": OBJECT},
        {"type": "json", "value": UNTYPED},
        {"type": "json", "value": json.dumps(UNTYPED)},
        {"type": "json_schema", "schema": OBJECT},
        {"type": "json_schema", "name": "x", "schema": OBJECT, "strict": True},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": OBJECT}},
        {"type": "json_schema", "value": {"name": "x", "schema": UNTYPED}},
    ],
)
def test_a_schema_is_honoured_wherever_clients_put_it(form: dict[str, Any]) -> None:
    params = structured_outputs({"response_format": form})
    assert params is not None and params.json == OBJECT


def test_what_tgi_means_by_properties_is_an_object_at_every_level() -> None:
    inner = {"properties": {"properties": {"type": "string"}}}
    given = {"properties": {"one": inner, "many": {"type": "array", "items": inner}, "either": {"anyOf": [inner]}}}
    typed = tgi_schema(given, "grammar")
    assert typed["type"] == "object"
    one, many, either = (typed["properties"][name] for name in ("one", "many", "either"))
    assert one == many["items"] == either["anyOf"][0] == {"type": "object", **inner}


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"type": "json_object", "shema": OBJECT}, "shema"),
        ({"type": "json_object", "schema": OBJECT, "value": OBJECT}, "one of schema or value"),
        ({"type": "json_object", "schema": 5}, "object"),
        ({"type": "json"}, "value"),
        ({"type": "json", "value": "{"}, "JSON"),
        ({"type": "json_schema"}, "json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "schema"),
        ({"type": "text", "schema": OBJECT}, "no other members"),
        ({"type": "xml"}, "type"),
        ({"type": ["json"]}, "type"),
        ({}, "type"),
    ],
)
def test_a_response_format_that_is_wrong_is_refused(form: dict[str, Any], says: str) -> None:
    with pytest.raises(ServeError, match=says) as caught:
        structured_outputs({"response_format": form})
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(("parser", "warns"), [("auto", False), ("hermes", False), ("none", False), ("mistral", True)])
def test_a_parser_that_reads_another_format_than_the_model_is_told_of_is_warned_of(
    parser: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    template: Any = SimpleNamespace(source="{{ messages }}", writes_tools=False)
    tokenizer: Any = SimpleNamespace(special_texts=())
    parsers = parsers_for(template, tokenizer, ("auto", None if parser == "none" else parser))
    session: Any = SimpleNamespace(chat_template=template, parsers=parsers)
    with caplog.at_level("WARNING", logger="warpjet.serve"):
        warn_of_another_format(session)
    assert ("format of hermes" in caplog.text and "--tool-call-parser mistral" in caplog.text) == warns
