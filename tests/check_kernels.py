"""Compile every kernel for every architecture that runs it; fail on warnings, spills and local memory.

python tests/check_kernels.py [folder or file ...]    needs nvcc, no GPU
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The folder says what its kernels need; portable ones are compiled for the oldest, for Hopper and for both Blackwells.
ARCHITECTURES = {"sm80": ("80", "90a", "100", "120"), "sm90": ("90a",)}

HOST_WARNINGS = "-Wall,-Wextra,-Wno-missing-field-initializers,-Wno-parentheses"  # nvcc rewrites with parentheses
FLAGS = ["-std=c++20", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", "-Xcompiler", HOST_WARNINGS]
INCLUDES = [f"-I{ROOT}", f"-I{ROOT}/cpp", f"-I{ROOT}/cpp/include"]

ENTRY = re.compile(r"Compiling entry function '(\w+)'")
LOCAL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def complaints(log: str) -> Iterator[str]:
    """The kernels that keep anything in local memory, or whose warpgroup products ptxas runs one after the other."""
    kernel = ""
    for line in log.splitlines():
        if "wgmma" in line and "serializ" in line:
            yield line
        elif found := ENTRY.search(line):
            kernel = found[1]
        elif (found := LOCAL.search(line)) and any(int(count) for count in found.groups()):
            yield f"{kernel}: {found[0]}"


def check(source: Path, architecture: str) -> bool:
    target = f"arch=compute_{architecture},code=sm_{architecture}"
    command = ["nvcc", *FLAGS, *INCLUDES, "-gencode", target, "-c", str(source), "-o", "/dev/null"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    log = result.stdout + result.stderr
    wrong = [log] if result.returncode else list(complaints(log))
    sys.stdout.write(f"{source.relative_to(ROOT)} sm_{architecture}: {'ok' if not wrong else 'FAILED'}\n")
    sys.stdout.writelines(f"  {line}\n" for line in wrong)
    return not wrong


def main(arguments: list[str]) -> int:
    places = [Path(a).resolve() for a in arguments] or [ROOT / "cuda", ROOT / "tests" / "emulator"]
    sources = sorted(s for p in places for s in ([p] if p.is_file() else p.rglob("sm*/*.cu")))
    jobs = [(s, a) for s in sources for a in ARCHITECTURES.get(s.parent.name, ARCHITECTURES["sm80"])]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # each waits for a compiler of its own
        return 0 if all(list(pool.map(lambda job: check(*job), jobs))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
