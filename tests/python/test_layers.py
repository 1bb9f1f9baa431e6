"""The include matrix: who may include whom, and where the environment may be read."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from warpjet import _native

ROOT = Path(__file__).resolve().parents[2]
CPP = ROOT / "cpp"

# A layer may include the public headers, itself, and these.
MAY_INCLUDE: dict[str, set[str]] = {
    "include": set(),
    "core": set(),
    "quant": {"core"},
    "device": {"core"},
    "ops": {"core", "quant", "device"},
    "model": {"core", "quant"},
    "parallel": {"core", "device"},
    "plan": {"core", "quant", "device", "ops", "model", "parallel"},
    "memory": {"core", "quant", "device", "ops"},
    "schedule": {"core", "memory"},
    "simulate": {"core", "memory", "schedule"},
    "decode": {"core", "device", "ops", "plan", "memory", "schedule"},
    "execute": {"core", "quant", "device", "ops", "parallel", "plan", "memory", "schedule", "decode"},
    "observe": {"core", "memory", "schedule"},
    "runtime": {"core", "device", "ops", "plan", "memory", "schedule", "decode", "execute", "observe"},
    "measure": {"core", "device", "ops", "plan", "memory", "schedule", "execute", "runtime"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def sources(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in {".h", ".cpp", ".cuh", ".cu"})


def test_every_layer_is_in_the_matrix() -> None:
    assert {p.name for p in CPP.iterdir() if p.is_dir()} <= set(MAY_INCLUDE)


@pytest.mark.parametrize("layer", sorted(p.name for p in CPP.iterdir() if p.is_dir()))
def test_layer_includes_only_what_it_may(layer: str) -> None:
    wrong = []
    for source in sources(CPP / layer):
        for target in INCLUDE.findall(source.read_text()):
            owner = target.split("/")[0]
            if owner != layer and owner not in MAY_INCLUDE[layer]:
                wrong.append(f"{source.relative_to(ROOT)} includes {target}")
    assert not wrong


# The CUDA backend implements devices and kernels; it never sees a model, a plan or a request.
CUDA_MAY_INCLUDE = {"cuda", "core", "quant", "device", "ops", "emulator"}


def test_cuda_backend_includes_only_what_it_may() -> None:
    wrong = [
        f"{s.relative_to(ROOT)} includes {target}"
        for s in sources(ROOT / "cuda")
        for target in INCLUDE.findall(s.read_text())
        if target.split("/")[0] not in CUDA_MAY_INCLUDE
    ]
    assert not wrong


def test_the_host_library_knows_no_cuda_header() -> None:
    header = re.compile(r'^\s*#\s*include\s+[<"](cuda|nccl|nv|driver_types)', re.MULTILINE)
    assert not [s for s in sources(CPP) + sources(ROOT / "bindings") if header.search(s.read_text())]


def test_includes_are_rooted() -> None:
    wrong = [f"{s}: {t}" for s in sources(CPP) for t in INCLUDE.findall(s.read_text()) if "../" in t or "/" not in t]
    assert not wrong


def test_bindings_see_only_the_public_headers() -> None:
    own = {p.name for p in (ROOT / "bindings").glob("*.h")}
    wrong = [f"{s}: {t}" for s in sources(ROOT / "bindings") for t in INCLUDE.findall(s.read_text()) if t not in own]
    assert not wrong


def test_runtime_never_sees_a_checkpoint() -> None:
    for source in [s for layer in ("execute", "observe", "runtime") for s in sources(CPP / layer)]:
        for word in ("HfConfig", "SafeTensors", "WeightSlot", "Checkpoint"):
            assert word not in source.read_text(), f"{source}: {word}"


def test_the_environment_is_read_in_one_place() -> None:
    readers = [s.name for s in sources(CPP) + sources(ROOT / "bindings") if "getenv" in s.read_text()]
    assert readers == ["diagnostics.cpp"]


def test_nothing_ends_the_process() -> None:
    forbidden = re.compile(r"\b(abort|exit|_exit|terminate|quick_exit|assert|system|popen)\s*\(")
    code = sources(CPP) + sources(ROOT / "bindings")
    wrong = [f"{s}: {m.group(0)}" for s in code for m in forbidden.finditer(re.sub(r"//.*", "", s.read_text()))]
    assert not wrong


def test_no_code_is_loaded_from_model_files() -> None:
    forbidden = re.compile(r"\b(pickle|eval|exec|subprocess|marshal|torch)\b\s*[.(]")
    package = (ROOT / "python" / "warpjet").rglob("*.py")
    wrong = [f"{s}: {m.group(0)}" for s in package for m in forbidden.finditer(s.read_text())]
    assert not wrong


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_the_module_exports_its_entry_alone() -> None:
    """Two copies of the C++ library in one process would take each other's symbols."""
    command = ["nm", "-D", "--defined-only", _native.__file__]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [row.split()[-1] for row in rows] == ["PyInit__native"]


def test_the_bindings_keep_to_the_stable_abi() -> None:
    """Macros that look into objects are not in it; older Pythons, whose stable ABI is not used, would take them."""
    macro = re.compile(r"\bPy[A-Z]\w*_(?:(?:GET|SET)_[A-Z]+|AS_[A-Z]+)\b")
    wrong = [f"{s.name}: {m}" for s in sources(ROOT / "bindings") for m in macro.findall(s.read_text())]
    assert not wrong
