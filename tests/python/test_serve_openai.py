"""The official OpenAI client against the server."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from serving import Server, checked, error_of

from warpjet import SamplingParams
from warpjet.parsing.events import ToolCallDelta
from warpjet.serve.events import ChatRequest, Delta, Ended, Started
from warpjet.serve.openai.chat import Job, Writer
from warpjet.serve.settings import Settings

QUESTION: Any = [{"role": "user", "content": "What does the fox say?"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    flags = ("--served-model-name", "tiny", "fox", "--override-generation-config", '{"temperature": 0}')
    with Server(*flags, "--tool-call-parser", "hermes") as running:
        yield running


@pytest.fixture
def canary(server: Server) -> Iterator[Server]:
    yield from checked(server)


@pytest.fixture
def client(canary: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{canary.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "fox"]
    assert client.models.retrieve("fox").owned_by == "warpjet"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("cat")


def test_a_conversation_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=12)
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length") and answer.object == "chat.completion"
    assert (
        usage and usage.completion_tokens <= 12 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    )


def test_a_stream_joined_is_the_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="fox", messages=QUESTION, max_tokens=24)
    stream = client.chat.completions.create(
        model="fox", messages=QUESTION, max_tokens=24, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage and whole.usage and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_samples_stream_side_by_side(client: openai.OpenAI) -> None:
    fields: Any = {"model": "tiny", "messages": QUESTION, "max_tokens": 10, "n": 3, "temperature": 1.0, "seed": 7}
    whole = client.chat.completions.create(**fields)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**fields, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices] and len(set(texts)) > 1


def test_equal_seeds_give_equal_texts(client: openai.OpenAI) -> None:
    def text(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=16, temperature=1.0, seed=seed
        )
        return answer.choices[0].message.content

    assert text(-5) == text(-5) and len({text(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("text", ["ok", "é", "名前", "\U0001f600 a"])
def test_bytes_of_logprobs_joined_are_the_answer(canary: Server, text: str) -> None:
    constraint = {"structured_outputs": {"choice": [text]}, "temperature": 0, "max_tokens": 40, "logprobs": True}
    for more in ({}, {"return_tokens_as_token_ids": True}):
        body = {"messages": QUESTION, "top_logprobs": 2, **constraint, **more}
        choice = canary.post("/v1/chat/completions", body).json()["choices"][0]
        entries = choice["logprobs"]["content"]
        assert choice["message"]["content"] == text
        assert bytes(byte for entry in entries for byte in entry["bytes"]).removesuffix(b"<|end|>") == text.encode()


@pytest.mark.parametrize("prompt", ["Once upon", "<|user|>hi \U0001f600<|end|>", [1, 1381, 6, 1845]])
@pytest.mark.parametrize("echo", [False, True])
def test_text_offsets_say_where_tokens_stand(canary: Server, prompt: Any, echo: bool) -> None:
    body: dict[str, Any] = {"prompt": prompt, "echo": echo, "temperature": 0, "max_tokens": 40, "logprobs": 1}
    body |= {"structured_outputs": {"choice": ["\U0001f600 ok then"]}}
    choice = canary.complete(**body)["choices"][0]
    rows, text = choice["logprobs"], choice["text"]
    assert text.endswith("\U0001f600 ok then")
    assert rows["text_offset"] == sorted(rows["text_offset"])
    spelled = isinstance(prompt, str)  # special tokens of a prompt of token ids are no text
    for offset, token in zip(rows["text_offset"], rows["tokens"], strict=True):
        hidden = "\ufffd" in token or token in ("<|bos|>", "<|end|>") or (token[:2] == "<|" and not spelled)
        assert hidden or text.startswith(token, offset), (offset, token, text)
    named = canary.complete(**body, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
    assert named["text_offset"] == rows["text_offset"]


def test_logprobs_of_a_conversation(client: openai.OpenAI) -> None:
    fields: Any = {"model": "tiny", "messages": QUESTION, "max_tokens": 6, "logprobs": True, "top_logprobs": 3}
    answer = client.chat.completions.create(**fields)
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.content and len(logprobs.content) == 6
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].token == entry.token  # greedy
        assert entry.logprob <= 0 and bytes(entry.bytes or []).decode() == entry.token
    streamed = [
        entry
        for chunk in client.chat.completions.create(**fields, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == logprobs.content


PATCH = {
    "type": "custom",
    "custom": {
        "name": "patch",
        "description": "Changes a file.",
        "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[+-].*"}},
    },
}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def test_a_custom_tool_is_called_with_a_text(client: openai.OpenAI) -> None:
    fields: Any = {"model": "tiny", "messages": QUESTION, "tools": [LOOK, PATCH], "max_tokens": 60, "temperature": 0}
    fields["tool_choice"] = {"type": "custom", "custom": {"name": "patch"}}
    choice = client.chat.completions.create(**fields).choices[0]
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "custom" and call.custom.name == "patch" and call.id
    assert '{"input"' not in call.custom.input or choice.finish_reason == "length"
    pieces: list[Any] = [
        piece
        for chunk in client.chat.completions.create(**fields, stream=True)
        for piece in chunk.choices[0].delta.tool_calls or []
    ]
    first, last = (piece.model_dump(exclude_none=True) for piece in pieces)
    assert first["type"] == "custom" and first["custom"] == {"name": "patch", "input": ""} and first["id"]
    assert last == {"index": 0, "custom": {"input": call.custom.input}}


def test_calls_of_custom_tools_and_functions_are_told_apart() -> None:
    serving: Any = SimpleNamespace(fingerprint="fp", settings=Settings(), require_alive=lambda _: None)
    chat = ChatRequest([], SamplingParams(), request_id="x")
    job = Job(chat, "tiny", stream=None, top=None, as_ids=False, with_ids=False, custom={"patch"})
    begun = [ToolCallDelta(0, "a", "patch", '{"input": "+ é'), ToolCallDelta(0, None, None, '\\n- b"}')]
    calls = [*begun, ToolCallDelta(1, "b", "look", "{"), ToolCallDelta(1, None, None, "}")]
    cut = [*calls, ToolCallDelta(2, "c", "patch", '{"inp')]

    async def events() -> AsyncGenerator[list[Any], None]:
        yield [Started(1, 0, [5])]
        for call in cut:
            yield [Delta(0, tool_calls=[call])]
        yield [Ended(0, "tool_calls")]

    async def told() -> tuple[list[Any], list[Any]]:
        writer = Writer(serving, job)
        whole = (await writer.whole(events()))["choices"][0]["message"]["tool_calls"]
        options: Any = SimpleNamespace(continuous=False, include_usage=False, usage_so_far=lambda usage: {})
        streamed = b"".join([piece async for piece in writer.stream(events(), options)]).decode()
        chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        return whole, [one for c in chunks for one in c["choices"][0]["delta"].get("tool_calls", [])]

    whole, streamed = asyncio.run(told())
    assert whole == [
        {"id": "a", "type": "custom", "custom": {"name": "patch", "input": "+ é\n- b"}},
        {"id": "b", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        {"id": "c", "type": "custom", "custom": {"name": "patch", "input": '{"inp'}},
    ]
    assert streamed == [
        {"index": 0, "id": "a", "type": "custom", "custom": {"name": "patch", "input": ""}},
        {"index": 0, "custom": {"input": "+ é\n- b"}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "look", "arguments": "{"}},
        {"index": 1, "function": {"arguments": "}"}},
        {"index": 2, "id": "c", "type": "custom", "custom": {"name": "patch", "input": ""}},
        {"index": 2, "custom": {"input": '{"inp'}},
    ]


def test_a_call_of_a_custom_tool_is_history_as_its_function_s(canary: Server) -> None:
    custom = {"id": "call_a", "type": "custom", "custom": {"name": "patch", "input": "+ é"}}
    function = {"id": "call_a", "type": "function", "function": {"name": "patch", "arguments": '{"input": "+ é"}'}}
    result = {"role": "tool", "tool_call_id": "call_a", "content": "done"}
    told = [
        canary.post(
            "/v1/chat/completions",
            {
                "messages": [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}, result],
                "max_tokens": 4,
                "return_token_ids": True,
                "tools": [PATCH],
            },
        ).json()["prompt_token_ids"]
        for call in (custom, function)
    ]
    assert told[0] == told[1]
    messages = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [custom]}, result]
    assert canary.post("/tokenize", {"messages": messages, "tools": [PATCH]}).json()["tokens"] == told[0]


@pytest.mark.parametrize(
    ("custom", "says"),
    [
        (None, "tools[0].custom must be an object with a name"),
        ({"name": 5}, "tools[0].custom must be an object with a name"),
        ({"name": "a b"}, "tools[0].function.name must match"),
        ({"name": "f", "format": {"type": "xml"}}, "tools[0].custom.format must be text, or a grammar"),
        ({"name": "f", "format": {"type": "grammar", "grammar": {"syntax": "lark"}}}, "custom.format must be text"),
        ({"name": "f", "description": 5}, "description a string"),
    ],
)
def test_malformed_custom_tools_are_refused(canary: Server, custom: Any, says: str) -> None:
    body = {"messages": QUESTION, "tools": [{"type": "custom", "custom": custom}]}
    assert says in error_of(canary.post("/v1/chat/completions", body), 400)["message"]


def test_stop_strings_end_the_text(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="The fox", max_tokens=24).choices[0].text
    word = whole.split()[3]
    answer = client.completions.create(model="tiny", prompt="The fox", max_tokens=24, stop=[word])
    assert answer.choices[0].text == whole[: whole.index(word)] and answer.choices[0].finish_reason == "stop"
    streamed = client.completions.create(model="tiny", prompt="The fox", max_tokens=24, stop=word, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text
    kept = client.completions.create(
        model="tiny", prompt="The fox", max_tokens=24, stop=[word], extra_body={"include_stop_str_in_output": True}
    )
    assert kept.choices[0].text == whole[: whole.index(word)] + word


def test_prompts_of_every_form_give_the_same(client: openai.OpenAI, canary: Server) -> None:
    texts = ["The fox", "A dog"]
    ids = [canary.post("/tokenize", {"prompt": text}).json()["tokens"] for text in texts]

    def complete(prompt: Any, **fields: Any) -> list[str]:
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=6, **fields)
        return [choice.text for choice in sorted(answer.choices, key=lambda choice: choice.index)]

    both = complete(texts)
    assert both == complete(ids) == complete(texts[0]) + complete(texts[1]) == complete(ids[0]) + complete(ids[1])
    streamed = ["", ""]
    for chunk in client.completions.create(model="tiny", prompt=texts, max_tokens=6, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == both
    assert len(complete(texts, n=2, temperature=1.0)) == 4


def test_echo_with_logprobs_covers_prompt_and_answer(client: openai.OpenAI) -> None:
    fields: Any = {"model": "tiny", "prompt": "The fox said", "max_tokens": 4, "echo": True, "logprobs": 2}
    choice = client.completions.create(**fields).choices[0]
    logprobs = choice.logprobs
    assert choice.text.startswith("The fox said") and logprobs and logprobs.tokens and logprobs.token_logprobs
    assert logprobs.token_logprobs[0] is None and None not in logprobs.token_logprobs[1:]
    assert "".join(logprobs.tokens[1:]) == choice.text  # the first is the token that begins every text
    assert logprobs.text_offset and logprobs.text_offset == sorted(logprobs.text_offset)
    chunks = list(client.completions.create(**fields, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    tokens = [t for chunk in chunks if chunk.choices[0].logprobs for t in chunk.choices[0].logprobs.tokens or []]
    assert tokens == logprobs.tokens
    scored = client.completions.create(model="tiny", prompt="The fox said", max_tokens=0, echo=True, logprobs=1)
    assert scored.choices[0].text == "The fox said" and scored.choices[0].logprobs
    assert scored.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[:-4]


def test_best_of_gives_the_most_likely(client: openai.OpenAI) -> None:
    fields: Any = {"model": "tiny", "prompt": "The fox", "max_tokens": 8, "temperature": 1.0, "seed": 1}
    every = client.completions.create(**fields, n=6, logprobs=0).choices
    score = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in every}  # type: ignore
    best = client.completions.create(**fields, best_of=6).choices
    assert [choice.text for choice in best] == [max(score, key=lambda text: score[text])]
    assert best[0].logprobs is None


def test_extra_fields_are_honoured(canary: Server) -> None:
    assert canary.complete(ignore_eos=True, max_tokens=30)["usage"]["completion_tokens"] == 30
    banned = canary.complete(return_token_ids=True)["choices"][0]["token_ids"]
    assert (
        canary.complete(return_token_ids=True, logit_bias={str(banned[0]): -100})["choices"][0]["token_ids"] != banned
    )
    assert set(canary.complete(return_token_ids=True, allowed_token_ids=[9, 10])["choices"][0]["token_ids"]) <= {9, 10}
    assert canary.complete(use_beam_search=True, n=2)["choices"][1]["text"]
    named = canary.complete(logprobs=1, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]["tokens"]
    assert all(token.startswith("token_id:") for token in named)
    assert canary.complete(prompt_logprobs=1)["choices"][0]["prompt_logprobs"][0] is None
    assert canary.complete(truncate_prompt_tokens=2)["usage"]["prompt_tokens"] == 2
    longer = canary.complete(prompt="The fox ran far away from the old house", truncate_prompt_tokens=-1)
    assert longer["usage"]["prompt_tokens"] > 5


def test_cached_tokens_are_told(canary: Server) -> None:
    prompt = "Once upon a time there was a little fox who lived in a wood. " * 6
    first, second = (canary.complete(prompt=prompt)["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] >= 32


def test_an_answer_can_be_continued(canary: Server) -> None:
    messages = [*QUESTION, {"role": "assistant", "content": "The fox says that"}]
    fields = {"messages": messages, "max_tokens": 4, "continue_final_message": True, "return_token_ids": True}
    answer = canary.post("/v1/chat/completions", fields).json()
    rendered = canary.post("/tokenize", {"messages": messages, "continue_final_message": True}).json()
    assert answer["prompt_token_ids"] == rendered["tokens"]
    text = canary.post("/detokenize", {"tokens": rendered["tokens"]}).json()["prompt"]
    assert text.endswith("The fox says that")
    both = canary.post("/v1/chat/completions", {**fields, "add_generation_prompt": True})
    assert both.status_code == 400


def test_stream_interval_shows_tokens_together(canary: Server) -> None:
    def sizes(**fields: Any) -> list[int]:
        body = {"prompt": "The fox", "max_tokens": 21, "stream": True, "return_token_ids": True, "ignore_eos": True}
        lines = canary.post("/v1/completions", {**body, **fields}).text.split("\n\n")
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        return [len(c["choices"][0].get("token_ids", ())) for c in chunks if c["choices"][0].get("token_ids")]

    together = sizes(stream_interval=10)
    assert sum(together) == 21 and all(size >= 10 for size in together[1:-1]) and len(together) <= 3


def test_usage_runs_along_when_asked(canary: Server) -> None:
    body = {"prompt": "The fox", "max_tokens": 5, "stream": True, "ignore_eos": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    lines = canary.post("/v1/completions", {**body, "stream_options": options}).text.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    counts = [json.loads(line[6:])["usage"]["completion_tokens"] for line in lines[:-2]]
    assert counts == sorted(counts) and counts[-1] == 5


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_chunks_before_the_usage_say_that_it_is_null(canary: Server, route: str) -> None:
    body = {"prompt": "The fox"} if route == "/v1/completions" else {"messages": [{"role": "user", "content": "Hi"}]}
    for options, members in (({"include_usage": True}, {True}), (None, {False})):
        answer = canary.post(route, {**body, "max_tokens": 6, "stream": True, "stream_options": options})
        chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        told = chunks[:-1] if options else chunks
        assert {"usage" in chunk for chunk in told} == members
        assert all(chunk.get("usage") is None for chunk in told) and bool(chunks[-1].get("usage")) == bool(options)
        assert len({chunk["system_fingerprint"] for chunk in chunks}) == 1


@pytest.mark.parametrize("key", [" 5", "+5", "1_0", "05", "-1", "five", "", "5.0", "\u0665", "1" * 400])
def test_logit_bias_has_token_ids_for_keys(canary: Server, key: str) -> None:
    answer = canary.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "logit_bias": {key: 1}})
    assert error_of(answer, 400)["param"] == "logit_bias"


@pytest.mark.parametrize("name", ["typical_p", "tfs_z", "top_a", "xtc_probability", "dry_multiplier", "mirostat"])
def test_samplers_of_other_servers_are_taken_only_when_off(canary: Server, name: str) -> None:
    off = 1 if name in ("typical_p", "tfs_z") else 0
    assert canary.complete(**{name: off})
    answer = canary.post("/v1/completions", {"prompt": "a", name: 2})
    assert error_of(answer, 400)["param"] == name


def test_repeat_penalty_is_repetition_penalty(canary: Server) -> None:
    one = canary.complete(repetition_penalty=0.01)["choices"]
    assert one == canary.complete(repeat_penalty=0.01)["choices"] != canary.complete()["choices"]
    answer = canary.post("/v1/completions", {"prompt": "a", "repetition_penalty": 1.2, "repeat_penalty": 1.8})
    assert error_of(answer, 400)["param"] == "repeat_penalty"


def test_an_answer_has_the_room_that_its_prompt_leaves(canary: Server) -> None:
    """max_tokens is the most that there may be; more than the whole context can only be a mistake."""
    whole = canary.post("/tokenize", {"prompt": "a"}).json()["max_model_len"]
    body = {"prompt": [5] * (whole - 10), "max_tokens": 200, "ignore_eos": True}
    answer = canary.post("/v1/completions", body).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (10, "length")
    for route, prompt in (
        ("/v1/completions", {"prompt": "a", "max_tokens": whole + 1}),
        ("/v1/chat/completions", {"messages": QUESTION, "max_completion_tokens": whole + 1}),
    ):
        assert "max_tokens" in error_of(canary.post(route, prompt), 400)["message"]


def test_a_prediction_and_verbosity_are_hints(canary: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}
    hints = {"prediction": {"type": "content", "content": "x"}, "verbosity": "low", "prompt_cache_retention": "24h"}
    plain, hinted = (canary.post("/v1/chat/completions", {**body, **more}).json() for more in ({}, hints))
    assert plain["choices"] == hinted["choices"]


def test_many_clients_at_once_get_their_own_answers(canary: Server) -> None:
    prompts = [f"The {animal}" for animal in ("fox", "dog", "cat", "bird", "fish", "bear", "horse", "mouse")]
    alone = {prompt: canary.complete(prompt=prompt, max_tokens=12)["choices"][0]["text"] for prompt in prompts}

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{canary.url}/v1", api_key="none") as client:

            async def one(prompt: str) -> str:
                stream = await client.completions.create(model="tiny", prompt=prompt, max_tokens=12, stream=True)
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*(one(prompt) for prompt in prompts * 4))

    assert asyncio.run(ask()) == [alone[prompt] for prompt in prompts * 4]


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_that_must_be_called_is_called(choice: Any, client: openai.OpenAI) -> None:
    fields: Any = {"model": "tiny", "messages": QUESTION, "tools": [WEATHER], "tool_choice": choice, "max_tokens": 80}
    whole = client.chat.completions.create(**fields, parallel_tool_calls=False).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.tool_calls
    call: Any = whole.message.tool_calls[0]
    assert call.function.name == "get_weather" and json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    arguments, names, reasons = "", [], []
    for chunk in client.chat.completions.create(**fields, parallel_tool_calls=False, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            assert piece.function
            arguments += piece.function.arguments or ""
            names += [piece.function.name] if piece.function.name else []
        reasons.append(chunk.choices[0].finish_reason)
    assert names == ["get_weather"] and arguments == call.function.arguments and reasons[-1] == "tool_calls"


def test_tools_may_be_left_alone(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "max_tokens": 8}
    plain = client.chat.completions.create(**ask)
    none = client.chat.completions.create(**ask, tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message == plain.choices[0].message
    free = client.chat.completions.create(**ask, tools=[WEATHER], tool_choice="auto")  # the prompt tells of the tool
    assert free.choices[0].message.content and not free.choices[0].message.tool_calls


def test_an_answer_follows_a_schema(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER["function"]["parameters"]}}
    fields: Any = {"model": "tiny", "messages": QUESTION, "response_format": form, "max_tokens": 80, "n": 2}
    fields["extra_body"] = {"structured_outputs": None}
    for choice in client.chat.completions.create(**fields).choices:
        assert choice.finish_reason == "length" or json.loads(choice.message.content or "")["city"] in ("Paris", "Rome")
    chosen = client.completions.create(
        model="tiny", prompt="The", max_tokens=9, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert chosen.choices[0].text in ("yes", "no") and chosen.choices[0].finish_reason == "stop"


def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=QUESTION, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt="x", suffix="y")


def test_a_request_id_comes_back(canary: Server) -> None:
    answer = canary.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1" and answer.json()["id"] == "cmpl-mine-1"
    assert canary.http.get("/version").headers["x-request-id"]


def test_tokenize_and_detokenize_are_inverse(canary: Server) -> None:
    tokens = canary.post("/tokenize", {"prompt": "The fox: ß!", "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"]) and tokens["max_model_len"] == 1024
    assert canary.post("/detokenize", {"tokens": tokens["tokens"][1:]}).json() == {"prompt": "The fox: ß!"}
    chat = canary.post("/tokenize", {"messages": QUESTION}).json()
    assert canary.post("/detokenize", {"tokens": chat["tokens"]}).json()["prompt"].count("fox") == 1


def test_metrics_have_the_names_that_dashboards_know() -> None:
    for compat, name in {
        "vllm": "vllm:num_requests_running",
        "sglang": "sglang:num_running_reqs",
        "tgi": "tgi_queue_size",
    }.items():
        with Server("--metrics-compat", compat) as server:
            server.complete()
            text = server.http.get("/metrics").text
            assert f"# TYPE {name} gauge" in text and 'model_name="tiny"' in text
            names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
            assert len(names) == len(set(names))
