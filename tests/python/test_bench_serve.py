"""warpjet bench serve against a server whose delays are known."""

import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_openai import Behaviour, serving

pytest.importorskip("aiohttp")

import itertools

from warpjet.cli import main
from warpjet.load.arrivals import send_times
from warpjet.load.client import Outcome
from warpjet.load.datasets import LoadRequest
from warpjet.load.report import notes, percentile
from warpjet.load.run import Run
from warpjet.load.texts import Texts
from warpjet.locate import EMBEDDED_MODEL
from warpjet.tokenizer import Tokenizer

SMALL = ("--random-input-len", "20", "--random-output-len", "8", "--num-warmups", "0")


def load(capsys: pytest.CaptureFixture[str], url: str, *flags: object) -> tuple[dict[str, Any], str]:
    """The record, and what was said."""
    code = main(["bench", "serve", "--base-url", url, "--json", *map(str, flags)])
    said = capsys.readouterr()
    assert code == 0, said.err
    record: dict[str, Any] = json.loads(said.out)
    return record, said.err


def about(least: float) -> Any:
    """What took so long at least, and somewhat longer on a busy machine."""
    return pytest.approx(1.5 * least, abs=0.52 * least)


def error(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str]:
    code = main(["bench", "serve", *map(str, flags)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/chat/completions"])
def test_latencies_are_those_of_the_server(capsys: pytest.CaptureFixture[str], endpoint: str) -> None:
    with serving(Behaviour(ttft_s=0.1, itl_s=0.02)) as url:
        record, _ = load(capsys, url, "--endpoint", endpoint, "--num-prompts", 4, *SMALL, "--max-concurrency", 2)
    results = record["runs"][0]
    assert results["median_ttft_ms"] == about(100)
    assert results["median_tpot_ms"] == about(20)
    assert results["median_itl_ms"] == about(20)
    assert results["median_e2el_ms"] == about(240)
    assert results["duration"] == about(0.48)
    assert results["request_throughput"] == pytest.approx(4 / results["duration"], rel=0.01)
    assert results["output_throughput"] == pytest.approx(4 * 8 / results["duration"], rel=0.01)
    assert (results["completed"], results["failed"], results["max_concurrent_requests"]) == (4, 0, 2)
    assert results["p95_ttft_ms"] <= results["p99_ttft_ms"] and record["model"] == "fake"


def test_prompts_are_as_long_as_asked_for_by_the_servers_own_count(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour(tokens_per_word=3, overhead=7)
    with serving(behaviour) as url:
        record, _ = load(capsys, url, *SMALL, "--random-input-len", 100, "--num-prompts", 5)
    assert record["total_input_tokens"] == pytest.approx(500, abs=10)
    prompts = [request["prompt"] for _, request in behaviour.seen]
    assert len(set(prompts)) == len(prompts)


def test_with_a_tokenizer_the_length_is_its_count() -> None:
    tokenizer = Tokenizer(EMBEDDED_MODEL)
    texts = Texts(tokenizer)
    for tokens in (1, 7, 100):
        assert abs(texts.count(texts.make(random.Random(tokens), tokens)) - tokens) <= 1


def test_tokens_that_come_together_count_by_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Four tokens in a piece every 40 ms are 10 ms a token, though pieces are 40 ms apart."""
    with serving(Behaviour(itl_s=0.04, tokens_per_piece=4)) as url:
        record, _ = load(capsys, url, *SMALL, "--random-output-len", 21, "--num-prompts", 2)
    assert record["total_output_tokens"] == 42
    assert record["median_tpot_ms"] == about(10)
    assert record["median_itl_ms"] == about(40)


def test_pieces_that_come_in_one_write_are_still_so_many(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour(itl_s=0.04, glue=3, usage=False)) as url:
        record, _ = load(capsys, url, *SMALL, "--random-output-len", 9, "--num-prompts", 2)
    assert record["total_output_tokens"] == 18  # without usage, a piece is a token
    assert record["median_tpot_ms"] == about(80 / 8)


def test_goodput_counts_the_requests_that_keep_every_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour(ttft_s=0.05, itl_s=0.01)) as url:
        for limits, share in ((("ttft:500", "tpot:100"), 1), (("ttft:500", "tpot:2"), 0), (("e2el:20",), 0)):
            record, _ = load(capsys, url, *SMALL, "--num-prompts", 3, "--goodput", *limits)
            assert record["request_goodput"] == pytest.approx(share * record["request_throughput"])


def test_failures_are_counted_and_the_first_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour(fail_every=4)) as url:
        record, said = load(capsys, url, *SMALL, "--num-prompts", 10, "--max-concurrency", 1)
    assert (record["completed"], record["failed"]) == (7, 3)
    assert "3 of 10 requests failed" in said and "503" in said and "the queue is full" in said
    assert record["total_output_tokens"] == 7 * 8


def test_a_stream_that_breaks_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour(break_after=3)) as url:
        code, said = error(capsys, "--base-url", url, *SMALL, "--num-prompts", 2)
    assert code == 1 and "2 of 2 requests failed" in said and "no request succeeded" in said


def test_a_request_that_takes_too_long_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour(itl_s=0.3)) as url:
        code, said = error(capsys, "--base-url", url, *SMALL, "--num-prompts", 2, "--timeout", 0.2)
    assert code == 1 and "no end within 0.2 s" in said


def test_no_server_and_a_wrong_key_are_clear_errors(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = error(capsys, "--port", 9, *SMALL)
    assert code == 2 and "does not answer" in said
    with serving(Behaviour(key="secret")) as url:
        code, said = error(capsys, "--base-url", url, *SMALL, "--api-key", "other")
        assert code == 2 and "no such key" in said
        load(capsys, url, *SMALL, "--num-prompts", 1, "--api-key", "secret")


def test_the_key_is_in_no_record(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with serving(Behaviour(key="secret")) as url:
        flags = ["--api-key", "secret", "--header", "X-Key=secret", "--num-prompts", "1", *SMALL]
        command = [sys.executable, "-m", "warpjet", "bench", "serve", "--base-url", url, "--save-result", file, *flags]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert "secret" not in file.read_text() and "--api-key ***" in file.read_text()


def test_requests_come_at_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour()
    with serving(behaviour) as url:
        load(capsys, url, *SMALL, "--num-prompts", 20, "--request-rate", 40, "--burstiness", "inf")
    moments = [moment for moment, _ in behaviour.seen[-20:]]
    assert moments[-1] - moments[0] == pytest.approx(19 / 40, abs=0.05)
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(1 / 40, abs=0.008)


def test_gaps_are_gamma_with_the_burstiness_as_shape() -> None:
    requests = [LoadRequest("", 1, 1)] * 20_000
    for burstiness, variation in ((1.0, 1.0), (0.25, 2.0), (4.0, 0.5), (math.inf, 0.0)):
        times = send_times(requests, 10.0, burstiness, random.Random(1))
        gaps = [b - a for a, b in itertools.pairwise(times)]
        mean = sum(gaps) / len(gaps)
        deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
        assert mean == pytest.approx(0.1, rel=0.01) and deviation / mean == pytest.approx(variation, abs=0.06)
    assert send_times(requests, None, 1, random.Random(1)) == [0.0] * len(requests)


def test_a_sweep_has_a_row_for_each_load(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    behaviour = Behaviour(ttft_s=0.02)
    plot = tmp_path / "sweep.png"
    with serving(behaviour) as url:
        flags = [*SMALL, "--num-prompts", 8, "--max-concurrency", 1, 4]
        record, _ = load(capsys, url, *flags)
        assert [row["max_concurrent_requests"] for row in record["runs"]] == [1, 4] and behaviour.most == 4
        assert record["runs"][1]["completed"] == 8
        pytest.importorskip("matplotlib")
        assert main(["bench", "serve", "--base-url", url, *map(str, flags), "--plot", str(plot)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3 and "ttft p99" in table[0] and plot.stat().st_size > 10_000


def test_one_run_is_a_table_and_a_figure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "one.png"
    with serving(Behaviour()) as url:
        assert main(["bench", "serve", "--base-url", url, *SMALL, "--num-prompts", "5", "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    for word in ("requests a second", "output tokens", "ttft ms", "p95", "e2el ms"):
        assert word in said
    assert plot.stat().st_size > 10_000


def test_results_are_written_and_appended(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    with serving(Behaviour()) as url:
        for _ in range(2):
            record, _ = load(capsys, url, *SMALL, "--num-prompts", 2, "--save-result", file, "--append-result")
        assert json.loads(file.read_text().splitlines()[1]) == record
        flags = ("--save-detailed", "--metadata", "device=H100")
        record, _ = load(capsys, url, *SMALL, "--num-prompts", 2, "--save-result", file, *flags)
    assert json.loads(file.read_text()) == record and record["device"] == "H100"
    detail = record["runs"][0]["requests"]
    assert len(detail) == 2 and len(detail[0]["itl_ms"]) == 7 and detail[0]["output_tokens"] == 8


def test_results_go_where_the_flags_of_other_tools_say(tmp_path: Path) -> None:
    with serving(Behaviour()) as url:
        common = ["bench", "serve", "--base-url", url, *SMALL, "--num-prompts", "2", "--save-result"]
        assert main([*common, "--result-dir", str(tmp_path / "new"), "--result-filename", "a.json"]) == 0
        assert main([*common, "--result-dir", str(tmp_path / "named")]) == 0
    record = json.loads((tmp_path / "new" / "a.json").read_text())
    # The names at the top of a file of vLLM's command.
    names = {"model_id", "endpoint_type", "num_prompts", "request_rate", "max_concurrency", "duration", "completed"}
    names |= {"total_input_tokens", "total_output_tokens", "request_throughput", "output_throughput", "mean_ttft_ms"}
    assert names <= set(record) and record["request_throughput"] == record["runs"][0]["request_throughput"]
    (written,) = (tmp_path / "named").iterdir()
    assert re.fullmatch(r"openai-infqps-fake-\d{8}-\d{6}\.json", written.name)


def test_result_files_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert "need --save-result" in error(capsys, "--result-dir", "x")[1]
    assert "names the file" in error(capsys, "--save-result", "a.json", "--result-dir", "x")[1]


def test_what_is_asked_for_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour()
    extra = '{"seed": 5, "stream_options": null}'
    with serving(behaviour) as url:
        flags = ("--ignore-eos", "--temperature", 0.5, "--top-k", 3, "--extra-body", extra, "--model", "mine")
        load(capsys, url, *SMALL, "--num-prompts", 1, *flags)
    _, request = behaviour.seen[-1]
    wanted = {"ignore_eos": True, "temperature": 0.5, "top_k": 3, "seed": 5, "model": "mine", "max_tokens": 8}
    assert wanted.items() <= request.items() and "stream_options" not in request


def test_prompts_may_begin_alike(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour(tokens_per_word=1, overhead=0)
    with serving(behaviour) as url:
        load(capsys, url, *SMALL, "--random-prefix-len", 30, "--num-prompts", 4)
    words = [request["prompt"].split() for _, request in behaviour.seen[-4:]]
    assert len({tuple(text[:30]) for text in words}) == 1 and len({tuple(text[30:]) for text in words}) == 4
    assert all(len(text) == 50 for text in words)


def test_lengths_vary_within_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour(tokens_per_word=1, overhead=0)
    with serving(behaviour) as url:
        load(capsys, url, *SMALL, "--random-range-ratio", 0.5, "--num-prompts", 60)
    outputs = {request["max_tokens"] for _, request in behaviour.seen[-60:]}
    inputs = {len(request["prompt"].split()) for _, request in behaviour.seen[-60:]}
    assert min(outputs) == 4 and max(outputs) == 12 and min(inputs) >= 10 and max(inputs) <= 30 and len(inputs) > 10


def test_sharegpt_conversations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "sharegpt.json"

    def talk(question: str, answer: str) -> dict[str, Any]:
        return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}

    talks = [talk("word " * 10, "answer " * n) for n in (6, 9)]
    talks += [talk("hi", "there"), talk("word " * 5000, "no " * 9), {"conversations": []}]
    file.write_text(json.dumps(talks))
    behaviour = Behaviour(tokens_per_word=1, overhead=0)
    with serving(behaviour) as url:
        flags = ("--dataset-name", "sharegpt", "--dataset-path", file, "--num-warmups", 0)
        record, _ = load(capsys, url, *flags, "--num-prompts", 4)
        assert record["total_output_tokens"] == 30  # each of the two twice
        record, _ = load(capsys, url, *flags, "--num-prompts", 2, "--sharegpt-output-len", 5)
        assert record["total_output_tokens"] == 10
    file.write_text("[1]")
    code, _said = error(capsys, "--base-url", url, *flags)
    assert code == 2


def test_custom_lines_are_prompts_or_messages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "custom.jsonl"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    file.write_text(json.dumps({"prompt": "one"}) + "\n\n" + json.dumps({"messages": messages, "output_tokens": 3}))
    behaviour = Behaviour()
    flags = ["--dataset-name", "custom", "--dataset-path", file, "--num-warmups", 0, "--custom-output-len", 5]
    with serving(behaviour) as url:
        record, _ = load(capsys, url, *flags, "--backend", "openai-chat", "--disable-shuffle")
        assert record["total_output_tokens"] == 8
        assert [request["messages"] for _, request in behaviour.seen[-2:]] == [
            [{"role": "user", "content": "one"}],
            messages,
        ]
        code, said = error(capsys, "--base-url", url, *flags)
        assert code == 2 and "/v1/chat/completions" in said
        file.write_text('{"prompt": ""}')
        code, said = error(capsys, "--base-url", url, *flags)
        assert code == 2 and f"{file}:1" in said


def test_a_trace_from_a_csv_file_keeps_its_times_or_is_stretched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "trace.csv"
    rows = ("10.3,40,4", "10.0,20,6", "10.1,0,5", "10.2,30,2")
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    flags = ("--dataset-name", "trace", "--trace", file, "--num-warmups", 0)
    behaviour = Behaviour(tokens_per_word=1, overhead=0)
    with serving(behaviour) as url:
        for more, gaps in (((), (0.2, 0.1)), (("--request-rate", 20), (0.0667, 0.0333))):
            load(capsys, url, *flags, *more)
            seen = behaviour.seen[-3:]
            assert [request["max_tokens"] for _, request in seen] == [6, 2, 4]
            assert [len(request["prompt"].split()) for _, request in seen] == [20, 30, 40]
            found = [b[0] - a[0] for a, b in itertools.pairwise(seen)]
            assert found == pytest.approx(gaps, abs=0.03)
    file.write_text("time,input_tokens\n1,2\n")
    code, _said = error(capsys, "--base-url", url, "--model", "x", *flags)
    assert code == 2


@pytest.mark.parametrize("cell", ["2023-11-16 18:15:46.6805900", "1.5"])
def test_times_in_a_trace_are_seconds_or_dates(tmp_path: Path, cell: str) -> None:
    from warpjet.load.datasets import _csv_rows

    file = tmp_path / "trace.csv"
    file.write_text(f"Timestamp,Request tokens,Response tokens\n{cell},2,3\n")
    assert _csv_rows(file, 0.0) == [(0.0, 2, 3, 0, [])]


def test_built_in_traces_share_prefixes(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour(tokens_per_word=1, overhead=0)
    with serving(behaviour) as url:
        flags = ("--dataset-name", "trace", "--trace", "tool-agent", "--duration-s", 10, "--num-warmups", 0)
        load(capsys, url, *flags, "--num-prompts", 30, "--request-rate", 300)
        code, said = error(capsys, "--base-url", url, *flags[:3], "tool-agents")
        assert code == 2 and "tool-agent" in said
    prompts = [request["prompt"] for _, request in behaviour.seen if len(request["prompt"]) > 5000]
    assert len(prompts) >= 30
    heads = [prompt[:2000] for prompt in prompts]
    assert len(set(heads)) < len(heads)  # tools that several sessions have


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--sharegpt-output-len", "5"), "--dataset-name sharegpt"),
        (("--request-rate", "-1"), "request-rate"),
        (("--max-concurrency", "0"), "max-concurrency"),
        (("--burstiness", "0"), "burstiness"),
        (("--num-prompts", "0"), "num-prompts"),
        (("--append-result",), "--save-result"),
        (("--endpoint", "/v1/embeddings"), "--endpoint"),
    ],
)
def test_bad_flags_are_refused(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], says: str) -> None:
    code, said = error(capsys, *flags)
    assert code == 2 and says in said


@pytest.mark.parametrize("flags", [("--goodput", "itl:5"), ("--extra-body", "[]"), ("--percentile-metrics", "x")])
def test_malformed_flags_are_refused(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "serve", *flags])
    assert stop.value.code == 2 and flags[0] in capsys.readouterr().err


def test_percentiles_are_straight_between_neighbours() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5 and percentile([7.0], 99) == 7.0
    assert percentile([0.0, 10.0], 95) == pytest.approx(9.5)


def test_answers_that_end_early_are_noted() -> None:
    def outcome(got: int | None, asked: int | None, error: str = "") -> Outcome:
        return Outcome(sent=0.0, output_tokens=got, asked_tokens=asked, error=error)

    whole = [outcome(200, 200), outcome(None, 200), outcome(10, None), outcome(3, 200, "refused")]
    run = Run(whole, 0.0, 1.0, 0.0, 0.0, 1)
    assert not any("early" in line for line in notes(run))
    run.outcomes.extend([outcome(26, 200), outcome(100, 200)])
    assert "2 of 6 answers ended early, with 126 of 400 tokens" in " ".join(notes(run))
