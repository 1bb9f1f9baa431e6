"""The bodies that are read, and those whose reading would hold the server up."""

import json
import tracemalloc
from typing import Any

import pytest

from warpjet.common.json_size import (
    MAX_CONTAINERS,
    MAX_ESCAPES,
    MAX_PAIRS,
    MAX_VALUES,
    _marks_outside_texts,
    exceeds,
    memory_bytes,
    read_bounded,
)
from warpjet.common.shown import shown
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.json_body import MAX_DIGITS, parse_json
from warpjet.text.messages import checked_messages


def refuse(raw: bytes, says: str) -> None:
    with pytest.raises(ServeError, match=says) as caught:
        parse_json(raw)
    assert caught.value.status == 400


def list_of(item: str, count: int) -> bytes:
    return b'{"a":[' + b",".join([item.encode()] * count) + b"]}"


@pytest.mark.parametrize(
    ("item", "most"),
    [
        *(("[]", MAX_CONTAINERS), ("{}", MAX_CONTAINERS), ("[[[[]]]]", MAX_CONTAINERS // 4)),
        *(("null", MAX_VALUES), ('""', MAX_VALUES), ("7", MAX_VALUES), ('{"a":1}', MAX_CONTAINERS)),
    ],
)
def test_values_are_counted_before_they_are_made(item: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(parse_json(list_of(item, most - 3))["a"]) == most - 3
    monkeypatch.setattr("warpjet.serve.http.json_body._DECODER", None)
    refuse(list_of(item, most + 3), "more than")


def test_pairs_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpjet.serve.http.json_body._DECODER", None)
    pairs = b",".join(b'"%d":1' % i for i in range(16000))
    refuse(b'{"a":[' + b",".join([b"{" + pairs + b"}"] * (MAX_PAIRS // 16000 + 1)) + b"]}", "pairs of key and value")


@pytest.mark.parametrize("text", ["[{,:" * MAX_VALUES, '"[,' * (1 << 19), "\\[" * MAX_VALUES, '\\"[' * (1 << 19)])
def test_what_a_string_holds_is_not_counted(text: str) -> None:
    assert parse_json(json.dumps({"a": text, "b": [1]}).encode()) == {"a": text, "b": [1]}


@pytest.mark.parametrize("tail", [b'"', b'"' + b'\\"' * 1000, b'"\\', b""])
def test_lists_beside_an_unfinished_string_are_counted(tail: bytes) -> None:
    refuse(list_of("[]", MAX_CONTAINERS + 3)[:-2] + b"," + tail, "more than")


def test_escapes_are_counted() -> None:
    assert len(parse_json(b'{"a":"' + b"\\n" * MAX_ESCAPES + b'"}')["a"]) == MAX_ESCAPES
    refuse(b'{"a":"' + b"\\n" * (MAX_ESCAPES + 1) + b'"}', "escapes")


@pytest.mark.parametrize("number", ["{}", "-{}", "0.{}", "{}e5", "1e{}"])
def test_numbers_have_so_many_digits(number: str) -> None:
    refuse(b'{"a":' + number.format("1" * (MAX_DIGITS + 1)).encode() + b"}", "digits")


def test_a_long_integer_is_read() -> None:
    assert parse_json(b'{"a":' + b"9" * 300 + b"}") == {"a": int("9" * 300)}


@pytest.mark.parametrize(
    ("value", "size"),
    [("x" * 1000, 1000), ([""] * 200, 1600), ({str(i): i for i in range(200)}, 1600), ([[[[["x" * 1000]]]]], 1000)],
)
def test_the_size_of_a_value(value: Any, size: int) -> None:
    assert exceeds(size - 1, value) and not exceeds(4 * size, value)


def test_the_size_of_several_values_is_their_sum() -> None:
    assert exceeds(1500, "x" * 1000, "x" * 1000) and not exceeds(3000, "x" * 1000, None, "x" * 1000)


@pytest.mark.parametrize(
    "value",
    [
        [[] for _ in range(10_000)],
        [{} for _ in range(10_000)],
        [{"a": i} for i in range(10_000)],
        {f"key{i}": "value" for i in range(10_000)},
        [i / 7 for i in range(10_000)],
        [f"é{i}" for i in range(10_000)],
        "x" * 100_000 + "\U0001f600",
        [["x"] for _ in range(10_000)],
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_a_body_takes_no_more_memory_than_it_is_weighed(value: Any, plain: bool) -> None:
    raw = json.dumps({"a": value}, ensure_ascii=plain, separators=(",", ":")).encode()
    tracemalloc.start()
    try:
        parsed = parse_json(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert parsed == {"a": value}
    assert peak + len(raw) <= memory_bytes(raw)


def test_json_within_a_text_has_the_limits_of_a_body() -> None:
    assert read_bounded("[" + "[]," * 1000 + "1]") == [*[[]] * 1000, 1]
    with pytest.raises(ValueError, match="lists and objects"):
        read_bounded("[" + "[]," * MAX_CONTAINERS + "1]")
    call = {"id": "a", "function": {"name": "f", "arguments": "[" + "[]," * MAX_CONTAINERS + "1]"}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}]
    checked = checked_messages(messages, answered=False, has_developer=False)
    assert list(checked[1]["tool_calls"][0]["function"]["arguments"]) == ["partial_json"]  # nothing of it was read


class Costly:
    """What no message may read."""

    def __repr__(self) -> str:
        raise AssertionError("it was read")


def test_a_quote_reads_no_more_than_it_shows() -> None:
    assert shown([Costly()]) == "a list"
    assert shown({"a": Costly()}) == "an object"
    assert shown("a" * 100, 3) == "'aaa'..."
    assert shown("abc") == "'abc'"
    assert shown(7) == "7"


def test_marks_within_texts_are_not_counted_whatever_their_length() -> None:
    for length in (0, 1, 63, 64, 65, 5000):
        for inside in ("[],:", '\\"[', "\\\\"):
            text = "a" * length + inside
            assert list(_marks_outside_texts(f'[{{"k":"{text}"}},"{text}"]'.encode())) == [1, 1, 2, 3]
    assert list(_marks_outside_texts(b'["' + b"[" * 5000)) == [1]  # a text without an end
