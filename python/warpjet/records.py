"""What a benchmark writes: its numbers, and the circumstances that they were measured in."""

import datetime
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from warpjet import __version__
from warpjet._native import cuda_status
from warpjet.machine import cpu_count, cpu_name


def device_name(device: str = "auto") -> str:
    """What an engine with this EngineConfig.device runs on: the GPU's name, or cpu."""
    status = cuda_status()
    if device == "cpu" or status.usable < 0:
        return "cpu"
    index = status.usable if device == "auto" else int(device.partition(":")[2] or 0)
    return status.gpus[index] if index < len(status.gpus) else device  # which the engine then refuses


def circumstances(device: str = "cpu") -> dict[str, object]:
    """Machine, version, command and date; device is EngineConfig.device."""
    return {
        "device": device_name(device),
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "version": __version__,
        "command": "warpjet " + re.sub(r" --output[= ]\S+", "", shlex.join(sys.argv[1:])),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_record(path: str | Path, record: Mapping[str, object]) -> None:
    """Replaces the file."""
    Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def engine_options(engine: Mapping[str, object]) -> dict[str, object]:
    """Keywords of the LLM to measure. Prompts are token ids, so random weights need config.json alone."""
    fixed: dict[str, object] = {
        "enable_prefix_caching": False,
        "skip_tokenizer_init": engine.get("load_format") == "dummy",
    }
    return fixed | dict(engine)
