"""No test waits by a number of its own: a machine as busy as any runs them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import PATIENCE_S

TESTS = Path(__file__).resolve().parents[1]
EXEMPT = {"waiting.py", "screenshot.py"}  # where tests wait; and no test

# Calls whose number bounds a wait.
_LIMITED = {"acquire", "close", "communicate", "join", "result", "select", "settimeout", "timeout", "wait", "wait_for"}


def numbers(source: str) -> Iterator[str]:
    """Waits that a number below PATIENCE_S bounds, and sleeps. A number that has a name passes: it says what it is for,
    such as a limit of the product. So does 0, which waits for nothing."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call):
            name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
            limits = [*call.args] if name in _LIMITED or name == "sleep" else []
            limits += [word.value for word in call.keywords if word.arg == "timeout"]
            values = [limit.value for limit in limits if isinstance(limit, ast.Constant)]
            if any(isinstance(value, int | float) and 0 < value < PATIENCE_S for value in values):
                yield f"line {call.lineno}: {ast.unparse(call)}"


@pytest.mark.parametrize("folder", ["python", "serve"])
def test_tests_wait_for_what_happens(folder: str) -> None:
    files = [path for path in (TESTS / folder).glob("*.py") if path.name not in EXEMPT]
    found = {path.name: list(numbers(path.read_text())) for path in files}
    assert files and not {name: lines for name, lines in found.items() if lines}


def test_a_number_is_found() -> None:
    found = ["sleep(1)", "thread.join(10)", "asyncio.wait_for(it(), 0.5)", "run(timeout=20)", "select([], [], [], 9)"]
    passed = ["sleep(0)", "thread.join(PATIENCE_S)", "handle.result(TOO_SHORT_S)", "', '.join(names)", "range(9)"]
    assert [text for text in found + passed if list(numbers(text))] == found
