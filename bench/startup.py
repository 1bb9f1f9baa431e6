"""How long a user waits: installing, importing, --help, opening the embedded model; and the memory of a first run.

python bench/startup.py [--install] [--output FILE]      --install times `pip install .` into a fresh environment
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from warpjet.bench.records import circumstances, write_record

ROOT = Path(__file__).resolve().parents[1]
OPEN = "import time, warpjet; t = time.perf_counter(); warpjet.LLM(); print(time.perf_counter() - t)"
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
FIRST = f"import subprocess, sys; subprocess.run([sys.executable, '-m', 'warpjet', 'generate', 'Once']); {PEAK}"


def wall(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def printed(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    python, repeats = sys.executable, range(11)
    results = {
        "python_s": statistics.median(wall(python, "-c", "") for _ in repeats),
        "import_s": statistics.median(wall(python, "-c", "import warpjet") for _ in repeats),
        "help_s": statistics.median(wall(python, "-m", "warpjet", "--help") for _ in repeats),
        "open_s": statistics.median(printed(OPEN) for _ in repeats),
        "first_command_s": statistics.median(wall(python, "-m", "warpjet", "generate", "Once") for _ in repeats),
        "first_command_rss_mib": printed(FIRST),
    }
    if args.install:
        with tempfile.TemporaryDirectory() as folder:
            wall(python, "-m", "venv", folder)
            results["install_s"] = wall(f"{folder}/bin/pip", "install", str(ROOT))
    record = circumstances() | {
        "bench": "startup",
        "command": "python bench/startup.py" + (" --install" if args.install else ""),
        "results": {name: round(value, 4) for name, value in results.items()},
    }
    print(json.dumps(record))
    if args.output:
        write_record(args.output, record)


if __name__ == "__main__":
    main()
