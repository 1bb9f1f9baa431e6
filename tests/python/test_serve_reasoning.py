"""Answers with reasoning and tool calls over HTTP. The tokens are scripted; all that is made of them is real."""

import json
from collections.abc import AsyncGenerator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from api_server import KEY, MODEL, api_server
from waiting import PATIENCE_S

from warpjet.parsing import ParserNames
from warpjet.requests.assembly import Assembly
from warpjet.requests.locate import EMBEDDED_MODEL
from warpjet.requests.outputs import RequestOutput
from warpjet.serve.serving import Serving
from warpjet.text.prompts import Prompt

THOUGHT, SAID = "It asks for the weather, so I look it up.", "I look it up. "
CALLS: list[tuple[str, dict[str, Any]]] = [("get_weather", {"city": "Rome", "days": 2}), ("now", {})]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name, _ in CALLS]
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS}
MARKERS = {"<|system|>": "<think>", "<|pad|>": "</think>", "<|reserved|>": "<tool_call>"}


class Script:
    """The tokens of one answer, of which `step` come at once. Three markers are special tokens, and so is one token
    that nobody may see."""

    def __init__(self, serving: Serving) -> None:
        self.step = 1
        self._serving = serving
        pieces = ["<think>", f"\n{THOUGHT}\n", "</think>", f"\n\n{SAID}", "<|end|>"]
        for name, arguments in CALLS:
            pieces += ["<tool_call>", json.dumps({"name": name, "arguments": arguments}), "</tool_call>"]
        ids = [serving.tokenizer.encode(piece, add_special_tokens=False) for piece in pieces]
        assert [len(ids[i]) for i in (0, 2, 4, 5)] == [1, 1, 1, 1]
        self.tokens = [token for piece in ids for token in piece]
        self.reasoning_tokens = len(ids[1]) + len(ids[2])

    async def run(
        self, prompt: Prompt, params: Any, request_id: str | None = None, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """AsyncLLM.run()."""
        assembly = Assembly(request_id or "0", prompt, params, self._serving.tokenizer, params.output_kind)
        starts = range(0, len(self.tokens), self.step)
        for begin in starts:
            happened: Any = SimpleNamespace(
                sample=0,
                tokens=self.tokens[begin : begin + self.step],
                finish="length" if begin == starts[-1] else None,
                **dict.fromkeys(("queue_ms", "ttft_ms", "cached_tokens", "cumulative_logprob"), 0),
                **dict.fromkeys(("logprobs", "prompt_logprobs", "stop_token", "error")),
            )
            assembly.feed(happened)
            if (output := assembly.take()) is not None:
                yield output


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Script]]:
    directory = tmp_path_factory.mktemp("tokenizer")
    for path in EMBEDDED_MODEL.glob("*token*.json"):
        text = path.read_text()
        for token, marker in MARKERS.items():
            text = text.replace(token, marker)
        (directory / path.name).write_text(text)
    with api_server(str(directory), ParserNames("qwen3", "hermes")) as (url, serving):
        script = Script(serving)
        serving.llm.run = script.run  # type: ignore[method-assign]
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=PATIENCE_S) as client:
            yield client, script


def chunks_of(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    body = {**ASK, "stream": True, "stream_options": {"include_usage": True}, **fields}
    lines = client.post("/v1/chat/completions", json=body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_reasoning_then_content_then_calls_stream(step: int, served: tuple[httpx.Client, Script]) -> None:
    client, script = served
    script.step = step
    *chunks, usage = chunks_of(client)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == THOUGHT
    assert [delta.get("reasoning") for delta in deltas] == [delta.get("reasoning_content") for delta in deltas]
    assert "".join(delta.get("content", "") for delta in deltas).strip() == SAID.strip()
    calls: list[dict[str, Any]] = []
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", ())):
        if "id" in piece:  # a call's first piece alone
            assert piece["index"] == len(calls) and piece["type"] == "function"
            calls.append({"id": piece["id"], "name": piece["function"]["name"], "arguments": ""})
        assert "name" not in piece["function"] or "id" in piece
        calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == CALLS
    assert len({call["id"] for call in calls}) == 2
    kinds = [kind for delta in deltas for kind in ("reasoning", "content", "tool_calls") if delta.get(kind)]
    assert sorted(kinds, key=["reasoning", "content", "tool_calls"].index) == kinds
    if step == 1:
        assert kinds.count("reasoning") > 5 and kinds.count("tool_calls") > 5  # it comes while it is generated
    assert usage["usage"]["completion_tokens"] == len(script.tokens)


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("stream", [True, False])
def test_tokens_of_reasoning_are_counted_one_by_one(
    step: int, stream: bool, served: tuple[httpx.Client, Script]
) -> None:
    client, script = served
    script.step = step
    last = chunks_of(client)[-1] if stream else client.post("/v1/chat/completions", json=ASK).json()
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": script.reasoning_tokens}


def test_a_whole_answer_holds_the_same(served: tuple[httpx.Client, Script]) -> None:
    client, _ = served
    message = client.post("/v1/chat/completions", json=ASK).json()["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == THOUGHT
    assert message["content"].strip() == SAID.strip()
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]] == CALLS
    hidden = client.post("/v1/chat/completions", json={**ASK, "include_reasoning": False}).json()["choices"][0]
    assert "reasoning" not in hidden["message"] and hidden["message"]["tool_calls"]


def test_special_tokens_that_are_no_markers_stay_hidden(served: tuple[httpx.Client, Script]) -> None:
    client, _ = served
    assert "<|end|>" not in client.post("/v1/chat/completions", json=ASK).text
    body = {**ASK, "skip_special_tokens": False}
    assert "<|end|>" in client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("tools", {"tools": [TOOLS[0], TOOLS[0]]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "no name"}}], "tool_choice": "none"}),
        ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "missing"}}}),
        ("tool_choice", {"tools": [], "tool_choice": "required"}),
        ("messages", {"messages": [*ASK["messages"], {"role": "tool", "tool_call_id": "a", "content": "x"}]}),
        ("messages", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]}),
        ("messages", {"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]}),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_B21_errors_name_the_field(
    param: str, fields: dict[str, Any], stream: bool, served: tuple[httpx.Client, Script]
) -> None:
    answer = served[0].post("/v1/chat/completions", json={**ASK, "stream": stream, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["param"] == param
