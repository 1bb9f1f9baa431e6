"""Chat templates: what they render, what they refuse, and what a hostile one cannot do."""

import itertools
import json
import time
from pathlib import Path

import pytest
from checkpoints import copy_tiny

from warpjet import LLM, ModelFormatError
from warpjet.requests.locate import EMBEDDED_MODEL
from warpjet.text.chat import ChatTemplate, load_chat_template
from warpjet.text.template import compile_template
from warpjet.text.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "hi"}]
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


def template_of(directory: Path) -> ChatTemplate | None:
    """The template that a checkpoint brings."""
    tokenizer = Tokenizer(directory)
    return load_chat_template(directory, tokenizer.config, tokenizer.special_tokens)


def test_the_embedded_template(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    template = load_chat_template(EMBEDDED_MODEL, tokenizer.config, tokenizer.special_tokens)
    assert template is not None
    assert template.render(HELLO) == "<|bos|><|user|>hi<|end|><|assistant|>"


def test_generation_prompt_is_optional() -> None:
    template = ChatTemplate({"default": PLAIN}, {})
    assert template.render(HELLO) == "[user]hi>"
    assert template.render(HELLO, add_generation_prompt=False) == "[user]hi"


def test_final_message_is_continued() -> None:
    template = ChatTemplate({"default": PLAIN + "{{ '</s>' }}"}, {})
    messages = [*HELLO, {"role": "assistant", "content": "I am"}]
    text = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text == "[user]hi[assistant]I am"
    with pytest.raises(ValueError, match="add_generation_prompt"):
        template.render(messages, continue_final_message=True)


def test_tools_choose_their_template() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "{{ tools | tojson }}"}, {})
    assert template.render(HELLO) == "plain"
    tool = {"type": "function", "function": {"name": "f", "description": "é<"}}
    assert template.render(HELLO, tools=[tool]) == json.dumps([tool], ensure_ascii=False)


def test_keyword_arguments_reach_the_template_but_cannot_replace_its_own() -> None:
    template = ChatTemplate({"default": "{{ thinking }}{{ bos_token }}"}, {"bos_token": "<s>"})
    assert template.render(HELLO, chat_template_kwargs={"thinking": "on"}) == "on<s>"
    for name in ("messages", "bos_token", "add_generation_prompt"):
        with pytest.raises(ValueError, match=name):
            template.render(HELLO, chat_template_kwargs={name: "x"})


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ChatTemplate({"default": PLAIN}, {}).render([{"role": "user", "content": parts}]) == "[user]a\nb>"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hi",
        ["hi"],
        [{"content": "hi"}],
        [{"role": "user"}],
        [{"role": 3, "content": "hi"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
    ],
)
def test_B5_malformed_messages(messages: object, llm: LLM) -> None:
    with pytest.raises(ValueError):
        llm.chat(messages)  # type: ignore[arg-type]


def test_syntax_that_templates_use() -> None:
    source = """
{%- for m in messages if m.role != 'system' %}
    {%- if loop.index0 == 3 %}{% break %}{% endif %}
    {%- set name = m.get('name') or m['role'] %}
    {{- loop.index ~ '/' ~ loop.length ~ (',' if not loop.last else '.') }}
    {%- generation %}{{ m.content | trim | replace('a', 'b') }}{% endgeneration %}
{%- endfor %}
{%- set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i * 2 %}{% endfor %}{{ ns.n }}
{{- '%s' % 'x' }}{{ '{}'.format(1) }}{{ messages[0].content.split('a') | join('-') }}
{{- strftime_now('%Y') | length }}{{ '%s=%d' | format('y', 3) }}
"""
    messages = [{"role": "user", "content": " aca "}, {"role": "assistant", "content": "d"}]
    assert compile_template(source)({"messages": messages}) == "1/2,bcb2/2.d6x1 -c- 4y=3"


def test_a_template_may_refuse() -> None:
    with pytest.raises(ValueError, match="roles must alternate"):
        compile_template("{{ raise_exception('roles must alternate') }}")({})


GROW = "{%% set ns = namespace(x='aaaa') %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}{{ ns.x }}"
HOSTILE = {
    "endless_loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "endless_recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "exponential_recursion": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "endless_output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "huge_range": "{{ range(100000000) | list }}",
    "huge_product": "{{ 'a' * 1000000000000 }}",
    "huge_power": "{{ 9 ** 9 ** 9 }}",
    "huge_precision": "{{ 10 | round(-100000000) }}",
    "huge_precision_of_a_ceiling": "{{ 10 | round(100000000, 'ceil') }}",
    "padded_bytes": "{{ 'a'.encode().ljust(4000000000) | length }}",
    "a_number_as_bytes": "{{ (1).to_bytes(4000000000, 'big') | length }}",
    "huge_number": GROW.replace("'aaaa'", "7") % "ns.x * ns.x",
    "doubling_by_plus": GROW % "ns.x + ns.x",
    "doubling_by_tilde": GROW % "ns.x ~ ns.x",
    "doubling_by_filter": GROW % "ns.x | replace('a', ns.x)",
    "doubling_by_method": GROW % "ns.x.replace('a', ns.x)",
    "doubling_by_join": GROW % "[ns.x, ns.x] | join",
    "huge_width": "{{ '%09999999999d' % 1 }}",
    "huge_format": "{{ '{:>9999999999}'.format(1) }}",
    "huge_width_by_filter": "{{ '%*d' | format(9999999999, 1) }}",
    "huge_padding": "{{ 'a'.center(9999999999) }}",
    "many_long_values_kept": "{% set ns = namespace(v=[]) %}{% for i in range(99999) %}"
    "{% set ns.v = [ns.v, 'x' * 16000000] %}{% endfor %}",
    "many_slices_kept": "{% set s = 'x' * 16000000 %}{% set ns = namespace(v=[]) %}{% for i in range(99999) %}"
    "{% set ns.v = [ns.v, s[i:]] %}{% endfor %}",
    "values_within_values": "{% set ns = namespace(v=[0]) %}{% for i in range(99) %}"
    "{% set ns.v = [ns.v, ns.v] %}{% endfor %}{{ ns.v == ns.v }}",
    "long_values_at_compile_time": "{{ 'x' * 16000000 }}" * 400,
    "long_bytes": "{{ ('x'.encode() * 4000000000) | length }}",
    "long_sums": "{{ ([[0] * 1000] * 100000) | sum(start=[]) | length }}",
    "long_sorts": "{{ (range(99999) | list * 160) | sort | length }}",
    "long_maps": "{% for i in range(9) %}{{ ([0] * 16000000) | map('string') | list | length }}{% endfor %}",
    "long_words": "{{ ('a ' * 8000000) | title | length }}",
    "long_splits": "{{ ('ab ' * 5000000).split() | length }}",
    "long_json": "{{ ([['a' * 1000] * 1000] * 1000) | tojson | length }}",
    "long_text_of_lists": "{{ ([['a' * 1000] * 1000] * 1000) | string | length }}",
    "long_output_of_lists": "{{ [['a' * 1000] * 1000] * 1000 }}",
    "long_lists_in_a_format": "{{ '%s%s' % ([['a' * 1000] * 1000] * 100, [['a' * 1000] * 1000] * 100) }}",
    "long_blocks": "{% set a %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}{{ a }}",
    "long_dates": "{{ strftime_now('%A' * 5000000) }}",
    "many_branches": "{% if a %}" + "{% elif b %}" * 20000 + "{% endif %}",
    "deep_expression": "{{ 1" + "+1" * 30000 + " }}",
    "deep_lists": "{{ " + "[" * 20000 + "]" * 20000 + " }}",
    "class_escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "function_escape": "{{ raise_exception.__globals__['json'] }}",
    "include": "{% include '/etc/passwd' %}",
    "mutation": "{{ messages.append(1) }}",
    "syntax": "{% for %}",
    "huge_template": "a" * (2 << 20),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_B22_hostile_template(name: str) -> None:
    with pytest.raises(ValueError):
        compile_template(HOSTILE[name])({"messages": HELLO}, 2)


def test_time_on_a_busy_machine_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count(step=3600.0)
    for clock in ("monotonic", "time", "perf_counter"):
        monkeypatch.setattr(time, clock, lambda: next(hours))
    assert compile_template(PLAIN)({"messages": HELLO}) == "[user]hi"
    with pytest.raises(ValueError, match="longer than its time"):
        compile_template("{% for i in range(99999) %}{% endfor %}")({}, 0)


def test_what_long_conversations_need_is_within_the_limits() -> None:
    source = """{% set ns = namespace(text='') %}{% for m in messages %}{% set body = m.content | trim %}
{%- if '</think>' in body %}{% set body = body.split('</think>')[-1].lstrip() %}{% endif %}
{%- set ns.text = ns.text + '<' ~ m.role ~ '>' ~ body ~ (m | tojson)[:9] %}{% endfor %}{{ ns.text }}"""
    messages = [{"role": "user", "content": "é" * 2000}] * 250
    assert len(compile_template(source)({"messages": messages}, 60)) > 500_000


def test_F4_template_in_the_checkpoint_is_malformed(tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    path = directory / "tokenizer_config.json"
    for template in ("{% for %}", 3, [{"name": "other", "template": "x"}], [{"template": "x"}]):
        path.write_text(json.dumps({"chat_template": template}))
        with pytest.raises(ModelFormatError, match="chat_template"):
            template_of(directory)


def test_F4_template_is_missing(tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    (directory / "tokenizer_config.json").write_text("{}")
    with LLM(directory) as model, pytest.raises(ValueError, match="pass chat_template"):
        model.chat(HELLO)


def test_a_template_in_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    (directory / "chat_template.jinja").write_text("file")
    template = template_of(directory)
    assert template is not None
    assert template.render(HELLO) == "file"


def test_the_caller_may_bring_a_template(llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(PLAIN)
    assert llm.chat(HELLO, chat_template=PLAIN)[0].prompt == "[user]hi>"
    assert llm.chat(HELLO, chat_template=str(path))[0].prompt == "[user]hi>"
