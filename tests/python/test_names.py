"""What a user of another engine types: names, forms and keywords, and what an editor knows of them."""

import dataclasses
import inspect
import pickle
import typing
from typing import Any

import pytest

import warpjet
from warpjet import LLM, AsyncEngineArgs, AsyncLLM, EngineArgs, EngineConfig, SamplingParams, TextPrompt, TokensPrompt
from warpjet._native import PoolingParams, SimConfig
from warpjet.common.flags import advice, flag_of, spell_out
from warpjet.common.foreign import FOREIGN, Foreign, check_sampling, rows
from warpjet.requests.arguments import engine_config, fixed_names
from warpjet.requests.engine_options import EngineOptions, OtherOptions
from warpjet.serve.flags import plan
from warpjet.serve.http.errors import ServeError
from warpjet.serve.http.schema import Schema
from warpjet.serve.openai.fields import COMMON_FIELDS, SAMPLING_FIELDS
from warpjet.serve.settings import Settings


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(max_model_len=256, max_num_seqs=4)


def test_prompts_may_be_typed_dicts(llm: LLM) -> None:
    params = SamplingParams(max_tokens=4, temperature=0)
    ids = llm.generate("Once upon", params)[0].prompt_token_ids
    outputs = llm.generate([TextPrompt(prompt="Once upon"), TokensPrompt(prompt_token_ids=ids or [])], params)
    assert outputs[0].outputs[0].token_ids == outputs[1].outputs[0].token_ids


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("GuidedDecodingParams", "StructuredOutputsParams"),
        ("AsyncLLMEngine", "AsyncLLM"),
        ("LLMEngine", "it is LLM here"),
        ("KvCacheConfig", "kv_cache_memory_bytes"),
        ("sampling_params", "from warpjet"),
        ("Nonsense", "no attribute 'Nonsense'"),
    ],
)
def test_names_of_other_engines_say_what_is_here(name: str, says: str) -> None:
    with pytest.raises(AttributeError, match=says):
        getattr(warpjet, name)


def test_an_editor_knows_every_keyword() -> None:
    native = {field.name for field in EngineConfig.__fields__}
    types = {name: str(kind) for name, kind in EngineOptions.__annotations__.items()}
    texts = {"hf_overrides": "collections.abc.Mapping[str, typing.Any] | str | None"}  # JSON, which may be an object
    assert types == {field.name: f"{field.type} | None" for field in EngineConfig.__fields__} | texts
    assert set(typing.get_type_hints(OtherOptions)) == native | set(fixed_names())


def test_engine_args_are_the_keywords_that_both_constructors_take() -> None:
    own = set(typing.get_type_hints(EngineArgs)) - set(typing.get_type_hints(OtherOptions))
    for kind in (LLM, AsyncLLM):
        assert own <= set(inspect.signature(kind).parameters), kind
    assert own | {"options"} == set(inspect.signature(AsyncLLM).parameters)


def test_engines_are_made_from_engine_args() -> None:
    arguments = AsyncEngineArgs(max_model_len=64, max_num_seqs=2, enforce_eager=True, tensor_parallel_size=1)
    for kind in (LLM, AsyncLLM):
        engine = kind.from_engine_args(arguments)
        assert engine.get_model_info().max_model_len == 64
        engine.shutdown()
    with pytest.raises(TypeError, match="max_model_length"):
        AsyncLLM.from_engine_args({"max_model_length": 64})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(NotImplementedError, match="one device runs the whole model"):
        AsyncLLM.from_engine_args(EngineArgs(tensor_parallel_size=2))
    with pytest.raises(TypeError, match="must be a mapping"):
        AsyncLLM.from_engine_args("a model")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["encode", "score", "classify", "reward"])
def test_methods_of_other_engines_are_refused_with_the_nearest(llm: LLM, name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{name}\\(\\) is not supported: "):
        getattr(llm, name)("a", "b")


def test_an_llm_shows_what_it_is_and_is_not_pickled(llm: LLM) -> None:
    assert "models/tiny" in repr(llm) and "device='cpu'" in repr(llm) and "max_model_len=256" in repr(llm)
    with pytest.raises(TypeError, match="open it in the worker"):
        pickle.dumps(llm)


# --- One table of other engines' names -------------------------------------------------------------------------------

NOTHING = "no such value"
OURS = {
    "option": {field.name for field in EngineConfig.__fields__} | {"model", "tokenizer"},
    "server": {field.name for field in dataclasses.fields(Settings)},
    "sampling": {field.name for field in SamplingParams.__fields__},
    "body": set(),
    "command": set(),
}
BODY = Schema("Body", [*SAMPLING_FIELDS, *COMMON_FIELDS])


def named(*where: str) -> list[Any]:
    return [pytest.param(row, id=f"{row.where}-{row.name}") for row in FOREIGN if row.where in where]


@pytest.mark.parametrize("row", named("option", "server", "sampling", "body", "command"))
def test_a_foreign_name_leads_to_a_name_of_ours_or_to_advice(row: Foreign) -> None:
    assert row.ours or row.advice
    fixed = {name for name, other in rows(row.where).items() if not other.is_alias}
    assert not row.ours or row.ours in OURS[row.where] | fixed
    assert row.name not in {field.name for field in EngineConfig.__fields__ + SamplingParams.__fields__}
    assert not (row.is_alias and row.accepted)


def test_a_foreign_name_has_one_row_for_each_use() -> None:
    for where in OURS:
        names = [row.name for row in FOREIGN if row.where == where]
        assert len(names) == len(set(names))
    assert not rows("option").keys() & rows("server").keys() and not rows("sampling").keys() & rows("body").keys()


@pytest.mark.parametrize("row", named("option"))
def test_keywords_flags_and_files_say_the_same_of_an_engine_s_option(row: Foreign) -> None:
    with pytest.raises((TypeError, NotImplementedError)) as refused:
        engine_config({row.name: NOTHING})
    assert str(refused.value).endswith(row.answer())
    if row.name in OURS["server"]:
        return  # a setting of the server's as well
    for spelled in (row.name, row.name.replace("_", "-")):
        try:
            notices = plan({spelled: NOTHING}).notices
        except (TypeError, ValueError, NotImplementedError) as error:
            assert str(error).endswith(row.answer()) or (row.is_alias and row.ours in str(error))
        else:
            assert notices == (f"{flag_of(row.name)} is {flag_of(row.ours)} here",)


@pytest.mark.parametrize("row", [*named("option"), *named("sampling")])
def test_accepted_values_change_nothing(row: Foreign) -> None:
    for value in (None, *row.accepted):
        if row.where == "option" and not row.is_alias:
            assert engine_config({row.name: value}) == EngineConfig()
        elif row.where == "sampling":
            assert SamplingParams(**{row.name: value}) == SamplingParams()


@pytest.mark.parametrize("row", named("server"))
def test_flags_and_files_say_the_same_of_a_server_s_option(row: Foreign) -> None:
    for spelled in (row.name, row.name.replace("_", "-")):
        try:
            assert plan({spelled: NOTHING}).notices == (f"{flag_of(row.name)} is {flag_of(row.ours)} here",)
        except (TypeError, ValueError, NotImplementedError) as error:
            assert str(error).endswith(row.answer()) or (row.is_alias and row.ours in str(error))


@pytest.mark.parametrize("row", named("sampling"))
def test_keywords_flags_and_bodies_say_the_same_of_sampling(row: Foreign) -> None:
    for make in (lambda: SamplingParams(**{row.name: NOTHING}), lambda: SamplingParams.from_dict({row.name: NOTHING})):
        with pytest.raises(NotImplementedError) as refused:
            make()
        assert str(refused.value) == f"{row.name} is not supported; {row.answer()}"
    if row.is_alias:
        assert spell_out([flag_of(row.name)], sampling=True) == [flag_of(row.ours)]
    else:
        assert advice(flag_of(row.name), [], {}) == f"; {row.answer()}"
    if row.name in BODY.fields and BODY.fields[row.name].only is None:
        return  # a member of OpenAI's API, or of vLLM's, with a meaning here
    with pytest.raises(ServeError) as bad:
        BODY.parse({row.name: NOTHING}, strict=True)
    assert str(bad.value).endswith(row.answer()) or row.ours not in BODY.fields


def test_a_name_that_nobody_knows_is_not_foreign() -> None:
    assert not check_sampling("temprature", 1)
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        SamplingParams(temprature=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("config", [SamplingParams, PoolingParams, EngineConfig, SimConfig])
def test_every_range_is_the_one_that_is_checked(config: Any) -> None:
    """Of numbers; test_serve_fields.py does the same for the document of the server."""
    checked = 0
    for field in config.__fields__:
        low, shape = field.shape.get("minimum"), field.shape
        if field.type.removesuffix(" | None") not in ("int", "float") or not (field.takes or low is not None):
            continue
        step = 1 if field.type.startswith("int") else 1e-6
        beyond = [
            *([low - step] if low is not None else []),
            *([shape["maximum"] + step] if "maximum" in shape else []),
        ]
        beyond += [shape["exclusiveMinimum"]] if "exclusiveMinimum" in shape else [15, 33] if "enum" in shape else []
        assert beyond, field.name
        for value in beyond:
            with pytest.raises((ValueError, TypeError), match=field.name):
                config(**{field.name: value})
            checked += 1
    assert checked > 0
