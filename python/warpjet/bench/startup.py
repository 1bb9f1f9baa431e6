"""warpjet bench startup: from this process's own start to its first token, stage by stage."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warpjet._native import SamplingParams
from warpjet.bench.records import circumstances, engine_options, write_record
from warpjet.common.tables import table
from warpjet.llm import LLM
from warpjet.requests.locate import model_name

_STAGES = {
    "import_s": "s from the start of the process: Python, and the imports",
    "open_s": "s to open the model",
    "weights_s": "s of that for the weights",
    "weights_gb_per_s": "GB/s of weights",
    "first_token_s": "s from then to the first token",
    "next_first_token_s": "s to the first token of a second prompt",
    "total_s": "s from the start to the first token",
}


def _process_age() -> float:
    """Seconds since the kernel started this process, to its clock tick."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def bench_startup(
    model: str | None, input_len: int, engine: Mapping[str, Any], as_json: bool, output: str | None
) -> int:
    """Prints a table or a JSON line, and writes the JSON to a file if one is named. A process starts once, so there is
    one run; start more processes for more."""
    moments = [_process_age()]
    options: dict[str, Any] = engine_options(engine)
    with LLM(model, **options) as llm:
        moments.append(_process_age())
        vocab, load = llm.get_model_info().vocab_size, llm.get_load_report()
        params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, detokenize=False)
        for first_id in (0, 1):  # two prompts of different tokens
            prompt = [(first_id + index) % vocab for index in range(input_len)]
            llm.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)
            moments.append(_process_age())
    imported, opened, first, second = moments
    results = {
        "import_s": imported,
        "open_s": opened - imported,
        "weights_s": float(load["seconds"]),
        "weights_gb_per_s": float(load["bytes"]) / max(float(load["seconds"]), 1e-9) / 1e9,
        "first_token_s": first - opened,
        "next_first_token_s": second - first,
        "total_s": first,
    }
    record = {
        "bench": "startup",
        "model": model_name(model),
        "workload": {"requests": 1, "input_len": input_len, "output_len": 1},
        "engine": dict(engine),
        "load": load,
        "results": {key: round(value, 4) for key, value in results.items()},
    } | circumstances(engine.get("device", "auto"))
    if output:
        write_record(output, record)
    if as_json:
        print(json.dumps(record))
    else:
        print(table(("stage", "value", "unit"), [(key, f"{results[key]:.3f}", unit) for key, unit in _STAGES.items()]))
    return 0
