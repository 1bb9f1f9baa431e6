"""Text Generation Inference's API, by Hugging Face's client and as it is written."""

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_server import KEY, MODEL, api_server, becomes_idle
from waiting import PATIENCE_S

from warpjet import LLM, SamplingParams
from warpjet.serve.serving import Serving

STORY = "Once upon a time"
GREEDY = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Serving]]:
    with api_server() as server:
        yield server


@pytest.fixture(scope="module")
def http(served: tuple[str, Serving]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0], headers={"authorization": f"Bearer {KEY}"}, timeout=PATIENCE_S) as client:
        yield client


def generate(http: httpx.Client, path: str = "/generate", inputs: str = STORY, **parameters: Any) -> Any:
    body = {"inputs": inputs, "parameters": {"max_new_tokens": 12, **parameters}}
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(http: httpx.Client, path: str = "/generate_stream", **body: Any) -> list[dict[str, Any]]:
    answer = http.post(path, json={"inputs": STORY, "parameters": {"max_new_tokens": 12}, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data:")) for line in answer.text.splitlines() if line]


def test_greedy_unless_something_shapes_the_choice(http: httpx.Client, llm: LLM) -> None:
    text = llm.generate(STORY, GREEDY, use_tqdm=False)[0].outputs[0].text
    assert generate(http) == {"generated_text": text}
    assert generate(http, do_sample=False, temperature=1.0) == {"generated_text": text}
    sampled = [generate(http, temperature=1.5, seed=seed)["generated_text"] for seed in (1, 1, 2, 3)]
    assert sampled[0] == sampled[1] and len(set(sampled)) > 1


def test_details_tell_of_each_token(http: httpx.Client) -> None:
    answer = generate(http, details=True, decoder_input_details=True, top_n_tokens=2)
    details = answer["details"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 12, None)
    assert len(details["tokens"]) == 12 and "".join(t["text"] for t in details["tokens"]) == answer["generated_text"]
    assert all(t["logprob"] <= 0 and t["special"] is False for t in details["tokens"])
    assert [len(top) for top in details["top_tokens"]] == [2] * 12
    assert [top[0]["id"] for top in details["top_tokens"]] == [t["id"] for t in details["tokens"]]  # it is greedy
    prefill = details["prefill"]
    assert prefill[0]["logprob"] is None and all(t["logprob"] <= 0 for t in prefill[1:])
    assert details["input_length"] == len(prefill)


def test_a_stream_tells_the_same_token_by_token(http: httpx.Client) -> None:
    whole = generate(http, details=True)
    told = events(http)
    assert [event["index"] for event in told] == list(range(1, 13))
    assert [event["token"] for event in told] == whole["details"]["tokens"]
    assert all(event["generated_text"] is event["details"] is None for event in told[:-1])
    assert told[-1]["generated_text"] == whole["generated_text"]
    assert told[-1]["details"]["finish_reason"] == "length"


def test_the_root_answers_either_way(http: httpx.Client) -> None:
    whole = generate(http)
    assert generate(http, path="/") == [whole]
    assert events(http, path="/", stream=True)[-1]["generated_text"] == whole["generated_text"]


def test_stop_texts_end_it_and_stay(http: httpx.Client) -> None:
    free = generate(http)["generated_text"]
    stop = free[6:9]
    answer = generate(http, stop=[stop], details=True)
    assert answer["generated_text"] == free[: free.index(stop) + len(stop)]
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert "".join(token["text"] for token in answer["details"]["tokens"]) == answer["generated_text"]


def test_the_input_may_be_returned_and_cut(http: httpx.Client, llm: LLM) -> None:
    text = generate(http)["generated_text"]
    assert generate(http, return_full_text=True)["generated_text"] == STORY + text
    ids = llm.get_tokenizer().encode(STORY)[-2:]
    cut = llm.generate({"prompt_token_ids": ids}, GREEDY, use_tqdm=False)[0].outputs[0].text
    answer = generate(http, truncate=2, decoder_input_details=True)
    assert answer["generated_text"] == cut
    assert [token["id"] for token in answer["details"]["prefill"]] == ids


def test_a_sampled_text_names_its_seed(http: httpx.Client) -> None:
    first = generate(http, do_sample=True, details=True)
    again = generate(http, do_sample=True, seed=first["details"]["seed"])
    assert again["generated_text"] == first["generated_text"]


def test_leaving_a_stream_cancels(http: httpx.Client, served: tuple[str, Serving]) -> None:
    body = {"inputs": STORY, "parameters": {"max_new_tokens": 900, "temperature": 1.5}}
    with http.stream("POST", "/generate_stream", json=body) as answer:
        next(answer.iter_lines())
    assert becomes_idle(served[1])


def test_info_tells_the_limits(http: httpx.Client) -> None:
    info = http.get("/info").json()
    assert info["model_id"] == MODEL and info["max_total_tokens"] == 1024 and info["max_input_tokens"] < 1024


@pytest.mark.skipif(importlib.util.find_spec("warpjet.structured") is None, reason="needs llguidance")
def test_a_grammar_is_followed(http: httpx.Client) -> None:
    digits = generate(http, grammar={"type": "regex", "value": "[0-9]{4}"})
    assert digits["generated_text"].isdigit() and len(digits["generated_text"]) == 4
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    untyped = {name: value for name, value in schema.items() if name != "type"}  # as TGI's own manual writes it
    for given in (
        {"type": "json", "value": schema},
        {"type": "json", "value": untyped},
        {"type": "json_schema", "value": {"name": "x", "schema": untyped}},
    ):
        value = generate(http, grammar=given, max_new_tokens=40)
        text = "".join(value["generated_text"].split())  # a small model may write blanks until it has no tokens left
        assert text and (text.startswith('{"a":') or '{"a":'.startswith(text))


def test_hugging_faces_client_works(served: tuple[str, Serving], http: httpx.Client) -> None:
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(model=served[0], token=KEY)
    text = generate(http)["generated_text"]
    assert client.text_generation(STORY, max_new_tokens=12) == text
    told = list(client.text_generation(STORY, max_new_tokens=12, stream=True, details=True))
    assert "".join(event.token.text for event in told) == text == told[-1].generated_text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 2}, "best_of"),
        ({"typical_p": 0.9}, "typical_p"),
        ({"watermark": True}, "watermark"),
        ({"adapter_id": "a"}, "adapter_id"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 10**6}, "max_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 5}, "frequency_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": "a"}, "stop"),
        ({"truncate": 0}, "truncate"),
        ({"top_n_tokens": 1000}, "logprobs"),
        ({"grammar": {"type": "poem", "value": "a"}}, "grammar"),
        ({"grammar": "a"}, "grammar"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_what_is_wrong_is_named(http: httpx.Client, path: str, parameters: dict[str, Any], message: str) -> None:
    answer = http.post(path, json={"inputs": STORY, "parameters": parameters})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_type"] == "validation" and message in answer.json()["error"]


@pytest.mark.parametrize("body", [{}, {"inputs": ""}, {"inputs": ["a"]}, {"inputs": STORY, "parameters": []}])
def test_bodies_that_are_wrong_have_tgis_shape(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = http.post("/generate", json=body)
    assert answer.status_code == 400 and set(answer.json()) == {"error", "error_type"}


def test_a_key_is_needed(served: tuple[str, Serving]) -> None:
    answer = httpx.post(served[0] + "/generate", json={"inputs": STORY})
    assert answer.status_code == 401 and set(answer.json()) == {"error", "error_type"}
