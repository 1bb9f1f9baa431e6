"""Every number of a GPU in one call, beside what torch and transformers take there in the same session.

python bench/gpu.py [PART ...] [--model DIR] [--device cuda:N] [--folder DIR]

Parts: kernels, peers (needs torch and transformers), latency, throughput, startup; without any, all of them. Each runs
in processes of its own and ends in FOLDER/<date>-<gpu>-<part>.json; one that fails does not stop the others. Weights
are random, so a directory with config.json is enough."""

import argparse
import datetime
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from warpjet.bench.records import circumstances, write_record
from warpjet.common.machine import device_name

ROOT = Path(__file__).resolve().parents[1]
ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
# (requests at once, tokens of each prompt); the short ones are named by their batch alone
LATENCY = ((1, 128), (8, 128), (32, 128), (128, 128), (1, 1024), (8, 1024), (32, 1024))
LATENCY_OUTPUT = 128
THROUGHPUT = {"num-prompts": 128, "input-len": 1000, "output-len": 256}  # all queued at once
STARTUP_INPUT = 128
REPEATS = 3
MAX_MODEL_LEN = 8192
TIMEOUT_S = 150

Record = dict[str, Any]


class Machine:
    """Where the parts run: the model, the device, and room for what processes write."""

    def __init__(self, model: Path, device: str, scratch: Path) -> None:
        self.device = device
        self._model = str(model.relative_to(ROOT) if model.is_relative_to(ROOT) else model)
        self._scratch = scratch

    def bench(self, what: str, **flags: object) -> Record:
        """`warpjet bench`, and the record it writes."""
        given = {"model": self._model, "load_format": "dummy", "device": self.device}
        words = [word for name, value in (given | flags).items() for word in _flag(name, value)]
        return self._run([sys.executable, "-m", "warpjet", "bench", what, *words, "--output"])

    def peers(self, what: str, rows: Record | None = None) -> Record:
        """bench/peers.py, likewise."""
        words = [str(ROOT / "bench" / "peers.py"), what, "--model", self._model]
        if rows:
            write_record(self._scratch / "rows.json", rows)
            words += ["--rows", str(self._scratch / "rows.json")]
        return self._run([sys.executable, *words])

    def _run(self, command: list[str]) -> Record:
        out = self._scratch / "out.json"
        out.unlink(missing_ok=True)
        subprocess.run([*command, str(out)], cwd=ROOT, check=True, timeout=TIMEOUT_S)
        record: Record = json.loads(out.read_text())
        return record


def _flag(name: str, value: object) -> list[str]:
    values = value if isinstance(value, tuple) else (value,)
    return ["--" + name.replace("_", "-"), *map(str, values)]


# --- Parts ------------------------------------------------------------------------------------------------------------


def kernels(machine: Machine, done: dict[str, Record]) -> Record:
    record = machine.bench("kernels", rows=ROWS)
    record["results"] = {
        f"{row['step'].removeprefix('layers.0.')}_{row['rows']}_{key}": row[key]
        for row in record["rows"]
        for key in ("us", "roofline")
        if key in row
    }
    return record


def peers(machine: Machine, done: dict[str, Record]) -> Record:
    """torch for the kernels that were just timed, and transformers for the model."""
    record: Record = {"bench": "peers"} | machine.peers("model")
    if "kernels" in done:
        record["rows"] = machine.peers("kernels", done["kernels"])["rows"]
    return record | circumstances(machine.device) | {"command": "python bench/gpu.py"}


def latency(machine: Machine, done: dict[str, Record]) -> Record:
    records, results = [], {}
    for batch, input_len in LATENCY:
        shape = {"batch": batch, "input_len": input_len, "output_len": LATENCY_OUTPUT, "repeats": REPEATS}
        records.append(machine.bench("latency", max_model_len=MAX_MODEL_LEN, **shape))
        name = f"batch_{batch}" if input_len == LATENCY[0][1] else f"input_{input_len}_batch_{batch}"
        results |= {f"{name}_{key}": value for key, value in records[-1]["results"].items()}
    shared = {key: records[0][key] for key in ("bench", "model", "device", "cpu", "cores", "version", "date")}
    words = f"--batch {LATENCY[0][0]} --input-len {LATENCY[0][1]} "
    command = records[0]["command"].replace(words, "--batch N --input-len M ")
    return shared | {"results": results, "records": records, "command": command}


def throughput(machine: Machine, done: dict[str, Record]) -> Record:
    return machine.bench("throughput", max_model_len=MAX_MODEL_LEN, **THROUGHPUT, repeats=1)


def startup(machine: Machine, done: dict[str, Record]) -> Record:
    """Of several processes, after one that brings files into the page cache."""
    runs = [machine.bench("startup", max_model_len=MAX_MODEL_LEN, input_len=STARTUP_INPUT) for _ in range(REPEATS + 1)][
        1:
    ]
    results = {key: statistics.median(run["results"][key] for run in runs) for key in runs[0]["results"]}
    return runs[-1] | {"results": results, "runs": [run["results"] for run in runs]}


# In this order: peers are given the kernels' problems.
PARTS: dict[str, Callable[[Machine, dict[str, Record]], Record]] = {
    "kernels": kernels,
    "peers": peers,
    "latency": latency,
    "throughput": throughput,
    "startup": startup,
}


def add_ratios(done: dict[str, Record]) -> None:
    """Ours against the peers', as far as both are there: above 1 we are faster."""
    theirs = done.get("peers", {})
    torch_us = {(row["step"], row["rows"]): row["us"] for row in theirs.get("rows", ())}
    for row in done.get("kernels", {}).get("rows", ()):
        if us := torch_us.get((row["step"], row["rows"])):
            row["torch_us"], row["times_torch"] = us, round(us / row["us"], 2)
            name = f"{row['step'].removeprefix('layers.0.')}_{row['rows']}_times_torch"
            done["kernels"]["results"][name] = row["times_torch"]
    results = done.get("latency", {}).get("results", {})
    for key, rate in theirs.get("results", {}).items():
        if key.endswith("_tokens_per_s") and key in results:
            name = key.removesuffix("_tokens_per_s")
            results[f"{name}_transformers_tokens_per_s"] = rate
            results[f"{name}_times_transformers"] = round(results[key] / rate, 1)


def short_name(gpu: str) -> str:
    """NVIDIA H100 80GB HBM3, ... -> h100"""
    name = gpu.partition(",")[0].removeprefix("NVIDIA ")
    model = re.search(r"\b[A-Z]+\d+[A-Z]*\b", name)
    return (model[0] if model else re.sub(r"\W", "", name)).lower()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", type=Path, default=ROOT / "bench" / "configs" / "llama-3.1-8b")
    parser.add_argument("--device", default="cuda", help="peers always take the first GPU (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / "bench" / "results")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    gpu = short_name(device_name(args.device))
    done: dict[str, Record] = {}
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        machine = Machine(args.model.resolve(), args.device, Path(scratch))
        for name, part in PARTS.items():
            if args.parts and name not in args.parts:
                continue
            print(f"=== {name}", flush=True)
            try:
                done[name] = part(machine, done)
            except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
                print(f"{name} failed: {error}", file=sys.stderr, flush=True)
                failed.append(name)
            add_ratios(done)
            for ready, record in done.items():
                write_record(args.folder / f"{today}-{gpu}-{ready}.json", record)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
