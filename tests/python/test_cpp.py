"""The C++ tests, built and run from here, so that one command runs everything."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOOGLETEST = any(
    (Path(prefix) / "include" / "gtest" / "gtest.h").is_file() for prefix in ("/usr", "/usr/local", "/opt/homebrew")
)


@pytest.mark.skipif(not GOOGLETEST, reason="GoogleTest is not installed (Debian: apt-get install libgtest-dev)")
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed (pip install '.[test]')")
def test_cpp() -> None:
    build = ROOT / "build" / "tests"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", ROOT, "-B", build, *generator, "-DWARPJET_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    commands = [
        configure,
        ["cmake", "--build", build, "--parallel", "2"],
        ["ctest", "--test-dir", build, "--output-on-failure", "-j", "2"],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
