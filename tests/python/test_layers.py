"""The include and import matrices: which layer may use which, and where the environment may be read."""

import ast
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

# The same for the package: a room, which is a folder or a module that stands alone, may import itself, the native
# module, and these rooms, which are further up in this table.
SERVED = {
    *("common", "structured", "text", "serve.http", "serve.events", "serve.names", "serve.parts", "serve.serving"),
}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "common": set(),
    "structured": {"common"},
    "text": {"common"},
    "guided": {"common", "structured", "text"},
    "parsing": {"common", "structured", "text", "guided"},
    "requests": {"common", "text", "guided", "parsing"},
    "llm": {"text", "requests"},
    "async_llm": {"text", "requests"},
    "bench": {"common", "requests", "llm"},
    "bench.load": {"common", "text", "requests", "bench"},
    "serve.settings": {"common", "text"},
    "serve.http": {"common", "serve.settings"},
    "serve.events": {"structured", "text", "parsing", "requests", "serve.http"},
    "serve.names": {"serve.http"},
    "serve.parts": {"common", "structured", "text", "serve.http"},
    "serve.samples": {"parsing", "requests", "serve.events"},
    "serve.serving": {
        *("common", "text", "parsing", "requests", "async_llm", "serve.settings", "serve.http", "serve.events"),
        *("serve.names", "serve.samples"),
    },
    "serve.openai": SERVED | {"parsing", "requests"},
    "serve.anthropic": SERVED | {"parsing", "serve.openai"},
    "serve.tgi": SERVED | {"requests", "serve.openai"},
    "serve.operating": SERVED | {"async_llm", "serve.openai"},
    "serve.apis": {"serve.http", "serve.serving", "serve.operating"},  # and each API, by its name
    "serve.flags": {"common", "requests", "serve.settings"},
    "serve.service": {"common", "serve.settings", "serve.http", "serve.serving", "serve.operating", "serve.apis"},
    "serve.launch": {
        *("common", "parsing", "requests", "async_llm", "serve.http", "serve.serving", "serve.flags", "serve.service"),
    },
    "commands": {
        *("common", "requests", "llm", "bench", "bench.load", "serve.http", "serve.serving", "serve.openai"),
        *("serve.flags", "serve.launch"),
    },
}
PACKAGE = ROOT / "python" / "warpjet"
ENTRIES = {"__init__", "__main__"}  # of the package: they import what they dispatch to

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


def modules() -> dict[str, Path]:
    """Every module of the package by its name within it."""
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items() if name not in ENTRIES}


def imports(path: Path, names: dict[str, Path]) -> set[str]:
    """The package's modules that a module imports, at its head, in a function, or for types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{path} imports relatively"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules_named = {name for name in inner if name.removeprefix("warpjet.") in {*names, "_native"}}
            found |= modules_named or {node.module}
    return {name.removeprefix("warpjet.") for name in found if name.split(".")[0] == "warpjet"} - {"_native"}


def room_of(module: str) -> str:
    """The longest name in the matrix that the module's begins with."""
    parts = module.split(".")
    heads = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((head for head in heads if head in MAY_IMPORT), "")


def test_every_module_is_in_a_room() -> None:
    floors = {"bench", "serve"}  # with rooms of their own
    lost = [name for name in modules() if not room_of(name) and name not in floors]
    assert not lost
    assert not [name for name in MAY_IMPORT if name not in modules()]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    names, used = modules(), set()
    for name, path in names.items():
        if room_of(name) == room:
            for target in imports(path, names):
                owner = room_of(target)
                assert owner == room or owner in MAY_IMPORT[room], f"{name} imports {target}"
                used.add(owner)
    assert MAY_IMPORT[room] <= used | SERVED, f"{room} may import more than it does"


def test_rooms_have_no_circles() -> None:
    below: set[str] = set()
    for room, targets in MAY_IMPORT.items():
        assert targets <= below, f"{room} stands above {targets - below} in the table"
        below.add(room)


def test_modules_have_no_circles() -> None:
    names = modules()
    left = {name: {one for one in imports(path, names) if one in names} - {name} for name, path in names.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left


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
