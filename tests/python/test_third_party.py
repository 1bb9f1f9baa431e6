"""The list of dependencies is complete, and its versions are those that are asked for."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
OVERRIDES = PROJECT["tool"]["scikit-build"]["overrides"]

ASKED_FOR: dict[str, list[str]] = {
    "Build": PROJECT["build-system"]["requires"]
    + [r for o in OVERRIDES for r in o.get("build", {}).get("requires", [])],
    "Run": PROJECT["project"]["dependencies"],
    "CI": re.findall(r"\S+==[\d.]+", (ROOT / ".ci" / "run").read_text()),
    **{extra.capitalize(): [r for r in EXTRAS[extra] if not r.startswith("warpjet")] for extra in EXTRAS},
}
SECTIONS = dict(re.findall(r"^## (.*)\n([^#]*)", (ROOT / "third_party" / "README.md").read_text(), re.MULTILINE))


@pytest.mark.parametrize("section", ASKED_FOR)
def test_a_table_lists_what_is_asked_for(section: str) -> None:
    listed = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| \S[^|]* \| \S[^|]* \|$", SECTIONS[section], re.MULTILINE)
    assert [name + versions for name, versions in listed] == ASKED_FOR[section]


def test_there_is_a_table_for_every_list() -> None:
    assert set(SECTIONS) == {*ASKED_FOR, "System"}


def test_hooks_run_the_versions_of_ci() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    pinned = dict(requirement.split("==") for requirement in ASKED_FOR["CI"])
    for name in ("clang-format", "ruff", "mypy"):
        assert re.search(rf"{name}.*\n    rev: v{re.escape(pinned[name])}\n", hooks), name
