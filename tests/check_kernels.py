"""Compile every kernel for every architecture that runs it; fail on warnings, spills, local memory, and on a Hopper
kernel whose machine code has no warpgroup product.

python tests/check_kernels.py [folder or file ...]    needs nvcc and nvdisasm, no GPU
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
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
FUNCTION = re.compile(r"^\s*\.section\s+\.text\.(\w+)", re.MULTILINE)
LOCAL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def architectures_of(source: Path) -> tuple[str, ...]:
    return ARCHITECTURES.get(source.parent.name, ARCHITECTURES["sm80"])


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


def disassembler() -> str:
    """nvdisasm of the CUDA toolkit, else that of the package nvidia-cuda-nvdisasm."""
    if found := shutil.which("nvdisasm"):
        return found
    try:
        package = importlib.util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:
        package = None
    for folder in package.submodule_search_locations or () if package else ():
        if (path := Path(folder) / "bin" / "nvdisasm").is_file():
            return str(path)
    raise SystemExit("nvdisasm is missing: pip install nvidia-cuda-nvdisasm")


def without_warpgroup_products(cubin: Path) -> Iterator[str]:
    """The kernels of a file that have no HGMMA instruction."""
    code = subprocess.run([disassembler(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    parts = FUNCTION.split(code)[1:]
    kernels = dict(zip(parts[::2], parts[1::2], strict=True))
    if not kernels:
        yield f"no kernel found in {cubin.name}"
    for name, instructions in kernels.items():
        if "HGMMA" not in instructions:
            yield f"{name}: no HGMMA in its machine code"


def check(source: Path, architecture: str) -> bool:
    # The host's half is the same for all architectures.
    parts = "-c" if architecture == architectures_of(source)[0] else "-cubin"
    target = f"arch=compute_{architecture},code=sm_{architecture}"
    with tempfile.TemporaryDirectory() as folder:
        keep = ["-keep", "-keep-dir", folder] if source.parent.name == "sm90" else []
        command = ["nvcc", *FLAGS, *INCLUDES, "-gencode", target, *keep, parts, str(source), "-o", f"{folder}/object"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        log = result.stdout + result.stderr
        wrong = [log] if result.returncode else list(complaints(log))
        if keep and not result.returncode:
            wrong += [line for cubin in Path(folder).glob("*.cubin") for line in without_warpgroup_products(cubin)]
    sys.stdout.write(f"{source.relative_to(ROOT)} sm_{architecture}: {'ok' if not wrong else 'FAILED'}\n")
    sys.stdout.writelines(f"  {line}\n" for line in wrong)
    return not wrong


def main(arguments: list[str]) -> int:
    places = [Path(a).resolve() for a in arguments] or [ROOT / "cuda", ROOT / "tests" / "emulator"]
    found = (s for p in places for s in ([p] if p.is_file() else p.rglob("*.cu")))
    sources = sorted(s for s in found if s.parent.name.startswith("sm"))
    if not sources:
        raise SystemExit("no kernels there")
    jobs = [(s, a) for s in sources for a in architectures_of(s)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # each waits for a compiler of its own
        return 0 if all(list(pool.map(lambda job: check(*job), jobs))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
