"""Hundreds of clients that do what clients do: ask, leave, stall, send nonsense, all at once and too many of them.

python tests/serve/chaos.py [--seconds S] [--clients N] [--seed N]      needs warpjet[server]

Then: every request that was accepted has ended exactly once, nothing of any is left, the canary sings the same notes as
before, and SIGTERM lets those that live finish."""

import argparse
import asyncio
import collections
import itertools
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from http_client import (
    Address,
    Answer,
    ask,
    connect,
    events_of,
    parse_answer,
    read_answer,
    request_bytes,
    reset,
    stream_problems,
)
from server import ServerProcess, idle_problems
from waiting import PATIENCE_S, becomes

COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "one",
    "red",
    "bird",
    "fly",
    "over",
    "two",
    "old",
    "trees",
)
FLAGS = (
    *("--max-num-queued-reqs", "128", "--max-num-queued-tokens", "30000", "--max-body-bytes", "1000000"),
    *("--body-timeout", "3"),  # of those that never send the rest; all others send head and body in one piece
)
PATIENT = tuple(
    word for name in ("header", "send", "prepare", "shutdown") for word in (f"--{name}-timeout", f"{PATIENCE_S:g}")
)
REFUSED = (429, 503)
CANARY = {
    "prompt": "Once upon a time",
    "max_tokens": 24,
    "temperature": 0,
    "logprobs": 3,
    "seed": 1,
    "ignore_eos": True,
}


@dataclass
class Tally:
    """What happened, by name, and what must not have."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)

    def count(self, what: str, answer: Answer) -> None:
        """Raises Refused when the server had no room."""
        if refused(answer):
            self.counts[f"{what} refused"] += 1
            raise Refused
        self.counts[f"{what} {answer.status}"] += 1

    def expect(self, who: str, good: bool, what: object) -> None:
        if not good:
            self.problems.append(f"{who}: {what}")


class Refused(Exception):
    """The client comes back."""


Client = Callable[[Address, random.Random, Tally], Awaitable[None]]


def prompt(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def completion(rng: random.Random, **fields: Any) -> dict[str, Any]:
    body = {"prompt": prompt(rng, rng.randint(1, 120)), "max_tokens": rng.randint(1, 40), "ignore_eos": True}
    return body | {"temperature": rng.choice([0, 1]), "seed": rng.randint(0, 9), **fields}


def refused(answer: Answer) -> bool:
    """Cleanly: with a status that says so, when to try again, and the reason."""
    if answer.status not in REFUSED or "retry-after" not in answer.headers:
        return False
    return bool(answer.json()["error"]["message"])


# --- Clients ---------------------------------------------------------------------------------------------------------


async def reads_a_stream(address: Address, rng: random.Random, tally: Tally) -> None:
    n = rng.choice([1, 1, 1, 3])
    body = completion(rng, stream=True, n=n, stream_options={"include_usage": True})
    answer = await ask(address, COMPLETIONS, body)
    tally.count("stream", answer)
    problems = stream_problems(answer, n, body["max_tokens"])
    tally.expect("stream", answer.status == 200 and not problems, problems)


async def reads_an_answer(address: Address, rng: random.Random, tally: Tally) -> None:
    messages = [{"role": "user", "content": prompt(rng, rng.randint(1, 60))}]
    body = {"messages": messages, "max_tokens": rng.randint(1, 30), "n": rng.choice([1, 2]), "ignore_eos": True}
    answer = await ask(address, CHAT, body)
    tally.count("answer", answer)
    choices = answer.json().get("choices", [])
    tally.expect("answer", [c["finish_reason"] for c in choices] == ["length"] * body["n"], answer)


async def leaves_before_it_asked(address: Address, rng: random.Random, tally: Tally) -> None:
    data = request_bytes(COMPLETIONS, completion(rng))
    await _send_and_leave(address, rng, data[: rng.randrange(len(data))])
    tally.counts["left before it asked"] += 1


async def leaves_at_once(address: Address, rng: random.Random, tally: Tally) -> None:
    """While its prompt is read or computed."""
    body = completion(rng, prompt=prompt(rng, 300), stream=rng.random() < 0.5, n=rng.choice([1, 4]), max_tokens=100)
    await _send_and_leave(address, rng, request_bytes(COMPLETIONS, body), rng.choice([0, 0, 0.003, 0.03]))
    tally.counts["left at once"] += 1


async def _send_and_leave(address: Address, rng: random.Random, data: bytes, after_s: float = 0.0) -> None:
    _, writer = await connect(address)
    writer.write(data)
    await writer.drain()
    await asyncio.sleep(after_s)
    if rng.random() < 0.5:
        reset(writer)
    else:
        writer.close()


async def leaves_in_the_middle(address: Address, rng: random.Random, tally: Tally) -> None:
    reader, writer = await connect(address)
    writer.write(request_bytes(COMPLETIONS, completion(rng, stream=True, max_tokens=400)))
    seen = b""
    async with asyncio.timeout(PATIENCE_S):
        while seen.count(b"data: ") < rng.randint(1, 30) and (piece := await reader.read(200)):
            seen += piece
    reset(writer) if rng.random() < 0.5 else writer.close()
    tally.count("left in the middle", parse_answer(seen))


async def stops_reading(address: Address, rng: random.Random, tally: Tally) -> None:
    """For a while, then reads the rest."""
    body = completion(rng, prompt="so", stream=True, n=4, max_tokens=120, stream_options={"include_usage": True})
    reader, writer = await _stall(address, body, rng.uniform(0.2, 1.5))
    async with asyncio.timeout(PATIENCE_S):
        answer = await read_answer(reader)
    writer.close()
    tally.count("slow reader", answer)
    problems = stream_problems(answer, 4, body["max_tokens"])
    tally.expect("slow reader", answer.status == 200 and not problems, problems)


async def never_reads_again(address: Address, rng: random.Random, tally: Tally) -> None:
    """More is said than fits anywhere on the way, so the server is left with it."""
    body = completion(rng, prompt="so", stream=True, n=8, max_tokens=800, logprobs=20)
    _, writer = await _stall(address, body, rng.uniform(2.0, 4.0))
    reset(writer)
    tally.counts["never read again"] += 1


async def _stall(
    address: Address, body: dict[str, Any], seconds: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Asks, and reads nothing for so long."""
    reader, writer = await connect(address, receive_bytes=4096)
    writer.write(request_bytes(COMPLETIONS, body))
    await asyncio.sleep(seconds)
    return reader, writer


async def sends_garbage(address: Address, rng: random.Random, tally: Tally) -> None:
    kinds = [
        rng.randbytes(rng.randint(1, 2000)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST " + b"/" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),  # TLS to a port without
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 7\r\n\r\n{}",
    ]
    reader, writer = await connect(address)
    writer.write(rng.choice(kinds))
    if rng.random() < 0.5:
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            answer = await read_answer(reader)
        tally.expect("garbage", answer.status == 0 or 400 <= answer.status < 500, answer)
    writer.close()
    tally.counts["garbage"] += 1


async def truncates_its_body(address: Address, rng: random.Random, tally: Tally) -> None:
    data = json.dumps(completion(rng)).encode()
    cut = data[: rng.randrange(1, len(data))]
    if rng.random() < 0.5:  # as long as it says, and no JSON
        answer = await ask(address, COMPLETIONS, cut)
        tally.expect("truncated", answer.status == 400, answer)
    else:  # it waits for the rest until it is tired of it
        reader, writer = await connect(address)
        writer.write(request_bytes(COMPLETIONS, cut, **{"Content-Length": str(len(data))}))
        async with asyncio.timeout(PATIENCE_S):
            answer = await read_answer(reader)
        writer.close()
        tally.expect("truncated", answer.status == 408, answer)
    tally.counts[f"truncated {answer.status}"] += 1


BAD_BODIES: list[object] = [
    b"",
    b"{",
    b"\xff\xfe{}",
    b'{"prompt": "a", "max_tokens": 1e999}',
    b'{"prompt": "a", "temperature": NaN}',
    b"[" * 5000,
    b'{"prompt": "a\x00b", "max_tokens"',
    {},
    [],
    {"prompt": ""},
    {"prompt": []},
    {"prompt": [[]]},
    {"prompt": [-1]},
    {"prompt": [1 << 40]},
    {"prompt": "a", "temperature": -1},
    {"prompt": "a", "top_p": 2},
    {"prompt": "a", "n": 0},
    {"prompt": "a", "n": 100000},
    {"prompt": "a", "max_tokens": -1},
    {"prompt": "a", "max_tokens": 1 << 70},
    {"prompt": "a", "seed": 1 << 70},
    {"prompt": "a", "stop": [""]},
    {"prompt": "a", "logit_bias": {"x": 1}},
    {"prompt": "a", "logprobs": 1000},
    {"prompt": "a", "model": "another"},
    {"prompt": "word " * 3000},
    {"prompt": "a" * 1_500_000},
]


async def asks_what_cannot_be(address: Address, rng: random.Random, tally: Tally) -> None:
    body = rng.choice(BAD_BODIES)
    answer = await ask(address, COMPLETIONS, body)
    good = 400 <= answer.status < 500 or refused(answer)
    good = good and bool(answer.json()["error"]["message"]) and b"Traceback" not in answer.body
    tally.expect("bad request", good, (str(body)[:80], answer))
    tally.counts[f"bad request {answer.status}"] += 1


async def floods(address: Address, rng: random.Random, tally: Tally) -> None:
    """Asks for more and more, until the queue holds no more."""
    writers = []
    while True:
        reader, writer = await connect(address)
        writers.append(writer)
        writer.write(request_bytes(COMPLETIONS, completion(rng, stream=True, max_tokens=800, prompt="so")))
        async with asyncio.timeout(PATIENCE_S):
            first = await reader.readuntil(b"\r\n")
            if b" 200 " not in first:
                answer = parse_answer(first + await reader.read(-1))
                break
    for writer in writers:
        reset(writer)
    tally.expect("flood", refused(answer), answer)
    tally.counts["flood refused"] += 1


async def goes_one_after_another(address: Address, rng: random.Random, tally: Tally) -> None:
    """Several requests on one connection, sent before the first is answered."""
    bodies = [completion(rng, max_tokens=4) for _ in range(4)]
    ends = ["keep-alive"] * 3 + ["close"]
    reader, writer = await connect(address)
    for body, end in zip(bodies, ends, strict=True):
        writer.write(request_bytes(COMPLETIONS, body, Connection=end))
    async with asyncio.timeout(PATIENCE_S):
        data = await reader.read(-1)
    writer.close()
    statuses = [part[:3].decode() for part in data.split(b"HTTP/1.1 ")[1:]]
    tally.expect("pipeline", len(statuses) == 4 and {*statuses} <= {"200", "503", "429"}, statuses)
    tally.counts["pipeline"] += 1


async def asks_for_a_form(address: Address, rng: random.Random, tally: Tally) -> None:
    """The answer must have it, or the request is refused; a grammar that is too much hurts nobody else."""
    forms: list[tuple[dict[str, Any], str | None]] = [
        ({"choice": ["red", "blue"]}, "red|blue"),
        ({"regex": "[a-c]{3}"}, "[a-c]{3}"),
        ({"regex": "(" * rng.choice([1, 3000])}, None),
        ({"grammar": "root ::= " + "(" * 60_000}, None),
        ({"json": {"$ref": "http://127.0.0.1:1/schema.json"}}, None),
    ]
    form, pattern = rng.choice(forms)
    answer = await ask(address, COMPLETIONS, completion(rng, structured_outputs=form, max_tokens=30, ignore_eos=False))
    tally.count("form", answer)
    if answer.status == 200 and pattern:
        text = answer.json()["choices"][0]["text"]
        tally.expect("form", re.fullmatch(pattern, text) is not None, (form, text))
    else:
        tally.expect("form", answer.status == 400 and not pattern, (str(form)[:80], answer))


async def cancels_in_the_background(address: Address, rng: random.Random, tally: Tally) -> None:
    """By the API that has a route for it."""
    begun = await ask(address, RESPONSES, {"input": prompt(rng, 20), "background": True, "max_output_tokens": 600})
    tally.count("background", begun)
    await asyncio.sleep(rng.uniform(0, 0.5))
    ended = await ask(address, f"{RESPONSES}/{begun.json()['id']}/cancel", {})
    tally.expect("cancel", ended.status in (200, 400, *REFUSED), ended)
    tally.counts[f"cancel {ended.status} {ended.json().get('status')}"] += 1


# THE TABLE of clients: how many of each come in a round.
CLIENTS: list[tuple[Client, int]] = [
    (reads_a_stream, 26),
    (reads_an_answer, 14),
    (leaves_before_it_asked, 6),
    (leaves_at_once, 12),
    (leaves_in_the_middle, 12),
    (stops_reading, 7),
    (never_reads_again, 1),
    (sends_garbage, 6),
    (truncates_its_body, 4),
    (asks_what_cannot_be, 8),
    (asks_for_a_form, 5),
    (cancels_in_the_background, 4),
    (floods, 1),
    (goes_one_after_another, 3),
]


# --- The run ---------------------------------------------------------------------------------------------------------


def visits(rng: random.Random, table: Sequence[tuple[Client, int]]) -> Iterator[Client]:
    """Without end; as many of each kind as the table says among every so many."""
    round_ = [kind for kind, count in table for _ in range(count)]
    while True:
        yield from rng.sample(round_, len(round_))


def for_seconds(coming: Iterator[Client], seconds: float) -> Iterator[Client]:
    """Those that come within this time."""
    end = time.monotonic() + seconds
    return itertools.takewhile(lambda _: time.monotonic() < end, coming)


async def storm(address: Address, rng: random.Random, tally: Tally, clients: int, coming: Iterator[Client]) -> None:
    """So many clients at a time, each another one when it has done. Who is refused comes back until it is served."""

    async def one(own: random.Random) -> None:
        for kind in coming:
            while not await _visit(kind, address, own, tally):
                await asyncio.sleep(own.uniform(0.1, 0.3))
            await asyncio.sleep(own.uniform(0, 0.2))

    over = asyncio.Event()
    singing = asyncio.create_task(sing(address, tally, over))
    await asyncio.gather(*(one(random.Random(rng.randrange(1 << 30))) for _ in range(clients)))
    over.set()
    await singing


async def _visit(kind: Client, address: Address, own: random.Random, tally: Tally) -> bool:
    """Whether it was served."""
    try:
        await kind(address, own, tally)
    except Refused:
        return False
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        tally.counts[f"{kind.__name__}: {type(error).__name__}"] += 1
    except TimeoutError:
        tally.problems.append(f"{kind.__name__} was not answered")
    return True


async def sing(address: Address, tally: Tally, over: asyncio.Event) -> None:
    """The canary in the storm: refused perhaps, but never another tune."""
    tunes = set()
    while not tunes or not over.is_set():
        answer = await ask(address, COMPLETIONS, CANARY)
        if answer.status == 200:
            tunes.add(json.dumps(answer.json()["choices"]))
            tally.counts["canary"] += 1
        else:
            tally.expect("canary", refused(answer), answer)
        await asyncio.sleep(0.1 if answer.status == 200 else 0.02)
    tally.expect("canary", len(tunes) == 1, f"{len(tunes)} tunes")


def canary(server: ServerProcess) -> Any:
    """Text and log-probabilities, to the last bit."""
    return server.post(COMPLETIONS, CANARY)["choices"]


async def drain(server: ServerProcess, tally: Tally, rng: random.Random, tokens: int, ends: set[str]) -> None:
    """SIGTERM while streams live: each has one end, of these; who asks later is not served."""
    bodies = [completion(rng, stream=True, max_tokens=tokens, prompt="a") for _ in range(24)]
    begun = [asyncio.Event() for _ in bodies]
    streams = [asyncio.create_task(_read_from(server.address, *each)) for each in zip(bodies, begun, strict=True)]
    for event in begun:
        await event.wait()
    late_reader, late_writer = await connect(server.address)
    server.terminate()
    await becomes(lambda: any("draining" in line for line in server.log))
    late_writer.write(request_bytes(COMPLETIONS, completion(rng)))
    late = await read_answer(late_reader)
    late_writer.close()
    tally.expect("drain", late.status == 0 or (late.status == 503 and refused(late)), late)  # 0: all had ended
    for answer in await asyncio.gather(*streams):
        reasons = [c["finish_reason"] for e in filter(None, events_of(answer.body)) for c in e["choices"]]
        found = [reason for reason in reasons if reason]
        tally.expect("drain", answer.whole and len(found) == 1 and found[0] in ends, (found, answer.body[-300:]))
        tally.counts[f"drained: {found}"] += 1


async def _read_from(address: Address, body: dict[str, Any], begun: asyncio.Event) -> Answer:
    """All of a stream; begun is set when the first of it has come."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await connect(address)
        writer.write(request_bytes(COMPLETIONS, body))
        head = await reader.read(100)
        begun.set()
        answer = await read_answer(reader, head)
    writer.close()
    return answer


def run(seed: int, clients: int, among: Callable[[Iterator[Client]], Iterator[Client]]) -> Tally:
    """Starts a server, does all of it, and ends it. among: which of the endless visits are made."""
    tally, rng = Tally(), random.Random(seed)
    with ServerProcess((*FLAGS, *PATIENT)) as server:
        before = canary(server)
        asyncio.run(storm(server.address, rng, tally, clients, among(visits(rng, CLIENTS))))
        tally.problems += idle_problems(server)
        tally.expect("canary", canary(server) == before, "it sings another tune after the storm")
        _end(server, tally, rng, tokens=400, ends={"length"})
    with ServerProcess((*FLAGS, *PATIENT, "--shutdown-timeout", "1")) as server:  # no time to finish
        _end(server, tally, rng, tokens=900, ends={"abort", "length"})
    return tally


def _end(server: ServerProcess, tally: Tally, rng: random.Random, tokens: int, ends: set[str]) -> None:
    asyncio.run(drain(server, tally, rng, tokens, ends))
    try:
        code = server.wait()
        tally.expect("SIGTERM", code == 0, f"exit code {code}")
    except subprocess.TimeoutExpired:
        tally.problems.append("SIGTERM: it does not end")
    complaints = [line for line in server.log if "Traceback" in line or "a request failed" in line]
    tally.expect("log", not complaints, "".join(server.log[-40:]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    tally = run(args.seed, args.clients, lambda coming: for_seconds(coming, args.seconds))
    for name, count in sorted(tally.counts.items()):
        print(f"{count:7} {name}")
    for problem in tally.problems[:50]:
        print(f"PROBLEM {problem}")
    print(f"{len(tally.problems)} problems")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
