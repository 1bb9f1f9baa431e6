"""What the model does, told as each API tells it: no server, no model."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE_S

from warpjet import SamplingParams
from warpjet.parsing.chat_parser import ChatParser
from warpjet.parsing.events import ParsedDelta, ToolCallDelta
from warpjet.requests.outputs import CompletionOutput, Logprob, RequestOutput
from warpjet.serve.anthropic.events import MessageWriter
from warpjet.serve.events import ChatEvent, ChatRequest, Delta, Ended, Started
from warpjet.serve.http.errors import ServeError
from warpjet.serve.openai.logprobs import LegacyLogprobs, prompt_logprobs
from warpjet.serve.openai.response_events import ResponseWriter
from warpjet.serve.openai.response_items import parse_items, to_messages
from warpjet.serve.openai.response_store import ResponseStore, StoredResponse
from warpjet.serve.openai.response_tools import Origin
from warpjet.serve.serving import Serving
from warpjet.text.prompts import Prompt

THINK_SAY_CALL: list[list[ChatEvent]] = [
    [Started(12, 4, list(range(12))), Delta(0, reasoning="Let me ")],
    [Delta(0, reasoning="see.")],
    [Delta(0, content="I ask.", reasoning="")],
    [Delta(0, tool_calls=[ToolCallDelta(0, "call_a", "weather", '{"city": ')])],
    [Delta(0, tool_calls=[ToolCallDelta(0, None, None, '"Rome"}'), ToolCallDelta(1, "call_b", "time", "")])],
    [Delta(0, tool_calls=[ToolCallDelta(1, None, None, "{}")]), Ended(0, "tool_calls", None, None, 20, 6)],
]


def new_response(**fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "status": "in_progress", "output": [], **fields}


def types_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_response_is_told_in_the_official_order() -> None:
    writer = ResponseWriter(new_response())
    events = writer.begin()
    for happened in THINK_SAY_CALL:
        events += writer.write(happened)
    assert types_of(events) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


CUSTOM = {"patch": Origin("patch", custom=True), "crm__find": Origin("find", "crm__")}


def test_calls_come_back_as_the_tools_that_were_sent() -> None:
    writer = ResponseWriter(response := new_response(), origins=CUSTOM)
    pieces = [ToolCallDelta(0, "call_a", "patch", '{"input": "*** Begin\\n'), ToolCallDelta(0, None, None, '+é"}')]
    calls = [*pieces, ToolCallDelta(1, "call_b", "crm__find", "{}")]
    events = writer.write([*(Delta(0, tool_calls=[call]) for call in calls), Ended(0, "tool_calls")])
    patch, find = response["output"]
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "patch", "*** Begin\n+é")
    assert (find["type"], find["name"], find["namespace"]) == ("function_call", "find", "crm__")
    assert types_of(events)[:4] == [
        *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done")
    ]
    assert events[1]["delta"] == events[2]["input"] == patch["input"]
    outputs = [
        {"type": "custom_tool_call_output", "call_id": "call_a", "output": "done"},
        {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "none"}]},
    ]
    said, first, second = to_messages(parse_items([*response["output"], *outputs]))
    names = [call["function"]["name"] for call in said["tool_calls"]]
    assert names == ["patch", "crm__find"] and (first["content"], second["content"]) == ("done", "none")
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"input": "*** Begin\n+é"}


@pytest.mark.parametrize("name", ["weather", "patch"])
def test_a_call_that_is_all_there_is_complete_though_the_answer_was_cut_off(name: str) -> None:
    for arguments, status in (('{"city": "Rome"}', "completed"), ('{"city": "Ro', "incomplete"), ("", "incomplete")):
        writer = ResponseWriter(response := new_response(), origins=CUSTOM)
        call = Delta(0, tool_calls=[ToolCallDelta(0, "call_a", name, arguments)])
        events = writer.write([Started(1, 0, [1]), call, Ended(0, "length")])
        assert (response["status"], response["output"][0]["status"]) == ("incomplete", status)
        assert events[-2]["item"]["status"] == status


def test_messages_of_one_role_in_a_row_are_one() -> None:
    roles = ("developer", "system", "user", "user", "assistant", "user")
    messages = to_messages(parse_items([{"role": role, "content": str(i)} for i, role in enumerate(roles)]))
    assert [(message["role"], message["content"]) for message in messages] == [
        *(("system", "0\n1"), ("user", "2\n3"), ("assistant", "4"), ("user", "5"))
    ]


def test_thoughts_in_a_row_are_one_and_empty_ones_are_none() -> None:
    def thought(text: str) -> dict[str, Any]:
        return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}

    said = {"role": "assistant", "content": "Yes."}
    (one,) = to_messages(parse_items([thought("Let me "), thought("see."), said]))
    assert one == {"role": "assistant", "content": "Yes.", "reasoning_content": "Let me see."}
    assert "reasoning_content" not in to_messages(parse_items([{"type": "reasoning", "summary": []}, said]))[0]


def test_items_of_another_servers_tools_are_left_out() -> None:
    items = [{"type": "web_search_call", "id": "ws_1", "status": "completed"}, {"role": "user", "content": "Hi"}]
    assert [item["type"] for item in parse_items(items)] == ["message"]


def test_a_response_holds_what_was_told() -> None:
    writer = ResponseWriter(response := new_response())
    writer.begin()
    events = [event for happened in THINK_SAY_CALL for event in writer.write(happened)]
    thought, said, call, other = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert said["content"][0]["text"] == "I ask."
    assert (call["call_id"], call["name"], call["arguments"]) == ("call_a", "weather", '{"city": "Rome"}')
    assert (other["call_id"], other["arguments"], other["status"]) == ("call_b", "{}", "completed")
    assert response["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 6},
        "total_tokens": 32,
    }
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == response["output"] == events[-1]["response"]["output"]


def test_events_do_not_change_after_they_were_told() -> None:
    writer = ResponseWriter(new_response())
    created = writer.begin()[0]
    added = next(e for e in writer.write(THINK_SAY_CALL[0]) if e["type"] == "response.output_item.added")
    for happened in THINK_SAY_CALL[1:]:
        writer.write(happened)
    assert created["response"]["status"] == "in_progress" and created["response"]["output"] == []
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])


@pytest.mark.parametrize(
    ("ended", "status", "field"),
    [
        (Ended(0, "length"), "incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}),
        (Ended(0, "error", error="NaN"), "failed", {"error": {"code": "server_error", "message": "NaN"}}),
    ],
)
def test_an_answer_that_is_cut_off_leaves_an_incomplete_item(ended: Ended, status: str, field: dict[str, Any]) -> None:
    writer = ResponseWriter(response := new_response())
    writer.begin()
    events = writer.write([Started(1, 0, [1]), Delta(0, content="a"), ended])
    assert events[-1]["type"] == f"response.{status}"
    assert response["status"] == status and response.items() >= field.items()
    assert response["output"][0]["status"] == "incomplete" and response["output"][0]["content"][0]["text"] == "a"


def test_logprobs_come_with_the_text_they_belong_to() -> None:
    writer = ResponseWriter(response := new_response(), top_logprobs=2)
    writer.begin()
    row = {7: Logprob(-1.5, 2, "b", b"b"), 3: Logprob(-0.5, 1, "a", b"a")}
    events = writer.write([Started(1, 0, [1]), Delta(0, content="b", token_ids=[7], logprobs=[row]), Ended(0, "stop")])
    told = next(e["logprobs"] for e in events if e["type"] == "response.output_text.delta")
    assert told == response["output"][0]["content"][0]["logprobs"]
    assert (told[0]["token"], told[0]["logprob"], told[0]["bytes"]) == ("b", -1.5, [98])
    assert [entry["token"] for entry in told[0]["top_logprobs"]] == ["a", "b"]


def test_logprobs_of_text_that_was_held_back_come_with_it() -> None:
    writer = ResponseWriter(response := new_response(), top_logprobs=0)
    rows = [{token: Logprob(-1.0, 1, text)} for token, text in ((1, "<"), (2, "b"), (3, ""))]
    writer.write([Started(1, 0, [1]), Delta(0, token_ids=[1], logprobs=rows[:1])])
    writer.write([Delta(0, content="<b", token_ids=[2], logprobs=rows[1:2])])
    writer.write([Delta(0, token_ids=[3], logprobs=rows[2:]), Ended(0, "stop")])
    assert [entry["token"] for entry in response["output"][0]["content"][0]["logprobs"]] == ["<", "b"]


def test_items_come_back_as_the_conversation_they_were() -> None:
    writer = ResponseWriter(response := new_response(), with_sealed=True)
    for happened in THINK_SAY_CALL:
        writer.write(happened)
    result = {"type": "function_call_output", "call_id": "call_a", "output": [{"type": "input_text", "text": "sun"}]}
    messages = to_messages(parse_items([{"role": "user", "content": "Hi"}, *response["output"], result]))
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["reasoning_content"] == "Let me see." and messages[1]["content"] == "I ask."
    assert [call["function"]["name"] for call in messages[1]["tool_calls"]] == ["weather", "time"]
    assert messages[2] == {"role": "tool", "tool_call_id": "call_a", "content": "sun"}
    sealed = {key: value for key, value in response["output"][0].items() if key != "content"}
    assert to_messages(parse_items([sealed]))[0]["reasoning_content"] == "Let me see."


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "at least one item"),
        (5, "string or a list"),
        ([5], r"input\[0\] must be an object"),
        ([{"type": "teleport_call"}], "teleport_call"),
        ([{"type": ["message"]}], "not supported"),
        ([{"type": "item_reference", "id": "x"}], "item_reference"),
        ([{"role": "king", "content": "a"}], "role"),
        ([{"role": ["user"], "content": "a"}], "role"),
        ([{"role": "user", "content": 3}], r"input\[0\].content"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}], "input_image"),
        ([{"role": "user", "content": [{"type": {}}]}], "not supported"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "call_id"),
        ([{"type": "function_call_output", "call_id": "c", "output": None}], "output"),
        ([{"type": "reasoning", "summary": [], "encrypted_content": "gAAAA!"}], "was not made by this server"),
    ],
)
def test_items_that_are_wrong_are_named(items: Any, message: str) -> None:
    with pytest.raises(ServeError, match=message) as caught:
        parse_items(items)
    assert caught.value.status == 400 and str(caught.value.param).startswith("input")


def test_a_message_is_told_in_anthropics_order() -> None:
    writer = MessageWriter("msg_1", "m")
    events = [event for happened in THINK_SAY_CALL for event in writer.write(happened)]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [event["type"] for event in events] == [
        *("message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", *block, "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", *block, "message_delta", "message_stop"),
    ]
    assert events[0]["message"]["usage"]["cache_read_input_tokens"] == 4
    assert events[0]["message"]["usage"]["input_tokens"] == 8  # what was not read from the cache
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 20
    thought, said, call, other = writer.message["content"]
    assert (thought["thinking"], said["text"]) == ("Let me see.", "I ask.")
    assert (call["id"], call["name"], call["input"], other["input"]) == ("call_a", "weather", {"city": "Rome"}, {})


@pytest.mark.parametrize(
    ("ended", "reason", "sequence"),
    [
        (Ended(0, "stop"), "end_turn", None),
        (Ended(0, "stop", "END"), "stop_sequence", "END"),
        (Ended(0, "stop", 7), "end_turn", None),
        (Ended(0, "length"), "max_tokens", None),
        (Ended(0, "tool_calls"), "tool_use", None),
    ],
)
def test_stop_reasons_have_anthropics_names(ended: Ended, reason: str, sequence: str | None) -> None:
    writer = MessageWriter("msg_1", "m")
    writer.write([Started(1, 0, [1]), ended])
    assert (writer.message["stop_reason"], writer.message["stop_sequence"]) == (reason, sequence)


def stored(name: str, size: int = 10, status: str = "completed") -> StoredResponse:
    one = StoredResponse({"id": name, "status": status, "text": "x" * size}, b"[]")
    if status == "completed":
        one.end()
    return one


def test_the_store_forgets_what_was_not_used_for_longest() -> None:
    store = ResponseStore(max_count=2)
    for name in ("a", "b"):
        store.put("me", stored(name))
    assert store.get("me", "a") is not None
    store.put("me", stored("c"))
    assert [store.get("me", name) is not None for name in "abc"] == [True, False, True]


def test_the_store_is_bounded_in_bytes_for_each_tenant_alone() -> None:
    store = ResponseStore(max_bytes=10000)
    store.put("you", stored("mine", 3000))
    for number in range(10):
        store.put("me", stored(f"r{number}", 2000))
    assert store.get("you", "mine") is not None and store.get("me", "mine") is None
    assert [n for n in range(10) if store.get("me", f"r{n}")] == [7, 8, 9]
    store.put("me", stored("huge", 12000))
    assert store.get("me", "huge") is None


def test_what_runs_is_kept_and_what_was_removed_stays_removed() -> None:
    store = ResponseStore(max_count=1)
    store.put("me", running := stored("runs", status="in_progress"))
    store.put("me", stored("new"))
    assert store.get("me", "runs") is running
    store.remove("me", "runs")
    store.ended("me", running)
    assert store.get("me", "runs") is None


def test_a_tenant_may_run_only_so_many_in_the_background() -> None:
    store = ResponseStore()
    for number in range(64):
        store.put("me", stored(f"r{number}", status="queued"))
    with pytest.raises(ServeError, match="64 responses run") as caught:
        store.put("me", stored("more", status="queued"))
    assert caught.value.status == 429
    store.put("you", large := stored("r", status="queued"))
    large.request_bytes = 32 << 20
    with pytest.raises(ServeError):
        store.put("you", StoredResponse({"id": "x", "status": "queued"}, b"", request_bytes=1))
    store.put("me", stored("done"))


def test_log_probabilities_of_a_prompt_are_written_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpjet.serve.openai.logprobs._SLICE", 60)
    written: list[float] = []

    class Seen(Logprob):
        def __getattribute__(self, name: str) -> Any:
            if name == "logprob":
                written.append(0.0)
            return super().__getattribute__(name)

    ids = [5] * 200
    entries = [None, *({5: Seen(-1.0, 2, "a"), 6: Seen(-0.5, 1, "b"), 7: Seen(-2.0, 3, "c")} for _ in ids[1:])]
    tokenizer: Any = SimpleNamespace(
        text_offsets=lambda *_: SimpleNamespace(push=lambda token: 0), special_text=lambda _: None, piece=lambda _: "a"
    )

    async def most(writing: Any) -> tuple[int, Any]:
        task, longest = asyncio.create_task(writing), 0
        while not task.done():
            before = len(written)
            await asyncio.sleep(0)
            longest = max(longest, len(written) - before)
        return longest, await task

    longest, rows = asyncio.run(most(prompt_logprobs(entries)))
    assert len(rows) == 200 and rows[0] is None and rows[1]["6"]["logprob"] == -0.5 and longest <= 63
    legacy = LegacyLogprobs(tokenizer, False, ids)
    longest, told = asyncio.run(most(legacy.write_prompt(entries, 2)))
    assert told["token_logprobs"] == [None] + [-1.0] * 199 and len(told["text_offset"]) == 200
    assert told["top_logprobs"][1] == {"b": -0.5, "a": -1.0} and longest <= 63


def test_many_samples_are_parsed_in_several_turns_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warpjet.serve.serving._SLICE", 20)
    parsed: list[int] = []

    class Parser(ChatParser):
        def push(self, text: str, token_ids: Sequence[int] = (), ends: Sequence[int] | None = None) -> ParsedDelta:
            parsed.append(len(token_ids))
            return super().push(text, token_ids, ends)

    async def run(*_: object, **__: object) -> AsyncIterator[RequestOutput]:
        samples = [CompletionOutput(index, str(index), [5] * 8, finish_reason="stop") for index in range(16)]
        yield RequestOutput("x", None, [5], None, outputs=samples, finished=True)

    async def answer() -> tuple[int, list[ChatEvent]]:
        parsers = [Parser(None, None) for _ in range(16)]
        request = ChatRequest([], SamplingParams(n=16))
        reading = asyncio.create_task(anext(Serving._run(one, Prompt(None, [5]), request.sampling, request, parsers)))  # type: ignore
        most = 0
        while not reading.done():
            before = sum(parsed)
            await asyncio.sleep(0)
            most = max(most, sum(parsed) - before)
        return most, await reading

    one = SimpleNamespace(llm=SimpleNamespace(run=run))
    most, events = asyncio.run(answer())
    assert [event.content for event in events if isinstance(event, Delta)] == [str(index) for index in range(16)]
    assert sum(parsed) == 16 * 8 and 8 < most <= 20 + 8


def test_a_watcher_hears_what_was_and_what_comes_to_the_end() -> None:
    async def main() -> list[bytes]:
        one = StoredResponse({"id": "r", "status": "in_progress"}, b"", events=[b"0", b"1"])
        heard: list[bytes] = []

        async def listen() -> None:
            async for pieces in one.watch(0):
                heard.append(pieces)

        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        one.record([b"2", b"3"])
        await asyncio.sleep(0)
        one.end()
        await asyncio.wait_for(task, PATIENCE_S)
        return heard

    assert asyncio.run(main()) == [b"1", b"23"]
