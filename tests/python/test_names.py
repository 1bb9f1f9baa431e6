"""What a user of another engine types: names, forms and keywords, and what an editor knows of them."""

import inspect
import pickle
import typing

import pytest

import warpjet
from warpjet import LLM, AsyncEngineArgs, AsyncLLM, EngineArgs, EngineConfig, SamplingParams, TextPrompt, TokensPrompt
from warpjet.requests.arguments import fixed_names
from warpjet.requests.engine_options import EngineOptions, OtherOptions


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
    native = {row[0] for row in EngineConfig.__fields__}
    types = {name: str(kind) for name, kind in EngineOptions.__annotations__.items()}
    texts = {"hf_overrides": "collections.abc.Mapping[str, typing.Any] | str | None"}  # JSON, which may be an object
    assert types == {row[0]: f"{row[1]} | None" for row in EngineConfig.__fields__} | texts
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
