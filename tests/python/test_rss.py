"""Memory: of the first command, and of a build whose checkpoint is larger than the memory it may use."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

from checkpoints import config_of, tensors_of
from waiting import PATIENCE_S

from warpjet._native import build_peak_rss_bound

MIB = 1 << 20

# Runs a command line and prints its peak resident size in bytes.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def peak_rss(*arguments: object) -> int:
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "warpjet", *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout)


def write_sparse_checkpoint(directory: Path, layers: int) -> int:
    """A checkpoint of zeros that occupies no disk; returns its size in bytes."""
    config = config_of(
        hidden_size=4096,
        intermediate_size=11008,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
        vocab_size=32000,
        num_hidden_layers=layers,
        torch_dtype="float16",
    )
    # Shapes of the small model's tensors, with its sizes replaced.
    small = config_of(num_hidden_layers=layers, num_key_value_heads=4, intermediate_size=48, vocab_size=97)
    large_of = {32: 4096, 48: 11008, 97: 32000}
    header, offset = {}, 0
    for name, tensor in tensors_of(small).items():
        shape = [large_of[extent] for extent in tensor.shape]
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return offset


def test_the_first_command_takes_at_most_200_mb() -> None:
    assert peak_rss("generate", "Once upon a time", "--max-tokens", 64) <= 200 * 10**6


def test_building_streams(tmp_path: Path) -> None:
    size = write_sparse_checkpoint(tmp_path / "model", layers=5)
    assert size > 2 << 30
    bound = build_peak_rss_bound()
    assert bound < size // 2
    peak = peak_rss("build", tmp_path / "model", "-o", tmp_path / "engine")
    assert peak <= bound
    assert (tmp_path / "engine" / "weights.bin").stat().st_size >= size
    (tmp_path / "engine" / "weights.bin").unlink()  # the disk it took is real


def test_the_printed_bound_is_the_one_that_is_kept(tmp_path: Path) -> None:
    write_sparse_checkpoint(tmp_path / "model", layers=1)
    command = [sys.executable, "-m", "warpjet", "build", tmp_path / "model", "-o", tmp_path / "engine"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    printed = re.search(r"at most ([\d.]+) (MiB|GiB)", done.stderr)
    assert printed
    megabytes = float(printed[1]) * (1 if printed[2] == "MiB" else 1024)
    bound = build_peak_rss_bound()
    assert abs(megabytes - bound / MIB) <= 0.06 * 1024
    (tmp_path / "engine" / "weights.bin").unlink()
