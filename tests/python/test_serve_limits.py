"""Bad input over HTTP: a clear error, nothing lost, and the next good request gives the same as before.

Names follow the rows of the fault table."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving import CANARY, Server, checked, error_of, request_bytes
from waiting import PATIENCE_S, until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
BETWEEN_S = 0.1  # bytes of a slow client
# So many samples of 1,000 tokens take the server minutes: the answer cannot end before its client leaves.
ENDLESS = 64


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--trust-request-chat-template") as running:
        yield running


@pytest.fixture
def canary(server: Server) -> Iterator[Server]:
    yield from checked(server)


def refuse(server: Server, status: int = 400, param: str | None = None, **fields: Any) -> dict[str, Any]:
    """The error that a completion with these fields gets."""
    error = error_of(server.post(COMPLETIONS, {"prompt": "Hello", "max_tokens": 4, **fields}), status)
    assert param is None or error["param"] == param, error
    return error


def refuse_chat(server: Server, status: int = 400, param: str | None = None, **fields: Any) -> dict[str, Any]:
    error = error_of(server.post(CHAT, {"messages": HELLO, "max_tokens": 4, **fields}), status)
    assert param is None or error["param"] == param, error
    return error


def refuse_bytes(server: Server, body: bytes, status: int = 400) -> dict[str, Any]:
    answer = server.http.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    return error_of(answer, status)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b'{"prompt": "x"',
            b"hello",
            b"[]",
            b"null",
            b"3",
            b'"text"',
            b'{"prompt": "x"} {}',
            b"{'prompt': 1}",
        ),
        *(
            b'{"prompt": "\xff\xfe"}',
            b'{"prompt": "\xed\xa0\x80"}',
            b'\xef\xbb\xbf{"prompt": "x"}',
            "{}".encode("utf-16"),
        ),
        *(rb'{"prompt": "\ud800"}', rb'{"prompt": "a\udc00b"}', rb'{"\ud800": 1}', rb'{"prompt": "a\u0000b"}'),
        *(b'{"prompt": "a\0b"}', b"\0" * 100, b'{"prompt": "a\nb"}', b"<xml/>", b"prompt=x&max_tokens=3"),
    ],
)
def test_B1_not_json(body: bytes, canary: Server) -> None:
    refuse_bytes(canary, body)


def test_B1_escaped_text_that_is_fine(canary: Server) -> None:
    good = rb'{"prompt": "\ud83d\ude00 \\u0000 \\ud800 \n", "max_tokens": 1}'
    assert canary.http.post(COMPLETIONS, content=good, headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json", "é"]
)
def test_B2_wrong_content_type(kind: str, canary: Server) -> None:
    answer = canary.http.post(COMPLETIONS, content=b'{"prompt": "x"}', headers={"content-type": kind.encode()})  # type: ignore
    error_of(answer, 415)


def test_B2_charset_is_fine(canary: Server) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert canary.http.post(COMPLETIONS, content=b'{"prompt":"x","max_tokens":1}', headers=headers).status_code == 200


def test_B3_body_too_long(canary: Server) -> None:
    before = canary.rss_bytes()
    headers = {"content-type": "application/json"}
    error_of(canary.http.post(COMPLETIONS, content=b" " * ((32 << 20) + 1), headers=headers), 413)
    chunks = (b" " * (1 << 20) for _ in range(40))
    error_of(canary.http.post(COMPLETIONS, content=chunks, headers=headers), 413)
    assert canary.rss_bytes() - before < 96 << 20


def test_B3_declared_too_long_is_refused_at_once(canary: Server) -> None:
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    assert canary.raw(f"{head}Content-Length: {1 << 40}\r\n\r\n".encode()).startswith(b"HTTP/1.1 413 ")


def test_B3_many_tiny_chunks(canary: Server) -> None:
    body = json.dumps({"prompt": "Hello " * 100, "max_tokens": 1}).encode()
    chunks = (body[i : i + 1] for i in range(len(body)))
    answer = canary.http.post(COMPLETIONS, content=chunks, headers={"content-type": "application/json"})
    assert answer.status_code == 200


def test_B3_slow_heads_and_bodies_time_out() -> None:
    with Server("--header-timeout", "0.5", "--body-timeout", "0.5") as server:
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30\r\n"
        until(lambda: times_out(server, head.encode()))
        until(lambda: times_out(server, f"{head}\r\n{{".encode()))
        assert server.raw(b"") == b""  # a connection that asks for nothing
        with server.connect() as slow:  # a byte now and then does not keep it open
            slow.sendall(b"GET /health HTTP/1.1\r\n")
            began = time.monotonic()
            try:
                slow.settimeout(BETWEEN_S)
                while time.monotonic() - began < PATIENCE_S:
                    slow.sendall(b"x")
                    try:
                        if not slow.recv(4096):
                            break
                    except TimeoutError:
                        pass
            except OSError:
                pass
            assert time.monotonic() - began < PATIENCE_S
        until(lambda: answers(server))


def times_out(server: Server, data: bytes) -> bool:
    """A client that the machine holds up before it sends anything is cut off without a word."""
    with contextlib.suppress(OSError):
        return server.raw(data).startswith(b"HTTP/1.1 408 ")
    return False


def answers(server: Server) -> bool:
    """The same limits may cut off a good client that is held up."""
    try:
        return server.post(COMPLETIONS, {"prompt": "Hello", "max_tokens": 1}).status_code == 200
    except httpx.TransportError:
        return False


def test_B3_endless_head(canary: Server) -> None:
    with canary.connect() as one:
        one.sendall(b"GET /health HTTP/1.1\r\n")
        got = b""
        try:
            for _ in range(2000):
                one.sendall(b"X-A: " + b"a" * 200 + b"\r\n")
            got = one.recv(4096)
        except ConnectionError:
            return
        assert got.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"hello\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ),
        *(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_B3_not_http(data: bytes, canary: Server) -> None:
    assert canary.raw(data).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"prompt":' + b"[" * n + b"]" * n + b"}" for n in (128, 1000, 100_000, 1_000_000)),
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        json.dumps({str(i): i for i in range(1_000_000)}).encode(),
        json.dumps({"prompt": "x", "metadata": {str(i): 0 for i in range(100_000)}}).encode(),
        b'{"prompt": "x", "prompt": "y"}',
        b'{"prompt": "x", "metadata": {"a": 1, "a": 2}}',
        b'{"prompt": "x", "max_tokens": ' + b"9" * 100_000 + b"}",
        b'{"prompt": "x", "seed": ' + b"9" * 400 + b"}",
        *(
            b'{"prompt": "x", "temperature": %s}' % n
            for n in (b"1e999", b"-1e999", b"NaN", b"Infinity", b"-Infinity", b"1e")
        ),
        b'{"prompt": "x", "metadata": {"a": [NaN]}}',
        b'{"prompt": [' + b"1," * 2_100_000 + b"1]}",
    ],
)
def test_B4_deep_wide_or_unheard_of_json(body: bytes, canary: Server) -> None:
    refuse_bytes(canary, body)


def test_B4_128_levels_are_fine(canary: Server) -> None:
    deep: Any = 1
    for _ in range(126):
        deep = [deep]
    assert canary.complete(metadata={"a": deep}, max_tokens=1)


@pytest.mark.parametrize(
    "prompt", [[], "", [""], [[]], [[], [1]], None, {}, 3, [None], ["x", 3], [1, "x"], [[1], "x", [[1]]]]
)
def test_B5_no_prompt(prompt: Any, canary: Server) -> None:
    refuse(canary, prompt=prompt, param="prompt")


def test_B5_missing_fields(canary: Server) -> None:
    assert error_of(canary.post(COMPLETIONS, {}), 400)["param"] == "prompt"
    assert error_of(canary.post(CHAT, {}), 400)["param"] == "messages"


@pytest.mark.parametrize(
    "messages",
    [
        *(
            [],
            None,
            "hi",
            {},
            [None],
            [[]],
            [{}],
            [{"role": "user"}],
            [{"content": "x"}],
            [{"role": "", "content": "x"}],
        ),
        *([{"role": 3, "content": "x"}], [{"role": "user", "content": 3}], [{"role": "user", "content": {"a": 1}}]),
    ],
)
def test_B5_no_messages(messages: Any, canary: Server) -> None:
    refuse_chat(canary, messages=messages, param="messages")


@pytest.mark.parametrize("model", ["gpt-4", "", "tiny ", "../tiny", "tiny/lora", "x" * 100_000])
def test_B6_unknown_model(model: str, canary: Server) -> None:
    error = refuse(canary, 404, "model", model=model)
    assert error["code"] == "model_not_found" and len(error["message"]) < 1000
    refuse_chat(canary, 404, "model", model=model)


def test_B6_wrong_type_of_model(canary: Server) -> None:
    refuse(canary, 400, "model", model=3)


def test_B7_unknown_field_is_said_once(canary: Server) -> None:
    for _ in range(3):
        canary.complete(temprature=1, max_tokens=1)
    canary.process.stderr  # noqa: B018 - the log goes there


def test_B7_unknown_field_is_refused_when_strict() -> None:
    with Server("--strict") as server:
        error = refuse(server, temprature=1)
        assert "did you mean 'temperature'" in error["message"] and error["param"] == "temprature"
        server.complete(metadata={"a": "b"}, user="me")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("store", True), ("kv_transfer_params", {}), ("vllm_xargs", {"a": 1}), ("thinking_token_budget", 3)),
        *(
            ("repetition_detection", {}),
            ("guided_json", {}),
            ("json_schema", {}),
            ("regex", "a"),
            ("ebnf", 'root ::= "a"'),
            ("grammar", 'root ::= "a"'),
            ("guided_regex", "a"),
            ("suffix", "x"),
            ("service_tier", "flex"),
        ),
    ],
)
def test_B7_field_that_others_know_is_refused_by_name(name: str, value: Any, canary: Server) -> None:
    error = refuse(canary, param=name, **{name: value})
    assert "not supported" in error["message"]
    assert canary.complete(**{name: None}, max_tokens=1)


@pytest.mark.parametrize("name", ["functions", "function_call", "audio", "web_search_options"])
def test_B7_field_of_a_conversation_that_is_refused_by_name(name: str, canary: Server) -> None:
    refuse_chat(canary, param=name, **{name: {}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", v) for v in (-0.1, -1e308, "0.7", True, [], 10**400)),
        *(("top_p", v) for v in (0, -0.5, 1.01, "1", {})),
        *(("min_p", v) for v in (-0.1, 1.1)),
        *(("top_k", v) for v in (-2, 10**6, 2**40, 1.5, "5", True)),
        *(("presence_penalty", v) for v in (-2.1, 2.1, "0")),
        *(("frequency_penalty", v) for v in (-2.1, 2.1)),
        *(("repetition_penalty", v) for v in (0, -1)),
        *(("ignore_eos", v) for v in (1, "true")),
    ],
)
def test_B8_number_out_of_range(name: str, value: Any, canary: Server) -> None:
    refuse(canary, param=name, **{name: value})
    refuse_chat(canary, param=name, **{name: value})


def test_B8_high_temperature_is_allowed(canary: Server) -> None:
    canary.complete(temperature=50)


@pytest.mark.parametrize("n", [0, -1, 129, 2**31, 2**70, 1.5, True, "2"])
def test_B9_n_out_of_range(n: Any, canary: Server) -> None:
    refuse(canary, param="n", n=n)
    refuse_chat(canary, param="n", n=n)


def test_B9_too_much_in_all() -> None:
    with Server("--max-request-tokens", "1000") as server:
        refuse(server, param="n", n=100, max_tokens=11)
        refuse_chat(server, param="n", n=2, max_tokens=None)
        refuse(server, param="prompt", prompt=["x"] * 2000)


def test_B9_greedy_samples_are_equal(canary: Server) -> None:
    assert len({choice["text"] for choice in canary.complete(n=4)["choices"]}) == 1


def test_B9_too_many_prompts(canary: Server) -> None:
    refuse(canary, param="prompt", prompt=["x"] * 1025)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(({"max_tokens": v}, "max_tokens") for v in (-1, 0, 10**6, 2**40, 1.5, "5", True)),
        *(({"min_tokens": v}, "min_tokens") for v in (-1, 9)),
        ({"max_tokens": 1025}, None),
    ],
)
def test_B10_token_counts(fields: dict[str, Any], param: str | None, canary: Server) -> None:
    refuse(canary, param=param, **fields)
    refuse_chat(canary, param=param, **fields)


def test_B10_two_names_of_one_number(canary: Server) -> None:
    refuse_chat(canary, max_tokens=3, max_completion_tokens=4)


@pytest.mark.parametrize(
    "text", ["a" * 20_000_000, " " * 10_000_000, "ab" * 5_000_000, "\U0001f469" * 3_000_000, "word " * 2663]
)
def test_B11_text_too_long(text: str, canary: Server) -> None:
    """As many characters as no text of so few tokens has: it is refused before it is tokenised, which takes time."""
    completion = refuse(canary, prompt=text, param="prompt")
    chat = refuse_chat(canary, messages=[{"role": "user", "content": text}], param="messages")
    assert "characters is longer than max_model_len" in completion["message"]
    assert re.search(r"characters is longer than max_model_len|makes a value longer than", chat["message"])


def test_B11_too_many_tokens(canary: Server) -> None:
    assert "2004 tokens" in refuse(canary, prompt="word " * 2000, param="prompt")["message"]


def test_B11_others_are_served_while_long_text_is_read(canary: Server) -> None:
    with canary.connect() as slow:
        slow.sendall(request_bytes(COMPLETIONS, {"prompt": "ab " * 4000, "max_tokens": 1}))
        assert canary.http.get("/health").status_code == 200
        assert slow.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("token", [-1, 3072, 2**31, 2**70, True, 1.0, "1", None, [1]])
def test_B12_token_ids(token: Any, canary: Server) -> None:
    refuse(canary, param="prompt", prompt=[1, token])
    error_of(canary.post("/detokenize", {"tokens": [1, token]}), 400)


@pytest.mark.parametrize("value", [21, -1, 10**9, 1.5, True, "2"])
def test_B13_logprobs_beyond_the_cap(value: Any, canary: Server) -> None:
    refuse(canary, param="logprobs", logprobs=value)
    refuse(canary, param="prompt_logprobs", prompt_logprobs=value)
    refuse_chat(canary, logprobs=True, top_logprobs=value)


def test_B13_top_logprobs_needs_logprobs(canary: Server) -> None:
    refuse_chat(canary, param="top_logprobs", top_logprobs=2)
    refuse_chat(canary, param="logprobs", logprobs=3)


def test_B13_prompt_logprobs_do_not_depend_on_the_cache(canary: Server) -> None:
    fields: dict[str, Any] = {
        "prompt": "Once upon a time there was a fox. " * 12,
        "max_tokens": 1,
        "prompt_logprobs": 2,
    }
    first, second = (canary.complete(**fields)["choices"][0]["prompt_logprobs"] for _ in range(2))
    assert first == second and len(first) > 64


@pytest.mark.parametrize("stop", [[""], "", ["a"] * 17, ["a" * (1 << 20)], "a" * (1 << 21), [3], 3, {}])
def test_B14_stop_strings(stop: Any, canary: Server) -> None:
    refuse(canary, param="stop", stop=stop)
    refuse_chat(canary, param="stop", stop=stop)


@pytest.mark.parametrize("ids", [list(range(100_000)), [-1], [3072], ["a"], [1.5], [True], 3])
def test_B14_stop_token_ids(ids: Any, canary: Server) -> None:
    refuse(canary, param="stop_token_ids", stop_token_ids=ids)


@pytest.mark.parametrize(
    "bias",
    [
        *({"-1": 1}, {"3072": 1}, {"5": 101}, {"x": 1}, {"5": "1"}, {"5": True}, {"5": [1]}, {str(2**40): 1}, {"٣": 1}),
        *([1], {"": 1}, {"1.0": 1}, {str(i): 1 for i in range(10_000)}, {"5": 10**400}, {"5": 1, "05": 2}),
    ],
)
def test_B15_logit_bias(bias: Any, canary: Server) -> None:
    refuse(canary, param="logit_bias", logit_bias=bias)


@pytest.mark.parametrize("ids", [[], [-1], [3072], ["a"], 3])
def test_B15_allowed_token_ids(ids: Any, canary: Server) -> None:
    refuse(canary, param="allowed_token_ids", allowed_token_ids=ids)


@pytest.mark.parametrize("words", [[""], ["a"] * 129, ["a" * 1025], [3], "a", 3])
def test_B15_bad_words(words: Any, canary: Server) -> None:
    refuse(canary, param="bad_words", bad_words=words)


def test_B15_nothing_left_to_draw_ends_that_request_alone(canary: Server) -> None:
    choice = canary.complete(allowed_token_ids=[5], logit_bias={"5": -100}, bad_words=[])["choices"][0]
    assert choice["finish_reason"] in ("length", "error")


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 2**200, 1.5, "1", True])
def test_B16_seed_beyond_64_bits(seed: Any, canary: Server) -> None:
    refuse(canary, param="seed", seed=seed)


def test_B16_every_seed_of_64_bits_is_good(canary: Server) -> None:
    for seed in (0, -1, 2**63 - 1, -(2**63)):
        canary.complete(seed=seed, max_tokens=1)


TOOL = {"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "walk"}}},
        {"tools": [TOOL], "tool_choice": {"type": "function"}},
        {"tools": [TOOL], "tool_choice": "sometimes"},
        {"tools": [TOOL, TOOL]},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"tools": [{"type": "function", "function": {"name": "x" * 129}}]},
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
        {"tools": [{"type": "code", "function": {"name": "a"}}]},
        {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(2000)]},
        {"tools": ["run"]},
        {"tools": "run"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "run"}}},
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        {"structured_outputs": {"regex": "a", "json": {}}},
        {"structured_outputs": {}},
        {"structured_outputs": {"unheard": 1}},
        {"response_format": {"type": "yaml"}},
        {"response_format": {}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    ],
)
def test_B21_contradictory_or_malformed_wishes(fields: dict[str, Any], canary: Server) -> None:
    refuse_chat(canary, **fields)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "tool", "content": "x", "tool_call_id": "1"}],
        [*HELLO, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "x"}],
        [*HELLO, {"role": "assistant", "tool_calls": [{"id": "1"}]}],
        [*HELLO, {"role": "assistant", "tool_calls": [{"function": {"name": "run"}}]}],
        [*HELLO, {"role": "assistant", "tool_calls": "run"}],
        [{"role": "user", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "a"}}]}],
        [
            *HELLO,
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "run", "arguments": "{}"}}]},
            {"role": "tool", "content": "x", "tool_call_id": "2"},
        ],
    ],
)
def test_B21_messages_of_tools_out_of_order(messages: Any, canary: Server) -> None:
    refuse_chat(canary, messages=messages, param="messages")


def test_B22_templates_of_requests_are_not_trusted() -> None:
    with Server() as server:
        error = refuse_chat(server, 403, "chat_template", chat_template="{{ messages }}")
        assert "--trust-request-chat-template" in error["message"]


@pytest.mark.parametrize(
    "constraint",
    [
        {"grammar": 'start: "a'},
        {"grammar": "start: undefined_rule"},
        {"grammar": "start: " + "(" * 60000 + '"a"' + ")" * 60000},
        {"grammar": 'start: "' + "x" * (10 << 20) + '"'},
    ],
    ids=["syntax", "undefined", "deep", "long"],
)
def test_B17_grammars_that_cannot_be_compiled(constraint: dict[str, Any], canary: Server) -> None:
    refuse(canary, structured_outputs=constraint)


@pytest.mark.parametrize("regex", ["(?<=x)*", "a{1,2000000000}", r"(a)\1", r"\p{Nonsense}", "(", "[z-a]"])
def test_B18_regular_expressions_that_cannot_be_compiled(regex: str, canary: Server) -> None:
    refuse(canary, structured_outputs={"regex": regex})


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "does not fetch"),
        ({"type": "nonsense"}, "Invalid type: nonsense"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "Unsatisfiable"),
        ({"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(100_000)}}, "more than 16384"),
    ],
    ids=["remote", "type", "pattern", "bounds", "wide"],
)
def test_B19_schemas_that_cannot_be_compiled(schema: dict[str, Any], says: str, canary: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert says in refuse_chat(canary, response_format=form)["message"]


def test_B20_a_grammar_that_ends_early_is_a_stop(canary: Server) -> None:
    answer = canary.post(COMPLETIONS, {"prompt": "Hello", "max_tokens": 50, "structured_outputs": {"choice": ["yes"]}})
    assert (answer.json()["choices"][0]["text"], answer.json()["choices"][0]["finish_reason"]) == ("yes", "stop")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "longer than its time"),
        ("{{ 'a' * 10000000000 }}", "makes a value longer than"),
        ("{{ ''.__class__.__mro__ }}", "'__class__' of 'str' object is unsafe"),
        ("{% for i in range(99999999) %}x{% endfor %}", "Range too big"),
        ("{{ messages | unheard }}", "No filter named 'unheard'"),
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('no') }}", "no"),
        ("{{ ().__class__.__bases__[0].__subclasses__() }}", "'__class__' of 'tuple' object is unsafe"),
        ("x" * (2 << 20), "2097152 characters, more than"),
    ],
)
def test_B22_hostile_template(template: str, says: str, canary: Server) -> None:
    """Each by the limit that is made for it, none by the patience of whoever asked."""
    assert says in refuse_chat(canary, chat_template=template)["message"]


def test_B22_a_template_that_loops_ends_and_others_are_served(canary: Server) -> None:
    loop = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
    with canary.connect() as slow:
        slow.sendall(request_bytes(CHAT, {"messages": HELLO, "chat_template": loop}))
        canary.complete(max_tokens=1)
        assert slow.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token"])
def test_B22_template_variables_that_are_not_the_requests(name: str, canary: Server) -> None:
    refuse_chat(canary, chat_template_kwargs={name: []})


@pytest.mark.parametrize(
    "part",
    [
        *(
            {"type": "image_url", "image_url": {"url": url}}
            for url in ("http://127.0.0.1:1/x", "file:///etc/passwd", "data:,")
        ),
        *(
            {"type": "input_audio", "input_audio": {"data": ""}},
            {"type": "video_url"},
            {"type": "text"},
            {},
            "text",
            None,
        ),
    ],
)
def test_B23_parts_that_are_not_text(part: Any, canary: Server) -> None:
    refuse_chat(canary, messages=[{"role": "user", "content": [part]}], param="messages")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with Server("--api-key", "good", "team-a:better", "--admin-api-key", "root", "--admin-port", "0") as running:
        yield running


ROUTES = [("GET", path) for path in ("/v1/models", "/metrics", "/version", "/openapi.json", "/v1/models/tiny", "/live")]
ROUTES += [("POST", path) for path in (CHAT, COMPLETIONS, "/tokenize", "/detokenize", "/v1/embeddings", "/v1/messages")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer bad", "Basic good", "good", "Bearer goo", "Bearer good1"]
)
def test_B24_no_key_no_answer(method: str, path: str, header: str | None, guarded: Server) -> None:
    headers = {} if header is None else {"authorization": header}
    answer = guarded.http.request(method, path, headers=headers)
    if answer.status_code == 404 and path in ("/live", "/v1/embeddings", "/v1/messages"):
        pytest.skip("there is no such route")
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


def test_B24_a_good_key_is_good(guarded: Server) -> None:
    for headers in ({"authorization": "Bearer good"}, {"authorization": "bearer better"}, {"x-api-key": "good"}):
        assert guarded.http.get("/v1/models", headers=headers).status_code == 200
    assert guarded.http.get("/health").status_code == guarded.http.get("/ready").status_code == 200
    assert guarded.http.get("/v1/models", headers={"authorization": "Bearer team-a:better"}).status_code == 401


def test_B24_admin_routes_are_elsewhere(guarded: Server) -> None:
    for key, status in {"good": 403, "root": 403, "bad": 401}.items():
        answer = guarded.http.post("/reset_prefix_cache", headers={"authorization": f"Bearer {key}"})
        error_of(answer, status)
    error_of(guarded.http.get("/v1/models", headers={"authorization": "Bearer root"}), 403)


def test_B24_admin_port_takes_the_admin_key_alone() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("--api-key", "good", "--admin-api-key", "root", "--admin-port", str(port))
    with Server(*flags) as server, httpx.Client(base_url=f"http://127.0.0.1:{port}") as admin:
        path = "/reset_prefix_cache"
        error_of(admin.post(path), 401)
        error_of(admin.post(path, headers={"authorization": "Bearer good"}), 403)
        root = {"authorization": "Bearer root"}
        assert admin.post(path, headers=root).json() == {"reset": True}
        error_of(admin.get("/v1/models", headers=root), 403)
        error_of(admin.post("/v1/requests/none/cancel", headers=root), 404)
        assert admin.post("/log_level", json={"level": "debug"}, headers=root).status_code == 200
        with server.http.stream(
            "POST",
            COMPLETIONS,
            json={"prompt": "x", "max_tokens": 1000, "stream": True, "ignore_eos": True, "request_id": "long"},
            headers={"authorization": "Bearer good"},
        ) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert admin.post("/v1/requests/cmpl-long/cancel", headers=root).status_code == 200
            assert '"finish_reason":"abort"' in "".join(lines)


def test_B24_key_guesses_are_not_told_apart(guarded: Server) -> None:
    answers = {guarded.http.get("/v1/models", headers={"x-api-key": key}).text for key in ("", "g", "goo", "x" * 5000)}
    assert len(answers) == 1


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/", "//v1/models", "/v1/chat/completions/x", "/%00", "/é"])
def test_B25_unknown_path(path: str, canary: Server) -> None:
    error_of(canary.http.get(path), 404)


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/..%2f..%2fetc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd", "/.git/config"]
)
def test_B25_path_traversal(path: str, canary: Server) -> None:
    answer = canary.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ") and b"root:" not in answer


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CHAT), ("DELETE", COMPLETIONS), ("POST", "/v1/models"), ("PUT", "/health")]
)
def test_B25_wrong_method(method: str, path: str, canary: Server) -> None:
    answer = canary.http.request(method, path)
    error_of(answer, 405)
    assert answer.headers["allow"]


def test_B26_full_queue() -> None:
    with Server("--max-num-queued-reqs", "2") as server:
        body = {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True, "n": ENDLESS}
        with server.http.stream("POST", COMPLETIONS, json=body), server.http.stream("POST", COMPLETIONS, json=body):
            answer = server.post(COMPLETIONS, {**body, "stream": False})
            error_of(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
            assert server.http.get("/health").status_code == 200
        assert server.idle()
        server.complete()


def test_B26_rate_limit_is_each_keys_own() -> None:
    with Server("--api-key", "a", "b", "--rate-limit", "0.5", "--rate-limit-burst", "3") as server:
        get = [server.http.get("/v1/models", headers={"x-api-key": "a"}) for _ in range(5)]
        assert [answer.status_code for answer in get] == [200, 200, 200, 429, 429]
        error_of(get[-1], 429)
        assert 1 <= int(get[-1].headers["retry-after"]) <= 3
        assert server.http.get("/v1/models", headers={"x-api-key": "b"}).status_code == 200
        assert server.http.get("/health").status_code == 200


def test_B26_made_up_keys_do_not_widen_the_rate_limit() -> None:
    with Server("--rate-limit", "0.5", "--rate-limit-burst", "3") as server:
        answers = [server.http.get("/v1/models", headers={"x-api-key": f"made up {i}"}) for i in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]


def _stream(server: Server, **fields: Any) -> socket.socket:
    one = server.connect()
    long = {"prompt": "Hello", "max_tokens": 1000, "ignore_eos": True, "stream": True, **fields}
    one.sendall(request_bytes(COMPLETIONS, long))
    return one


def test_B27_client_leaves_in_the_middle_of_a_stream(canary: Server) -> None:
    before = canary.aborts()
    one = _stream(canary, n=ENDLESS)
    one.recv(4096)
    assert canary.gauge("warpjet:num_requests_running") > 0
    one.close()
    assert canary.idle() and canary.aborts() == before + ENDLESS


def test_B27_client_leaves_without_reading(canary: Server) -> None:
    streams = [_stream(canary, n=4) for _ in range(8)]
    for one in streams:
        one.close()
    assert canary.idle()


def test_B27_client_leaves_while_it_waits_for_a_whole_answer(canary: Server) -> None:
    before = canary.aborts()
    one = _stream(canary, stream=False, n=ENDLESS)
    until(lambda: canary.gauge("warpjet:num_requests_running"))
    one.close()
    assert canary.idle() and canary.aborts() == before + ENDLESS


def test_B27_client_leaves_with_requests_pipelined(canary: Server) -> None:
    before = canary.aborts()
    one = _stream(canary, n=ENDLESS)
    one.recv(4096)
    one.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    one.close()
    assert canary.idle() and canary.aborts() == before + ENDLESS


def test_B27_client_leaves_during_prefill() -> None:
    with Server("--max-num-batched-tokens", "16", "--block-size", "16") as server:
        expected = server.canary()
        one = _stream(server, prompt=[5] * 900, max_tokens=100, n=ENDLESS)
        until(lambda: server.gauge("warpjet:num_requests_running"))
        one.close()
        assert server.idle() and server.aborts() == ENDLESS
        assert server.canary() == expected


def test_B27_a_slow_reader_pauses_and_loses_nothing() -> None:
    with Server("--max-unread-tokens", "64") as server:
        fields = {"n": 4, "max_tokens": 900, "seed": 5, "temperature": 1.0, "logprobs": 20, "prompt": "Hello"}
        whole = server.post(COMPLETIONS, {**fields, "ignore_eos": True}).json()
        expected = server.canary()
        before = server.rss_bytes()
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        body = json.dumps({**fields, "ignore_eos": True, "stream": True}).encode()
        head = f"POST {COMPLETIONS} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body)
        until(lambda: server.gauge("warpjet:num_requests_paused"))
        assert server.canary() == expected  # others go on
        assert server.rss_bytes() - before < 64 << 20
        with slow:
            slow.settimeout(PATIENCE_S)
            data = b"".join(iter(lambda: slow.recv(1 << 20), b""))
        texts = [""] * 4
        for line in data.split(b"\n"):
            if line.startswith(b"data: {"):
                choice = json.loads(line[6:])["choices"][0]
                texts[choice["index"]] += choice["text"]
        assert texts == [choice["text"] for choice in whole["choices"]]
        assert server.idle()


def test_B28_request_id_that_is_live(canary: Server) -> None:
    with _stream(canary, request_id="same", n=ENDLESS) as one:
        one.recv(4096)
        error = refuse(canary, request_id="same")
        assert "live" in error["message"]
    assert canary.idle()
    canary.complete(request_id="same", max_tokens=1)


@pytest.mark.parametrize("name", ["", "x" * 129, 3, ["a"]])
def test_B28_request_id_of_another_form(name: Any, canary: Server) -> None:
    refuse(canary, param="request_id", request_id=name)


def test_B29_salts_separate_caches(canary: Server) -> None:
    prompt = "There once was a salt that nobody knew but the one who brought it along. " * 5

    def cached(**fields: Any) -> int:
        usage = canary.complete(prompt=prompt, max_tokens=1, **fields)["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert cached(cache_salt="a") == 0 and cached(cache_salt="a") > 0
    assert cached(cache_salt="b") == 0 and cached() == 0 and cached() > 0
    for salt in ("", 3, [], "x" * 1025):
        refuse(canary, param="cache_salt", cache_salt=salt)


@pytest.mark.parametrize("priority", [2**31, -(2**31) - 1, 2**70, 1.5, "high", True])
def test_B30_priority(priority: Any, canary: Server) -> None:
    refuse(canary, param="priority", priority=priority)


@pytest.mark.parametrize("options", [{"include_usage": True}, {}])
def test_B30_stream_options_without_stream(options: dict[str, Any], canary: Server) -> None:
    refuse(canary, param="stream_options", stream_options=options)
    refuse_chat(canary, param="stream_options", stream_options=options, stream=False)


@pytest.mark.parametrize("options", [{"include_usage": 1}, {"unheard": True}, [], "x", {"include_obfuscation": True}])
def test_B30_malformed_stream_options(options: Any, canary: Server) -> None:
    refuse(canary, param="stream_options", stream_options=options, stream=True)


def test_errors_of_a_stream_come_before_it(canary: Server) -> None:
    error_of(canary.post(CHAT, {**CANARY, "stream": True, "temperature": -1}), 400)
    error_of(canary.post(COMPLETIONS, {"prompt": [3072], "stream": True}), 400)


def test_cross_origin_calls_are_off_unless_allowed(canary: Server) -> None:
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in canary.http.options(CHAT, headers=preflight).headers
    with Server("--allowed-origins", "https://a.example") as server:
        answer = server.http.options(CHAT, headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        other = server.http.get("/health", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
