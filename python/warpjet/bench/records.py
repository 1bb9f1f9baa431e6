"""What a benchmark writes: its numbers, and the circumstances that they were measured in."""

import datetime
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from warpjet._native import __version__
from warpjet.common.files import check_writable
from warpjet.common.machine import cpu_count, cpu_name, device_name


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


def file_time() -> str:
    """The local time as file names have it: 20260131-235959."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}"


def check_plot(path: str) -> None:
    """Raises what keeps a figure from being drawn into this file: OSError, ValueError or ModuleNotFoundError."""
    check_writable(path, "--plot")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "--plot needs matplotlib: pip install '.[plot]' in the source of warpjet", name="matplotlib"
        ) from None
    formats = FigureCanvasAgg.get_supported_filetypes()
    if (suffix := Path(path).suffix.lower().removeprefix(".")) not in formats:
        raise ValueError(
            f"--plot: {path} must end with one of .{', .'.join(sorted(formats))}; got {suffix or 'none'!r}"
        )


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
