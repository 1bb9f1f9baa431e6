"""The C++ library: its own tests, and a native program that uses it as a stranger would. One build serves both."""

import fcntl
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from warpjet import LLM, SamplingParams

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "python" / "warpjet" / "models" / "tiny"
BUILD = ROOT / "build" / "tests"
GENERATOR = ["-G", "Ninja"] if shutil.which("ninja") else []
GOOGLETEST = any((Path(prefix) / "include" / "gtest" / "gtest.h").is_file() for prefix in ("/usr", "/usr/local"))

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake (pip install '.[test]' brings it)")


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


@pytest.fixture(scope="module")
def build() -> Iterator[Path]:
    """The build folder, with the library built; locked, because tests may run in several processes."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tests = "ON" if GOOGLETEST else "OFF"
        run("cmake", "-S", ROOT, "-B", BUILD, *GENERATOR, "-DCMAKE_BUILD_TYPE=Release", f"-DWARPJET_TESTS={tests}")
        run("cmake", "--build", BUILD, "--parallel", 2, "--target", "warpjet")
        yield BUILD


@needs_cmake
@pytest.mark.skipif(not GOOGLETEST, reason="no GoogleTest (Debian: apt-get install libgtest-dev)")
def test_cpp(build: Path) -> None:
    run("cmake", "--build", build, "--parallel", 2)
    run("ctest", "--test-dir", build, "--output-on-failure", "--parallel", 2)


@needs_cmake
def test_a_native_program_generates_the_same_text(build: Path, tmp_path: Path) -> None:
    """By the lines of cpp/README.md, in folders of the tests."""
    (lines,) = re.findall(r"```bash\n(cmake .*?)```", (ROOT / "cpp" / "README.md").read_text(), re.DOTALL)
    *steps, last = lines.replace("build/sdk", str(build)).replace("build/native", str(tmp_path / "native")).splitlines()
    home = {"HOME": str(tmp_path)} | ({"CMAKE_GENERATOR": "Ninja"} if GENERATOR else {})
    run("env", *(f"{name}={value}" for name, value in home.items()), "sh", "-ec", f"cd '{ROOT}'\n" + "\n".join(steps))
    text = run("sh", "-c", f"cd '{ROOT}' && {last}")

    tokens, *prompt = map(int, last.partition("#")[0].split()[2:])
    with LLM() as llm:
        assert llm.get_tokenizer().encode("Once upon a time") == prompt
        params = SamplingParams(temperature=0.0, max_tokens=tokens)
        expected = llm.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)[0].outputs[0].text
    assert text.strip() == expected.strip() != ""


@needs_cmake
@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config")
def test_pkg_config_names_what_a_program_needs_and_uninstall_removes_it(build: Path, tmp_path: Path) -> None:
    prefix, program = tmp_path / "prefix", tmp_path / "generate"
    run("cmake", "--install", build, "--prefix", prefix, "--component", "sdk")
    command = [
        "pkg-config",
        f"--with-path={next(prefix.rglob('pkgconfig'))}",
        "--static",
        "--cflags",
        "--libs",
        "warpjet",
    ]
    run("c++", ROOT / "tests" / "native" / "generate.cpp", "-o", program, *run(*command).split())
    assert run(program, TINY, 8).strip()
    run("cmake", "--build", build, "--target", "uninstall")
    assert [path for path in prefix.rglob("*") if path.is_file()] == []


@needs_cmake
def test_a_shared_library_exports_the_public_interface_alone(build: Path, tmp_path: Path) -> None:
    """Also where the C++ library is linked into it."""
    shared, script = tmp_path / "libwarpjet.so", ROOT / "cpp" / "exports.map"
    whole = ("-Wl,--whole-archive", next(build.rglob("libwarpjet.a")), "-Wl,--no-whole-archive")
    run("c++", "-shared", "-o", shared, *whole, f"-Wl,--version-script={script}", "-static-libstdc++", "-static-libgcc")
    names = {row.split(maxsplit=2)[2] for row in run("nm", "-DC", "--defined-only", shared).splitlines()}
    assert any(name.startswith("warpjet::Engine::open(") for name in names)
    assert {name for name in names if not name.removeprefix("non-virtual thunk to ").startswith("warpjet::")} <= {
        f"{kind} for warpjet::Error" for kind in ("typeinfo", "typeinfo name", "vtable")
    }


def test_public_headers_compile_alone(tmp_path: Path) -> None:
    for header in sorted((ROOT / "cpp" / "include" / "warpjet").glob("*.h")):
        source = tmp_path / "one.cpp"
        source.write_text(f"#include <warpjet/{header.name}>\nint main() {{}}\n")
        flags = ("-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only")
        run("g++", *flags, f"-I{ROOT / 'cpp' / 'include'}", source)
