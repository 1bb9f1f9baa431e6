"""What happens before a grammar guides a text: threads, limits, and constraints made into what the compiler takes."""

import _thread
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import TINY
from waiting import PATIENCE_S

from warpjet import LLM, SamplingParams, StructuredOutputsParams
from warpjet._native import QueueFullError
from warpjet.common import threads
from warpjet.common.threads import Crew
from warpjet.guided.limits import check_grammar, check_repeats
from warpjet.guided.schemas import ENFORCED_FORMATS, prepared
from warpjet.structured import check_volume


def choice(text: str) -> SamplingParams:
    return SamplingParams(max_tokens=30, structured_outputs=StructuredOutputsParams(choice=[text]))


def say(llm: LLM, text: str) -> str:
    return str(llm.generate("A: ", choice(text), use_tqdm=False)[0].outputs[0].text)


# --- Threads ----------------------------------------------------------------------------------------------------------


def no_thread(*_: Any) -> int:
    raise RuntimeError("can't start new thread")


def lost_thread(*_: Any) -> int:
    """It was started and died before it began, as for lack of memory."""
    return 0


def run_all(crew: Crew, count: int) -> set[int]:
    """The threads that ran this many works."""
    ran: list[int] = []
    done = threading.Semaphore(0)

    def work() -> None:
        ran.append(threading.get_ident())
        done.release()
        raise ValueError("the trouble of this work alone")

    for _ in range(count):
        crew.submit(work)
    for _ in range(count):
        assert done.acquire(timeout=PATIENCE_S)
    return set(ran)


def test_a_crew_has_its_size_and_outlives_what_work_raises() -> None:
    crew = Crew(2)
    assert len(run_all(crew, 50)) <= 2
    crew.close(PATIENCE_S)
    with pytest.raises(QueueFullError, match="closing"):
        crew.submit(lambda: None)


def test_work_waits_for_nobody_when_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(1)
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", no_thread)
        for _ in range(3):
            with pytest.raises(QueueFullError, match="no thread can be started"):
                crew.submit(lambda: None)
    assert len(run_all(crew, 3)) == 1
    crew.close(PATIENCE_S)


def test_a_thread_that_is_lost_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_START_SECONDS", -1.0)
    crew, ran = Crew(1), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", lost_thread)
        crew.submit(ran.set)
    crew.revive()
    assert ran.wait(PATIENCE_S)
    crew.close(PATIENCE_S)


@pytest.mark.parametrize("start", [no_thread, lost_thread])
def test_grammars_compile_again_when_there_are_threads_again(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_START_SECONDS", -1.0)
    with LLM(device="cpu") as llm:
        compiler = llm._session._open_guides()._compiler
        with monkeypatch.context() as patch:
            patch.setattr(_thread, "start_new_thread", start)
            patch.setattr("warpjet.guided.grammars._START_SECONDS", 0)
            for index in range(40):  # more than may be pending
                with pytest.raises(QueueFullError):
                    say(llm, f"y{index}")
        assert not compiler._pending
        assert say(llm, "yes") == "yes" and say(llm, "y0") == "y0"


def test_without_memory_a_grammar_is_refused_and_the_next_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    with LLM(device="cpu") as llm:
        with monkeypatch.context() as patch:
            patch.setattr("warpjet.guided.grammars.require_room", full)
            with pytest.raises(QueueFullError, match="no memory"):
                say(llm, "yes")
        assert say(llm, "yes") == "yes"


# --- Limits -----------------------------------------------------------------------------------------------------------

LIMIT = 1 << 20
SIZE = LIMIT - 9
HOSTILE = {
    "spaces after a brace": "{" + " " * SIZE,
    "spaces after a count": "{1" + " " * SIZE,
    "spaces after a comma": "{1," + " " * SIZE,
    "braces": "{" * SIZE,
    "digits": "{" + "1" * SIZE,
    "escaped quotes": '"' + '\\"' * (SIZE // 2),
    "quotes": '"' * SIZE,
    "backslashes": "\\" * SIZE,
    "one long name": "a" * SIZE,
    "a name and dots": "a" + ".1" * (SIZE // 2),
    "a name and brackets": "a" + "[" * SIZE,
    "a name and pairs of brackets": "a" + "[]" * (SIZE // 2),
    "blank lines": "\n" * SIZE,
    "spaces": " " * SIZE,
    "tabs and breaks": "\t\n" * (SIZE // 2),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("check", [check_repeats, check_grammar])
def test_checks_are_linear(check: Callable[[str, str], None], text: str) -> None:
    """Worse than linear, one of these would take hours."""
    check("text", text)


@pytest.mark.parametrize("text", ["a{200000}", "a{ 1 , 200000 }", "{" + " " * 99 + "2000000000}", "{,999999999999}"])
def test_repetitions_are_bounded_however_they_are_written(text: str) -> None:
    with pytest.raises(ValueError, match="a repetition may have a count of 100000"):
        check_repeats("regex", text)


@pytest.mark.parametrize("value", [["a"] * 200_000, "a" * (LIMIT + 1), {"a": ["b" * LIMIT]}, {"a" * (LIMIT + 1): 1}])
def test_large_constraints_are_refused_before_any_work(value: Any) -> None:
    with pytest.raises(ValueError, match="that are compiled"):
        check_volume(value)


def test_many_choices_are_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="2000000 texts are more than the 30000"):
        StructuredOutputsParams(choice=["a"] * 2_000_000)


@pytest.mark.parametrize("decoder", [{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}, None])
def test_a_vocabulary_is_read_with_metaspace_and_else_refused_in_our_words(tmp_path: Path, decoder: Any) -> None:
    for file in TINY.iterdir():
        shutil.copy(file, tmp_path)
    fields = json.loads((TINY / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields | {"decoder": decoder}))
    params = SamplingParams(max_tokens=9, structured_outputs=StructuredOutputsParams(choice=["yes"]))
    with LLM(tmp_path, device="cpu") as llm:
        if decoder:
            assert llm.generate("A: ", params, use_tqdm=False)[0].outputs[0].text == "yes"
        else:
            with pytest.raises(ValueError, match=r"has a decoder that the compiler of grammars does not know$"):
                llm.generate("A: ", params)


# --- GBNF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('root ::= start "!"\nstart ::= "yes"', "yes!"),
        ('start ::= "a"\nroot ::= start start', "aa"),
        ('root ::= start\nstart ::= (\n  "yes"\n)\n', "yes"),
        ('root ::= fooBar foo-bar foo_bar\nfooBar ::= "1"\nfoo-bar ::= "2"\nfoo_bar ::= "3"', "123"),
        ('root ::= Start START\nStart ::= "s"\nSTART ::= "S"', "sS"),
        ('# start: a comment\nroot ::= "x" # start: too', "x"),
        ('root ::= "start: y"', "start: y"),
        ('start: "root ::= z"', "root ::= z"),
        ('start: r\nr: "a ::= b" // root ::= c', "a ::= b"),
    ],
)
def test_a_grammar_is_of_the_language_of_its_rules(llm: LLM, grammar: str, text: str) -> None:
    params = SamplingParams(max_tokens=20, structured_outputs=StructuredOutputsParams(grammar=grammar))
    assert llm.generate("A: ", params, use_tqdm=False)[0].outputs[0].text == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (r'"\u00e9\x41\U0001f600"', "\u00e9A\U0001f600"),
        (r'"\u0022\u005c\u000a" "\\u0041"', '"\\\n\\u0041'),
        (r"[\u0061] [\-] [\x5d] [\u005d] [\]]", "a-]]]"),
        (r'"a\/b\.c"', "a/b.c"),
        ("[&&] [~~]", "&~"),
    ],
)
def test_escapes_in_gbnf_are_characters(llm: LLM, body: str, text: str) -> None:
    params = SamplingParams(max_tokens=20, structured_outputs=StructuredOutputsParams(grammar=f"root ::= {body}"))
    assert llm.generate("A: ", params, use_tqdm=False)[0].outputs[0].text == text


def test_half_a_surrogate_pair_is_no_character_of_a_grammar(llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"grammar: \\ud83d is no character"):
        llm.generate("A: ", SamplingParams(structured_outputs=StructuredOutputsParams(grammar=r'root ::= "\ud83d"')))


def test_a_gbnf_rule_that_is_missing_is_named(llm: LLM) -> None:
    with pytest.raises(ValueError, match="grammar: there is no rule 'b'"):
        llm.generate("A: ", SamplingParams(structured_outputs=StructuredOutputsParams(grammar="root ::= b")))


# --- Schemas ----------------------------------------------------------------------------------------------------------


def listing(*names: str, **rest: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "boolean"} for name in names}, **rest}


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "additionalProperties": False}


A, B = listing("a"), listing("b")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, closed(A)),
        (listing(), closed(listing())),
        ({"properties": {"a": A}}, closed({"properties": {"a": closed(A)}})),
        ({"$defs": {"x": A}, "$ref": "#/$defs/x"}, {"$defs": {"x": closed(A)}, "$ref": "#/$defs/x"}),
        ({"anyOf": [A, B]}, {"anyOf": [closed(A), closed(B)]}),
        (
            {"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": A}},
            {"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": closed(A)}},
        ),
        ({**A, "anyOf": [{"required": ["a"]}]}, closed({**A, "anyOf": [{"required": ["a"]}]})),
        ({"type": "array", "items": A}, {"type": "array", "items": closed(A)}),
    ],
    ids=str,
)
def test_objects_are_closed(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert prepared(schema, closed=True) == expected
    assert prepared(schema, closed=False) == schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "patternProperties": {"^x": {}}},
        listing("a", additionalProperties=True),
        listing("a", additionalProperties={"type": "string"}),
        listing("a", unevaluatedProperties=True),
        {"allOf": [A, B]},
        {**A, "allOf": [B]},
        {**A, "anyOf": [B, {"type": "object", "properties": {"c": {}}}]},
        {"$defs": {"x": A}, "$ref": "#/$defs/x", "properties": {"b": {}}},
        {"const": A},
        {"enum": [A]},
        {"default": A, "examples": [A]},
    ],
    ids=str,
)
def test_objects_that_stay_open(schema: dict[str, Any]) -> None:
    assert prepared(schema, closed=True) == schema


@pytest.mark.parametrize("name", [*sorted(ENFORCED_FORMATS), "int32", "password", "path", "uri-reference", "", "\n", 3])
def test_a_format_is_enforced_or_an_annotation_and_never_refused(llm: LLM, name: Any) -> None:
    inner = {"type": "string", "format": name, "maxLength": 40}
    if isinstance(name, str) and name in ENFORCED_FORMATS:
        assert prepared(inner, closed=True) == inner
        inner = {"type": "string", "format": name}
    else:
        assert prepared(inner, closed=True) == {"type": "string", "maxLength": 40}
    schema = {"type": "object", "properties": {"format": inner}, "required": ["format"]}
    params = SamplingParams(max_tokens=4, structured_outputs=StructuredOutputsParams(json=schema))
    assert llm.generate("A: ", params, use_tqdm=False)[0].outputs[0].finish_reason != "error"


def test_one_of_two_open_objects_is_any_of_them(llm: LLM) -> None:
    schema = {"oneOf": [listing("a", required=["a"], additionalProperties=True), listing("b", required=["b"])]}
    params = SamplingParams(max_tokens=200, seed=1, structured_outputs=StructuredOutputsParams(json=schema))
    text = llm.generate("A: ", params, use_tqdm=False)[0].outputs[0].text
    assert '"a"' in text or '"b"' in text


@pytest.mark.parametrize("bound", [2**63 - 1, 2**64, 10**400, 1.7976931348623157e308])
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_ranges_end_where_integers_are_exact(llm: LLM, kind: str, bound: float) -> None:
    schema = {"type": kind, "minimum": -bound, "exclusiveMaximum": bound}
    assert prepared(schema, closed=True) == {"type": kind, "minimum": -(2**53), "exclusiveMaximum": 2**53}
    params = SamplingParams(max_tokens=20, structured_outputs=StructuredOutputsParams(json=schema))
    json.loads(llm.generate("A: ", params, use_tqdm=False)[0].outputs[0].text)


@pytest.mark.parametrize(
    "schema",
    [
        {"const": 2**53 + 1},
        {"enum": ["a", 10**400]},
        {"properties": {"a": {"const": {"b": [-(2**60)]}}}},
        {"type": "integer", "minimum": 2**53 + 1},
    ],
)
def test_integers_that_would_be_rounded_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"beyond 2\^53"):
        prepared(schema, closed=True)
    assert prepared({"properties": {"enum": {"enum": [2**53, True]}}, "default": 2**60}, closed=False)


def test_the_end_of_a_text_is_an_anchor_in_the_spelling_of_python_too(llm: LLM) -> None:
    params = SamplingParams(max_tokens=9, structured_outputs=StructuredOutputsParams(regex=r"\Aab\Z"))
    assert llm.generate("A: ", params, use_tqdm=False)[0].outputs[0].text == "ab"


@pytest.mark.parametrize("regex", [r"\bfoo", "(?=a)b", r"(a)\1", "a^b", "(", r"\h"])
def test_an_error_in_a_regex_shows_the_regex_alone(llm: LLM, regex: str) -> None:
    with pytest.raises(ValueError, match=r"^regex: (regex parse error|word boundaries)") as caught:
        llm.generate("A: ", SamplingParams(structured_outputs=StructuredOutputsParams(regex=regex)))
    assert regex in str(caught.value) and "start:" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"type": "string", "format": "date", "pattern": "a"},
        {"type": "array", "uniqueItems": True},
        {"type": "widget"},
    ],
    ids=str,
)
def test_errors_are_in_our_words(llm: LLM, schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^json: ") as caught:
        llm.generate("A: ", SamplingParams(structured_outputs=StructuredOutputsParams(json=schema)))
    assert not any(
        word in str(caught.value) for word in ("coerce", "Some(", "(And", "Unimplemented", "start:", "%json")
    )
