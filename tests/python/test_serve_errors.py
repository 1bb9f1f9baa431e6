"""What a client is told: its own words whole, nothing of the server's inside."""

import pytest

from warpjet import EngineError, QueueFullError
from warpjet.serve.http.errors import ServeError, forget_memory_errors, from_exception
from warpjet.serve.http.schema import Field, Schema

_OWN_WORDS = ("/models/Llama-3.1-8B", "0x7f00deadbeef", "[src/main.cpp:12]", "/v1/chat/completions, /v1/embeddings")


@pytest.mark.parametrize("words", _OWN_WORDS)
def test_a_message_keeps_the_words_of_the_request(words: str) -> None:
    message = f"there is no model {words!r} here, only {words}"
    assert ServeError(404, message).message == message
    assert from_exception(ValueError(message)).message == message


@pytest.mark.parametrize("error", [KeyError("/srv/keys"), OSError("/srv/model"), RuntimeError("0x7f"), IndexError()])
def test_an_error_that_is_not_about_the_request_says_nothing_of_the_server(error: Exception) -> None:
    served = from_exception(error)
    assert (served.status, served.message) == (500, "internal error")


def test_an_error_of_the_engine_says_nothing_of_the_server() -> None:
    served = from_exception(EngineError("no step for 5 s [engine.cpp:7]"))
    assert served.status == 503 and "engine.cpp" not in served.message


@pytest.mark.parametrize(
    ("message", "seconds"),
    [("the queue is full; try again in about 2.5 s", 3), ("full", 1), ("in about 1.2.3 s", 1), ("in about", 1)],
)
def test_a_full_queue_says_when_to_come_back(message: str, seconds: int) -> None:
    assert from_exception(QueueFullError(message)).retry_after == seconds


def test_a_long_message_is_cut() -> None:
    assert len(ServeError(400, " " * 1_000_000).message) < 2000


def test_the_field_that_an_error_is_about_is_its_first_word() -> None:
    names = frozenset({"top_p"})
    assert from_exception(ValueError("top_p must be at most 1"), names).param == "top_p"
    assert from_exception(ValueError("top_k must be at most 1"), names).param is None
    assert from_exception(ValueError(""), names).param is None


def test_few_of_many_unknown_fields_are_compared_with_the_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compared = []
    monkeypatch.setattr("difflib.get_close_matches", lambda name, *rest, **options: compared.append(name) or [])
    schema = Schema("Request", [Field("prompt", "string")])
    for turn in range(100):
        schema.parse({f"unknown_{turn}_{i}": 1 for i in range(1000)})
    assert len(compared) <= 100
    assert len(caplog.records) <= 100
    with pytest.raises(ServeError, match="no field 'x'"):
        schema.parse({"x": 1, "y": 2}, strict=True)
    assert len(compared) <= 101


def test_an_answer_keeps_no_memory_error_alive() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError as error:
            raise ServeError(503, "no memory") from error
    except ServeError as served:
        forget_memory_errors(served)
        assert served.__cause__ is None
        assert served.__context__ is None


def test_other_causes_are_kept_for_the_log() -> None:
    error = RuntimeError("x")
    error.__cause__ = cause = KeyError("y")
    forget_memory_errors(error)
    assert error.__cause__ is cause
