"""Chat templates of every kind get content, calls, results and tools in the form that they write; none vanishes."""

import json
from typing import Any

import pytest
from checkpoints import copy_tiny

from warpjet import LLM, SamplingParams
from warpjet.parsing import ChatParser
from warpjet.serve.anthropic import content as anthropic_content
from warpjet.serve.openai import response_items
from warpjet.text.chat import ChatTemplate

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call00001", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "fox"}'}}
USER = {"role": "user", "content": "hello there"}
RESULT = {"role": "tool", "tool_call_id": "call00001", "content": "an animal"}

# Shapes of templates that are about, each with the model that it is taken from.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% endif %}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' or (m.role == 'system' and not (loop.first and tools)) or "
    "(m.role == 'assistant' and not m.tool_calls) %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\n' + m.content }}{% endif %}"
    "{% for c in m.tool_calls %}{{ '\n<tool_call>\n' ~ c.function.name ~ c.function.arguments | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% elif m.role == 'tool' %}{{ '<tool_response>' + m.content + '</tool_response>' }}{% endif %}"
    "{% endfor %}"
)
GUARD = (
    "{% if messages | length % 2 == 0 %}{% set role = 'Agent' %}{% else %}{% set role = 'User' %}{% endif %}{{ role }}"
    "{% for m in messages %}{{ '\n' + m['role'] + ': ' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] | trim }}{% endif %}{% endfor %}{% endfor %}"
)
VISION = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}{% set messages = messages[1:] %}"
    "{% endif %}{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}"
)
FIRST_PART = "{% for m in messages %}{{ '<' + m.role + '>' + m.content[0].text }}{% endfor %}"
MACRO = (
    "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}{% for c in content %}{{ c.text }}"
    "{% endfor %}{% endif %}{% endmacro %}{% for m in messages %}{{ '<' + m.role + '>' }}{{ show(m.content) }}"
    "{% endfor %}"
)
DEEPSEEK = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<User>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' and m['content'] is none %}{{ '<calls>' }}{% for c in m['tool_calls'] %}"
    "{{ c['function']['name'] + ' ' + c['function']['arguments'] }}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' and m['content'] is not none %}{{ '<Assistant>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'tool' %}{{ '<output>' + m['content'] }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}{% if loop.last and tools %}{{ '[AVAILABLE_TOOLS]' }}"
    "{{ tools | map(attribute='function') | list | tojson }}{% endif %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.tool_calls is defined and m.tool_calls is not none %}{{ '[TOOL_CALLS]' }}{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}{{ c.function | tojson }}"
    "{% endfor %}{% elif m.role == 'assistant' %}{{ m.content }}{% elif m.role == 'tool' %}"
    "{{ '[TOOL_RESULTS]' ~ m.content }}{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no such role') }}"
    "{% endif %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}"
    "{{ '<' + m.role + '>' + m.content }}{% endfor %}"
)
ASKING = "{% for m in messages %}{{ '<' + m.role + '>' }}{% if CONDITION %}{{ m.content }}{% endif %}{% endfor %}"
CONDITIONS = [
    "m.content is not none",
    "m.content is defined",
    "m.content is defined and m.content is not none",
    "m.content != none",
    "m['content']",
    "m.get('content')",
    "'content' in m and m.content is string",
]
TEMPLATES = {
    "chatml": CHATML,
    "qwen": QWEN,
    "vision": VISION,
    "first_part": FIRST_PART,
    "macro": MACRO,
    "deepseek": DEEPSEEK,
    "mistral": MISTRAL,
    "alternating": ALTERNATING,
    **{condition: ASKING.replace("CONDITION", condition) for condition in CONDITIONS},
}


def render(source: str, messages: list[Any], **options: Any) -> str:
    return ChatTemplate({"default": source}, {}).render(messages, **options)


def form(text: str, kind: str) -> Any:
    return text if kind == "string" else [{"type": "text", "text": text}]


@pytest.mark.parametrize("name", [*TEMPLATES, "guard"])
@pytest.mark.parametrize("kind", ["string", "parts"])
def test_the_text_is_in_the_prompt_in_whatever_form_it_came(name: str, kind: str) -> None:
    messages = [USER | {"content": form("hello there", kind)}]
    for more in ([], [{"role": "assistant", "content": form("I am", kind)}, USER]):
        text = render({"guard": GUARD, **TEMPLATES}[name], [*messages, *more])
        assert text.count("hello there") == (2 if more else 1)
        assert "I am" in text or not more
        assert "'text'" not in text and "[{" not in text


def test_a_system_message_of_parts_is_text_where_it_is_printed() -> None:
    for kind in ("string", "parts"):
        messages = [{"role": "system", "content": form(" be brief ", kind)}, USER]
        assert render(VISION, messages) == "be brief<user>hello there"


def test_several_parts_are_the_template_s_to_join() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert render(VISION, messages) == "<user>ab"
    assert render(CHATML, messages, add_generation_prompt=False) == "<|im_start|>user\na\nb<|im_end|>\n"
    assert render(VISION, messages, content_format="string") == "<user>a\nb"


def test_parts_that_a_template_would_leave_out_are_one_part() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert render(FIRST_PART, messages) == "<user>a\nb"


def test_the_form_of_content_may_be_given() -> None:
    seen = "{{ messages[0].content is string }}{% for c in messages[0].content %}{{ c.text }}{% endfor %}"
    assert render(seen, [USER], content_format="openai") == "Falsehello there"
    assert render("{{ messages[0].content is string }}", [USER], content_format="string") == "True"
    with pytest.raises(ValueError, match="chat_template_content_format"):
        render(CHATML, [USER], content_format="xml")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_a_call_without_content_is_in_the_prompt(name: str, content: dict[str, Any], tools: Any) -> None:
    messages = [USER, {"role": "assistant", "tool_calls": [CALL], **content}, RESULT]
    text = render(TEMPLATES[name], messages, tools=tools)
    for seen in ("hello there", "look_up", "fox", "an animal"):
        assert seen in text
    assert "None" not in text


@pytest.mark.parametrize("name", TEMPLATES)
def test_tools_are_in_the_prompt(name: str) -> None:
    for head in ([], [{"role": "system", "content": "be brief"}]):
        if head and name in ("mistral", "alternating", "deepseek"):
            continue  # these have no system messages
        without = render(TEMPLATES[name], [*head, USER])
        text = render(TEMPLATES[name], [*head, USER], tools=[TOOL])
        assert "look_up" in text and "look_up" not in without
        assert text.count("hello there") == 1 and ("be brief" in text) == bool(head)


def test_what_a_template_writes_itself_is_left_to_it() -> None:
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]
    assert "<tools>" not in render(QWEN, messages, tools=[TOOL])
    assert '[TOOL_CALLS]{"name": "look_up", "arguments": {"word": "fox"}}' in render(MISTRAL, messages, tools=[TOOL])
    assert render(DEEPSEEK, messages) == '<User>hello there<calls>look_up {"word": "fox"}<output>an animal'


def test_a_template_that_goes_through_parts_writes_systems_calls_and_results_too() -> None:
    """Whether it does is asked with the content that it will get."""
    source = (
        "{% for m in messages %}<{{ m.role }}>{% for c in m.content %}{{ c.text }}{% endfor %}"
        "{% for c in m.tool_calls %}[{{ c.function.name }}]{% endfor %}{% endfor %}"
    )
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]
    assert render(source, messages) == "<user>hello there<assistant>[look_up]<tool>an animal"
    assert render(source, messages, tools=[TOOL]).startswith("<system># Tools")


def test_tools_that_are_no_json_are_refused() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"a": {1}}}}
    with pytest.raises(ValueError, match="tools"):
        render(CHATML, [USER], tools=[tool])


def test_the_default_format_is_that_of_hermes() -> None:
    assistant = {"role": "assistant", "content": "let me see", "tool_calls": [CALL, CALL | {"id": "call00002"}]}
    messages = [USER, assistant, RESULT, RESULT | {"tool_call_id": "call00002"}]
    text = render(ALTERNATING, messages, tools=[TOOL])
    call = '<tool_call>\n{"name": "look_up", "arguments": {"word": "fox"}}\n</tool_call>'
    response = "<tool_response>\nan animal\n</tool_response>"
    assert text.startswith("<user>hello there\n\n# Tools") and json.dumps(TOOL) in text
    assert text.endswith(f"<assistant>let me see\n{call}\n{call}<user>{response}\n{response}")
    parser = ChatParser(None, "hermes", [TOOL])
    deltas = [parser.push(call), parser.finish()]
    assert [c.name for delta in deltas for c in delta.tool_calls if c.name] == ["look_up"]


def test_an_assistant_that_only_thought_has_no_content() -> None:
    messages = [USER, {"role": "assistant", "content": None, "reasoning_content": "hm"}, USER]
    assert "<assistant><user>" in render(TEMPLATES["m['content']"], messages)


def test_tools_reach_the_embedded_model(llm: LLM) -> None:
    params = SamplingParams(max_tokens=1)
    with_tools = llm.chat([USER], params, tools=[TOOL])[0].prompt or ""
    assert "look_up" in with_tools
    assert "look_up" not in (llm.chat([USER], params, tools=[TOOL], tool_choice="none")[0].prompt or "")
    text = llm.get_tokenizer().apply_chat_template([USER], tools=[TOOL], tokenize=False, add_generation_prompt=True)
    assert text == with_tools


def test_the_default_format_is_read_where_the_parser_is_found(tmp_path: Any) -> None:
    pytest.importorskip("llguidance")
    with LLM(copy_tiny(tmp_path / "tiny"), device="cpu", tool_call_parser="auto") as model:
        params = SamplingParams(max_tokens=60)
        choice = {"type": "function", "function": {"name": "look_up"}}
        closed = {"type": "object", "properties": {}, "additionalProperties": False}
        tool = {"type": "function", "function": {"name": "look_up", "parameters": closed}}
        (output,) = model.chat([USER], params, tools=[tool], tool_choice=choice)[0].outputs
        assert output.tool_calls and output.tool_calls[0].function.name == "look_up"


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_api_gives_the_template_the_same_conversation(name: str) -> None:
    chat = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]
    use = {"type": "tool_use", "id": CALL["id"], "name": "look_up", "input": {"word": "fox"}}
    answer = {"type": "tool_result", "tool_use_id": CALL["id"], "content": "an animal"}
    anthropic = [USER, {"role": "assistant", "content": [use]}, {"role": "user", "content": [answer]}]
    call = {"type": "function_call", "call_id": CALL["id"], "name": "look_up", "arguments": '{"word": "fox"}'}
    output = {"type": "function_call_output", "call_id": CALL["id"], "output": "an animal"}
    source = TEMPLATES[name]
    expected = render(source, chat, tools=[TOOL])
    assert render(source, anthropic_content.to_messages(anthropic), tools=[TOOL]) == expected
    items = response_items.to_messages(response_items.parse_items([USER, call, output]))
    assert render(source, items, tools=[TOOL]) == expected
