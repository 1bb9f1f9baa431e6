"""Structured outputs: every text is what was asked for, whatever else the request and its neighbours want, and a bad or
slow grammar is the trouble of its own request alone. Names with B are rows of the table of bad inputs."""

import asyncio
import contextlib
import copy
import json
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from checkpoints import copy_tiny, write_checkpoint
from waiting import PATIENCE_S, until

from warpjet import LLM, AsyncLLM, SamplingParams, StructuredOutputsParams
from warpjet._native import OutputQueue
from warpjet.guided.grammars import Compiler
from warpjet.structured import from_text, to_text

PROMPT = "Once upon a time"
WHITESPACE = r'(?:"(?:[^"\\]|\\.)*"|[^"\s])*'  # outside of strings there is none


class Pet(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    kind: Literal["cat", "dog"]
    age: int = pydantic.Field(ge=0, le=30)
    toys: list[str] = pydantic.Field(max_length=2)


TOY = {"type": "string", "maxLength": 8}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "toys": {"type": "array", "items": TOY, "maxItems": 2},
    },
    "required": ["name", "kind", "age", "toys"],
    "additionalProperties": False,
}


def constrained(max_tokens: int = 160, **fields: Any) -> SamplingParams:
    """structured_outputs and sampling fields by their names."""
    own = {name: fields.pop(name) for name in list(fields) if name in StructuredOutputsParams.__slots__}
    return SamplingParams(structured_outputs=StructuredOutputsParams(**own), max_tokens=max_tokens, **fields)


def completions(llm: LLM, params: SamplingParams, prompt: Any = PROMPT) -> list[Any]:
    return llm.generate(prompt, params, use_tqdm=False)[0].outputs


def text_of(llm: LLM, params: SamplingParams, prompt: Any = PROMPT) -> str:
    (completion,) = completions(llm, params, prompt)
    assert completion.finish_reason == "stop", completion
    return str(completion.text)


# --- What is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"json": SCHEMA},
        {"json": json.dumps(SCHEMA), "whitespace_pattern": " ?"},
        {"json_object": True, "disable_any_whitespace": True},
        {"choice": ["yes", "no", 'quotes " and \n breaks', "Zürich 🦊"]},
        {"regex": "[a-z]+\\d{2}"},
    ],
)
def test_it_travels_with_the_sampling_parameters(fields: dict[str, Any]) -> None:
    asked = StructuredOutputsParams(**fields)
    params = SamplingParams(structured_outputs=asked, seed=4)
    assert params.structured_outputs == asked
    assert params.replace(n=2).structured_outputs == asked and params.replace(n=2) != params
    assert params.replace(structured_outputs=None) == SamplingParams(seed=4)
    for twin in (params.replace(), copy.deepcopy(params), pickle.loads(pickle.dumps(params))):
        assert twin == params
    assert SamplingParams.from_dict(json.loads(json.dumps(params.to_dict()))) == params
    assert eval(repr(params)) == params
    assert from_text(to_text(asked)) == asked
    assert SamplingParams(structured_outputs=fields) == SamplingParams(structured_outputs=asked)


def test_a_model_class_is_its_schema() -> None:
    assert StructuredOutputsParams(json=Pet).json == Pet.model_json_schema()


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({}, ValueError, "exactly one of json, regex"),
        ({"json_object": False}, ValueError, "got none"),
        ({"choice": []}, ValueError, "choice"),
        ({"choice": ["a", 3]}, ValueError, "choice"),
        ({"choice": "yes"}, TypeError, "choice"),
        ({"regex": 3}, TypeError, "regex must be str"),
        ({"json": [1]}, TypeError, "json must be"),
        ({"json": int}, TypeError, "pydantic"),
        ({"regex": "a", "disable_any_whitespace": True}, ValueError, "disable_any_whitespace goes with json"),
        ({"json": {}, "disable_any_whitespace": True, "whitespace_pattern": " "}, ValueError, "whitespace_pattern"),
    ],
)
def test_what_makes_no_sense_is_named(fields: dict[str, Any], error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        StructuredOutputsParams(**fields)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="has no field 'jsn'"):
        SamplingParams(structured_outputs={"jsn": {}})
    with pytest.raises(TypeError, match="must be StructuredOutputsParams"):
        SamplingParams(structured_outputs=3)


# --- What comes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_json_is_of_its_schema_together_with_n_logprobs_and_stop(llm: LLM, seed: int) -> None:
    for completion in completions(
        llm, constrained(json=SCHEMA, n=3, seed=seed, logprobs=2, stop=["@@"], temperature=1.3)
    ):
        assert completion.finish_reason == "stop"
        Pet.model_validate_json(completion.text)
        assert len(completion.logprobs) == len(completion.token_ids)
        for token, entries in zip(completion.token_ids, completion.logprobs, strict=True):
            assert token in entries and min(entry.rank for entry in entries.values()) == 1


def test_log_probabilities_are_those_of_the_model_not_of_the_mask(llm: LLM) -> None:
    free = completions(llm, SamplingParams(temperature=0, max_tokens=1, logprobs=20))[0]
    guided = completions(llm, constrained(temperature=0, max_tokens=1, logprobs=20, regex="[0-9]{4}"))[0]
    assert free.token_ids != guided.token_ids
    first, second = free.logprobs[0], guided.logprobs[0]
    assert all(second[token] == entry for token, entry in first.items())
    assert second[guided.token_ids[0]].rank > 1


def test_a_stop_string_ends_the_text_within_the_grammar(llm: LLM) -> None:
    (completion,) = completions(llm, constrained(regex="a{3}b{50}", stop=["bbb"]))
    assert (completion.text, completion.finish_reason, completion.stop_reason) == ("aaa", "stop", "bbb")


def test_the_other_constraints(llm: LLM) -> None:
    assert re.fullmatch(r"\d{3}-\d{4}", text_of(llm, constrained(regex=r"^\d{3}-\d{4}$", seed=1)))
    words = ["yes", "no", 'quotes " and \n breaks', "Zürich 🦊"]
    assert {text_of(llm, constrained(choice=words, seed=i, temperature=20.0)) for i in range(40)} <= set(words)
    assert isinstance(
        json.loads(text_of(llm, constrained(json_object=True, seed=11, temperature=0.7, max_tokens=400))), dict
    )
    lark = 'start: NUMBER ("+" NUMBER)~1..3\nNUMBER: /[1-9]/'
    assert re.fullmatch(r"[1-9](\+[1-9]){1,3}", text_of(llm, constrained(grammar=lark, seed=1)))
    gbnf = 'root ::= sum "!"\nsum ::= num ("+" num){2}\nnum ::= [1-9]'
    assert re.fullmatch(r"[1-9]\+[1-9]\+[1-9]!", text_of(llm, constrained(grammar=gbnf, seed=1)))
    assert json.loads(text_of(llm, constrained(json=True, seed=2, regex=None, temperature=0.2))) is not ...


def test_whitespace_is_as_asked(llm: LLM) -> None:
    for seed in range(3):
        assert re.fullmatch(WHITESPACE, text_of(llm, constrained(json=SCHEMA, seed=seed, disable_any_whitespace=True)))
    texts = [text_of(llm, constrained(json=SCHEMA, seed=s, whitespace_pattern="~", temperature=2.0)) for s in range(4)]
    assert any("~" in text for text in texts)
    for text in texts:
        Pet.model_validate_json(text.replace("~", ""))


def test_additional_properties_are_as_asked(llm: LLM) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "boolean"}}}}}
    wide, closed = constrained(json=schema, temperature=1.5, max_tokens=80, disable_additional_properties=False), []
    assert any('"a"' not in completions(llm, wide.replace(seed=seed))[0].text for seed in range(6))
    for seed in range(6):
        asked = constrained(json=schema, temperature=1.5, seed=seed)
        closed.append(json.loads(text_of(llm, asked)))
    assert all(set(found) <= {"a"} and set(found.get("a", {})) <= {"b"} for found in closed)


def test_structural_tags_leave_text_free_and_bind_what_follows_a_trigger(llm: LLM) -> None:
    tag = {
        "structures": [{"begin": "<call>", "schema": SCHEMA, "end": "</call>"}],
        "triggers": ["<call"],
    }
    # The model does not know this tag: its tokens are pushed until it is written.
    tokenizer = llm.get_tokenizer()
    bias = {token: 40.0 for token in tokenizer.encode("<call", add_special_tokens=False)}
    found = 0
    for seed in range(5):
        (completion,) = completions(llm, constrained(structural_tag=tag, seed=seed, logit_bias=bias, max_tokens=120))
        for body in re.findall("<call>(.*?)</call>", completion.text, re.DOTALL):
            Pet.model_validate_json(body)
            found += 1
        assert "<call" not in re.sub("(?s)<call>(.*?)(</call>|$)", "", completion.text)
    free = completions(llm, constrained(structural_tag=tag, seed=1, max_tokens=20))[0]
    assert free.token_ids == completions(llm, SamplingParams(seed=1, max_tokens=20))[0].token_ids


def test_other_bans_hold_beside_the_grammar(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    (a,), (b,) = (tokenizer.encode(text, add_special_tokens=False)[-1:] for text in "ab")
    either = constrained(regex="[ab]{6}", seed=1, temperature=5.0)
    assert text_of(llm, either.replace(allowed_token_ids=[a])) == "aaaaaa"
    assert text_of(llm, either.replace(logit_bias={b: 100.0})) == "bbbbbb"
    assert "ab" not in text_of(llm, either.replace(bad_words_token_ids=[[a, b]], allowed_token_ids=[a, b]))
    pushed = constrained(regex="a*", min_tokens=5, allowed_token_ids=[a, 2, 6], logit_bias={2: 100.0})
    assert text_of(llm, pushed) == "aaaaa"
    (nothing,) = completions(llm, constrained(regex="a", allowed_token_ids=[b]))
    assert nothing.finish_reason == "error" and nothing.token_ids == []


def test_the_tokenizers_end_of_text_may_end_it_though_the_configs_name_another(tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    for name, value in (("config", {"eos_token_id": 2}), ("tokenizer_config", {"eos_token": "<|end|>"})):
        path = directory / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | value))
    for name in ("generation_config", "special_tokens_map"):
        (directory / f"{name}.json").unlink()
    with LLM(directory, device="cpu") as llm:
        assert llm.get_model_info().eos_token_ids == [2]
        (ended,) = completions(llm, constrained(regex="(ab)+", max_tokens=60, logit_bias={6: 100.0}))
    assert (ended.text, ended.finish_reason, ended.token_ids[-1]) == ("ab", "stop", 6)


def test_the_end_comes_where_the_grammar_allows_it_and_only_there(llm: LLM) -> None:
    (cut,) = completions(llm, constrained(regex="x{500}", max_tokens=20))
    assert cut.finish_reason == "length" and set(cut.text) == {"x"}
    eos = {2, 6}
    for completion in completions(llm, constrained(regex="(ab)+", n=8, seed=3, temperature=3.0, max_tokens=60)):
        assert re.fullmatch("(ab)+a?" if completion.finish_reason == "length" else "(ab)+", completion.text)
        assert not eos & set(completion.token_ids[:-1])


def test_a_stop_token_ends_a_text_where_the_grammar_allows_it_and_only_there(llm: LLM) -> None:
    (start,) = llm.get_tokenizer().encode("<|system|>", add_special_tokens=False)
    first = completions(llm, constrained(regex="[a-z]{6}", temperature=0))[0].token_ids[0]
    stops = [first, start]
    (whole,) = completions(llm, constrained(regex="[a-z]{6}", temperature=0, stop_token_ids=stops, ignore_eos=True))
    assert re.fullmatch("[a-z]{6}", whole.text) and first not in whole.token_ids
    (ended,) = completions(llm, constrained(regex="[a-z]{6,}", stop_token_ids=stops, logit_bias={start: 100.0}))
    assert len(ended.text) >= 6 and ended.stop_reason == start
    (at_once,) = completions(llm, constrained(regex="a*", stop_token_ids=[start], logit_bias={start: 100.0}))
    assert at_once.text == "" and at_once.stop_reason == start
    with pytest.raises(ValueError, match="stop_token_ids: token id 99999999"):
        completions(llm, constrained(regex="a", stop_token_ids=[99999999]))


def test_where_only_stop_tokens_could_follow_the_request_is_told_so(llm: LLM) -> None:
    a = llm.get_tokenizer().encode("a", add_special_tokens=False)
    with pytest.raises(ValueError, match="nothing but stop_token_ids can follow"):
        completions(llm, constrained(regex="a", stop_token_ids=a))


def test_a_vocabulary_that_is_padded(tmp_path: Path) -> None:
    """The model has more rows than the tokenizer has tokens: the rest are never drawn."""
    with LLM(write_checkpoint(tmp_path / "padded", tokenizer=True, vocab_size=3075), device="cpu") as llm:
        for completion in completions(
            llm, constrained(regex="[a-z ]{30}", n=4, seed=1, temperature=3.0, max_tokens=60)
        ):
            assert re.fullmatch("[a-z ]{30}", completion.text) and max(completion.token_ids) < 3072


# --- Neighbours -------------------------------------------------------------------------------------------------------

MIXED = [
    constrained(json=SCHEMA, seed=1, n=2),
    SamplingParams(seed=2, max_tokens=90, ignore_eos=True),
    constrained(regex="[a-z ]{40,80}", seed=3),
    SamplingParams(temperature=0, max_tokens=90, ignore_eos=True),
    constrained(choice=["left", "right"], seed=4),
    SamplingParams(seed=5, n=2, max_tokens=60, logprobs=1),
    constrained(json_object=True, seed=6, max_tokens=60),
]


def all_of(llm: LLM, together: bool) -> list[list[Any]]:
    prompts = [f"{PROMPT}, {i}" for i in range(len(MIXED))]
    if together:
        return [output.outputs for output in llm.generate(prompts, MIXED, use_tqdm=False)]
    return [llm.generate(p, s, use_tqdm=False)[0].outputs for p, s in zip(prompts, MIXED, strict=True)]


@pytest.fixture(scope="module")
def alone(llm: LLM) -> list[list[Any]]:
    return all_of(llm, together=False)


def test_neighbours_change_no_token(llm: LLM, alone: list[list[Any]]) -> None:
    for _ in range(3):
        assert all_of(llm, together=True) == alone


@pytest.mark.parametrize(
    "options",
    [
        {"num_gpu_blocks_override": 14, "preemption_mode": "recompute"},
        {"num_gpu_blocks_override": 14, "kv_offloading_size": 0.05, "preemption_mode": "swap"},
        {"max_steps_in_flight": 1, "enable_prefix_caching": False},
        {"max_num_seqs": 2, "max_num_batched_tokens": 16, "max_steps_in_flight": 3},
    ],
    ids=["recompute", "swap", "serial", "small steps"],
)
def test_how_the_engine_runs_changes_no_token(options: dict[str, Any], alone: list[list[Any]]) -> None:
    with LLM(device="cpu", block_size=16, max_model_len=200, admission_quantile=0.0, **options) as llm:
        for _ in range(2):
            assert all_of(llm, together=True) == alone
        if "num_gpu_blocks_override" in options:
            assert llm.get_metrics()["preemptions"] > 0


def test_a_silent_guide_ends_its_own_request_alone(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=200, ignore_eos=True)
    expected = completions(llm, params)
    with LLM(device="cpu", guide_timeout=0.3, max_num_seqs=2) as other:
        engine = other._session.engine
        outputs, guides = OutputQueue(), OutputQueue()
        mask = b"\xff" * (engine.model.vocab_size // 8)
        own = SamplingParams(max_tokens=9, ignore_eos=True)
        silent = engine.submit([5, 6], own, outputs, mask=mask, guide_queue=guides)
        assert completions(other, params) == expected  # while the other one waits
        finals = [output for output in wait_for_finals(outputs, 1) if output.finish]
        assert finals[0].id == silent and finals[0].finish == "error" and "guide_timeout" in finals[0].error
        told = wait_for_finals(guides, 1)
        assert [len(output.tokens) for output in told] == [1, 0] and told[-1].finish == "error"


def test_who_waits_for_a_guide_gives_way_when_there_is_nothing_else_to_run(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=20, ignore_eos=True)
    expected = completions(llm, params)
    with LLM(device="cpu", max_num_seqs=1) as other:
        engine = other._session.engine
        outputs, guides = OutputQueue(), OutputQueue()
        mask = b"\xff" * (engine.model.vocab_size // 8)
        held = engine.submit(
            [5, 6], SamplingParams(max_tokens=3, ignore_eos=True), outputs, mask=mask, guide_queue=guides
        )
        assert completions(other, params) == expected
        for position in (1, 2):
            wait_for_tokens(guides, 1)
            engine.guide([(held, 0, position, mask)])
        assert wait_for_finals(outputs, 1)[-1].finish == "length"


def wait_for_finals(queue: OutputQueue, count: int) -> list[Any]:
    outputs: list[Any] = []

    def ended() -> bool:
        outputs.extend(queue.poll())
        return sum(output.finish is not None for output in outputs) >= count

    until(ended)
    return outputs


def wait_for_tokens(queue: OutputQueue, count: int) -> None:
    seen: list[int] = []

    def came() -> bool:
        seen.extend(len(output.tokens) for output in queue.poll())
        return sum(seen) >= count

    until(came)


def test_a_guide_of_ones_own(llm: LLM) -> None:
    """The native interface: this one lets the text count up in tokens, then ends it; wrong answers have no effect."""
    engine = llm._session.engine
    outputs, guides = OutputQueue(), OutputQueue()

    def only(token: int) -> bytes:
        return (1 << token).to_bytes(engine.model.vocab_size // 8, "little")

    request = engine.submit([5], SamplingParams(max_tokens=50, n=2), outputs, mask=only(100), guide_queue=guides)
    heard: dict[int, list[int]] = {0: [], 1: []}
    while not all(len(tokens) == 10 for tokens in heard.values()):
        for output in guides.poll(5.0):
            tokens = heard[output.sample]
            tokens += output.tokens
            position = len(tokens)
            engine.guide([(request, output.sample, position - 1, None), (request, 7, position, None)])
            end = None if output.sample == 0 else "enough"
            answer: Any = only(100 + position) if position < 10 else end
            engine.guide([(request, output.sample, position, answer)])
    finals = {o.sample: o for o in wait_for_finals(outputs, 2) if o.finish}
    assert heard == {0: list(range(100, 110)), 1: list(range(100, 110))}
    assert (finals[0].finish, finals[1].finish, finals[1].error) == ("stop", "error", "enough")


@pytest.mark.parametrize(
    ("mask", "guided", "says"),
    [
        (b"\xff" * 8, True, "mask: 2 words"),
        (b"\xff" * 7, True, "32-bit words"),
        (bytes(384), True, "allows no token"),
        (b"\xff" * 384, False, "mask and guide"),
        (None, True, "mask and guide"),
    ],
)
def test_masks_that_make_no_sense_are_refused(llm: LLM, mask: Any, guided: bool, says: str) -> None:
    queue = OutputQueue()
    with pytest.raises(ValueError, match=says):
        llm._session.engine.submit(
            [5], SamplingParams(), OutputQueue(), mask=mask, guide_queue=queue if guided else None
        )


def test_a_mask_without_tokens_ends_its_sample(llm: LLM) -> None:
    engine = llm._session.engine
    outputs, guides = OutputQueue(), OutputQueue()
    request = engine.submit([5], SamplingParams(ignore_eos=True), outputs, mask=b"\xff" * 384, guide_queue=guides)
    wait_for_tokens(guides, 1)
    with pytest.raises(ValueError, match="mask: 1 words"):
        engine.guide([(request, 0, 1, b"\xff" * 4)])
    engine.guide([(request, 0, 1, bytes(384))])
    final = wait_for_finals(outputs, 1)[-1]
    assert final.finish == "error" and "allows no token at position 1" in final.error


# --- Bad grammars -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(llm: LLM) -> Any:
    return completions(llm, constrained(json=SCHEMA, seed=9))


@pytest.fixture
def canary(llm: LLM, expected: Any) -> Iterator[LLM]:
    """The model, and afterwards the proof that nothing happened to it."""
    yield llm
    assert completions(llm, constrained(json=SCHEMA, seed=9)) == expected
    metrics = llm.get_metrics()
    assert (metrics["running"], metrics["waiting"], metrics["kv_blocks_used"]) == (0, 0, 0)
    guides = llm._session._guides
    assert guides is not None
    until(lambda: guides.num_live == 0)


def refuse(llm: LLM, says: str, **fields: Any) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        completions(llm, constrained(max_tokens=4, **fields))
    assert len(str(caught.value)) < 600


def rule_chain(length: int) -> str:
    rules = [f'r{i}: "x" r{i + 1} "y"?' for i in range(length)]
    return "\n".join(["start: r0", *rules, f'r{length}: "a"'])


def reference_chain(length: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}, "required": ["a"]}
        for i in range(length)
    }
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{length}": {"type": "string"}}}


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ("start: (((", "Expected token"),
        ("start: foo", 'unknown name: "foo"'),
        ("", "no start rule"),
        ('root ::= "a', "grammar: "),
        ('start: a\na: a "x"', "no text satisfies it"),
        ('start: ""', "only the empty text"),
        ("start: <|no_such_token|>", "unknown special token"),
        ("start: <[99999]>", "Token range"),
        ("start: " + "(" * 60_000 + '"a"' + ")" * 60_000, "deeply nested"),
        ("root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000, "nests too deeply"),
        ("start: " + " | ".join(f'"c{i}"' for i in range(800_000)), "characters that are compiled"),
        ("root ::= " + " | ".join(f'"c{i}"' for i in range(40_000)), "bytes are more"),
        ("start: " + " | ".join(f'"c{i}"' for i in range(60_000)), "too big"),
        (rule_chain(20_000), "20002 rules are more"),
        ("start: %json " + json.dumps(reference_chain(5000)), "references"),
        ('start: "a"{1,2000000000}', "repetition"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_B17_grammars_that_cannot_be_compiled(canary: LLM, grammar: str, says: str) -> None:
    refuse(canary, says, grammar=grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: start "a" | "a"',
        'start: a\na: a a | "a" | "aa" | "aaa" | ',
        rule_chain(3900),
        "start: T0\n" + "\n".join(f'T{i}: "x" T{i + 1}' for i in range(3900)) + '\nT3900: "a"',
    ],
    ids=["left recursive", "ambiguous", "long chain", "long chain of terminals"],
)
def test_B17_strange_grammars_hurt_nobody(canary: LLM, grammar: str) -> None:
    (completion,) = completions(canary, constrained(grammar=grammar, max_tokens=8))
    assert completion.finish_reason in ("stop", "length", "error")


@pytest.mark.parametrize(
    "regex",
    [
        "(?<=x)*",
        "(?<=x)a",
        "a(?!b)",
        r"(a)\1",
        r"\p{NoSuchClass}",
        "a{1,2000000000}",
        "a{4294967296}",
        "(" * 60_000 + "a" + ")" * 60_000,
        "(",
        "[",
        "*",
        r"[^\s\S]",
        "",
        "\ud800",
        "a" * (2 << 20),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_B18_regexes_that_cannot_be_compiled(canary: LLM, regex: str) -> None:
    refuse(canary, {"\ud800": "surrogates", "a" * (2 << 20): "that are compiled"}.get(regex, "regex: "), regex=regex)


@pytest.mark.parametrize("regex", ["(a+)+b", "(a|a)*(a|b|ab)*c", "(a|b)*a(a|b){30}", "((a{1,1000}){1,1000}){1,1000}"])
def test_B18_no_regex_takes_exponential_time(canary: LLM, regex: str) -> None:
    completions(canary, constrained(regex=regex, max_tokens=60, seed=1))  # exponential would be years


PROPERTIES = {f"p{i}": {"type": "string"} for i in range(100_000)}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "https://example.com/schema.json"}, "does not fetch"),
        ({"$ref": "file:///etc/passwd"}, "does not fetch"),
        ({"$ref": "#/$defs/none"}, "json: "),
        ({"$ref": "#"}, "no text satisfies it"),
        ({"type": "object", "properties": PROPERTIES}, "40000 values"),
        ({"type": "object", "properties": dict(list(PROPERTIES.items())[:3001])}, "3001 properties"),
        ({"type": "object", "properties": PROPERTIES, "required": list(PROPERTIES)}, "40000 values"),
        ({"anyOf": [{"type": "object", "properties": {k: {}}} for k in list(PROPERTIES)[:8000]]}, "too big|too large"),
        ({"enum": list(range(10_001))}, "a list of 10001 entries"),
        ({"type": "string", "pattern": "("}, "regex parse error"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "a{2000000000}"}, "repetition"),
        ({"type": "widget"}, "Invalid type"),
        ({"type": 5}, "json: "),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "Unsatisfiable"),
        ({"type": "string", "minLength": 5, "maxLength": 1}, "Unsatisfiable"),
        (False, "a schema is an object"),
        ("{", "not JSON"),
        ("5", "a schema is an object"),
        ('{"type":"array","items":' * 20_000 + "{}" + "}" * 20_000, "not JSON"),
        ('{"type":"array","items":' * 110 + "{}" + "}" * 110, "nests more than"),
        (reference_chain(2900) | {"examples": [[[[[[[[]]]]]]]]}, "references"),
        ({"not": {"type": "string"}}, "cannot be enforced"),
        ({"type": "number", "minimum": float("nan")}, "JSON"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_B19_schemas_that_cannot_be_compiled(canary: LLM, schema: Any, says: str) -> None:
    refuse(canary, says, json=schema)


def test_B19_recursive_schemas_work(canary: LLM) -> None:
    tree = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}}, "required": ["v"]}
    (completion,) = completions(canary, constrained(json=tree, seed=1, disable_additional_properties=True))
    assert completion.finish_reason == "length" or "v" in json.loads(completion.text)
    completions(canary, constrained(json=reference_chain(2000), max_tokens=8))


def test_B20_a_dead_end_is_the_error_of_its_request_alone(canary: LLM) -> None:
    dead, alive = canary.generate(
        [PROMPT, PROMPT],
        [constrained(grammar='start: "a" b\nb: b "x"'), constrained(regex="[0-9]{9}", seed=1)],
        use_tqdm=False,
    )
    assert dead.outputs[0].finish_reason == "error" and dead.outputs[0].text == "a"
    assert dead.error is not None and "dead end after 1 tokens" in dead.error
    assert alive.outputs[0].finish_reason == "stop" and alive.error is None


def test_B20_reserved_tokens_are_never_drawn_within_a_grammar(canary: LLM) -> None:
    tokenizer = canary.get_tokenizer()
    special = {token for text in tokenizer.special_texts if (token := tokenizer.token_id(text)) is not None}
    pushed = constrained(regex="(.|\n){20,40}", seed=1, logit_bias=dict.fromkeys(special, 100.0))
    (completion,) = completions(canary, pushed)
    assert not special & set(completion.token_ids[:-1])
    assert completion.finish_reason == "stop" and 20 <= len(completion.text) <= 40


def test_B21_two_constraints_at_once(canary: LLM) -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        StructuredOutputsParams(regex="a", choice=["b"])
    with pytest.raises(ValueError, match="got json, json_object"):
        SamplingParams(structured_outputs={"json": {}, "json_object": True})
    with pytest.raises(ValueError, match="beam_width"):
        completions(canary, constrained(regex="a", beam_width=2, temperature=0))


def test_without_a_tokenizer_the_error_says_what_is_missing() -> None:
    with LLM(device="cpu", skip_tokenizer_init=True) as llm, pytest.raises(ValueError, match="needs a tokenizer"):
        completions(llm, constrained(regex="a"), {"prompt_token_ids": [5]})


# --- Coming and going -------------------------------------------------------------------------------------------------


def test_a_grammar_is_compiled_once(llm: LLM) -> None:
    params = constrained(regex="[ab]{3}(c|d)")
    llm.generate([PROMPT] * 4, params, use_tqdm=False)
    first = llm._session.native_params(params)
    assert first.grammar is llm._session.native_params(params.replace(seed=3)).grammar


def test_requests_that_are_cancelled_leave_nothing_behind(llm: LLM) -> None:
    for _ in range(3):
        stream = llm.stream([PROMPT] * 20, constrained(regex="[a-z ]{900}", max_tokens=600, n=2))
        for _ in range(30):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
    guides = llm._session._guides
    assert guides is not None
    until(lambda: guides.num_live == 0 and llm.get_metrics()["kv_blocks_used"] == 0)
    until(lambda: not guides.running)
    assert completions(llm, constrained(choice=["on"]))[0].text == "on"


def test_closing_ends_guided_requests_and_their_thread() -> None:
    llm = LLM(device="cpu")
    stream = llm.stream([PROMPT] * 3, constrained(regex="[a-z ]{900}", max_tokens=900))
    next(stream)
    llm.shutdown()
    guides = llm._session._guides
    assert guides is not None and guides.num_live == 0
    assert {output.outputs[0].finish_reason for output in stream if output.finished} == {"abort"}


def test_async_requests_are_guided_and_compiling_does_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One grammar is being compiled until all the others have been answered."""
    compile_, gate = Compiler._compile, threading.Event()

    def gated(self: Compiler, params: Any, trie: Any) -> Any:
        if params.regex == "y{4}":
            assert gate.wait(PATIENCE_S)
        return compile_(self, params, trie)

    monkeypatch.setattr(Compiler, "_compile", gated)

    async def main() -> None:
        async def one(params: SamplingParams) -> Any:
            return [output async for output in engine.generate(PROMPT, params)][-1].outputs[0]

        slow = asyncio.create_task(one(constrained(regex="y{4}")))
        for pet in await asyncio.gather(*(one(constrained(json=SCHEMA, seed=i)) for i in range(8))):
            Pet.model_validate_json(pet.text)
        with pytest.raises(ValueError, match="regex: "):
            await one(constrained(regex="("))
        stream = engine.generate(PROMPT, constrained(regex="[a-z]{800}", max_tokens=700), "mine")
        async with contextlib.aclosing(stream) as outputs:
            async for _ in outputs:
                break
        assert gate.is_set() or not slow.done()
        gate.set()
        assert (await slow).text == "yyyy"

    engine = AsyncLLM(device="cpu")
    try:
        asyncio.run(main())
        asyncio.run(main())
        guides = engine._session._guides
        assert guides is not None
        until(lambda: guides.num_live == 0 and engine.get_metrics()["kv_blocks_used"] == 0)
    finally:
        engine.shutdown()
