"""Messages with tool calls, reasoning and parts: what templates get, and what is refused."""

import json
from typing import Any

import pytest

from warpjet import LLM, SamplingParams
from warpjet.parsing import TOOL_PARSERS
from warpjet.text.chat import ChatTemplate
from warpjet.text.messages import checked_messages

USER = {"role": "user", "content": "Weather in Paris?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Oslo"]},
                "days": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
HERMES = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{# <tool_call> </think> #}"


def call(call_id: str | None = "a", arguments: Any = '{"city": "Paris"}', **more: Any) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return one | ({} if call_id is None else {"id": call_id}) | more


def assistant(*calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def result(call_id: Any = "a", content: Any = "12 C") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def render(source: str, messages: Any, **options: Any) -> str:
    return ChatTemplate({"default": source}, {}).render(messages, **options)


ARGUMENTS = "{% set a = messages[1].tool_calls[0].function.arguments %}"


@pytest.mark.parametrize("arguments", ['{"city": "Paris", "text": "é"}', {"city": "Paris", "text": "é"}])
def test_arguments_are_an_object_and_read_as_text(arguments: object) -> None:
    messages = [USER, assistant(call(arguments=arguments)), result()]
    text = '{"city": "Paris", "text": "é"}'
    assert render(ARGUMENTS + "{{ a.city }} {{ a['text'] }} {{ a.text }}", messages) == "Paris é é"
    assert render(ARGUMENTS + "{{ a is mapping }} {{ a is string }}", messages) == "True False"
    assert (
        render(ARGUMENTS + "{% for k, v in a.items() %}{{ k }}={{ v }},{% endfor %}", messages) == "city=Paris,text=é,"
    )
    assert render(ARGUMENTS + "{{ a | tojson }}", messages) == text
    assert render(ARGUMENTS + "{{ a }}", messages) == text
    assert render(ARGUMENTS + "{{ '<' + a + '>' }}{{ '<' ~ a ~ '>' }}", messages) == f"<{text}><{text}>"


@pytest.mark.parametrize("arguments", ['{"city": "Par', "{city", "[1]", '{"a": NaN}', '{"a":' * 50_000])
def test_arguments_that_were_cut_off_stay_as_they_are(arguments: str) -> None:
    messages = [USER, assistant(call(arguments=arguments)), result()]
    assert render(ARGUMENTS + "{{ a ~ '' }}", messages) == arguments
    assert json.loads(render(ARGUMENTS + "{{ a | tojson }}", messages)) == {"partial_json": arguments}


@pytest.mark.parametrize("arguments", ["", None, {}])
def test_no_arguments_are_an_empty_object(arguments: object) -> None:
    assert (
        render(ARGUMENTS + "{{ a }}{{ a is mapping }}", [USER, assistant(call(arguments=arguments)), result()])
        == "{}True"
    )


def test_what_clients_send_as_null_is_not_there() -> None:
    echoed = {"role": "assistant", "content": "hi", "tool_calls": None, "refusal": None, "function_call": None}
    source = "{{ 'tool_calls' in messages[1] }}{{ 'refusal' in messages[1] }}{{ messages[1].content }}"
    assert render(source, [USER, echoed, USER]) == "FalseFalsehi"
    assert render(source, [USER, echoed | {"tool_calls": []}, USER]) == "FalseFalsehi"


def test_content_may_be_null_where_there_are_calls() -> None:
    source = "{{ messages[1].content is none }}{{ messages[2].tool_call_id }}{{ messages[2].content }}"
    assert render(source, [USER, assistant(call()), result()]) == "Truea12 C"


def test_results_may_come_in_any_order() -> None:
    messages = [USER, assistant(call("a"), call("b")), result("b"), result("a"), USER]
    assert render("{% for m in messages %}{{ m.role[0] }}{% endfor %}", messages) == "uattu"


def test_ids_may_be_left_out_on_both_sides() -> None:
    messages = [USER, assistant(call(None)), {"role": "tool", "name": "get_weather", "content": "12 C"}]
    assert render("{{ messages | length }}", messages) == "3"


def test_calls_without_results_may_be_rendered_where_no_answer_follows() -> None:
    assert render("x", [USER, assistant(call())], add_generation_prompt=False) == "x"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_reaches_the_template_by_either_name(name: str) -> None:
    messages = [USER, {"role": "assistant", "content": "hi", name: "hm"}, USER]
    assert render("{{ messages[1].reasoning }},{{ messages[1].reasoning_content }}", messages) == "hm,hm"
    messages = [USER, assistant(call(), **{name: "hm"}), result()]
    assert render("{{ messages[1].thinking }}", messages) == "hm"


def test_a_developer_is_the_system_where_the_template_knows_none() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, USER]
    assert render("{{ messages[0].role }}", messages) == "system"
    assert render("{% if messages[0].role == 'developer' %}yes{% endif %}", messages) == "yes"


def test_messages_of_the_caller_are_left_alone() -> None:
    messages = [{"role": "developer", "content": "x"}, assistant(call()), result()]
    before = repr(messages)
    render("{{ messages }}", messages)
    assert repr(messages) == before


BAD_MESSAGES: dict[str, tuple[list[Any], str]] = {
    "tool_first": ([result()], r"messages\[0\]: a tool's message must follow"),
    "tool_after_user": ([USER, result()], r"messages\[1\]: a tool's message must follow"),
    "tool_after_plain_answer": ([USER, {"role": "assistant", "content": "x"}, result()], "must follow"),
    "unknown_id": ([USER, assistant(call("a")), result("b")], "expected 'a'"),
    "no_id": ([USER, assistant(call("a")), {"role": "tool", "content": "x"}], "expected 'a'"),
    "id_of_wrong_type": ([USER, assistant(call("a")), result([1])], "expected 'a'"),
    "answered_twice": ([USER, assistant(call("a")), result("a"), result("a")], "no more results"),
    "not_answered": ([USER, assistant(call("a"), call("b")), result("a"), USER], r"messages\[3\]: .*'b' are missing"),
    "not_answered_at_the_end": ([USER, assistant(call("a"))], "the end: .*'a' are missing"),
    "same_id_twice": ([USER, assistant(call("a"), call("a")), result("a"), result("a")], "the same id"),
    "calls_of_the_user": ([{**USER, "tool_calls": [call()]}], "only messages of the assistant"),
    "calls_no_list": ([USER, {"role": "assistant", "content": "", "tool_calls": "x"}], "must be a list"),
    "call_no_object": ([USER, assistant("x")], r"tool_calls\[0\] must be an object"),
    "call_without_function": ([USER, assistant({"id": "a", "type": "function"})], "must be an object"),
    "call_of_other_type": ([USER, assistant(call(type="custom"))], "type 'function'"),
    "call_without_name": ([USER, assistant({"id": "a", "type": "function", "function": {}})], "needs a name"),
    "id_no_text": ([USER, assistant(call(id=3))], "id must be a string"),
    "arguments_a_list": ([USER, assistant(call(arguments=[1]))], "JSON text of an object"),
    "arguments_a_number": ([USER, assistant(call(arguments=5))], "JSON text of an object"),
    "arguments_a_set": ([USER, assistant(call(arguments={"a": {1}}))], "arguments"),
    "result_without_content": ([USER, assistant(call()), result(content=None)], r"messages\[2\] needs content"),
    "function_call": ([USER, {"role": "assistant", "content": "", "function_call": {}}], "use tools"),
    "function_role": ([USER, {"role": "function", "name": "f", "content": "x"}], "use tools"),
    "reasoning_no_text": ([USER, {"role": "assistant", "content": "", "reasoning": 3}, USER], "reasoning must be"),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_B21_malformed_calls_and_results(name: str, llm: LLM) -> None:
    messages, match = BAD_MESSAGES[name]
    with pytest.raises(ValueError, match=match):
        llm.chat(messages)


@pytest.mark.parametrize("tools", ["f", [3], [{"type": "function"}], [TOOL, TOOL], [{"name": "f", "parameters": {}}]])
def test_B21_malformed_tools_in_a_chat(tools: Any, llm: LLM) -> None:
    with pytest.raises(ValueError, match="tools"):
        llm.chat([USER], tools=tools)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,???"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "http://169.254.169.254/"}},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "text"},
        {"type": "text", "text": 3},
        {"text": "x"},
        "x",
        None,
    ],
)
def test_B23_parts_other_than_text(part: Any, llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"messages\[0\].content\[1\]: only parts of type 'text'") as error:
        llm.chat([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}])
    if isinstance(part, dict) and part.get("type", "text") != "text":
        assert part["type"] in str(error.value)


def test_B22_keyword_arguments_must_be_an_object(llm: LLM) -> None:
    for given in ("x", 3, [("a", 1)]):
        with pytest.raises(ValueError, match="chat_template_kwargs"):
            llm.chat([USER], chat_template_kwargs=given)  # type: ignore[arg-type]


# --- LLM.chat() reads its answers -------------------------------------------------------------------------------------


def test_without_parsers_an_answer_is_text_alone(llm: LLM) -> None:
    (output,) = llm.chat([USER], SamplingParams(max_tokens=4), tools=[TOOL])[0].outputs
    assert (output.content, output.reasoning, output.tool_calls) == (None, None, None)


@pytest.mark.parametrize("parser", ["hermes", "mistral", "openai", "pythonic", "qwen3_coder", "deepseek_v3"])
def test_a_required_call_is_made_in_the_format_of_the_model(parser: str) -> None:
    pytest.importorskip("llguidance")
    assert parser in TOOL_PARSERS
    with LLM(device="cpu", tool_call_parser=parser) as model:
        params = SamplingParams(max_tokens=200, n=2, seed=3)
        choice = {"type": "function", "function": {"name": "get_weather"}}
        for completion in model.chat([USER], params, tools=[TOOL], tool_choice=choice)[0].outputs:
            assert completion.tool_calls is not None
            (made,) = completion.tool_calls
            assert made.function.name == "get_weather"
            assert set(checked_arguments(made.function.arguments)) == {"city", "days"}
            assert completion.content == ""
            assert completion.reasoning is None
            assert made.function.name in completion.text


def checked_arguments(text: str) -> dict[str, Any]:
    value = json.loads(text)
    assert value["city"] in ("Paris", "Oslo") and value["days"] in range(10)
    return dict(value)


def test_parsers_are_found_by_the_template() -> None:
    with LLM(device="cpu", chat_template=HERMES, tool_call_parser="auto", reasoning_parser="auto") as model:
        (output,) = model.chat([USER], SamplingParams(max_tokens=4), tools=[TOOL])[0].outputs
        assert (output.content, output.reasoning, output.tool_calls) == (output.text, "", [])


def test_a_wrong_parser_is_refused_before_the_model_is_loaded() -> None:
    with pytest.raises(ValueError, match="tool_call_parser 'nope'"):
        LLM("/does/not/exist", tool_call_parser="nope")


def test_B21_a_tool_choice_that_cannot_be_granted(llm: LLM) -> None:
    with pytest.raises(ValueError, match="'missing'"):
        llm.chat([USER], tools=[TOOL], tool_choice={"type": "function", "function": {"name": "missing"}})
    with pytest.raises(ValueError, match="needs tools"):
        llm.chat([USER], tool_choice="required")


def test_a_forced_call_comes_in_the_default_format_and_before_a_format_of_text(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=80, structured_outputs={"regex": "a"})
    for wanted in (params, params.replace(structured_outputs=None)):
        (output,) = llm.chat([USER], wanted, tools=[TOOL], tool_choice="required")[0].outputs
        assert output.text.startswith("<tool_call>") and output.content == ""
        assert [call.function.name for call in output.tool_calls] == [TOOL["function"]["name"]]


def test_results_in_any_order_are_matched_in_one_pass() -> None:
    """The cost counted, not timed: comparisons of ids grow as the conversation does."""
    compared = 0

    class Id(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    count = 1000
    calls = [{"id": Id(f"c{i}"), "function": {"name": "f"}} for i in range(count)]
    results = [{"role": "tool", "tool_call_id": Id(f"c{i}"), "content": "r"} for i in reversed(range(count))]
    conversation = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": calls}, *results]
    assert len(checked_messages(conversation, answered=True, has_developer=False)) == count + 2
    assert compared <= 10 * count
