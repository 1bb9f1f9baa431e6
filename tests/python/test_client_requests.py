"""Bodies of the shapes that agents and frameworks send, over several turns with tools. Each must be answered with 200
and with what its client reads; every field that its client always sends is in it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import KEY, MODEL, api_server
from checkpoints import copy_tiny
from waiting import PATIENCE_S

# A template that is as strict as any: roles alternate after one system message, and content is concatenated.
STRICT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('system must come first') }}{% endif %}"
    "{% if m.role in ('user', 'assistant') and not loop.first and loop.previtem.role == m.role %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|' + m.role + '|>' }}{% if m.content is not none %}{{ m.content + '' }}{% endif %}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{{ '<|end|>' }}"
    "{% endfor %}"
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
CACHED = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    model = copy_tiny(tmp_path_factory.mktemp("strict") / "model")
    path: Path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": STRICT}))
    headers = {"authorization": f"Bearer {KEY}"}
    with api_server(str(model)) as (url, _), httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
        yield client


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data: {")]


# --- Anthropic's Messages: Claude Code, langchain-anthropic ----------------------------------------------------------

CLAUDE_CODE: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 32000,
    "stream": True,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch=00000;"},
        {"type": "text", "text": "You help with code.", **CACHED},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>none</system-reminder>"}]},
        {"role": "user", "content": [{"type": "text", "text": "List the files.", **CACHED}]},
    ],
    "tools": [
        {"name": "Bash", "description": "Runs a command.", "input_schema": SCHEMA},
        {"name": "Task", "input_schema": SCHEMA, "eager_input_streaming": True, "defer_loading": True, **CACHED},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
    "metadata": {"user_id": "user_0_session_0"},
    "speed": "standard",
}
CLAUDE_CODE_TURN: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "I list them.", "signature": ""},
            {"type": "redacted_thinking", "data": "abc"},
            {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"city": "ls"}},
            {"type": "tool_use", "id": "toolu_2", "name": "Task", "input": {}, **CACHED},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a.txt", "is_error": False},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "done"}], **CACHED},
            {"type": "text", "text": "<system-reminder>go on</system-reminder>"},
        ],
    },
]


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_claude_code(http: httpx.Client, turns: int) -> None:
    body = copy.deepcopy(CLAUDE_CODE)
    body["messages"] += CLAUDE_CODE_TURN * turns
    headers = {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,context-management-2025-06-27",
    }
    counted = {name: body[name] for name in ("model", "system", "messages", "tools", "thinking")}
    count = http.post("/v1/messages/count_tokens?beta=true", json=counted, headers=headers)
    assert count.status_code == 200 and count.json()["input_tokens"] > 0, count.text
    told = events(http.post("/v1/messages?beta=true", json=body | {"stop_sequences": ["."]}, headers=headers))
    assert (told[0]["type"], told[-1]["type"]) == ("message_start", "message_stop")
    assert told[0]["message"]["usage"]["input_tokens"] + told[0]["message"]["usage"]["cache_read_input_tokens"] > 0


def test_a_framework_with_nulls_for_what_is_not_set(http: httpx.Client) -> None:
    unset = dict.fromkeys(("system", "stop_sequences", "temperature", "top_k", "top_p", "thinking", "mcp_servers"))
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    body = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}], "tools": tools, **unset}
    assert http.post("/v1/messages", json={**body, "context_management": None}).status_code == 200


# --- Responses: Codex, OpenAI's Agents SDK ---------------------------------------------------------------------------

CODEX: dict[str, Any] = {
    "model": MODEL,
    "instructions": "You help with code.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Ask before you write."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment_context/>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files."}]},
    ],
    "tools": [
        {"type": "function", "name": "shell", "description": "Runs.", "strict": False, "parameters": SCHEMA},
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "Edits files.",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
        },
        {"type": "web_search", "external_web_access": False},
        {"type": "image_generation", "output_format": "png"},
        {"type": "local_shell"},
        {
            "type": "namespace",
            "name": "mcp__notes__",
            "description": "Notes.",
            "tools": [{"type": "function", "name": "find", "parameters": SCHEMA, "strict": False}],
        },
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0",
    "text": {"verbosity": "low"},
    "client_metadata": {"id": "0"},
}
CODEX_TURN: list[dict[str, Any]] = [
    {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "SSBsb29rLg=="},
    {"type": "function_call", "name": "shell", "arguments": '{"city": "ls"}', "call_id": "call_1"},
    {"type": "function_call", "name": "find", "namespace": "mcp__notes__", "arguments": "{}", "call_id": "call_2"},
    {"type": "custom_tool_call", "status": "completed", "name": "apply_patch", "input": "*** End", "call_id": "call_3"},
    {"type": "function_call_output", "call_id": "call_1", "output": "a.txt"},
    {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "none"}]},
    {"type": "custom_tool_call_output", "call_id": "call_3", "output": "done"},
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
]


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_codex(http: httpx.Client, turns: int) -> None:
    body = copy.deepcopy(CODEX)
    for turn in range(turns):
        renamed = json.dumps(CODEX_TURN).replace("call_1", f"call_1_{turn}").replace("call_2", f"call_2_{turn}")
        body["input"] += json.loads(renamed.replace("call_3", f"call_3_{turn}"))
    told = events(http.post("/v1/responses", json=body | {"max_output_tokens": 8}))
    assert told[0]["type"] == "response.created" and told[-1]["type"] in ("response.completed", "response.incomplete")
    kinds = [tool["type"] for tool in told[-1]["response"]["tools"]]
    assert kinds == ["function", "custom", "namespace"]


def test_the_agents_sdk_over_responses(http: httpx.Client) -> None:
    body = {
        "model": MODEL,
        "input": [{"role": "user", "content": "Weather?"}],
        "instructions": "Be brief.",
        "include": [],
        "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True, "description": ""}],
        "truncation": "auto",
        "max_output_tokens": 4,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {},
        "metadata": {},
        "store": True,
        **dict.fromkeys(("previous_response_id", "conversation", "prompt", "temperature", "top_p", "extra_body")),
    }
    first = http.post("/v1/responses", json=body)
    assert first.status_code == 200, first.text
    more = [*body["input"], *first.json()["output"], {"role": "user", "content": "And now?"}]  # type: ignore[misc]
    assert http.post("/v1/responses", json={**body, "input": more}).status_code == 200


def test_no_field_of_these_agents_is_unknown() -> None:
    with api_server(strict=True) as (url, _), httpx.Client(base_url=url, timeout=PATIENCE_S) as strict:
        for route, body, limit in (
            ("/v1/messages", CLAUDE_CODE, {"max_tokens": 4, "betas": ["context-management-2025-06-27"]}),
            ("/v1/responses", CODEX, {"max_output_tokens": 4}),
        ):
            known = [tool for tool in body["tools"] if tool.get("type") in (None, "function", "custom", "namespace")]
            request = {**body, "tools": known, "stream": False, **limit}
            answer = strict.post(route, json=request, headers={"authorization": f"Bearer {KEY}"})
            assert answer.status_code == 200, answer.text
            hosted = strict.post(route, json={**body, **limit}, headers={"authorization": f"Bearer {KEY}"})
            assert hosted.status_code == 400 and "web_search" in hosted.text


# --- Chat: Open WebUI, langchain, litellm, instructor, pydantic-ai, the Agents SDK ------------------------------------

WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
NULLS = dict.fromkeys(("refusal", "audio", "function_call", "annotations"))


def conversation(said: dict[str, Any], result: dict[str, Any] = RESULT, system: str = "system") -> list[dict[str, Any]]:
    return [{"role": system, "content": "Be brief."}, {"role": "user", "content": "Weather?"}, said, result]


CHATS: dict[str, dict[str, Any]] = {
    "Open WebUI": {
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": conversation({"role": "assistant", "content": "", "tool_calls": [{"index": 0, **CALL}]}),
        "tools": [WEATHER],
        "chat_id": "0",
        "features": {"web_search": False},
        "temperature": 0.8,
        "repeat_penalty": 1.1,
        "num_ctx": 2048,
    },
    "langchain": {
        "messages": conversation({"role": "assistant", "content": None, "tool_calls": [CALL]}),
        "tools": [{"type": "function", "function": {**WEATHER["function"], "strict": True}}],  # type: ignore[dict-item]
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "n": 1,
        "stop": None,
    },
    "litellm": {
        "messages": conversation(
            {"role": "assistant", "content": None, "tool_calls": [CALL], "function_call": None, **NULLS},
            {**RESULT, "name": "weather"},
        ),
        "tools": [WEATHER],
        "user": "someone",
        "extra_headers": {},
        "seed": 1,
    },
    "instructor, tools": {
        "messages": conversation({"role": "assistant", "tool_calls": [CALL]}),
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    },
    "instructor, JSON schema": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Rome?"}]}],
        "response_format": {"type": "json_object", "schema": SCHEMA},
    },
    "pydantic-ai": {
        "messages": conversation({"role": "assistant", "content": None, "tool_calls": [CALL]}, system="developer"),
        "tools": [WEATHER],
        "tool_choice": "required",
        "parallel_tool_calls": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 8,
    },
    "the Agents SDK": {
        "messages": conversation({"role": "assistant", "content": None, "tool_calls": [CALL], **NULLS}),
        "tools": [WEATHER],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
        "response_format": {"type": "text"},
        "store": False,
        "reasoning_effort": "low",
        "verbosity": "low",
        "metadata": {},
    },
    "an agent whose last call was cut off": {
        "messages": conversation(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{**CALL, "function": {"name": "weather", "arguments": '{"ci'}}],
            }
        ),
        "tools": [WEATHER],
    },
}


@pytest.mark.parametrize("client", CHATS)
def test_a_chat_client(http: httpx.Client, client: str) -> None:
    limit = {} if "max_completion_tokens" in CHATS[client] else {"max_tokens": 60}
    body = {"model": MODEL, **limit, **CHATS[client]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    if body.get("stream"):
        told = events(answer)
        assert told[-1]["usage"]["completion_tokens"] > 0 and all("error" not in event for event in told)
        return
    message = answer.json()["choices"][0]["message"]
    if isinstance(choice := body.get("tool_choice"), dict) and choice["type"] == "function":
        assert message["tool_calls"][0]["function"]["name"] == "weather" and message["content"] is None
