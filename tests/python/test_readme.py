"""What the READMEs show works as it stands, with the embedded model for DIR; and a package index can show it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import TINY
from serving import Server
from waiting import PATIENCE_S

from warpjet import EngineConfig, __version__
from warpjet.commands.main import main
from warpjet.serve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README, DEPLOY = ROOT / "README.md", ROOT / "python" / "warpjet" / "deploy" / "README.md"
PACKAGE, CPP = ROOT / "python" / "warpjet" / "README.md", ROOT / "cpp" / "README.md"
PAGES = (README, DEPLOY, ROOT / "bench" / "README.md", PACKAGE, CPP)
LINKED = (*PAGES, *(ROOT / folder / "README.md" for folder in ("cuda", "tests", "third_party")))
TEXT = README.read_text()

# Lines that are not run here, by how they begin, and why.
NOT_RUN = {
    "pip install": "CI begins with it",
    "hf download": "needs a network",
    "warpjet chat HuggingFaceTB/": "needs what that fetched",
    "warpjet bench serve": "minutes of load; its flags are looked up",
    "docker": "needs a daemon",
    "cmake": "test_cpp.py runs it",
    "build/native/generate": "test_cpp.py runs it",
}


def blocks(kind: str) -> list[str]:
    return [body for page in PAGES for body in re.findall(rf"```{kind}\n(.*?)```", page.read_text(), re.DOTALL)]


def commands(block: str) -> list[str]:
    """Its lines, without the comments behind them."""
    rows = block.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s+#.*", "", row).strip() for row in rows) if line]


def lines() -> list[str]:
    return [line for block in blocks("bash") for line in commands(block)]


def is_run(line: str) -> bool:
    return not any(line.startswith(start) for start in NOT_RUN)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


def test_the_python_example_shows_what_the_model_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    example = next(body for body in blocks("python") if "warpjet" in body)
    names: dict[str, Any] = {}
    exec(compile(example, README.name, "exec"), names)
    names["llm"].shutdown()
    said = capsys.readouterr().out
    assert "12" in said
    assert json.loads(re.findall(r"^\{.*\}$", said, re.MULTILINE)[0]) == {
        "name": "Mia",
        "age": 7,
        "pet": "cat",
        "color": "red",
    }
    assert len(names["out"][0].outputs[0].text) > 100


def test_the_example_of_openai_s_client_runs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [body for body in blocks("python") if "openai" in body]
    exec(compile(example.replace("http://127.0.0.1:8000", server.url), README.name, "exec"), {})
    assert "12" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("line", [line for line in lines() if line.startswith("curl")])
def test_the_requests_of_curl_are_answered(line: str, server: Server) -> None:
    line = re.sub(r"(http://)?(127\.0\.0\.1|localhost):8000", server.url, line)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=PATIENCE_S)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"], done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.splitlines()[0])
def test_commands_run(block: str, tmp_path: Path) -> None:
    """In the order of the page. A server only checks what it is given."""
    if "openssl" in block and shutil.which("openssl") is None:
        pytest.skip("no openssl")
    request = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "The", "max_tokens": 2}}
    (tmp_path / "in.jsonl").write_text(json.dumps(request) + "\n")
    script = "\n".join(line for line in commands(block) if is_run(line) and not line.startswith("curl"))
    script = re.sub(r"\bDIR\b|/models/\S+", str(TINY), script).replace("warpjet serve", "warpjet serve --dry-run")
    script = re.sub(r"^warpjet ", f"'{sys.executable}' -m warpjet ", script, flags=re.MULTILINE)
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": PATIENCE_S}
    done = subprocess.run(["sh", "-exc", script], cwd=tmp_path, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_flags_of_the_load_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "serve", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    words = [word for line in lines() if line.startswith("warpjet bench serve") for word in line.split()]
    assert len(words) > 10 and all(word in shown for word in words if word.startswith("--"))


def test_what_is_not_run_is_shown() -> None:
    assert all(any(line.startswith(start) for line in lines()) for start in NOT_RUN)


def headings(page: Path) -> set[str]:
    """As GitHub makes anchors of them."""
    heads = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [*LINKED, ROOT / ".github" / "CONTRIBUTING.md"], ids=lambda page: page.parent.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", page.read_text())
    for path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists() and (not anchor or anchor in headings(target)), f"{path}#{anchor}"


def test_folders_of_the_tour_exist() -> None:
    table = TEXT.split("## A tour of the tree")[1]
    paths = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(paths) > 10 and all((ROOT / path).exists() for path in paths)


def rows_named(pattern: str, files: list[Path]) -> set[str]:
    return {name for path in files for name in re.findall(pattern, path.read_text())}


def test_the_fault_table_has_the_rows_that_tests_are_named_after() -> None:
    rows = re.findall(r"^\| ([BFR]\d+) \|", (ROOT / "tests" / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == rows_named(r"def test_([BFR]\d+)_", sorted((ROOT / "tests" / "python").glob("test_*.py")))


def test_the_invariants_that_sources_name_are_listed() -> None:
    rows = re.findall(r"^\| (I\d+) \|", (ROOT / "tests" / "README.md").read_text(), re.MULTILINE)
    assert rows == [f"I{i + 1}" for i in range(len(rows))]
    sources = [*(ROOT / "cpp").rglob("*.h"), *(ROOT / "cpp").rglob("*.cpp"), *(ROOT / "tests" / "cpp").glob("history*")]
    assert rows_named(r"//.*\b(I\d+)\b", sources) <= set(rows)


def test_the_table_of_limits_tells_the_defaults() -> None:
    """Flags that stand there with a number, such as `--max-connections` (16384)."""
    told = re.findall(r"`--([a-z-]+)` \((\d+)\)", DEPLOY.read_text())
    assert len(told) > 1
    for flag, value in told:
        name = flag.replace("-", "_")
        default = getattr(EngineConfig(), name, None) or getattr(Settings(), name)
        assert int(value) == default, flag


# --- The package's description ---------------------------------------------------------------------------------------


def test_a_package_index_can_show_the_readme() -> None:
    """It has none of the files beside it."""
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    description = hooks["fancy-pypi-readme"]
    text = "".join(part.get("text") or (ROOT / part["path"]).read_text() for part in description["fragments"])
    for change in description["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]*)\)", text)) and "![" not in text
    assert "From zero to production has keys" in text and "# Changes" in text


def test_the_newest_change_is_this_version_s() -> None:
    changes = (ROOT / "python" / "warpjet" / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+?),? ", changes, re.MULTILINE)[0] == __version__
