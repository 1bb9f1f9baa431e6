"""warpjet run-batch: a file of requests, a file of answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from warpjet import LLM, SamplingParams
from warpjet.commands.main import main

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


def line(name: str, url: str = CHAT, method: str = "POST", **body: Any) -> str:
    return json.dumps({"custom_id": name, "method": method, "url": url, "body": body})


def chat(name: str, text: str, **body: Any) -> str:
    return line(name, messages=[{"role": "user", "content": text}], **{"max_tokens": 8, "temperature": 0, **body})


def run(tmp_path: Path, *lines: str | bytes, code: int = 0) -> list[dict[str, Any]]:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(one if isinstance(one, bytes) else one.encode() for one in lines) + b"\n")
    assert main(["run-batch", "-i", str(source), "-o", str(out), "--device", "cpu"]) == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    return [json.loads(one) for one in out.read_text(encoding="utf-8").splitlines()]


def test_answers_are_those_of_the_library_in_the_order_of_the_lines(tmp_path: Path, llm: LLM) -> None:
    questions = [f"What is {n} + 4?" for n in range(40)]
    answers = run(tmp_path, *(chat(f"q{n}", text) for n, text in enumerate(questions)))
    greedy = SamplingParams(temperature=0, max_tokens=8)
    expected = llm.chat([[{"role": "user", "content": q}] for q in questions], greedy, use_tqdm=False)
    assert [answer["custom_id"] for answer in answers] == [f"q{n}" for n in range(40)]
    assert all(answer["response"]["status_code"] == 200 and answer["error"] is None for answer in answers)
    texts = [answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers]
    assert texts == [output.outputs[0].text for output in expected]


def test_every_endpoint_is_answered(tmp_path: Path) -> None:
    answers = run(
        tmp_path,
        chat("chat", "Hi"),
        line("text", TEXT, prompt="Once", max_tokens=3),
        line("response", RESPONSES, input="Hi", max_output_tokens=3),
        line("embedding", "/v1/embeddings", input="Hi"),
    )
    bodies = {answer["custom_id"]: answer["response"]["body"] for answer in answers}
    assert bodies["chat"]["object"] == "chat.completion" and bodies["text"]["object"] == "text_completion"
    assert bodies["response"]["object"] == "response" and bodies["embedding"]["object"] == "list"


def test_bad_lines_stop_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad: list[tuple[str | bytes, str]] = [
        ("{", "JSON"),
        ("[]", "object"),
        (b'{"custom_id": "\xff"}', "UTF-8"),
        ("{}", "custom_id"),
        (chat("first", "Hi"), "earlier line"),
        (line("get", method="GET"), "method"),
        (line("files", "/v1/files"), "url"),
        (line("anywhere", "http://example.com/v1/chat/completions"), "url"),
        (json.dumps({"custom_id": "x", "method": "POST", "url": CHAT, "body": "Hi"}), "body"),
        (chat("stream", "Hi", stream=True), "stream"),
        ('{"custom_id": "a", "custom_id": "b"}', "twice"),
    ]
    answers = run(tmp_path, chat("first", "Hi"), *(given for given, _ in bad), "", "   ", chat("last", "Hi"))
    assert [answer["response"] is None for answer in answers] == [False, *[True] * len(bad), False]
    for answer, (_, message) in zip(answers[1:-1], bad, strict=True):
        assert message in answer["error"]["message"] and answer["error"]["code"] == "invalid_line"
    assert f"2 answered, {len(bad)} failed" in capsys.readouterr().err


def test_requests_that_cannot_be_answered_have_the_servers_error(tmp_path: Path) -> None:
    answers = run(
        tmp_path,
        line("empty", messages=[]),
        chat("hot", "Hi", temperature=-1),
        chat("model", "Hi", model="other"),
        chat("fine", "Hi"),
    )
    assert [answer["response"]["status_code"] for answer in answers] == [400, 400, 404, 200]
    assert answers[1]["response"]["body"]["error"]["param"] == "temperature"
    assert all(answer["error"] is None for answer in answers)


def test_a_full_queue_only_delays(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(chat(f"q{n}", "Hi") for n in range(30)))
    command = ["run-batch", "-i", str(source), "-o", str(out), "--device", "cpu", "--max-num-queued-reqs", "3"]
    assert main(command) == 0
    answers = [json.loads(one) for one in out.read_text().splitlines()]
    assert {answer["response"]["status_code"] for answer in answers} == {200} and len(answers) == 30


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("none.jsonl", "out.jsonl", "none.jsonl"),
        ("https://example.com/in.jsonl", "out.jsonl", "local"),
        ("in.jsonl", "nowhere/out.jsonl", "nowhere"),
        ("in.jsonl", "https://example.com/out.jsonl", "local"),
        ("in.jsonl", ".", "directory"),
    ],
)
def test_files_that_cannot_be_are_said_before_the_model_loads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    out: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(chat("a", "Hi"))
    assert main(["run-batch", "-i", source, "-o", out, "no-such-model"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_failure_leaves_the_old_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(chat("a", "Hi"))
    out.write_text("old")
    assert main(["run-batch", "-i", str(source), "-o", str(out), str(tmp_path / "no-model")]) == 2
    assert out.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    assert "no-model" in capsys.readouterr().err
