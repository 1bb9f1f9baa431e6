"""Run the kernel tests on a GPU under compute-sanitizer, one tool after the other; fail on anything it reports.

python tests/sanitize_kernels.py BUILD [--tool memcheck ...] [--test gpu_step_test ...] [--timeout SECONDS]

BUILD is a build directory with -DWARPJET_CUDA=ON -DWARPJET_TESTS=ON, or any folder that holds its tests. The sanitizer
makes kernels ten to a hundred times slower: a test that takes longer than the timeout is reported as not finished."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

# memcheck: accesses outside of memory; racecheck: shared memory without a barrier between writer and reader;
# synccheck: barriers that not all threads reach; initcheck: reads of global memory that nobody has written.
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
TESTS = ("gpu_step_test", "gpu_ops_test", "gpu_sampling_test", "gpu_attention_test", "gpu_gemm_test")
FOUND = 86  # the sanitizer's exit code when it has something to report


def run(tool: str, test: Path, timeout: float) -> bool:
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND), str(test)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        print(f"{tool:10} {test.name:20} not finished after {timeout:g} s", flush=True)
        return True
    print(f"{tool:10} {test.name:20} {'clean' if result.returncode == 0 else 'FAILED'}", flush=True)
    if result.returncode:
        print((result.stdout + result.stderr)[-4000:])
    return result.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--tool", action="append", choices=TOOLS)
    parser.add_argument("--test", action="append", choices=TESTS)
    parser.add_argument("--timeout", type=float, default=600)
    args = parser.parse_args()
    if not shutil.which("compute-sanitizer"):
        raise SystemExit("compute-sanitizer is missing: it comes with the CUDA toolkit")
    found = {path.name: path for path in args.build.rglob("gpu_*_test") if path.is_file()}
    missing = [test for test in args.test or TESTS if test not in found]
    if missing:
        raise SystemExit(f"{args.build} holds no {', '.join(missing)}; build with -DWARPJET_CUDA=ON -DWARPJET_TESTS=ON")
    results = [run(tool, found[test], args.timeout) for tool in args.tool or TOOLS for test in args.test or TESTS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
