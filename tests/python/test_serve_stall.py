"""No request keeps the others waiting: /health has its answer within 100 ms beside any of them.

What is measured is how long the server's event loop stands still, in CPU time (see probed_server.py), and the least of
five times counts: a server that stands still does so each time. On a machine that is slow just then, it may stand still
as long as work takes that is a tenth of a second elsewhere."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Server

pytest.importorskip("httptools")

from api_server import endpoints

from warpjet.serve.http.schema import Endpoint

_MOST_SECONDS = 0.1
_CASES_A_ROUTE = 24
_SIZES = (1 << 10, 32 << 10, 1 << 20)
_USER = [{"role": "user", "content": "x"}]
_CHAT, _COMPLETIONS, _RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    program = str(Path(__file__).with_name("probed_server.py"))
    with Server("--tool-call-parser", "hermes", program=[program]) as one:
        stall(one)
        yield one


def stall(server: Server) -> float:
    """The longest since the last call."""
    return float(server.http.get("/stall").json()["seconds"])


def work(server: Server) -> float:
    """What a tenth of a second of work takes just now."""
    return float(server.http.get("/work").json()["seconds"])


def longest(server: Server, path: str, body: bytes) -> float:
    """In seconds of a machine that has nothing else to do."""
    times: list[float] = []
    while not times or (times[-1] > _MOST_SECONDS and len(times) < 5):
        stall(server)
        with contextlib.suppress(httpx.TransportError):  # refused before all of it was sent
            server.http.post(path, content=body, headers={"content-type": "application/json"})
        stood = stall(server)
        times.append(stood if stood <= _MOST_SECONDS else stood * min(1.0, _MOST_SECONDS / work(server)))
    return min(times)


# --- Every field of every route ---------------------------------------------------------------------------------------

# Texts that make readers work: what is quoted, escaped, matched, counted or nested.
_TEXTS = (
    " ",
    '"',
    "\\",
    "[",
    "{",
    "{ ",
    "0",
    "1,",
    "(a*)*",
    "\n",
    "<|",
    "\ud83d",
    "é",
    "a",
    '\\"',
    "%(",
    "{{",
    "$ref/",
)


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


# What a field may be given: of a text of this size, or of parts that come to it.
_FORMS: list[Callable[[str, int], Any]] = [
    lambda text, size: text * (size // len(text)),
    lambda text, size: [text * (size // len(text))],
    lambda text, size: {text * (size // len(text)): 1},
    lambda text, size: {"type": text * (size // len(text))},
    lambda text, size: [{"type": text * (size // len(text)), "role": text, "content": text * size}],
    lambda text, size: {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": text * size}}},
    lambda text, size: {"regex": text * size},
    lambda text, size: {"grammar": text * size},
    lambda text, size: {"type": "function", "function": {"name": text * size}},
    lambda text, size: [{"type": "function", "function": {"name": "f", "description": text * size}}],
    lambda text, size: [{"role": "user", "content": text * size}],
    lambda text, size: [text] * max(size // 8, 1),
    lambda text, size: [[]] * max(size // 8, 1),
    lambda text, size: [{}] * max(size // 8, 1),
    lambda text, size: [7] * max(size // 8, 1),
    lambda text, size: {f"{text}{i}": i for i in range(min(size // 8, 16_000))},
    lambda text, size: [nested(120)] * max(size // 256, 1),
]


_MINIMAL: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "x"},
    "messages": {"messages": _USER},
    "input": {"input": "x"},
    "inputs": {"inputs": "x"},
    "tokens": {"tokens": [1]},
    "max_tokens": {"max_tokens": 1},
    "max_output_tokens": {"max_output_tokens": 1},
    "parameters": {"parameters": {"max_new_tokens": 1}},
}


def minimal(endpoint: Endpoint) -> dict[str, Any]:
    """A body that the route takes, with short answers."""
    assert endpoint.request_schema is not None
    names = endpoint.request_schema.names
    if endpoint.path == "/tokenize":
        names -= {"messages"}
    return {name: value for field in names & _MINIMAL.keys() for name, value in _MINIMAL[field].items()}


_ENDPOINTS = [one for one in endpoints() if one.request_schema is not None and one.scope == "user"]


@pytest.mark.parametrize("endpoint", _ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_no_field_stops_the_server(endpoint: Endpoint, server: Server) -> None:
    assert endpoint.request_schema is not None
    seed = random.randrange(1 << 32)
    print("seed", seed)
    choose = random.Random(seed)
    model = server.http.get("/v1/models").json()["data"][0]["id"]
    names = sorted(endpoint.request_schema.names)
    slow = []
    for name in choose.choices(names, k=_CASES_A_ROUTE):
        text, size = choose.choice(_TEXTS), choose.choice(_SIZES)
        kind = choose.randrange(len(_FORMS))
        value = _FORMS[kind](text, size)
        base = {"model": model} if "model" in names else {}
        body = json.dumps({**base, **minimal(endpoint), name: value}).encode()
        seconds = longest(server, endpoint.path, body)
        if seconds > _MOST_SECONDS:
            slow.append(f"{name} = {kind} of {text!r}, {size} bytes: {seconds:.2f} s")
    assert not slow, slow


# --- Requests that did ------------------------------------------------------------------------------------------------


def calls_in_reverse(count: int) -> dict[str, Any]:
    calls = [{"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in range(count)]
    results = [{"role": "tool", "tool_call_id": f"c{i}", "content": "x"} for i in reversed(range(count))]
    return {"messages": [*_USER, {"role": "assistant", "content": "x", "tool_calls": calls}, *results]}


def call_with(arguments: Any) -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [*_USER, {"role": "assistant", "tool_calls": [call]}]}


_ROWS: dict[str, tuple[str, Any]] = {
    "lists": (_COMPLETIONS, {"prompt": "x", "user": [[]] * 1_900_000}),
    "lists that are allowed": (_COMPLETIONS, {"prompt": "x", "max_tokens": 1, "unknown": [[]] * 130_000}),
    "texts that are allowed": (_COMPLETIONS, {"prompt": "x", "max_tokens": 1, "unknown": [""] * 1_000_000}),
    "numbers": (_COMPLETIONS, {"prompt": [1] * 1_000_000, "max_tokens": 1}),
    "one long number": (_COMPLETIONS, b'{"prompt":' + b"1" * 4_000_000 + b"}"),
    "numbers of many digits": (_COMPLETIONS, {"prompt": [10**500] * 20_000}),
    "an escaped text": (_COMPLETIONS, {"prompt": "\n" * 2_000_000, "max_tokens": 1}),
    "unknown fields": (_COMPLETIONS, {"prompt": "x", "max_tokens": 1, **{f"min_token{i}": 1 for i in range(16_000)}}),
    "a key given twice": (_COMPLETIONS, b'{"%s":1,"%s":2}' % (b" " * 500_000, b" " * 500_000)),
    "JSON within a text": (_CHAT, call_with("[" + "[]," * 4_000_000 + "1]")),
    "a part that is no text": (_CHAT, {"messages": [{"role": "user", "content": [{"text": [1] * 900_000}]}]}),
    "a type that is no text": (_CHAT, {"messages": _USER, "response_format": {"type": [1] * 900_000}}),
    "an item's role": (_RESPONSES, {"input": [{"role": [1] * 900_000, "content": "x"}]}),
    "sealed reasoning": (_RESPONSES, {"input": [{"type": "reasoning", "encrypted_content": "A" * 30_000_000}]}),
    "tokens to text": ("/detokenize", {"tokens": [5] * 1_000_000}),
    "a tool's name": (_CHAT, {"messages": _USER, "tools": [{"type": "function", "function": {"name": "x" * 10**7}}]}),
    "words to leave out": (_COMPLETIONS, {"prompt": "x", "max_tokens": 1, "bad_words": ["word " * 200] * 128}),
    "tokens to stop at": (_COMPLETIONS, {"prompt": "x", "max_tokens": 1, "stop_token_ids": [1] * 1_000_000}),
    "tokens that are allowed": (_COMPLETIONS, {"prompt": "x", "max_tokens": 1, "allowed_token_ids": [1] * (1 << 18)}),
    "stop strings of samples": (_COMPLETIONS, {"prompt": "x", "max_tokens": 1, "n": 128, "stop": ["ab" * 512] * 16}),
    "calls in reverse": (_CHAT, calls_in_reverse(20_000)),
    "messages": (_CHAT, {"messages": _USER * 20_000, "max_tokens": 1}),
    "prompts": (_COMPLETIONS, {"prompt": ["x"] * 1000, "max_tokens": 1}),
    "long prompts": (_COMPLETIONS, {"prompt": ["word " * 3000] * 200, "max_tokens": 1}),
    "prompts x n": (_COMPLETIONS, {"prompt": ["x"] * 1000, "max_tokens": 1, "n": 128}),
    "samples": (_COMPLETIONS, {"prompt": ["x"] * 8, "max_tokens": 8, "n": 128, "logprobs": 5}),
    "texts to embed": ("/v1/embeddings", {"input": ["word " * 100] * 1000}),
    "choices": (_COMPLETIONS, {"prompt": "x", "structured_outputs": {"choice": ["abcdefgh"] * 1_900_000}}),
    "a schema": (_COMPLETIONS, {"prompt": "x", "structured_outputs": {"json": {"enum": list(range(9_900))}}}),
    "items": (_RESPONSES, {"input": [{}] * 90_000}),
    "items that are messages": (_RESPONSES, {"input": _USER * 20_000, "max_output_tokens": 1}),
    "blocks": ("/v1/messages", {"model": "x", "max_tokens": 1, "messages": _USER * 30_000}),
    "a repeat of spaces": (_COMPLETIONS, {"prompt": "x", "structured_outputs": {"regex": "{" + " " * 60_000}}),
    "quotes": (_COMPLETIONS, {"prompt": "x", "structured_outputs": {"grammar": 'start: "' + '\\"' * 60_000}}),
}


@pytest.mark.parametrize("row", _ROWS)
def test_no_request_stops_the_server(row: str, server: Server) -> None:
    path, body = _ROWS[row]
    assert longest(server, path, body if isinstance(body, bytes) else json.dumps(body).encode()) <= _MOST_SECONDS


def test_the_probe_sees_a_server_that_stands_still(server: Server) -> None:
    stall(server)
    worked = work(server)
    assert stall(server) > 0.9 * worked > 0
