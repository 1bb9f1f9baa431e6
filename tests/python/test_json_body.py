"""The bodies that are read, and those whose reading would hold the server up."""

import json
from typing import Any

import pytest

from warpjet.json_size import exceeds
from warpjet.serve.errors import ServeError
from warpjet.serve.json_body import MAX_CONTAINERS, MAX_DIGITS, MAX_ESCAPES, MAX_PAIRS, MAX_VALUES, parse_json


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
    monkeypatch.setattr("warpjet.serve.json_body._DECODER", None)
    refuse(list_of(item, most + 3), "more than")


def test_pairs_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpjet.serve.json_body._DECODER", None)
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
