"""warpjet bench serve: a run for each rate and concurrency, and a record of them."""

import argparse
import asyncio
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from warpjet.bench.load import flags
from warpjet.bench.load.arrivals import send_times
from warpjet.bench.load.client import Client, Outcome, Target
from warpjet.bench.load.datasets import DATASETS, LoadRequest, Source
from warpjet.bench.load.probe import probe_texts, served_model
from warpjet.bench.load.report import Wanted, notes, one_table, summarise, sweep_table
from warpjet.bench.load.run import Run, run_load
from warpjet.bench.load.texts import Texts
from warpjet.bench.records import check_plot, circumstances, write_record
from warpjet.common.files import check_writable
from warpjet.requests.locate import find_directory
from warpjet.text.tokenizer import Tokenizer

_SECRET = ("--api-key", "--header")


@dataclass(frozen=True, slots=True)
class Load:
    """A run: requests a second (None: as the dataset says, or all at once), and how many may be under way."""

    rate: float | None
    max_concurrency: int | None

    def facts(self) -> dict[str, Any]:
        rate = "inf" if self.rate is None or math.isinf(self.rate) else self.rate
        return {"request_rate": rate, "max_concurrency": self.max_concurrency}

    def label(self) -> str:
        rate = "" if self.rate is None or math.isinf(self.rate) else f"{self.rate:g}/s"
        return (
            " ".join(filter(None, (rate, f"{self.max_concurrency} at once" if self.max_concurrency else ""))) or "all"
        )


def bench_serve(args: argparse.Namespace) -> int:
    """Prints a table or JSON; writes the JSON and a figure where asked to. Raises RuntimeError if nothing succeeded."""
    flags.check(args)
    if args.plot:
        check_plot(args.plot)
    if args.save_result:
        check_writable(args.save_result, "--save-result")
    wanted, options = flags.wanted(args), flags.dataset_options(args)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        target, rows, runs = runner.run(_measure(args, options, wanted))
    record = _record(args, target, options, rows)
    file = flags.result_file(args, target.model)
    if file and args.append_result:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
    elif file:
        write_record(str(file), record)
    if args.json:
        print(json.dumps(record))
    else:
        print(one_table(rows[0], wanted) if len(rows) == 1 else sweep_table(rows, wanted))
    if args.plot:
        from warpjet.bench.load.plot import draw

        draw(rows, runs, wanted, f"{target.model}, {args.dataset_name}: {target.base_url}{target.endpoint}", args.plot)
    if not any(row["completed"] for row in rows):
        raise RuntimeError("no request succeeded")
    return 0


def _loop_factory() -> Any:
    """uvloop's where it is installed: a chunk costs less."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _measure(
    args: argparse.Namespace, options: Mapping[str, Any], wanted: Wanted
) -> tuple[Target, list[dict[str, Any]], list[Run]]:
    tokenizer = Tokenizer(find_directory(args.tokenizer)) if args.tokenizer else None
    target = flags.target(args)
    if not target.model:
        target = replace(target, model=await served_model(target, args.ready_check_timeout_sec))
    client = Client(target)
    rows, runs = [], []
    try:
        texts = await probe_texts(client, tokenizer, args.ready_check_timeout_sec)
        loads = [Load(rate, at_once) for rate in args.request_rate for at_once in args.max_concurrency]
        for index, load in enumerate(loads):
            # Other requests in each run: the last one's may be in the prefix cache.
            rng = random.Random(args.seed + index)
            source = Source(options, args.num_prompts, texts, rng, args.seed + index)
            requests = DATASETS[args.dataset_name].read(source)
            await _warm_up(client, requests, args.num_warmups, texts)
            run = await _run(args, client, requests, load, rng)
            for outcome, request in zip(run.outcomes, requests, strict=True):
                _count(outcome, request, tokenizer)
                outcome.asked_tokens = request.output_tokens
            for line in notes(run):
                print(f"warpjet: {line}", file=sys.stderr)
            rows.append(load.facts() | summarise(run, wanted))
            if args.save_detailed:
                rows[-1]["requests"] = [_detail(outcome, run.begin) for outcome in run.outcomes]
            runs.append(run)
    finally:
        await client.close()
    return target, rows, runs


async def _warm_up(client: Client, like: Sequence[LoadRequest], count: int, texts: Texts) -> None:
    """Requests as long as the first ones, and other texts."""
    rng = random.Random("warm-up")
    bodies = [
        client.target.encode(
            LoadRequest(texts.make(rng, request.input_tokens - texts.overhead), 0, request.output_tokens)
        )
        for request in like[:count]
    ]
    await run_load(client, bodies, [0.0] * len(bodies), None)


async def _run(
    args: argparse.Namespace, client: Client, requests: Sequence[LoadRequest], load: Load, rng: random.Random
) -> Run:
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    times = send_times(requests, load.rate, args.burstiness, rng)
    bodies = [client.target.encode(request) for request in requests]
    hidden = True if args.disable_tqdm else None
    with tqdm(total=len(bodies), desc=load.label(), unit=" requests", disable=hidden) as bar:
        return await run_load(client, bodies, times, load.max_concurrency, lambda _: bar.update())


def _count(outcome: Outcome, request: LoadRequest, tokenizer: Tokenizer | None) -> None:
    """For servers that do not say how many tokens it was: by the tokenizer, or else a chunk is a token."""
    if outcome.output_tokens is None:
        text = "".join(outcome.text)
        outcome.output_tokens = len(tokenizer.encode(text, False)) if tokenizer and text else len(outcome.chunks)
    if outcome.input_tokens is None:
        outcome.input_tokens = request.input_tokens
    outcome.text.clear()


# --- Records ---------------------------------------------------------------------------------------------------------


def _detail(outcome: Outcome, begin: float) -> dict[str, Any]:
    return {
        "sent_s": round(outcome.sent - begin, 6),
        "ttft_ms": round(outcome.ttft * 1e3, 3),
        "e2el_ms": round(outcome.e2el * 1e3, 3),
        "itl_ms": [round((b - a) * 1e3, 3) for a, b in zip(outcome.chunks, outcome.chunks[1:], strict=False)],
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        "error": outcome.error,
    }


def _record(
    args: argparse.Namespace, target: Target, options: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What was run and `runs`, one for each load, under the names of `vllm bench serve`; those of a single run stand at
    the top as well, as in that command's files."""
    return {
        "bench": "serve",
        "model": target.model,
        "base_url": target.base_url,
        "endpoint": target.endpoint,
        "workload": {"dataset": args.dataset_name, **options, "burstiness": args.burstiness, "seed": args.seed},
        "request": dict(target.body),
        "goodput_ms": dict(args.goodput),
        "metadata": dict(args.metadata),
        "endpoint_type": args.backend,
        "model_id": target.model,
        "num_prompts": args.num_prompts,
        **(rows[0] if len(rows) == 1 else {}),
        "runs": list(rows),
        **circumstances(),
        "device": dict(args.metadata).get("device", "the server's"),
        "command": _command(sys.argv[1:]),
    }


def _command(arguments: Sequence[str]) -> str:
    """Without secrets."""
    words = ["warpjet"]
    for word in arguments:
        flag, equals, _ = word.partition("=")
        if words[-1] in _SECRET:
            words.append("***")
        else:
            words.append(f"{flag}=***" if flag in _SECRET and equals else word)
    return " ".join(words)
