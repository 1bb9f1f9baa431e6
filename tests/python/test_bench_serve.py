"""warpjet bench serve against a server whose delays are known, and its numbers by a clock that the tests hold."""

import asyncio
import contextlib
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_openai import Behaviour, serving
from waiting import PATIENCE_S

pytest.importorskip("aiohttp")

import itertools

from warpjet.bench.load.arrivals import send_times
from warpjet.bench.load.client import Client, Outcome, Target
from warpjet.bench.load.datasets import LoadRequest
from warpjet.bench.load.report import Wanted, notes, percentile, summarise
from warpjet.bench.load.run import Run, run_load
from warpjet.bench.load.texts import Texts
from warpjet.commands.main import main
from warpjet.requests.locate import EMBEDDED_MODEL
from warpjet.text.tokenizer import Tokenizer

TAKES_S = 1.0  # by the clock that the tests hold
TICK = 0.002  # seconds that a timer may be early: those of an event loop are in milliseconds
SMALL = ("--random-input-len", "20", "--random-output-len", "8", "--num-warmups", "0")


def load(capsys: pytest.CaptureFixture[str], url: str, *flags: object) -> tuple[dict[str, Any], str]:
    """The record, and what was said."""
    code = main(["bench", "serve", "--base-url", url, "--json", *map(str, flags)])
    said = capsys.readouterr()
    assert code == 0, said.err
    record: dict[str, Any] = json.loads(said.out)
    return record, said.err


def error(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str]:
    code = main(["bench", "serve", *map(str, flags)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/chat/completions"])
def test_latencies_are_those_of_the_server(capsys: pytest.CaptureFixture[str], endpoint: str) -> None:
    """No machine is sooner than the server; how much later it is, is not tested."""
    with serving(Behaviour(ttft_s=0.1, itl_s=0.02)) as url:
        record, _ = load(capsys, url, "--endpoint", endpoint, "--num-prompts", 4, *SMALL, "--max-concurrency", 2)
    results = record["runs"][0]
    assert results["median_ttft_ms"] >= 100 and results["median_e2el_ms"] >= 240 and results["duration"] >= 0.48
    assert results["median_ttft_ms"] < results["median_e2el_ms"] <= results["duration"] * 1e3
    assert results["request_throughput"] == pytest.approx(4 / results["duration"], rel=0.01)
    assert results["output_throughput"] == pytest.approx(4 * 8 / results["duration"], rel=0.01)
    assert (results["completed"], results["failed"], results["max_concurrent_requests"]) == (4, 0, 2)
    assert results["p95_ttft_ms"] <= results["p99_ttft_ms"] and record["model"] == "fake"


class Clock:
    """In place of the module time: its moments pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("client", "run"):
        monkeypatch.setattr(f"warpjet.bench.load.{module}.time", clock)
    return clock


def answered(monkeypatch: pytest.MonkeyPatch, clock: Clock, endpoint: str, *writes: tuple[float, str]) -> Outcome:
    """What a client makes of an answer: what comes after so many seconds each."""

    async def iter_any() -> AsyncIterator[bytes]:
        for seconds, text in writes:
            clock.now += seconds
            yield text.encode()

    @contextlib.asynccontextmanager
    async def post(*_: object, **__: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(status=200, content=SimpleNamespace(iter_any=iter_any))

    async def send() -> Outcome:
        client = Client(Target("http://fake", endpoint, "fake"))
        try:
            return await client.send(b"")
        finally:
            await client.close()

    monkeypatch.setattr("aiohttp.ClientSession.post", post)
    return asyncio.run(send())


def event(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}\n\n"


TEXT = event(choices=[{"index": 0, "text": "a "}])
DELTA = event(choices=[{"index": 0, "delta": {"content": "a "}}])
ROLE = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])


def summary_of(*outcomes: Outcome, seconds: float = 1.0, **wanted: Any) -> dict[str, Any]:
    return summarise(Run(list(outcomes), 0.0, seconds, 0.0, 0.0, 1), Wanted(**wanted))


@pytest.mark.parametrize(("endpoint", "piece"), [("/v1/completions", TEXT), ("/v1/chat/completions", DELTA)])
def test_moments_are_those_when_text_came(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, endpoint: str, piece: str
) -> None:
    head = [(0.03, ROLE)] if piece is DELTA else [(0.03, "")]
    usage = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 8})
    pieces = [(0.07, piece), *[(0.02, piece)] * 6, (0.02, piece + usage)]
    outcome = answered(monkeypatch, clock, endpoint, *head, *pieces, (0.5, "data: [DONE]\n\n"))
    assert outcome.complete and not outcome.error
    row = summary_of(outcome)
    assert (row["median_ttft_ms"], row["median_tpot_ms"], row["median_itl_ms"], row["median_e2el_ms"]) == (
        pytest.approx((100, 20, 20, 240))
    )


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


def test_tokens_that_come_together_count_by_the_usage(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Four tokens in a piece every 40 ms are 10 ms a token, though pieces are 40 ms apart."""
    end = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 21}) + "data: [DONE]\n\n"
    row = summary_of(
        answered(monkeypatch, clock, "/v1/completions", (0.1, TEXT), *[(0.04, TEXT)] * 5, (0.0, end)), seconds=2.0
    )
    assert row["total_output_tokens"] == 21 and row["output_throughput"] == pytest.approx(10.5)
    assert row["median_tpot_ms"] == pytest.approx(10) and row["median_itl_ms"] == pytest.approx(40)


def test_pieces_that_come_in_one_write_are_still_so_many(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour(glue=3, usage=False)) as url:
        record, _ = load(capsys, url, *SMALL, "--random-output-len", 9, "--num-prompts", 2, "--save-detailed")
    assert record["total_output_tokens"] == 18  # without usage, a piece is a token
    for request in record["runs"][0]["requests"]:
        assert len(request["itl_ms"]) == 8 and request["itl_ms"].count(0.0) >= 6  # three a write


def test_goodput_counts_the_requests_that_keep_every_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour(ttft_s=0.05)) as url:
        for limits, share in ((("ttft:60000", "tpot:60000"), 1), (("ttft:60000", "e2el:20"), 0)):
            record, _ = load(capsys, url, *SMALL, "--num-prompts", 3, "--goodput", *limits)
            assert record["request_goodput"] == pytest.approx(share * record["request_throughput"])


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft": 500, "tpot": 200}, 2),
        ({"ttft": 125}, 1),
        ({"tpot": 125}, 2),
        ({"tpot": 124}, 1),
        ({"e2el": 20}, 0),
        ({"ttft": 125, "tpot": 124}, 0),
    ],
)
def test_a_limit_is_kept_up_to_its_value(limits: dict[str, float], good: int) -> None:
    slow = Outcome(sent=1.0, chunks=[1.125, 2.0], ended=2.25, output_tokens=10)  # 125 ms, then 125 ms a token
    short = Outcome(sent=1.0, chunks=[1.25], ended=1.25, output_tokens=1)  # has no time a token
    refused = Outcome(sent=1.0, error="refused", ended=1.0)
    assert summary_of(slow, short, refused, seconds=2.0, goodput=limits)["request_goodput"] == good / 2


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


def test_a_request_that_takes_too_long_is_a_failure() -> None:
    async def send(url: str) -> Outcome:
        client = Client(Target(url, "/v1/completions", "fake", timeout_s=0.25))
        try:
            return await client.send(json.dumps({"prompt": "a", "max_tokens": 8}).encode())
        finally:
            await client.close()

    with serving(Behaviour(itl_s=1000)) as url:
        outcome = asyncio.run(send(url))
    assert outcome.error == "no end within 0.25 s" and not outcome.complete


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
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    assert "secret" not in file.read_text() and "--api-key ***" in file.read_text()


def test_requests_come_at_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Behaviour()) as url:
        flags = ("--num-prompts", 20, "--request-rate", 40, "--burstiness", "inf", "--save-detailed")
        record, _ = load(capsys, url, *SMALL, *flags)
    sent = [request["sent_s"] for request in record["runs"][0]["requests"]]
    assert len(sent) == 20 and all(moment > i / 40 - TICK for i, moment in enumerate(sent)), "none is early"


@pytest.mark.parametrize(("at_once", "sent"), [(None, [0.0, 0.5, 0.5, 3.0]), (1, [0.0, 1.0, 2.0, 3.0])])
def test_each_body_is_sent_at_its_time_or_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, at_once: int | None, sent: list[float]
) -> None:
    """A request takes a second. Time passes when all wait for it."""
    turn, ends = asyncio.sleep, []

    async def sleep(seconds: float) -> None:
        ends.append(end := clock.now + seconds)
        while clock.now < end:
            await turn(0)
        ends.remove(end)

    async def tick() -> None:
        while True:
            for _ in range(5):  # whatever can run has run
                await turn(0)
            clock.now = min(ends, default=clock.now)

    async def ticking() -> Run:
        ticker = asyncio.create_task(tick())
        try:
            return await run_load(Second(), [b""] * 4, [0.0, 0.5, 0.5, 3.0], at_once)  # type: ignore[arg-type]
        finally:
            ticker.cancel()

    class Second:
        async def send(self, body: bytes) -> Outcome:
            outcome = Outcome(sent=clock.now)
            await sleep(TAKES_S)
            outcome.ended = clock.now
            return outcome

    monkeypatch.setattr("warpjet.bench.load.run.asyncio.sleep", sleep)
    run = asyncio.run(ticking())
    assert [outcome.sent - run.begin for outcome in run.outcomes] == sent
    assert run.seconds == 4.0 and run.late_s == 0 and run.most_running == (at_once or 3)
    assert run.cpu_share == 0.25


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
    behaviour = Behaviour()
    plot = tmp_path / "sweep.png"
    with serving(behaviour) as url:
        flags = [*SMALL, "--num-prompts", 8, "--max-concurrency", 1, 4]
        record, _ = load(capsys, url, *flags)
        assert [row["max_concurrent_requests"] for row in record["runs"]] == [1, 4]
        assert record["runs"][1]["completed"] == 8
        pytest.importorskip("matplotlib")
        assert main(["bench", "serve", "--base-url", url, *map(str, flags), "--plot", str(plot)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3 and "ttft p99 ms" in table[0] and "out tok/s" in table[0] and plot.stat().st_size > 10_000


def test_as_many_requests_are_under_way_as_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    behaviour = Behaviour(crowd=4)
    with serving(behaviour) as url:
        record, _ = load(capsys, url, *SMALL, "--num-prompts", 8, "--max-concurrency", 4)
    assert record["runs"][0]["completed"] == 8 and behaviour.most == 4


def test_one_run_is_a_table_and_a_figure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "one.png"
    with serving(Behaviour()) as url:
        assert main(["bench", "serve", "--base-url", url, *SMALL, "--num-prompts", "5", "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    for word in ("requests a second", "output tokens", "ttft ms", "p95", "e2el ms"):
        assert word in said
    assert plot.stat().st_size > 10_000


def test_an_answer_that_comes_in_one_piece_has_a_figure(tmp_path: Path) -> None:
    """All times between tokens are 0, which no logarithmic axis shows."""
    pytest.importorskip("matplotlib")
    from warpjet.bench.load.plot import draw

    outcome = Outcome(sent=0.0, chunks=[0.25] * 8, ended=0.25, output_tokens=8)
    run = Run([outcome], 0.0, 0.25, 0.0, 0.0, 1)
    draw([], [run], Wanted(), "one piece", str(tmp_path / "one.png"))
    assert (tmp_path / "one.png").stat().st_size > 10_000


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
        for more, times in (((), (0.0, 0.2, 0.3)), (("--request-rate", 20), (0.0, 0.0667, 0.1))):
            record, _ = load(capsys, url, *flags, *more, "--save-detailed")
            sent = record["runs"][0]["requests"]
            assert [(one["input_tokens"], one["output_tokens"]) for one in sent] == [(20, 6), (30, 2), (40, 4)]
            assert all(one["sent_s"] > at - TICK for one, at in zip(sent, times, strict=True)), "none is early"
    file.write_text("time,input_tokens\n1,2\n")
    code, _said = error(capsys, "--base-url", url, "--model", "x", *flags)
    assert code == 2


def test_a_trace_keeps_its_times_or_is_stretched_to_a_rate() -> None:
    requests = [LoadRequest("", 1, 1, at_s=at) for at in (0.0, 0.2, 0.3)]
    assert send_times(requests, None, 1, random.Random(1)) == [0.0, 0.2, 0.3]
    assert send_times(requests, 20, 1, random.Random(1)) == pytest.approx([0, 0.0667, 0.1], abs=1e-4)
    assert send_times(requests, math.inf, 1, random.Random(1)) == [0.0] * 3


@pytest.mark.parametrize("cell", ["2023-11-16 18:15:46.6805900", "1.5"])
def test_times_in_a_trace_are_seconds_or_dates(tmp_path: Path, cell: str) -> None:
    from warpjet.bench.load.datasets import _csv_rows

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
