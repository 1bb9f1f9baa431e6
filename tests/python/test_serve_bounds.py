"""What one request may ask for, and how requests are named, alike on every route."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def canary() -> Iterator[Server]:
    with Server() as server:
        yield server


_USER = [{"role": "user", "content": "x"}]
_FEW = {"--max-request-tokens": "100", "--max-prompts": "16"}


@pytest.fixture(scope="module")
def few() -> Iterator[Server]:
    with Server(*itertools.chain(*_FEW.items())) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((COMPLETIONS, {"prompt": "x", **more}) for more in ({"max_tokens": 101}, {"max_tokens": 51, "n": 2})),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 51, "n": 2, "use_beam_search": True}),
        (COMPLETIONS, {"prompt": ["x"] * 2, "max_tokens": 51}),
        (COMPLETIONS, {"prompt": ["x"] * 2, "max_tokens": 26, "n": 2}),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 51, "best_of": 2}),
        (COMPLETIONS, {"prompt": ["x"] * 2, "max_tokens": 51, "stream": True}),
        (CHAT, {"messages": _USER, "max_tokens": 101}),
        (CHAT, {"messages": _USER, "max_completion_tokens": 51, "n": 2, "stream": True}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 101}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 101, "background": True}),
        ("/v1/messages", {"model": "tiny", "messages": _USER, "max_tokens": 101}),
        ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 101}}),
        ("/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": 101}}),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 1, "n": 17}),
        (COMPLETIONS, {"prompt": ["x"] * 17, "max_tokens": 1}),
        (COMPLETIONS, {"prompt": ["x"] * 9, "max_tokens": 1, "n": 2}),
        (COMPLETIONS, {"prompt": ["x"] * 9, "max_tokens": 1, "n": 2, "use_beam_search": True}),
        (CHAT, {"messages": _USER, "max_tokens": 1, "n": 17}),
        ("/v1/embeddings", {"input": ["x"] * 17}),
    ],
)
def test_a_request_asks_for_so_much_and_no_more(path: str, body: dict[str, Any], few: Server) -> None:
    if path == "/v1/messages":
        body = body | {"model": few.http.get("/v1/models").json()["data"][0]["id"]}
    answer = few.post(path, body)
    assert answer.status_code == 400, answer.text
    assert "a request may" in answer.text or "input may have" in answer.text


def test_a_request_that_names_no_length_gets_what_is_allowed(few: Server) -> None:
    answer = few.post(CHAT, {"messages": _USER, "ignore_eos": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 100
    assert few.post(COMPLETIONS, {"prompt": ["x"] * 4, "max_tokens": 5, "n": 4}).status_code == 200


# A stream that is longer than what a connection holds for a client that does not read: it lives until it is closed.
_ENDLESS = {"max_tokens": 900, "ignore_eos": True, "n": 8, "logprobs": 5, "stream": True}


def test_a_header_that_comes_twice_names_two_requests(canary: Server) -> None:
    """Requests that live at the same time, of one prompt and of several."""
    headers = {"X-Request-Id": "twice"}
    for prompt in ("x", ["x", "y"]):
        with canary.http.stream("POST", COMPLETIONS, json={"prompt": prompt, **_ENDLESS}, headers=headers) as first:
            assert first.status_code == 200
            next(first.iter_lines())
            second = canary.post(COMPLETIONS, {"prompt": prompt, "max_tokens": 1}, headers=headers)
            assert second.status_code == 200, second.text


def test_a_name_is_the_tenants_own() -> None:
    with Server("--api-key", "a:one", "--api-key", "b:two") as server:
        keys = [{"Authorization": f"Bearer {key}"} for key in ("one", "two")]
        body = {"prompt": ["x", "y"], "request_id": "mine"}
        with server.http.stream("POST", COMPLETIONS, json=body | _ENDLESS, headers=keys[0]) as first:
            assert first.status_code == 200
            next(first.iter_lines())
            short = body | {"max_tokens": 1}
            refused = server.post(COMPLETIONS, short, headers=keys[0])
            assert refused.status_code == 400 and "is live already" in refused.text
            answer = server.post(COMPLETIONS, short, headers=keys[1])
            assert answer.status_code == 200 and answer.json()["id"] == "cmpl-mine", answer.text
