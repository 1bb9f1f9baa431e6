"""What is asked: THE TABLE of datasets, each a small reader."""

import csv
import datetime
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warpjet.bench.load.texts import Texts

_DEFAULT_REQUESTS = 1000
Message = dict[str, Any]


@dataclass(slots=True)
class LoadRequest:
    """A prompt, or the messages of a chat. at_s: when it is sent, in seconds from the start; None leaves that to the
    request rate. input_tokens is a wish: what counts is what the server says."""

    prompt: str | list[Message]
    input_tokens: int
    output_tokens: int
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What a reader draws from. num_prompts None: the dataset's own number."""

    options: Mapping[str, Any]
    num_prompts: int | None
    texts: Texts
    rng: random.Random
    seed: int

    def path(self) -> Path:
        if not self.options["dataset_path"]:
            raise ValueError("this dataset needs --dataset-path FILE")
        return Path(self.options["dataset_path"])


@dataclass(frozen=True, slots=True)
class Dataset:
    """options: name of a flag -> (type, default, help)."""

    read: Callable[[Source], list[LoadRequest]]
    options: Mapping[str, tuple[type, Any, str]]


# --- Readers ---------------------------------------------------------------------------------------------------------


def _read_random(source: Source) -> list[LoadRequest]:
    options, rng = source.options, source.rng
    ratio = options["random_range_ratio"]
    if not 0 <= ratio < 1:
        raise ValueError(f"--random-range-ratio must be from 0 to below 1, got {ratio}")
    for name in ("random_input_len", "random_output_len"):
        if options[name] < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {options[name]}")
    prefix_len = options["random_prefix_len"]
    prefix = source.texts.make(random.Random(source.seed), prefix_len) + " " if prefix_len > 0 else ""

    def length(mean: int) -> int:
        return max(1, rng.randint(round(mean * (1 - ratio)), round(mean * (1 + ratio))))

    requests = []
    for _ in range(source.num_prompts or _DEFAULT_REQUESTS):
        wanted, output = length(options["random_input_len"]), length(options["random_output_len"])
        text = source.texts.make(rng, wanted - source.texts.overhead)
        requests.append(LoadRequest(prefix + text, prefix_len + wanted, output))
    return requests


def _read_sharegpt(source: Source) -> list[LoadRequest]:
    """First question and answer of each conversation, in random order; what is very short or long is left out."""
    try:
        conversations = json.loads(source.path().read_bytes())
        pairs = [
            (turns[0]["value"], turns[1]["value"])
            for turns in (entry.get("conversations") or entry.get("conversation") or [] for entry in conversations)
            if len(turns) >= 2
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{source.path()} is not a ShareGPT file: {error!r}") from None
    source.rng.shuffle(pairs)
    wanted, fixed = source.num_prompts or _DEFAULT_REQUESTS, source.options["sharegpt_output_len"]
    requests: list[LoadRequest] = []
    for question, answer in pairs:
        if len(requests) == wanted:
            break
        tokens, output = source.texts.count(question), fixed or source.texts.count(answer)
        if tokens >= 4 and output >= 4 and tokens <= 1024 and tokens + output <= 2048:
            requests.append(LoadRequest(question, tokens, output))
    return _repeated(requests, wanted, source.path())


def _read_custom(source: Source) -> list[LoadRequest]:
    """JSON lines: {"prompt": text} or {"messages": [...]}, and output_tokens or max_tokens where it differs."""
    requests = []
    for number, line in _json_lines(source.path()):
        prompt = line.get("messages") or line.get("prompt")
        if not prompt or not isinstance(prompt, str | list):
            raise ValueError(f"{source.path()}:{number} has neither a prompt nor messages")
        output = line.get("output_tokens") or line.get("max_tokens") or source.options["custom_output_len"]
        if not isinstance(output, int) or output < 1:
            raise ValueError(f"{source.path()}:{number}: output_tokens must be a number from 1, got {output!r}")
        text = prompt if isinstance(prompt, str) else " ".join(str(message.get("content")) for message in prompt)
        requests.append(LoadRequest(prompt, source.texts.count(text), output))
    if not source.options["disable_shuffle"]:
        source.rng.shuffle(requests)
    return _repeated(requests, source.num_prompts or len(requests), source.path())


def _read_trace(source: Source) -> list[LoadRequest]:
    """Texts of random words that begin alike where the trace says so."""
    name = source.options["trace"]
    rows = _csv_rows(Path(name), source.options["duration_s"]) if name.endswith(".csv") else _native_rows(source)
    texts, made = source.texts, {}
    requests = []
    for second, input_tokens, output_tokens, key, segments in rows[: source.num_prompts]:
        parts, left = [], max(1, input_tokens - texts.overhead)
        for segment_key, tokens in segments:
            tokens = min(tokens, left)
            if (segment_key, tokens) not in made:
                made[segment_key, tokens] = texts.make(random.Random(f"{source.seed} segment {segment_key}"), tokens)
            parts.append(made[segment_key, tokens])
            left -= tokens
        if left > 0 or not parts:
            parts.append(texts.make(random.Random(f"{source.seed} own {key}"), left))
        requests.append(LoadRequest(" ".join(parts), input_tokens, output_tokens, at_s=second))
    return requests


# THE TABLE.
DATASETS: dict[str, Dataset] = {
    "random": Dataset(
        _read_random,
        {
            "random_input_len": (int, 1024, "tokens of a prompt"),
            "random_output_len": (int, 128, "tokens of an answer"),
            "random_range_ratio": (float, 0.0, "lengths are from (1 - this) to (1 + this) times the above"),
            "random_prefix_len": (int, 0, "tokens that all prompts begin with, besides"),
        },
    ),
    "sharegpt": Dataset(
        _read_sharegpt,
        {
            "dataset_path": (str, None, "the JSON file (sharegpt) or JSON lines (custom)"),
            "sharegpt_output_len": (int, None, "tokens of every answer, instead of the file's"),
        },
    ),
    "custom": Dataset(
        _read_custom,
        {
            "dataset_path": (str, None, ""),
            "custom_output_len": (int, 256, "tokens of an answer where the file does not say"),
            "disable_shuffle": (bool, False, "keep the file's order"),
        },
    ),
    "trace": Dataset(
        _read_trace,
        {
            "trace": (
                str,
                "azure-conv-23",
                "as for warpjet sim: azure-conv-23, azure-code-23, arxiv-sum, burst, tool-agent, or a .jsonl file in "
                "Mooncake's format; or a .csv file with columns for time, input tokens and output tokens",
            ),
            "duration_s": (float, 0.0, "seconds of it; 0 is 600, or all of a file"),
        },
    ),
}


# --- Traces ----------------------------------------------------------------------------------------------------------

_Row = tuple[float, int, int, int, list[tuple[int, int]]]  # second, input, output, key, [(key, tokens) of a segment]

# Names of a column in published traces, without what is no letter: (the column, factor to seconds).
_COLUMNS = {
    **dict.fromkeys(("time", "times", "timestamp", "arrivedat", "arrivaltime", "arrival"), ("time", 1.0)),
    **dict.fromkeys(("timems", "timestampms"), ("time", 1e-3)),
    **dict.fromkeys(
        ("inputtokens", "inputlength", "contexttokens", "prompttokens", "requesttokens", "numprefilltokens"),
        ("input", 1.0),
    ),
    **dict.fromkeys(
        ("outputtokens", "outputlength", "generatedtokens", "completiontokens", "responsetokens", "numdecodetokens"),
        ("output", 1.0),
    ),
}


def _native_rows(source: Source) -> list[_Row]:
    from warpjet._native import SimConfig, arrivals

    config = SimConfig(trace=source.options["trace"], duration_s=source.options["duration_s"], seed=source.seed)
    rows: list[_Row] = json.loads(arrivals(config))["requests"]
    return rows


def _csv_rows(path: Path, duration_s: float) -> list[_Row]:
    rows: list[_Row] = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        found: dict[str, tuple[int, float]] = {}
        for index, name in enumerate(next(reader, [])):
            if known := _COLUMNS.get("".join(c for c in name.lower() if c.isalpha())):
                found.setdefault(known[0], (index, known[1]))
        if missing := {"time", "input", "output"} - set(found):
            raise ValueError(f"{path}: the first line must name columns for {', '.join(sorted(missing))}")
        (time_at, scale), (input_at, _), (output_at, _) = found["time"], found["input"], found["output"]
        for cells in reader:
            try:
                tokens = int(cells[input_at]), int(cells[output_at])
                second = _second(cells[time_at], scale)
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}:{reader.line_num}: {error}") from None
            if min(tokens) > 0:  # traces have failed requests too
                rows.append((second, *tokens, len(rows), []))
    if not rows:
        raise ValueError(f"{path} has no requests")
    rows.sort(key=lambda row: row[0])
    begin = rows[0][0]
    return [(row[0] - begin, *row[1:]) for row in rows if not duration_s or row[0] - begin < duration_s]


def _second(text: str, scale: float) -> float:
    """A number, or a date and time."""
    try:
        return float(text) * scale
    except ValueError:
        return datetime.datetime.fromisoformat(text).timestamp()


# --- Files -----------------------------------------------------------------------------------------------------------


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{path}:{number} is not JSON: {error}") from None
            if not isinstance(line, dict):
                raise ValueError(f"{path}:{number} must be a JSON object")
            yield number, line


def _repeated(requests: list[LoadRequest], wanted: int, path: Path) -> list[LoadRequest]:
    if not requests:
        raise ValueError(f"{path} has no request that can be used")
    return [requests[index % len(requests)] for index in range(wanted)]
