"""Every field of SamplingParams against an independent computation, or against what its documentation promises."""

import ast
import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference

import warpjet
from warpjet import (
    LLM,
    BuildConfig,
    CompletionOutput,
    EngineConfig,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
)
from warpjet._native import PoolingParams, SimConfig

PROMPT = [1, 5, 9, 5, 33, 60, 7]
SEED = 7
# Two logits closer than this may come in either order: ours are fp32, the reference's fp64.
TIE = 1e-3


@pytest.fixture(scope="module")
def small(random_checkpoint: Path) -> Iterator[LLM]:
    """97 tokens, fp32, no tokenizer; all log-probabilities on request."""
    with LLM(random_checkpoint, skip_tokenizer_init=True, max_logprobs=-1, generation_config="warpjet") as model:
        yield model


@pytest.fixture(scope="module")
def llama() -> reference.Llama:
    return reference.Llama()


def run(model: LLM, prompt: Any = PROMPT, **fields: Any) -> RequestOutput:
    return model.generate(prompt, SamplingParams(**fields), use_tqdm=False)[0]


def first(output: RequestOutput) -> CompletionOutput:
    return output.outputs[0]


def assert_follows_reference(
    llama: reference.Llama, params: SamplingParams, output: RequestOutput, banned: tuple[int, ...] = ()
) -> None:
    """Each token of each completion has the best score, given the tokens before it."""
    assert len(output.outputs) == params.n
    for completion in output.outputs:
        logits = llama.logits([*PROMPT, *completion.token_ids])
        for i, token in enumerate(completion.token_ids):
            before = completion.token_ids[:i]
            row = reference.penalized(logits[len(PROMPT) - 1 + i], params, PROMPT, before)
            if i < params.min_tokens:
                row[list(banned)] = -np.inf
            score = reference.scores(row, params, params.seed or 0, completion.index, len(PROMPT) + i)
            assert score[token] >= score.max() - TIE, (i, token, int(score.argmax()), params)


def test_logits_match(small: LLM, llama: reference.Llama) -> None:
    output = run(small, temperature=0, max_tokens=8, ignore_eos=True, logprobs=-1, prompt_logprobs=-1)
    tokens = [*PROMPT, *first(output).token_ids]
    expected = reference.log_softmax(llama.logits(tokens))
    assert output.prompt_logprobs is not None and output.prompt_logprobs[0] is None
    assert first(output).logprobs is not None
    rows = [*output.prompt_logprobs[1:], *first(output).logprobs]
    ours = np.array([[row[token].logprob for token in range(97)] for row in rows])
    assert np.linalg.norm(ours - expected[: len(rows)]) / np.linalg.norm(expected[: len(rows)]) < 1e-5


CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature_low": {"temperature": 0.3},
    "temperature_one": {"temperature": 1.0},
    "temperature_high": {"temperature": 3.0},
    "top_k": {"temperature": 2.0, "top_k": 3},
    "top_k_off": {"temperature": 2.0, "top_k": -1},
    "top_p": {"temperature": 2.0, "top_p": 0.4},
    "top_p_tiny": {"temperature": 2.0, "top_p": 1e-6},
    "min_p": {"temperature": 2.0, "min_p": 0.2},
    "all_cuts": {"temperature": 2.0, "min_p": 0.02, "top_k": 12, "top_p": 0.7},
    "repetition_penalty": {"temperature": 0.8, "repetition_penalty": 1.7},
    "repetition_reward": {"temperature": 0, "repetition_penalty": 0.5},
    "presence_penalty": {"temperature": 0, "presence_penalty": 2.0},
    "presence_reward": {"temperature": 0, "presence_penalty": -2.0},
    "frequency_penalty": {"temperature": 0, "frequency_penalty": 1.5},
    "all_penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.7},
    "logit_bias": {"temperature": 0, "logit_bias": {3: 6.0, 4: 5.5, 60: -100.0}},
    "allowed_token_ids": {"temperature": 1.5, "allowed_token_ids": [3, 10, 50, 96]},
    "bad_word": {"temperature": 0, "bad_words_token_ids": [[t] for t in range(0, 97, 2)]},
    "seed_negative": {"seed": -(2**63)},
    "seed_large": {"seed": 2**63 - 1},
    "n": {"n": 4},
    "together": {"n": 2, "temperature": 1.3, "top_k": 20, "repetition_penalty": 1.3, "logit_bias": {8: 3.0}},
}


@pytest.mark.parametrize("name", CASES)
def test_tokens_follow_the_documented_steps(name: str, small: LLM, llama: reference.Llama) -> None:
    params = SamplingParams(**{"seed": SEED, "max_tokens": 16, "ignore_eos": True} | CASES[name])
    output = small.generate(PROMPT, params, use_tqdm=False)[0]
    assert all(len(completion.token_ids) == 16 for completion in output.outputs)
    assert_follows_reference(llama, params, output)


def test_a_bad_sequence_bans_only_its_last_token(small: LLM, llama: reference.Llama) -> None:
    free = first(run(small, temperature=0, max_tokens=6, ignore_eos=True)).token_ids
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, bad_words_token_ids=[free[1:4]])
    output = small.generate(PROMPT, params, use_tqdm=False)[0]
    assert first(output).token_ids[:3] == free[:3]
    assert first(output).token_ids[3] != free[3]
    assert_follows_reference(llama, params, output)


def test_a_bad_sequence_may_begin_in_the_prompt(small: LLM) -> None:
    free = first(run(small, temperature=0, max_tokens=1)).token_ids
    banned = run(small, temperature=0, max_tokens=1, bad_words_token_ids=[[PROMPT[-1], free[0]]])
    assert first(banned).token_ids != free


def test_logprobs_are_read_before_anything_changes_the_logits(small: LLM, llama: reference.Llama) -> None:
    output = run(small, seed=SEED, max_tokens=5, ignore_eos=True, logprobs=4, temperature=0.5, logit_bias={3: 9.0})
    completion = first(output)
    assert completion.logprobs is not None
    rows = reference.log_softmax(llama.logits([*PROMPT, *completion.token_ids]))
    for i, entries in enumerate(completion.logprobs):
        row, token = rows[len(PROMPT) - 1 + i], completion.token_ids[i]
        top = sorted(range(97), key=lambda t: (-row[t], t))[:4]
        assert set(entries) == {token, *top}
        for entry_token, entry in entries.items():
            assert entry.logprob == pytest.approx(row[entry_token], abs=1e-4)
            assert entry.rank == 1 + int((row > row[entry_token]).sum())
    total = sum(
        entries[token].logprob for entries, token in zip(completion.logprobs, completion.token_ids, strict=True)
    )
    assert completion.cumulative_logprob == pytest.approx(total)


def test_logprobs_zero_gives_the_token_alone(small: LLM) -> None:
    completion = first(run(small, seed=SEED, max_tokens=4, logprobs=0))
    assert completion.logprobs is not None
    assert [list(entries) for entries in completion.logprobs] == [[token] for token in completion.token_ids]


def test_without_logprobs_there_are_none(small: LLM) -> None:
    output = run(small, max_tokens=2)
    assert first(output).logprobs is None and first(output).cumulative_logprob is None
    assert output.prompt_logprobs is None


def test_prompt_logprobs_come_with_a_cached_prefix_too(small: LLM) -> None:
    prompt = list(range(3, 90)) * 1
    fresh = run(small, prompt, temperature=0, max_tokens=1, prompt_logprobs=2)
    again = run(small, prompt, temperature=0, max_tokens=1, prompt_logprobs=2)
    assert fresh.prompt_logprobs == again.prompt_logprobs
    assert len(again.prompt_logprobs or ()) == len(prompt)


def test_max_tokens_ends_with_length(small: LLM) -> None:
    completion = first(run(small, temperature=0, max_tokens=3, ignore_eos=True))
    assert (len(completion.token_ids), completion.finish_reason, completion.stop_reason) == (3, "length", None)


def test_max_tokens_zero_scores_the_prompt(small: LLM) -> None:
    scored = run(small, max_tokens=0, prompt_logprobs=3)
    assert first(scored).token_ids == [] and scored.finished
    assert scored.prompt_logprobs == run(small, max_tokens=1, prompt_logprobs=3).prompt_logprobs


def test_max_tokens_none_goes_to_the_context(small: LLM) -> None:
    completion = first(run(small, temperature=0, max_tokens=None, ignore_eos=True))
    assert (len(PROMPT) + len(completion.token_ids), completion.finish_reason) == (128, "length")


def test_a_stop_token_ends_and_is_named(small: LLM) -> None:
    free = first(run(small, temperature=0, max_tokens=8, ignore_eos=True)).token_ids
    stopper = free[3]
    completion = first(run(small, temperature=0, max_tokens=8, ignore_eos=True, stop_token_ids=[stopper]))
    assert completion.token_ids == free[: free.index(stopper) + 1]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stopper)


def test_end_of_sequence_ends_without_a_reason(small: LLM) -> None:
    completion = first(run(small, temperature=0, max_tokens=8, logit_bias={2: 100}))
    assert (completion.token_ids, completion.finish_reason, completion.stop_reason) == ([2], "stop", None)


def test_ignore_eos_goes_on(small: LLM) -> None:
    completion = first(run(small, temperature=0, max_tokens=3, logit_bias={2: 100}, ignore_eos=True))
    assert (completion.token_ids, completion.finish_reason) == ([2, 2, 2], "length")


def test_min_tokens_bans_the_end_until_then(small: LLM, llama: reference.Llama) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "min_tokens": 4, "logit_bias": {2: 100, 3: 99}}
    output = run(small, **fields, stop_token_ids=[3])
    assert first(output).token_ids[4:] == [2]
    assert_follows_reference(llama, SamplingParams(**fields), output, banned=(2, 3))


def test_n_completions_differ_and_are_each_reproducible(small: LLM) -> None:
    both = run(small, n=3, seed=SEED, max_tokens=12, ignore_eos=True)
    assert [completion.index for completion in both.outputs] == [0, 1, 2]
    assert len({tuple(completion.token_ids) for completion in both.outputs}) == 3
    alone = run(small, n=1, seed=SEED, max_tokens=12, ignore_eos=True)
    assert first(alone).token_ids == both.outputs[0].token_ids


def test_n_greedy_completions_are_equal(small: LLM) -> None:
    output = run(small, n=3, temperature=0, max_tokens=5)
    assert len({tuple(completion.token_ids) for completion in output.outputs}) == 1


def test_seeds_decide(small: LLM) -> None:
    runs = [tuple(first(run(small, seed=s, max_tokens=12, ignore_eos=True)).token_ids) for s in (1, 2, 1)]
    assert runs[0] == runs[2] != runs[1]


def test_without_a_seed_requests_differ(small: LLM) -> None:
    outputs = small.generate([PROMPT] * 3, SamplingParams(max_tokens=12, ignore_eos=True), use_tqdm=False)
    assert len({tuple(first(output).token_ids) for output in outputs}) == 3


def test_skip_reading_prefix_cache_computes_anew(small: LLM) -> None:
    prompt = [(7 * i) % 97 for i in range(100)]
    run(small, prompt, temperature=0, max_tokens=1)
    assert run(small, prompt, temperature=0, max_tokens=1).num_cached_tokens > 0
    assert run(small, prompt, temperature=0, max_tokens=1, skip_reading_prefix_cache=True).num_cached_tokens == 0


# --- Fields about text ------------------------------------------------------------------------------------------------


STORY = "Once upon a time"


def text_of(llm: LLM, **fields: Any) -> CompletionOutput:
    return first(run(llm, STORY, **{"temperature": 0, "max_tokens": 32} | fields))


def test_stop_string_is_cut_off(llm: LLM) -> None:
    free = text_of(llm).text
    stop = free[17:22]  # within words, over token boundaries
    completion = text_of(llm, stop=[stop, "never there"])
    assert completion.text == free[: free.index(stop)]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", stop)
    tokens = llm.get_tokenizer().decode(completion.token_ids)
    assert stop in tokens and stop not in llm.get_tokenizer().decode(completion.token_ids[:-1])


def test_stop_string_is_kept_on_request(llm: LLM) -> None:
    free = text_of(llm).text
    stop = free[17:22]
    completion = text_of(llm, stop=stop, include_stop_str_in_output=True)
    assert completion.text == free[: free.index(stop) + len(stop)]


def test_stop_string_waits_for_min_tokens(llm: LLM) -> None:
    free = text_of(llm).text
    letter = free[3]
    completion = text_of(llm, stop=letter, min_tokens=12)
    assert len(completion.token_ids) > 12
    early = llm.get_tokenizer().decode(completion.token_ids[:12])
    assert completion.text == early + free[len(early) :].split(letter)[0]


def test_stop_string_of_one_completion_leaves_the_others(llm: LLM) -> None:
    plain = run(llm, STORY, n=3, seed=SEED, max_tokens=24)
    word = plain.outputs[1].text[20:30]
    stopped = run(llm, STORY, n=3, seed=SEED, max_tokens=24, stop=word)
    for before, after in zip(plain.outputs, stopped.outputs, strict=True):
        assert after.text == before.text.split(word)[0]


def test_stop_token_is_text_only_on_request(llm: LLM) -> None:
    free = text_of(llm)
    token = free.token_ids[5]
    at = free.token_ids.index(token)
    decode = llm.get_tokenizer().decode
    assert text_of(llm, stop_token_ids=[token]).text == decode(free.token_ids[:at])
    kept = text_of(llm, stop_token_ids=[token], include_stop_str_in_output=True)
    assert kept.text == decode(free.token_ids[: at + 1])
    assert kept.token_ids == free.token_ids[: at + 1]


def test_detokenize_false_gives_ids_alone(llm: LLM) -> None:
    completion = text_of(llm, detokenize=False, logprobs=1)
    assert completion.text == "" and completion.token_ids == text_of(llm).token_ids
    assert completion.logprobs is not None
    assert all(entry.decoded_token is None for entries in completion.logprobs for entry in entries.values())


def test_skip_special_tokens(llm: LLM) -> None:
    user = llm.get_tokenizer().token_id("<|user|>")
    fields: dict[str, Any] = {"max_tokens": 2, "logit_bias": {user: 100}}
    assert text_of(llm, **fields).text == ""
    assert text_of(llm, **fields, skip_special_tokens=False).text == "<|user|><|user|>"


def test_spaces_between_special_tokens_supports_only_true() -> None:
    with pytest.raises(NotImplementedError, match="spaces_between_special_tokens"):
        SamplingParams(spaces_between_special_tokens=False)


def test_bad_words_never_appear(llm: LLM) -> None:
    free = text_of(llm).text
    words = [word for word in free.replace(",", " ").replace(".", " ").split() if len(word) > 3][:4]
    text = text_of(llm, bad_words=words).text
    tokens = llm.get_tokenizer()
    for word in words:
        for form in (word, " " + word):
            ids = tokens.encode(form, add_special_tokens=False)
            out = text_of(llm, bad_words=words).token_ids
            assert not any(out[i : i + len(ids)] == ids for i in range(len(out)))
    assert text != free


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_output_kind_of_a_stream(kind: RequestOutputKind, llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=20, output_kind=kind, logprobs=0)
    expected = text_of(llm, max_tokens=20)
    seen = [first(output) for output in llm.stream(STORY, params)]
    if kind is RequestOutputKind.DELTA:
        assert "".join(c.text for c in seen) == expected.text
        assert [t for c in seen for t in c.token_ids] == expected.token_ids
        assert all(len(c.logprobs or ()) == len(c.token_ids) for c in seen)
    else:
        assert (seen[-1].text, seen[-1].token_ids) == (expected.text, expected.token_ids)
        assert all(seen[-1].text.startswith(c.text) for c in seen)
    assert len(seen) == 1 if kind is RequestOutputKind.FINAL_ONLY else len(seen) > 1
    assert [c.finish_reason for c in seen] == [None] * (len(seen) - 1) + ["length"]


# --- The object -------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_vllm() -> None:
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k, params.min_p) == (1, 1.0, 1.0, 0, 0.0)
    assert (params.max_tokens, params.min_tokens, params.seed, params.logprobs) == (16, 0, None, None)
    assert (params.stop, params.detokenize, params.output_kind) == ((), True, RequestOutputKind.CUMULATIVE)
    assert repr(params) == "SamplingParams()"


def test_the_stub_knows_every_field() -> None:
    stub = ast.parse((Path(warpjet.__file__).parent / "_native.pyi").read_text())
    for config in (SamplingParams, PoolingParams, EngineConfig, BuildConfig, SimConfig):
        class_of = next(n for n in stub.body if isinstance(n, ast.ClassDef) and n.name == config.__name__)
        init = next(n for n in class_of.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        names = [field.name for field in config.__fields__]
        assert [argument.arg for argument in init.args.kwonlyargs] == names
        # Of a property, the getter comes first and has the documentation.
        getters = {n.name: ast.get_docstring(n) for n in reversed(class_of.body) if isinstance(n, ast.FunctionDef)}
        for name in names:
            assert (getters[name] or "").split() == getattr(config, name).__doc__.split(), name


def test_copies_are_equal_and_independent() -> None:
    params = SamplingParams(
        temperature=0.5, stop=["a", "b"], logit_bias={3: 1.5}, bad_words_token_ids=[[1, 2]], seed=-1
    )
    for twin in (copy.copy(params), copy.deepcopy(params), pickle.loads(pickle.dumps(params)), params.replace()):
        assert twin == params
        twin.temperature = 0.7
        assert params.temperature == 0.5 and twin != params
    assert SamplingParams.from_dict(params.to_dict()) == params
    assert eval(repr(params)) == params


def test_an_invalid_assignment_changes_nothing() -> None:
    params = SamplingParams(temperature=0.5)
    with pytest.raises(ValueError, match="temperature"):
        params.temperature = -1
    assert params.temperature == 0.5


def test_containers_cannot_be_changed_unnoticed() -> None:
    params = SamplingParams(stop="a", logit_bias={1: 1.0})
    with pytest.raises(AttributeError):
        params.stop.append("b")  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        params.logit_bias[2] = 1.0  # type: ignore[index]
