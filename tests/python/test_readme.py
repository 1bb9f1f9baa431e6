"""What the README shows works as it stands, with the embedded model for the path."""

import re
import shlex
from pathlib import Path

import pytest
from checkpoints import TINY

from warpjet import EngineConfig
from warpjet.cli import main
from warpjet.serve.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def _lines(body: str) -> list[str]:
    return body.replace("\\\n", " ").splitlines()


COMMANDS = [line.split("#")[0].strip() for kind, body in BLOCKS if kind == "bash" for line in _lines(body)]
VERBS = [line for line in COMMANDS if line.startswith("warpjet ")]


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [body for kind, body in BLOCKS if kind == "python"]
    code = compile(example.replace("path/to/Llama-3.2-1B", str(TINY)), "README.md", "exec")
    names: dict[str, object] = {}
    exec(code, names)
    names["llm"].shutdown()  # type: ignore[attr-defined]
    assert "12" in capsys.readouterr().out


@pytest.mark.parametrize("line", VERBS)
def test_every_command_parses(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in shlex.split(line)[1:] if word not in ("DIR", "ENGINE", "A prompt")]
    verb = words[:2] if words[:2] == ["bench", "serve"] else words[:1]
    with pytest.raises(SystemExit) as end:
        main([*verb, *(["--help"] if verb[0] == "bench" and len(verb) > 1 else ["--help=all"])])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in words if word.startswith("--"))


def test_files_and_folders_of_the_tour_exist() -> None:
    table = TEXT.split("## A tour of the tree")[1]
    paths = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(paths) > 10
    assert all((ROOT / path).exists() for path in paths + links)


def test_the_table_of_limits_tells_the_defaults() -> None:
    """Flags that stand there with a number, such as `--max-connections` (16384)."""
    told = re.findall(r"`--([a-z-]+)` \((\d+)\)", TEXT)
    assert len(told) > 1
    for flag, value in told:
        name = flag.replace("-", "_")
        default = getattr(EngineConfig(), name, None) or getattr(Settings(), name)
        assert int(value) == default, flag
