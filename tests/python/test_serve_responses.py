"""The Responses API, by the official client."""

import asyncio
import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from api_server import KEY, MODEL, OTHER_KEY, api_server, becomes_idle
from waiting import until

from warpjet import LLM, SamplingParams
from warpjet.serve.http.auth import Keys
from warpjet.serve.http.errors import ServeError
from warpjet.serve.openai.response_tools import Origin, offer_tools
from warpjet.serve.parts import SkippedTools
from warpjet.serve.serving import Serving

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
TIME = {"type": "function", "name": "time", "parameters": {"type": "object", "properties": {}}, "strict": False}
ASK: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 12}
LONG: dict[str, Any] = {"model": MODEL, "max_output_tokens": 900, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Serving]]:
    with api_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(served: tuple[str, Serving]) -> openai.OpenAI:
    return openai.OpenAI(base_url=served[0] + "/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def stranger(served: tuple[str, Serving]) -> openai.OpenAI:
    return openai.OpenAI(base_url=served[0] + "/v1", api_key=OTHER_KEY, max_retries=0)


def expected(llm: LLM, *messages: dict[str, Any], tokens: int = 12) -> str:
    params = SamplingParams(temperature=0, max_tokens=tokens)
    return llm.chat(list(messages), params, use_tqdm=False)[0].outputs[0].text


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_text_is_answered_as_chat_would(client: openai.OpenAI, llm: LLM) -> None:
    response = client.responses.create(input="What is 3 + 4?", **ASK)
    assert response.output_text == expected(llm, user("What is 3 + 4?"))
    assert response.status in ("completed", "incomplete") and response.id.startswith("resp_")
    assert response.usage is not None and response.usage.input_tokens > 3
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert (response.temperature, response.model, response.error) == (0, MODEL, None)


def test_instructions_and_items_make_the_conversation(client: openai.OpenAI, llm: LLM) -> None:
    items = [user("Hi"), {"role": "assistant", "content": "Hello."}, user("What is 3 + 4?")]
    response = client.responses.create(input=items, instructions="Be brief.", **ASK)  # type: ignore[arg-type]
    assert response.output_text == expected(llm, {"role": "system", "content": "Be brief."}, *items)
    assert response.instructions == "Be brief."


def test_a_stream_tells_the_same(client: openai.OpenAI) -> None:
    whole = client.responses.create(input="What is 3 + 4?", **ASK)
    events = list(client.responses.create(input="What is 3 + 4?", stream=True, **ASK))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added")
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text  # type: ignore[union-attr]
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_the_clients_stream_helper_follows(client: openai.OpenAI) -> None:
    with client.responses.stream(input="Call a tool.", model=MODEL, tools=[WEATHER, TIME]) as stream:  # type: ignore[list-item]
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.delta") == 3
    assert "response.reasoning_text.delta" in kinds and kinds[-1] == "response.completed"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]


def test_the_async_client_streams(served: tuple[str, Serving]) -> None:
    async def main() -> str:
        async with openai.AsyncOpenAI(base_url=served[0] + "/v1", api_key=KEY) as client:
            stream = await client.responses.create(input="What is 3 + 4?", stream=True, **ASK)
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert asyncio.run(main())


def test_tools_are_called_and_their_results_go_back(client: openai.OpenAI, llm: LLM) -> None:
    first = client.responses.create(input="Call a tool.", model=MODEL, tools=[WEATHER, TIME])  # type: ignore[list-item]
    thought, said, call, other = first.output
    assert thought.type == "reasoning" and thought.content and thought.content[0].text == "Let me see."
    assert said.type == "message" and first.output_text == "I ask."
    assert call.type == "function_call" and (call.name, json.loads(call.arguments)) == ("weather", {"city": "Rome"})
    assert other.type == "function_call" and (other.call_id, other.arguments) == ("call_b", "{}")
    results = [
        {"type": "function_call_output", "call_id": call_id, "output": "fine"} for call_id in ("call_a", "call_b")
    ]
    second = client.responses.create(input=results, previous_response_id=first.id, **ASK)  # type: ignore[arg-type]
    assert second.status in ("completed", "incomplete")
    again = client.responses.create(input=[user("Call a tool."), *first.output, *results], **ASK)  # type: ignore[list-item]
    assert again.output_text == second.output_text


def test_a_conversation_goes_on_from_a_response(client: openai.OpenAI, llm: LLM) -> None:
    first = client.responses.create(input="What is 3 + 4?", instructions="Be brief.", **ASK)
    second = client.responses.create(input="And 2 more?", previous_response_id=first.id, **ASK)
    said = {"role": "assistant", "content": first.output_text}
    assert second.output_text == expected(llm, user("What is 3 + 4?"), said, user("And 2 more?"))
    assert (second.previous_response_id, second.instructions) == (first.id, None)
    items = client.responses.input_items.list(second.id, order="asc", limit=2).data
    assert [item.type for item in items] == ["message", "message"]
    assert len(list(client.responses.input_items.list(second.id, limit=1))) == 3  # page by page


def test_a_response_is_kept_until_it_is_deleted(client: openai.OpenAI) -> None:
    response = client.responses.create(input="Hi", metadata={"for": "test"}, **ASK)
    assert client.responses.retrieve(response.id) == response
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_what_is_not_stored_is_not_kept(client: openai.OpenAI) -> None:
    response = client.responses.create(input="Hi", store=False, **ASK)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_another_tenants_response_is_not_found(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    response = client.responses.create(input="A secret.", background=True, **ASK)
    for use in (stranger.responses.retrieve, stranger.responses.cancel, stranger.responses.delete):
        with pytest.raises(openai.NotFoundError):
            use(response.id)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.input_items.list(response.id)
    with pytest.raises(openai.NotFoundError, match=response.id):
        stranger.responses.create(input="Tell me.", previous_response_id=response.id, **ASK)
    assert client.responses.retrieve(response.id).id == response.id


def test_max_output_tokens_makes_it_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(input="Count.", **{**LONG, "max_output_tokens": 3})
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None and response.usage.output_tokens == 3


def test_one_runs_in_the_background(client: openai.OpenAI, llm: LLM) -> None:
    response = client.responses.create(input="What is 3 + 4?", background=True, **ASK)
    assert response.status == "queued" and response.output == []
    until(lambda: client.responses.retrieve(response.id).status not in ("queued", "in_progress"))
    response = client.responses.retrieve(response.id)
    assert response.output_text == expected(llm, user("What is 3 + 4?"))
    assert client.responses.cancel(response.id).status == response.status  # too late to change it


def test_one_in_the_background_is_cancelled(client: openai.OpenAI, served: tuple[str, Serving]) -> None:
    response = client.responses.create(input="Count.", background=True, **LONG)
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"
    assert becomes_idle(served[1])


def test_deleting_one_in_the_background_ends_it(client: openai.OpenAI, served: tuple[str, Serving]) -> None:
    response = client.responses.create(input="Count.", background=True, **LONG)
    client.responses.delete(response.id)
    assert becomes_idle(served[1])
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_one_in_the_background_is_watched_from_anywhere(client: openai.OpenAI) -> None:
    with client.responses.create(input="What is 3 + 4?", background=True, stream=True, **ASK) as stream:
        first = next(stream)  # and then the client goes
    assert first.type == "response.created"
    events = list(client.responses.retrieve(first.response.id, stream=True, starting_after=0))
    assert [event.sequence_number for event in events] == list(range(1, len(events) + 1))
    assert events[0].type == "response.queued" and events[-1].type in ("response.completed", "response.incomplete")
    with pytest.raises(openai.BadRequestError, match="background"):
        other = client.responses.create(input="Hi", **ASK)
        list(client.responses.retrieve(other.id, stream=True))


def test_leaving_a_stream_cancels(client: openai.OpenAI, served: tuple[str, Serving]) -> None:
    with client.responses.create(input="Count.", stream=True, **LONG) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    assert becomes_idle(served[1])


def test_a_failure_is_told(client: openai.OpenAI) -> None:
    response = client.responses.create(input="Break.", model=MODEL)
    assert response.status == "failed" and response.error is not None and "finite" in response.error.message
    events = list(client.responses.create(input="Break.", model=MODEL, stream=True))
    assert events[-1].type == "response.failed"
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(input="Overload.", model=MODEL)
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "1")
    with pytest.raises(openai.InternalServerError):
        client.responses.create(input="Overload.", model=MODEL, stream=True)


def test_logprobs_come_when_asked_for(client: openai.OpenAI) -> None:
    response = client.responses.create(input="Hi", top_logprobs=2, include=["message.output_text.logprobs"], **ASK)
    part = response.output[0].content[0]  # type: ignore[union-attr,index]
    assert part.type == "output_text" and part.logprobs
    assert "".join(entry.token for entry in part.logprobs).startswith(part.text[:5])
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in part.logprobs)


@pytest.mark.skipif(importlib.util.find_spec("warpjet.structured") is None, reason="needs llguidance")
def test_text_follows_a_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "sum", "schema": schema, "strict": True}
    response = client.responses.create(
        input="What is 3 + 4?",
        text={"format": form},
        **{**ASK, "max_output_tokens": 60},  # type: ignore[typeddict-item]
    )
    text = "".join(response.output_text.split())  # a small model may write blanks until it has no tokens left
    assert text and (text.startswith('{"answer":') or '{"answer":'.startswith(text))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://a/b.png"}]}]}, "input"),
        ({"input": "a", "tools": [{"type": 7}]}, "tools"),
        ({"input": "a", "tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"input": "a", "tools": [{"type": "custom"}]}, "tools"),
        ({"input": "a", "tools": [{"type": "custom", "name": "f", "format": {"type": "xml"}}]}, "tools"),
        ({"input": "a", "tools": [{"type": "namespace", "name": "f"}]}, "tools"),
        ({"input": "a", "tools": [{"type": "namespace", "name": "f", "tools": [{}]}]}, "tools"),
        ({"input": "a", "tools": [{"type": "function"}]}, "tools"),
        ({"input": "a", "tools": [{"type": "function", "name": "f", "parameters": 5}]}, "tools"),
        ({"input": "a", "tools": [{"type": "function", "name": "f", "defer_loading": 1}]}, "tools"),
        ({"input": "a", "tool_choice": {"type": "function", "name": "none_such"}}, "tool_choice"),
        ({"input": "a", "tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"input": "a", "tools": [TIME], "tool_choice": {"type": "allowed_tools", "mode": "any"}}, "tool_choice"),
        (
            {
                "input": "a",
                "tools": [TIME],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]},
            },
            "tool_choice",
        ),
        ({"input": "a", "tool_choice": "always"}, "tool_choice"),
        ({"input": "a", "text": {"format": {"type": "xml"}}}, "text"),
        ({"input": "a", "text": {"verbosity": "loud"}}, "text"),
        ({"input": "a", "truncation": "left"}, "truncation"),
        ({"input": "word " * 5000, "truncation": "auto"}, "messages"),
        ({"input": "a", "conversation": "conv_1"}, "conversation"),
        ({"input": "a", "reasoning": {"effort": "enormous"}}, "reasoning"),
        ({"input": "a", "include": ["everything"]}, "include"),
        ({"input": "a", "metadata": {"a": 1}}, "metadata"),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "a", "temperature": -1}, "temperature"),
        ({"input": "a", "temperature": "hot"}, "temperature"),
        ({"input": "a", "background": True, "store": False}, "background"),
        ({"input": "a", "stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "messages"),
    ],
)
def test_what_is_wrong_is_named(served: tuple[str, Serving], body: dict[str, Any], param: str) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(served[0] + "/v1/responses", json={"model": MODEL, **body}, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)


HOSTED = [
    *("web_search", "web_search_preview_2025_03_11", "file_search", "code_interpreter", "image_generation", "mcp"),
    *("computer_use_preview", "local_shell", "shell", "apply_patch", "tool_search"),
]


def test_tools_that_the_server_would_run_are_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warpjet.serve.openai.response_tools._skipped", SkippedTools("/v1/responses"))
    tools = [*({"type": kind} for kind in HOSTED), WEATHER]
    with caplog.at_level("WARNING", "warpjet.serve"):
        for _ in range(2):
            offer = offer_tools(tools, "auto", strict=False)
    assert [tool["function"]["name"] for tool in offer.functions] == ["weather"] and offer.shown == [WEATHER]
    assert [sum(repr(kind) in record.getMessage() for record in caplog.records) for kind in HOSTED] == [1] * len(HOSTED)
    with pytest.raises(ServeError, match="web_search"):
        offer_tools(tools, "auto", strict=True)


PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
SPACE = {"type": "namespace", "name": "mcp__crm__", "description": "Customers.", "tools": [WEATHER, PATCH]}


def test_functions_may_have_the_form_of_chat() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    chat = {"type": "function", "function": function}
    choices: list[Any] = [
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "name": "f"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
    ]
    for choice in choices:
        for tool in (chat, {"type": "function", **function}):
            offer = offer_tools([tool], choice, strict=True)
            assert offer.functions == [chat]
            assert offer.shown == [{"strict": None, "type": "function", **function}]
            assert offer.choice in ("required", {"type": "function", "function": {"name": "f"}})


def test_custom_tools_and_namespaces_become_functions() -> None:
    offer = offer_tools([PATCH, SPACE], "auto", strict=True)
    patch, weather, other = (tool["function"] for tool in offer.functions)
    assert (patch["name"], weather["name"], other["name"]) == (
        "apply_patch",
        "mcp__crm__weather",
        "mcp__crm__apply_patch",
    )
    assert patch["parameters"]["required"] == ["input"] and "start: /.+/" in patch["description"]
    assert weather["parameters"] == WEATHER["parameters"] and weather["description"].startswith(
        "Customers.\nThe weather"
    )
    assert offer.origins["mcp__crm__apply_patch"] == Origin("apply_patch", "mcp__crm__", custom=True)


@pytest.mark.parametrize(
    ("choice", "names", "mode"),
    [
        ({"type": "custom", "name": "apply_patch"}, 3, "apply_patch"),
        ({"type": "function", "name": "weather", "namespace": "mcp__crm__"}, 3, "mcp__crm__weather"),
        ({"type": "function", "name": "mcp__crm__weather"}, 3, "mcp__crm__weather"),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "apply_patch"}]},
            2,
            "required",
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "weather"}, {"type": "web_search"}],
            },
            1,
            "auto",
        ),
    ],
)
def test_tool_choice_names_tools_of_every_kind(choice: Any, names: int, mode: str) -> None:
    offer = offer_tools([PATCH, SPACE, {"type": "web_search"}], choice, strict=False)
    assert len(offer.functions) == names
    assert mode == (offer.choice if isinstance(offer.choice, str) else offer.choice["function"]["name"])


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "web_search"}] * 1025,
        [{"type": "namespace", "name": "a", "tools": [TIME] * 1025}],
        [
            {"type": "namespace", "name": str(i), "tools": [{**TIME, "name": f"t{j}"} for j in range(100)]}
            for i in range(11)
        ],
    ],
)
def test_tools_are_counted_before_they_are_read(tools: Any) -> None:
    with pytest.raises(ServeError, match="more than 1024"):
        offer_tools(tools, "auto", strict=False)


def test_truncation_auto_changes_nothing_while_the_prompt_fits(client: openai.OpenAI) -> None:
    plain = client.responses.create(input="What is 3 + 4?", **ASK)
    cut = client.responses.create(input="What is 3 + 4?", truncation="auto", **ASK)
    assert cut.output_text == plain.output_text and cut.truncation == "auto"


def test_input_tokens_are_counted(client: openai.OpenAI) -> None:
    response = client.responses.create(input="What is 3 + 4?", instructions="Be brief.", **ASK)
    assert response.usage is not None
    counted = client.responses.input_tokens.count(model=MODEL, input="What is 3 + 4?", instructions="Be brief.")
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", response.usage.input_tokens)
    more = client.responses.input_tokens.count(model=MODEL, input="And 5?", previous_response_id=response.id)
    assert more.input_tokens > counted.input_tokens
    with pytest.raises(openai.BadRequestError):
        client.responses.input_tokens.count(model=MODEL)


def test_unknown_models_and_responses_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="model"):
        client.responses.create(input="a", model="other")
    for use in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="resp_none"):
            use("resp_none")
    with pytest.raises(openai.NotFoundError, match="resp_none"):
        client.responses.create(input="a", previous_response_id="resp_none", **ASK)


def test_only_the_background_is_cancelled(client: openai.OpenAI) -> None:
    response = client.responses.create(input="Hi", **ASK)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(response.id)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1e3", "order=up", "after=nothing", "colour=red"])
def test_pages_that_cannot_be_are_refused(served: tuple[str, Serving], client: openai.OpenAI, query: str) -> None:
    response = client.responses.create(input="Hi", **ASK)
    url = f"{served[0]}/v1/responses/{response.id}/input_items?{query}"
    answer = httpx.get(url, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code in (400, 404) and answer.json()["error"]["message"]


def test_every_key_is_a_tenant() -> None:
    keys = Keys(("one", "two", "ann:three", "ann:four"))
    one, two, three, four = (
        keys.tenant({"authorization": f"Bearer {key}"}, "user") for key in ("one", "two", "three", "four")
    )
    assert one != two and "" not in (one, two) and three == four == "ann"
