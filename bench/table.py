"""Writes tables of numbers from bench/results: ten into the README, all into bench/README.md.

python bench/table.py [--check]
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- numbers:begin -->", "<!-- numbers:end -->"

# (what, result file's end, key, how it is shown)
ROWS = [
    ("embedded model, one request: tokens a second", "latency", "tokens_per_s", "{:,.0f}"),
    ("embedded model, one request of 32 + 128 tokens, against transformers", "compare", "ratio", "{:.1f} x"),
    ("SmolLM2-135M in bf16, one request, against llama.cpp: output", "llama-cpp", "decode_ratio", "{:.2f} x"),
    ("the same: prompt", "llama-cpp", "prefill_ratio", "{:.2f} x"),
    ("embedded model, queue of 64 requests: output tokens a second", "throughput", "output_tokens_per_s", "{:,.0f}"),
    ("the engine alone, a step of 32 requests, microseconds", "engine", "step_32_us", "{:.1f}"),
    ("the same, 256 requests", "engine", "step_256_us", "{:.1f}"),
    ("the same, 2,048 requests", "engine", "step_2048_us", "{:.0f}"),
    ("heap allocations in such a step", "engine", "step_allocations", "{:.0f}"),
    ("planning a step of 2,048 requests with 10,000 waiting, microseconds", "engine", "schedule_10000_us", "{:.0f}"),
    ("evicting and taking a KV block, 1,000 blocks, nanoseconds", "engine", "evict_1000_ns", "{:.0f}"),
    ("the same, 1,000,000 blocks", "engine", "evict_1000000_ns", "{:.0f}"),
    ("finding a cached prefix of 8,192 tokens, microseconds", "engine", "match_8192_us", "{:.1f}"),
    ("requests accepted a second, 128 tokens each", "engine", "submit_per_s", "{:,.0f}"),
    ("the same, up to their first step", "engine", "admit_per_s", "{:,.0f}"),
    ("the server, no model behind it: requests of one token a second", "serve", "one_token_requests_per_s", "{:,.0f}"),
    ("the same, chats", "serve", "one_chat_token_requests_per_s", "{:,.0f}"),
    ("the same, tokens streamed a second", "serve", "stream_tokens_per_s", "{:,.0f}"),
    ("the same, chats streamed", "serve", "chat_stream_tokens_per_s", "{:,.0f}"),
    ("an idle connection, KiB", "serve", "idle_kib_each", "{:.1f}"),
    ("`pip install .`, seconds", "startup", "install_s", "{:.0f}"),
    ("`import warpjet`, milliseconds, Python's own start included", "startup", "import_s", "{:.0f}"),
    ("`warpjet --help`, milliseconds", "startup", "help_s", "{:.0f}"),
    ("`warpjet generate`, whole command, milliseconds", "startup", "first_command_s", "{:.0f}"),
    ("its peak memory, MiB", "startup", "first_command_rss_mib", "{:.0f}"),
]

# The same for each GPU: Llama-3.1-8B in bf16 with random weights, by bench/gpu.py. What was not measured has no row.
GPU_ROWS = [
    ("one request, 128 tokens in, 128 out: tokens a second", "latency", "batch_1_tokens_per_s", "{:,.0f}"),
    ("the same against transformers", "latency", "batch_1_times_transformers", "{:.1f} x"),
    ("32 requests at once: tokens a second", "latency", "batch_32_tokens_per_s", "{:,.0f}"),
    ("the same against transformers", "latency", "batch_32_times_transformers", "{:.1f} x"),
    ("time without work between two steps of one request, microseconds", "latency", "batch_1_idle_us", "{:.1f}"),
    ("128 requests at once: tokens a second", "latency", "batch_128_tokens_per_s", "{:,.0f}"),
    (
        "prompts of 1024 tokens, one request: milliseconds to the first token",
        "latency",
        "input_1024_batch_1_ttft_ms",
        "{:.0f}",
    ),
    ("the same, 32 requests at once", "latency", "input_1024_batch_32_ttft_ms", "{:.0f}"),
    ("128 queued, 1000 tokens in, 256 out: output tokens a second", "throughput", "output_tokens_per_s", "{:,.0f}"),
    ("from starting a process to its first token, seconds", "startup", "total_s", "{:.2f}"),
    ("of that, opening the model", "startup", "open_s", "{:.2f}"),
    ("gate and up, 1 row: share of the roofline", "kernels", "gate_up_1_roofline", "{:.0%}"),
    ("the same against torch", "kernels", "gate_up_1_times_torch", "{:.2f} x"),
    ("qkv, 1 row, against torch", "kernels", "qkv_1_times_torch", "{:.2f} x"),
    ("output head, 1 row, against torch", "kernels", "head_1_times_torch", "{:.2f} x"),
    ("gate and up, 2048 rows: share of the roofline", "kernels", "gate_up_2048_roofline", "{:.0%}"),
    ("the same against torch", "kernels", "gate_up_2048_times_torch", "{:.2f} x"),
    ("attention, 64 decoding at 1024 tokens: share of the roofline", "kernels", "attention_64_roofline", "{:.0%}"),
    ("attention, one decoding at 1024 tokens: microseconds", "kernels", "attention_1_us", "{:.1f}"),
    ("attention of a prompt of 2048 against torch", "kernels", "attention_2048_times_torch", "{:.2f} x"),
]


# What the README shows, and how it says it.
HEADLINES = {
    ("llama-cpp", "decode_ratio"): "SmolLM2-135M in bf16, one request: output tokens a second against llama.cpp's",
    ("compare", "ratio"): "the embedded model, one request of 32 + 128 tokens: against transformers",
    ("engine", "step_256_us"): "the engine alone, without a model: a step of 256 requests, microseconds",
    ("serve", "one_token_requests_per_s"): "the server, without a model: requests a second",
    ("serve", "stream_tokens_per_s"): "the same: tokens streamed a second",
    ("startup", "first_command_s"): "`warpjet generate` with the embedded model, the whole command, milliseconds",
    ("latency", "batch_1_tokens_per_s"): "Llama-3.1-8B in bf16, one request of 128 + 128 tokens: tokens a second",
    ("latency", "batch_1_times_transformers"): "the same against transformers",
    ("latency", "batch_128_tokens_per_s"): "the same, 128 requests at once: tokens a second",
    ("startup", "total_s"): "the same model (random weights): from starting a process to its first token, seconds",
}


def newest(kind: str, machine: str) -> dict[str, Any]:
    """Nothing if it was not measured there."""
    paths = list((ROOT / "bench" / "results").glob(f"*-{machine}-{kind}.json"))
    record: dict[str, Any] = json.loads(max(paths).read_text()) if paths else {}
    return record


def gpus() -> list[str]:
    """The short names in the names of files."""
    found = (re.match(r"\d+-\d+-\d+-(\w+)-", path.name) for path in (ROOT / "bench" / "results").glob("*.json"))
    return sorted({match[1] for match in found if match and not match[1].startswith("cpu")})


def measured() -> Iterator[tuple[str, str, str, str, str, str]]:
    """What, result, machine, day, command and the headline, if it is one."""
    for machine, rows in [("cpu2", ROWS), *((gpu, GPU_ROWS) for gpu in gpus())]:
        for what, kind, key, form in rows:
            record = newest(kind, machine)
            if key in record.get("results", {}):
                value = record["results"][key] * (1000 if key.endswith("_s") and "milliseconds" in what else 1)
                on = f"{record['cores']} cores of an {record['cpu']}" if rows is ROWS else _gpu_name(record)
                day, headline = record["date"][:10], HEADLINES.get((kind, key), "")
                yield what, form.format(value), on, day, record["command"], headline


def _gpu_name(record: dict[str, Any]) -> str:
    return f"one {record['device'].partition(',')[0].removeprefix('NVIDIA ')}"


def headlines() -> str:
    lines = ["| what | result | machine | day |", "| --- | --: | --- | --- |"]
    lines += [f"| {headline} | {value} | {on} | {day} |" for _, value, on, day, _, headline in measured() if headline]
    return "\n".join(lines)


def everything() -> str:
    """A table for each command."""
    tables: dict[tuple[str, str, str], list[str]] = {}
    for what, value, on, day, command, _ in measured():
        tables.setdefault((command, on, day), []).append(f"| {what} | {value} |")
    return "\n\n".join(
        "\n".join([f"On {on}, {day}: `{command}`", "", "| what | result |", "| --- | --: |", *lines])
        for (command, on, day), lines in tables.items()
    )


def main() -> int:
    stale = 0
    for path, table in ((ROOT / "README.md", headlines()), (ROOT / "bench" / "README.md", everything())):
        text = path.read_text()
        before, rest = text.split(BEGIN)
        wanted = f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"
        stale += text != wanted
        if "--check" not in sys.argv:
            path.write_text(wanted)
    return stale if "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
