"""What HTTP costs: a server whose device computes nothing, under the load of wrk, beside the engine without a server.

python bench/serve.py [--device null] [--seconds S] [--repeats N] [--output FILE]

Needs warpjet[server] and wrk (Debian: apt install wrk). One process serves, one thread of wrk asks; both are on the
same machine, so what the client uses is not the server's. The device is never waited for, so a stream's tokens come
together; the paced stream is held back by its reader, for about one token an event."""

import argparse
import asyncio
import json
import pstats
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from warpjet._native import Engine, EngineConfig, OutputQueue, SamplingParams
from warpjet.bench.records import circumstances, write_record
from warpjet.common.tables import table
from warpjet.requests.locate import EMBEDDED_MODEL
from warpjet.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "serve"))

from http_client import connect, events_of, parse_answer, request_bytes
from server import ServerProcess, idle_problems

PROMPT = "Once upon a time there was a little girl who"
IDLE_CONNECTIONS = 5000
_TOP = 12  # functions of a profile

LUA = """
wrk.method = "POST"
wrk.path = "{path}"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{{"requests": %d, "us": %d, "bytes": %d, "failed": %d, "p50_us": %d, "p99_us": %d}}\\n',
    summary.requests, summary.duration, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""

# What is asked: (path, body, connections)
ONE_TOKEN = ("/v1/completions", {"prompt": PROMPT, "max_tokens": 1, "ignore_eos": True}, 64)
ONE_CHAT_TOKEN = (
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 1, "ignore_eos": True},
    64,
)
STREAM = ("/v1/completions", {"prompt": PROMPT, "max_tokens": 256, "ignore_eos": True, "stream": True}, 128)
CHAT_STREAM = ("/v1/chat/completions", {**ONE_CHAT_TOKEN[1], "max_tokens": 256, "stream": True}, 128)
Load = tuple[str, dict[str, Any], int]


def wrk(server: ServerProcess, load: Load, seconds: float) -> dict[str, float]:
    """What wrk counted, and what the server used meanwhile."""
    path, body, connections = load
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA.format(path=path, body=json.dumps(body)))
        script.flush()
        host, port = server.address
        command = [
            "wrk",
            "-t1",
            "--timeout",
            "60s",
            "--latency",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "-s",
            script.name,
            f"http://{host}:{port}",
        ]
        before, cpu = server.metrics(), server.cpu_seconds()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
        cpu = server.cpu_seconds() - cpu
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests failed:\n{done.stdout}")
    after = server.metrics()
    tokens = after["generation_tokens_total"] - before["generation_tokens_total"]
    elapsed = found["us"] * 1e-6
    return {
        "requests_per_s": found["requests"] / elapsed,
        "tokens_per_s": tokens / elapsed,
        "p50_ms": found["p50_us"] * 1e-3,
        "p99_ms": found["p99_us"] * 1e-3,
        "server_cpu_us_per_request": cpu * 1e6 / max(1, found["requests"]),
        "server_cpu_us_per_token": cpu * 1e6 / max(1, tokens),
        "server_cores": cpu / elapsed,
    }


async def tokens_per_event(server: ServerProcess, load: Load) -> float:
    """In a stream among the others: what comes together goes out together."""
    path, body, _ = load
    reader, writer = await connect(server.address)
    writer.write(request_bytes(path, body))
    answer = parse_answer(await reader.read(-1))
    writer.close()
    texts = [event for event in events_of(answer.body) if event and event["choices"]]
    return float(body["max_tokens"]) / max(1, len(texts))


def measure(server: ServerProcess, load: Load, seconds: float, repeats: int) -> dict[str, float]:
    """Medians."""
    wrk(server, load, 1.0)  # warm-up
    runs = []
    for _ in range(repeats):
        runs.append(wrk(server, load, seconds))
        if problems := idle_problems(server):
            raise RuntimeError(f"after a run: {problems}")
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


async def under_load(server: ServerProcess, load: Load) -> float:
    storm = asyncio.create_task(asyncio.to_thread(wrk, server, load, 3.0))
    await asyncio.sleep(1.0)
    found = await tokens_per_event(server, load)
    await storm
    return found


def bare_engine(device: str, load: Load, seconds: float, repeats: int) -> dict[str, float]:
    """The same requests straight to the engine, as many at once: token ids in, token ids out."""
    _, body, at_once = load
    engine = Engine.open(EMBEDDED_MODEL, EngineConfig(device=device, max_num_queued_reqs=4096))
    params = SamplingParams(max_tokens=body["max_tokens"], ignore_eos=True, detokenize=False, output_kind="delta")
    ids = Tokenizer(EMBEDDED_MODEL).encode(PROMPT)
    queue = OutputQueue()
    for _ in range(at_once):
        engine.submit(ids, params, queue)
    rates = []
    for _ in range(repeats + 1):
        start, ended = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            for output in queue.poll(1.0):
                if output.finish is not None:
                    ended += 1
                    engine.submit(ids, params, queue)
        rates.append(ended / (time.perf_counter() - start))
    engine.close()
    rate = statistics.median(rates[1:])
    return {"requests_per_s": rate, "tokens_per_s": rate * body["max_tokens"]}


async def idle(server: ServerProcess, count: int, seconds: float = 3.0) -> dict[str, float]:
    """Connections on which nothing is said after the first request."""
    before = server.resources()["rss_bytes"]
    ask = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    open_ones = []
    for _ in range(count):
        reader, writer = await connect(server.address)
        writer.write(ask)
        await reader.readuntil(b"\r\n\r\n")
        open_ones.append(writer)
    cpu, start = server.cpu_seconds(), time.perf_counter()
    await asyncio.sleep(seconds)
    share = (server.cpu_seconds() - cpu) / (time.perf_counter() - start)
    grown = server.resources()["rss_bytes"] - before
    for writer in open_ones:
        writer.close()
    return {"connections": count, "kib_each": grown / count / 1024, "server_cores": share}


def profile(flags: list[str], load: Load, seconds: float) -> dict[str, float]:
    """Functions of the server, and their share of the time that it spends in Python, by cProfile. The event loop's own
    time is not seen: it looks like waiting."""
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "profile")
        with ServerProcess(flags, before=("-m", "cProfile", "-o", file)) as server:
            wrk(server, load, seconds)
            server.terminate()
            server.wait()
        # {(file, line, function): (primitive calls, calls, own seconds, seconds with callees, callers)}
        found: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(file).stats  # type: ignore[attr-defined]
    own = {f"{Path(key[0]).name} {key[2]}": row[2] for key, row in found.items() if Path(key[0]).name != "runners.py"}
    busiest = sorted(own, key=lambda name: -own[name])[:_TOP]
    return {name: round(own[name] / sum(own.values()), 4) for name in busiest}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="null", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", metavar="FILE")
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed; on Debian: apt install wrk")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flags = ["--device", args.device, "--max-num-queued-reqs", "4096", "--log-level", "error"]
    rows: dict[str, dict[str, float]] = {}
    with ServerProcess(flags) as server:
        loads = {"one_token": ONE_TOKEN, "one_chat_token": ONE_CHAT_TOKEN, "stream": STREAM, "chat_stream": CHAT_STREAM}
        for name, load in loads.items():
            rows[name] = measure(server, load, args.seconds, args.repeats)
        for name in ("stream", "chat_stream"):
            rows[name]["tokens_per_event"] = asyncio.run(under_load(server, loads[name]))
        rows["idle"] = asyncio.run(idle(server, min(IDLE_CONNECTIONS, hard - 100)))
    paced = [*flags, "--max-unread-tokens", "1"]
    with ServerProcess(paced) as server:
        rows["paced_stream"] = measure(server, STREAM, args.seconds, args.repeats)
        rows["paced_stream"]["tokens_per_event"] = asyncio.run(under_load(server, STREAM))
    rows["bare_one_token"] = bare_engine(args.device, ONE_TOKEN, args.seconds, args.repeats)
    rows["bare_stream"] = bare_engine(args.device, STREAM, args.seconds, args.repeats)
    for row in rows.values():
        if "tokens_per_event" in row:
            row["events_per_s"] = row["tokens_per_s"] / row["tokens_per_event"]
    profiles = {"one_token": profile(flags, ONE_TOKEN, 5.0), "paced_stream": profile(paced, STREAM, 5.0)}
    results = {f"{name}_{key}": round(value, 3) for name, row in rows.items() for key, value in row.items()}
    record = {
        "bench": "serve",
        "model": EMBEDDED_MODEL.name,
        "workload": {name: {"path": load[0], **load[1], "connections": load[2]} for name, load in loads.items()},
        "engine": {"device": args.device},
        "results": results,
        "profile": profiles,
        **circumstances(),
        "device": args.device,
        "command": "python bench/serve.py",
    }
    if args.output:
        write_record(args.output, record)
    for name, shares in profiles.items():
        print(table((name, "share"), [(function, f"{share:.1%}") for function, share in shares.items()]), end="\n\n")
    print(table(("measure", "value"), [(key, f"{value:,.2f}") for key, value in results.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
