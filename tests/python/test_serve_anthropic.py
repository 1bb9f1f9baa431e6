"""Anthropic's Messages API, by the official client."""

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from api_server import KEY, MODEL, api_server, becomes_idle
from checkpoints import copy_tiny
from waiting import PATIENCE_S

from warpjet import LLM, SamplingParams
from warpjet.serve.anthropic.content import system_text, to_messages
from warpjet.serve.anthropic.tools import to_tools
from warpjet.serve.http.errors import ServeError
from warpjet.serve.parts import SkippedTools
from warpjet.serve.serving import Serving

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"name": "weather", "description": "The weather in a city.", "input_schema": SCHEMA},
    {"name": "time", "input_schema": {"type": "object", "properties": {}}},
]
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 12, "extra_body": {"temperature": 0}}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Serving]]:
    with api_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(served: tuple[str, Serving]) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served[0], api_key=KEY, max_retries=0)


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


def expected(llm: LLM, messages: list[dict[str, Any]], **options: Any) -> str:
    params = SamplingParams(temperature=0, max_tokens=12)
    return llm.chat(messages, params, use_tqdm=False, **options)[0].outputs[0].text


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_is_answered_as_chat_would(client: anthropic.Anthropic, llm: LLM) -> None:
    message = client.messages.create(messages=[user("What is 3 + 4?")], **ASK)
    assert text_of(message) == expected(llm, [user("What is 3 + 4?")])
    assert (message.role, message.model, message.type) == ("assistant", MODEL, "message")
    assert message.stop_reason in ("end_turn", "max_tokens")
    usage = message.usage
    assert usage.output_tokens > 0 and usage.input_tokens + (usage.cache_read_input_tokens or 0) > 3


def test_system_and_blocks_make_the_conversation(client: anthropic.Anthropic, llm: LLM) -> None:
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    said: Any = {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}
    blocks = [{"type": "text", "text": "What is"}, {"type": "text", "text": "3 + 4?"}]
    message = client.messages.create(system=system, messages=[user("Hi"), said, user(blocks)], **ASK)
    conversation = [
        {"role": "system", "content": "Be brief."},
        user("Hi"),
        {"role": "assistant", "content": "Hello."},
        user("What is\n3 + 4?"),
    ]
    assert text_of(message) == expected(llm, conversation)


def test_an_answer_that_has_begun_is_gone_on_with(client: anthropic.Anthropic, llm: LLM) -> None:
    conversation = [user("What is 3 + 4?"), {"role": "assistant", "content": "The sum"}]
    message = client.messages.create(messages=conversation, **ASK)  # type: ignore[arg-type]
    options = {"add_generation_prompt": False, "continue_final_message": True}
    assert text_of(message) == expected(llm, conversation, **options)


def test_a_stream_tells_the_same(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(messages=[user("What is 3 + 4?")], **ASK)
    with client.messages.stream(messages=[user("What is 3 + 4?")], **ASK) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(final) == text_of(whole)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    kinds = [event.type for event in client.messages.create(messages=[user("Hi")], stream=True, **ASK)]
    assert kinds[0] == "message_start" and kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_the_async_client_streams(served: tuple[str, Serving]) -> None:
    async def main() -> str:
        async with anthropic.AsyncAnthropic(base_url=served[0], api_key=KEY) as client:  # noqa: SIM117
            async with client.messages.stream(messages=[user("Hi")], **ASK) as stream:
                return "".join([text async for text in stream.text_stream])

    assert asyncio.run(main())


def test_thinking_text_and_calls_are_blocks(client: anthropic.Anthropic) -> None:
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 50, "tools": TOOLS, "messages": [user("Call a tool.")]}
    whole = client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        events = list(stream)
        final = stream.get_final_message()
    for message in (whole, final):
        thought, said, call, other = message.content
        assert thought.type == "thinking" and thought.thinking == "Let me see."
        assert said.type == "text" and said.text == "I ask."
        assert call.type == "tool_use" and (call.id, call.name, call.input) == ("call_a", "weather", {"city": "Rome"})
        assert other.type == "tool_use" and (other.name, other.input) == ("time", {})
        assert message.stop_reason == "tool_use" and message.usage.cache_read_input_tokens == 4
    pieces = [
        e.delta.partial_json for e in events if e.type == "content_block_delta" and e.delta.type == "input_json_delta"
    ]
    assert "".join(pieces) == '{"city": "Rome"}{}'


def test_results_of_tools_go_back(client: anthropic.Anthropic) -> None:
    call = client.messages.create(model=MODEL, max_tokens=50, tools=TOOLS, messages=[user("Call a tool.")])
    results = [
        {"type": "tool_result", "tool_use_id": "call_a", "content": [{"type": "text", "text": "sunny"}]},
        {"type": "tool_result", "tool_use_id": "call_b", "content": "noon", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    said: Any = {"role": "assistant", "content": call.content}
    message = client.messages.create(messages=[user("Call a tool."), said, user(results)], **ASK)
    assert message.stop_reason in ("end_turn", "max_tokens")


@pytest.mark.parametrize(
    ("thinking", "kinds"),
    [
        ({"type": "disabled"}, ["text", "tool_use", "tool_use"]),
        ({"type": "enabled", "budget_tokens": 1024}, ["thinking", "text", "tool_use", "tool_use"]),
        ({"type": "adaptive", "display": "omitted"}, ["thinking", "text", "tool_use", "tool_use"]),
    ],
)
def test_thinking_is_shown_as_asked(client: anthropic.Anthropic, thinking: Any, kinds: list[str]) -> None:
    message = client.messages.create(
        model=MODEL, max_tokens=2000, tools=TOOLS, thinking=thinking, messages=[user("Call a tool.")]
    )
    assert [block.type for block in message.content] == kinds
    if "display" in thinking:
        assert message.content[0].thinking == ""  # type: ignore[union-attr]


def test_messages_of_one_role_in_a_row_are_one_turn() -> None:
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    messages = [
        user("one"),
        user([{"type": "text", "text": "two"}]),
        {"role": "assistant", "content": "I ask."},
        {"role": "assistant", "content": [call]},
        {"role": "assistant", "content": [{**call, "id": "b"}]},
        user([{"type": "tool_result", "tool_use_id": "a", "content": "1"}]),
        user("three"),
        user([{"type": "tool_result", "tool_use_id": "b", "content": "2"}]),
    ]
    asked, said, first, second, more = to_messages(messages)
    assert (asked["role"], asked["content"]) == ("user", "one\ntwo")
    assert said["content"] == "I ask." and [one["id"] for one in said["tool_calls"]] == ["a", "b"]
    assert (first["content"], second["content"], more["content"]) == ("1", "2", "three")


@pytest.mark.parametrize("seed", range(5))
def test_turns_alternate_whatever_the_roles(seed: int) -> None:
    draw = random.Random(seed)
    roles = [draw.choice(("user", "assistant")) for _ in range(20)]
    turns = [message["role"] for message in to_messages([{"role": role, "content": "x"} for role in roles])]
    assert all(one != other for one, other in itertools.pairwise(turns)), roles


def test_a_template_that_alternates_takes_several_of_one_role(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    tokenizer = copy_tiny(tmp_path / "model")
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    with api_server(str(tokenizer)) as (url, _):
        body = {"model": MODEL, "max_tokens": 2, "messages": [user("a"), user("b")]}
        for route in ("/v1/messages", "/v1/messages/count_tokens"):
            assert httpx.post(url + route, json=body, headers={"x-api-key": KEY}).status_code == 200


def test_tools_that_the_server_would_run_are_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpjet.serve.anthropic.tools._skipped", SkippedTools("/v1/messages"))
    hosted = ["web_search_20250305", "code_execution_20250825", "mcp_toolset", "computer_20250124"]
    tools = [*({"type": kind, "name": "x"} for kind in hosted), *TOOLS]
    with caplog.at_level("WARNING", "warpjet.serve"):
        for _ in range(2):
            kept = to_tools(tools, strict=False)
    assert kept is not None and [tool["function"]["name"] for tool in kept] == ["weather", "time"]
    assert [sum(kind in record.getMessage() for record in caplog.records) for kind in hosted] == [1] * len(hosted)
    assert to_tools(tools[:1], strict=False) is None
    with pytest.raises(ServeError, match="web_search_20250305"):
        to_tools(tools, strict=True)


def test_tools_that_clients_run_have_their_schemas() -> None:
    tools = to_tools(
        [
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 1000},
            {"type": "memory_20250818", "name": "memory"},
        ],
        strict=True,
    )
    assert tools is not None
    bash, editor, memory = (tool["function"] for tool in tools)
    assert set(bash["parameters"]["properties"]) == {"command", "restart"}
    assert editor["name"] == "str_replace_based_edit_tool" and editor["parameters"]["required"] == ["command", "path"]
    assert "rename" in memory["parameters"]["properties"]["command"]["enum"]


def test_examples_of_input_are_part_of_the_description() -> None:
    tools = to_tools([{**TOOLS[0], "input_examples": [{"city": "Köln"}]}], strict=True)
    assert tools is not None
    assert tools[0]["function"]["description"] == 'The weather in a city.\nExample of input: {"city": "Köln"}'


def test_max_tokens_may_be_more_than_the_context(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL, max_tokens=32000, messages=[user("What is 3 + 4?")], stop_sequences=["."], timeout=PATIENCE_S
    )
    assert message.stop_reason in ("end_turn", "stop_sequence", "max_tokens")


def test_no_edit_of_the_context_is_applied_and_the_answer_says_so(client: anthropic.Anthropic) -> None:
    edits: Any = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}, {"type": "clear_tool_uses_20250919"}]}
    request: dict[str, Any] = {"model": MODEL, "messages": [user("Hi")], "context_management": edits}
    message = client.beta.messages.create(max_tokens=2, betas=["context-management-2025-06-27"], **request)
    assert message.context_management is not None and message.context_management.applied_edits == []
    counted = client.beta.messages.count_tokens(**request)
    assert counted.context_management is not None
    assert counted.context_management.original_input_tokens == counted.input_tokens


def test_blocks_of_another_servers_tools_are_left_out() -> None:
    said = [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "Found."},
    ]
    assert to_messages([user("Hi"), {"role": "assistant", "content": said}])[1]["content"] == "Found."


def test_a_billing_block_is_no_part_of_the_prompt() -> None:
    blocks = [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}, {"type": "text", "text": "Be brief."}]
    assert system_text(blocks) == "Be brief."
    assert system_text(blocks[:1]) is None


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    free = text_of(client.messages.create(messages=[user("What is 3 + 4?")], **ASK))
    stop = free[5:8]
    message = client.messages.create(messages=[user("What is 3 + 4?")], stop_sequences=[stop, "zzz"], **ASK)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert text_of(message) == free[: free.index(stop)]


def test_leaving_a_stream_cancels(client: anthropic.Anthropic, served: tuple[str, Serving]) -> None:
    with client.messages.create(model=MODEL, max_tokens=900, messages=[user("Count.")], stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
    assert becomes_idle(served[1])


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    short = client.messages.count_tokens(model=MODEL, messages=[user("Hi")])
    long = client.messages.count_tokens(model=MODEL, messages=[user("Hi")], system="Be brief and kind.")
    usage = client.messages.create(messages=[user("Hi")], **ASK).usage
    assert 0 < short.input_tokens < long.input_tokens
    assert short.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_failures_have_anthropics_shape(client: anthropic.Anthropic, served: tuple[str, Serving]) -> None:
    cases: list[tuple[type[anthropic.APIStatusError], str, dict[str, Any]]] = [
        (anthropic.BadRequestError, "invalid_request_error", {"messages": []}),
        (anthropic.NotFoundError, "not_found_error", {"messages": [user("Hi")], "model": "other"}),
        (anthropic.InternalServerError, "overloaded_error", {"messages": [user("Overload.")]}),
        (anthropic.InternalServerError, "api_error", {"messages": [user("Break.")]}),
    ]
    for kind, name, request in cases:
        with pytest.raises(kind) as caught:
            client.messages.create(**{**ASK, **request})
        body: Any = caught.value.body
        assert (body["type"], body["error"]["type"]) == ("error", name) and body["error"]["message"]
    with pytest.raises(anthropic.AuthenticationError) as denied:
        anthropic.Anthropic(base_url=served[0], api_key="wrong").messages.create(messages=[user("Hi")], **ASK)
    assert denied.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    with pytest.raises(anthropic.APIStatusError, match="finite"):
        list(client.messages.create(messages=[user("Break.")], stream=True, **ASK))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "document"),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "tool_use"}]}]},
            "input",
        ),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, "last message"),
        ({"system": 5}, "system"),
        ({"tools": [{"type": 5, "name": "f", "input_schema": {}}]}, "tools[0].type"),
        ({"tools": [{"type": "bash_20250124"}]}, "tools[0].name"),
        ({"tools": [{"type": "web_search_20250305"}], "tool_choice": {"type": "any"}}, "needs tools"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": 1}]}, "defer_loading"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "other"}}, "other"),
        ({"tool_choice": {"type": "any"}}, "tool"),
        ({"tools": TOOLS, "tool_choice": {"type": "many"}}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": 5}},
            "disable_parallel_tool_use",
        ),
        ({"thinking": {"type": "deep"}}, "thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "budget_tokens"),
        ({"thinking": {"type": "adaptive", "display": "loud"}}, "display"),
        ({"context_management": {"edits": "all"}}, "context_management"),
        ({"context_management": {"edits": [{}]}}, "context_management"),
        ({"speed": "slow"}, "speed"),
        ({"output_format": {"type": "xml"}}, "output_config"),
        ({"output_config": {"effort": "enormous"}}, "effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "format"),
        ({"stop_sequences": [""]}, "stop"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": -5}, "top_k"),
        ({"mcp_servers": [{"url": "http://a"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
    ],
)
def test_what_is_wrong_is_named(served: tuple[str, Serving], body: dict[str, Any], message: str) -> None:
    request = {"model": MODEL, "max_tokens": 5, "messages": [user("Hi")], **body}
    answer = httpx.post(served[0] + "/v1/messages", json=request, headers={"x-api-key": KEY})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert message in answer.json()["error"]["message"]


def test_bodies_that_are_not_json_have_anthropics_shape(served: tuple[str, Serving]) -> None:
    headers = {"x-api-key": KEY, "content-type": "application/json"}
    answer = httpx.post(served[0] + "/v1/messages", content=b"{", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "error")
    assert json.loads(answer.text)["error"]["type"] == "invalid_request_error"
