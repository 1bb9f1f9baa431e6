"""The C++ library as a stranger uses it: installed, found with find_package, linked, run."""

import shutil
import subprocess
from pathlib import Path

import pytest
from warpjet import LLM, SamplingParams

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "python" / "warpjet" / "models" / "tiny"


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.parametrize("shared", ["OFF", "ON"])
def test_a_native_program_generates_the_same_text(shared: str, tmp_path: Path) -> None:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    build, prefix, consumer = tmp_path / "build", tmp_path / "prefix", tmp_path / "consumer"
    run("cmake", "-S", ROOT, "-B", build, *generator, f"-DBUILD_SHARED_LIBS={shared}", "-DCMAKE_BUILD_TYPE=Release")
    run("cmake", "--build", build, "--parallel", 2)
    run("cmake", "--install", build, "--prefix", prefix, "--component", "sdk")
    run("cmake", "-S", ROOT / "tests" / "native", "-B", consumer, *generator, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", consumer)
    text = run(consumer / "generate", TINY, 24)

    with LLM() as llm:
        bos = llm.get_tokenizer().bos_token_id
        params = SamplingParams(temperature=0.0, max_tokens=24)
        expected = llm.generate({"prompt_token_ids": [bos]}, params, use_tqdm=False)[0].outputs[0].text
    assert text.strip() == expected.strip() != ""


def test_public_headers_compile_alone(tmp_path: Path) -> None:
    """Every public header compiles alone, and with warnings as errors."""
    for header in sorted((ROOT / "cpp" / "include" / "warpjet").glob("*.h")):
        source = tmp_path / "one.cpp"
        source.write_text(f"#include <warpjet/{header.name}>\nint main() {{}}\n")
        flags = ("-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only")
        run("g++", *flags, f"-I{ROOT / 'cpp' / 'include'}", source)
