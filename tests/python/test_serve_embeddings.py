"""/v1/embeddings, by the official client."""

import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from api_server import KEY, MODEL, api_server

from warpjet import LLM, PoolingParams
from warpjet.serve.serving import Serving


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Serving]]:
    with api_server() as server:
        yield server


@pytest.fixture(scope="module")
def client(served: tuple[str, Serving]) -> openai.OpenAI:
    return openai.OpenAI(base_url=served[0] + "/v1", api_key=KEY, max_retries=0)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_every_text_has_a_vector(client: openai.OpenAI, llm: LLM) -> None:
    texts = ["A dog barks.", "A dog barks.", "The sum is seven."]
    answer = client.embeddings.create(model=MODEL, input=texts)  # the client asks for base64
    vectors = [item.embedding for item in answer.data]
    width = llm.get_model_info().hidden_size
    assert [item.index for item in answer.data] == [0, 1, 2] and {len(vector) for vector in vectors} == {width}
    assert vectors[0] == vectors[1] and cosine(vectors[0], vectors[2]) < 0.9999
    assert answer.usage.prompt_tokens == sum(len(llm.get_tokenizer().encode(text)) for text in texts)


def test_both_encodings_tell_the_same(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=MODEL, input="A dog barks.").data[0].embedding
    plain = client.embeddings.create(model=MODEL, input="A dog barks.", encoding_format="float").data[0].embedding
    assert plain == pytest.approx(packed, rel=1e-6)


def test_token_ids_are_as_good_as_their_text(client: openai.OpenAI, llm: LLM) -> None:
    ids = llm.get_tokenizer().encode("A dog barks.")
    text = client.embeddings.create(model=MODEL, input="A dog barks.").data[0].embedding
    assert client.embeddings.create(model=MODEL, input=ids).data[0].embedding == text
    assert client.embeddings.create(model=MODEL, input=[ids, [5, 6]]).data[0].embedding == text


def test_the_mean_is_another_vector(client: openai.OpenAI) -> None:
    last, mean = (
        client.embeddings.create(model=MODEL, input="A dog barks.", extra_body={"pooling": pooling}).data[0].embedding
        for pooling in ("last", "mean")
    )
    assert len(last) == len(mean) and last != mean


def test_dimensions_are_honoured_as_in_python(client: openai.OpenAI, llm: LLM) -> None:
    short = client.embeddings.create(model=MODEL, input="A dog barks.", dimensions=8).data[0].embedding
    expected = llm.embed(["A dog barks."], pooling_params=PoolingParams(dimensions=8), use_tqdm=False)[
        0
    ].outputs.embedding
    assert short == pytest.approx(expected, abs=1e-6) and len(short) == 8
    assert math.hypot(*short) == pytest.approx(1, rel=1e-4)


def test_vectors_have_a_length_of_one_unless_asked_otherwise(client: openai.OpenAI) -> None:
    one = client.embeddings.create(model=MODEL, input="A dog barks.").data[0].embedding
    raw = client.embeddings.create(model=MODEL, input="A dog barks.", extra_body={"normalize": False}).data[0].embedding
    assert math.hypot(*one) == pytest.approx(1, rel=1e-4) and math.hypot(*raw) != pytest.approx(1, rel=1e-2)
    assert cosine(one, raw) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 2000}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 1 << 20}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "pooling": "max"}, "pooling"),
    ],
)
def test_what_is_wrong_is_named(served: tuple[str, Serving], body: dict[str, Any], param: str) -> None:
    answer = httpx.post(served[0] + "/v1/embeddings", json=body, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize("given", [[10**9], [-1], "word " * 5000])
def test_inputs_that_the_model_cannot_read_are_refused(served: tuple[str, Serving], given: Any) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(served[0] + "/v1/embeddings", json={"input": ["fine", given]}, headers=headers)
    assert answer.status_code == 400, answer.text
