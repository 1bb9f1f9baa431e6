"""Every regular expression of the package takes time that is linear in the text, whatever the text.

Python's `re` backtracks, and holds the interpreter while it does. A pattern is linear where no choice that it makes
can be made twice for the same text, which is checked character by character:
- What a repeat takes and what may follow it begin with different characters, unless the repeat is possessive.
- The alternatives within a repeat begin with different characters, and none of them is empty.
- Where a search may begin again within what a repeat took, nothing after the repeat can fail."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import warpjet

_PACKAGE = Path(warpjet.__file__).parent
_ALPHABET = frozenset([*range(128), 0xE9, 0xA0, 0x2028, 0x661, 0x4E2D, 0xD800, 0x1F600])
_NEWLINE = frozenset([10])
_MANY = 64  # a repeat up to this count is a constant
_SEARCHING = {"search", "sub", "subn", "finditer", "findall", "split"}

Chars = frozenset[int]
Items = list[tuple[Any, Any]]


@dataclass(frozen=True)
class After:
    """What may follow: the characters it begins with, and whether it can fail."""

    chars: Chars = frozenset()
    fails: bool = False

    def then(self, later: "After", empty: bool) -> "After":
        return After(self.chars | later.chars, self.fails or later.fails) if empty else self


def _category(name: Any) -> Chars:
    escape = {op.CATEGORY_DIGIT: r"\d", op.CATEGORY_SPACE: r"\s", op.CATEGORY_WORD: r"\w"}
    inverse = {op.CATEGORY_NOT_DIGIT: r"\D", op.CATEGORY_NOT_SPACE: r"\S", op.CATEGORY_NOT_WORD: r"\W"}
    pattern = re.compile((escape | inverse)[name])
    return frozenset(code for code in _ALPHABET if pattern.match(chr(code)))


def _class(items: Items) -> Chars:
    chars: Chars = frozenset()
    for kind, value in items:
        if kind is op.LITERAL:
            chars |= {value}
        elif kind is op.RANGE:
            chars |= {code for code in _ALPHABET if value[0] <= code <= value[1]} | {value[0]}
        elif kind is op.CATEGORY:
            chars |= _category(value)
    return _ALPHABET - chars if items and items[0][0] is op.NEGATE else chars


def _one(kind: Any, value: Any) -> Chars | None:
    """What an item that is one character may be."""
    if kind is op.LITERAL:
        return frozenset([value])
    if kind is op.NOT_LITERAL:
        return _ALPHABET - {value}
    if kind is op.ANY:
        return _ALPHABET
    return _class(value) if kind is op.IN else None


_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)


def _bodies(kind: Any, value: Any) -> list[Items]:
    """The sequences within an item, one of which is matched."""
    if kind is op.BRANCH:
        return [list(branch) for branch in value[1]]
    if kind is op.SUBPATTERN:
        return [list(value[3])]
    if kind is op.ATOMIC_GROUP:
        return [list(value)]
    return [list(value[2])] if kind in _REPEATS else []


def _first(items: Items) -> tuple[Chars, bool]:
    """The characters that a sequence begins with, and whether it may be empty."""
    chars: Chars = frozenset()
    for kind, value in items:
        one = _one(kind, value)
        if one is not None:
            return chars | one, False
        firsts = [_first(body) for body in _bodies(kind, value)]
        empty = not firsts or any(none for _, none in firsts) or (kind in _REPEATS and value[0] == 0)
        chars = chars.union(*(begin for begin, _ in firsts))
        if not empty:
            return chars, False
    return chars, True


def _unbounded(kind: Any, value: Any) -> bool:
    return kind in _REPEATS and (value[1] is op.MAXREPEAT or value[1] > _MANY)


def _all_chars(items: Items) -> Chars:
    chars: Chars = frozenset()
    for kind, value in items:
        chars = chars.union(_one(kind, value) or (), *(_all_chars(body) for body in _bodies(kind, value)))
    return chars


def _starts(items: Items, flags: int) -> Chars:
    """The characters before or at which a search may begin again; none when it is anchored."""
    kind, value = items[0] if items else (op.AT, op.AT_BEGINNING_STRING)
    if kind is op.AT and value in (op.AT_BEGINNING, op.AT_BEGINNING_STRING):
        return _NEWLINE if flags & re.MULTILINE and value is op.AT_BEGINNING else frozenset()
    chars, empty = _first(items)
    return _ALPHABET if empty else chars


def _faults(items: Items, after: After, starts: Chars, in_repeat: bool) -> Iterator[str]:
    for index, (kind, value) in enumerate(items):
        rest, rest_empty = _first(items[index + 1 :])
        later = After(rest, not rest_empty or any(k is op.AT for k, _ in items[index + 1 :])).then(after, rest_empty)
        bodies = _bodies(kind, value)
        within = later
        if _unbounded(kind, value):
            first, empty = _first(bodies[0])
            if empty:
                yield "what is repeated may be empty"
            if kind is not op.POSSESSIVE_REPEAT and first & later.chars:
                yield "what is repeated and what follows may begin alike"
            if _all_chars(bodies[0]) & starts and later.fails:
                yield "a search begins again within what was repeated"
            within = After(first | later.chars, later.fails)
        repeated = in_repeat or _unbounded(kind, value)
        if kind is op.BRANCH and repeated:
            firsts = [_first(body)[0] for body in bodies]
            if sum(map(len, firsts)) > len(frozenset().union(*firsts)):
                yield "two alternatives that are repeated begin alike"
        for body in bodies:
            yield from _faults(body, within, starts, repeated)


def faults(pattern: str | bytes, searching: bool, flags: int = 0) -> list[str]:
    """Why a pattern may take longer than linear time."""
    parsed = _parser.parse(pattern, flags)
    items = list(parsed)
    return list(_faults(items, After(), _starts(items, parsed.state.flags) if searching else frozenset(), False))


# --- The patterns of the package -----------------------------------------------------------------------------------

# Patterns that are put together at run time, and what they are made of.
_MADE = {
    "app.py": "names of routes: one segment each",
    "harmony.py": "a fixed marker, white space, a name",
    "grammar.py": "an alternation of fixed tokens",
    "grammar_text.py": "an alternation of fixed tokens",
    "reader.py": "an alternation of fixed markers",
    "tagged.py": "a parser's own header, listed there",
}


@dataclass(frozen=True)
class Use:
    place: str
    pattern: str | bytes | None  # None: put together at run time
    searching: bool


def _text_of(node: ast.expr) -> str | bytes | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
        return node.value
    if isinstance(node, ast.JoinedStr):  # what is put in stands for one character here
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return None


def _called(node: ast.AST) -> tuple[str, str] | None:
    """("re", "compile") of re.compile(...), ("_NAME", "match") of self._NAME.match(...)."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    owner = node.func.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return name, node.func.attr


def _uses() -> list[Use]:
    trees = {path: ast.parse(path.read_text()) for path in sorted(_PACKAGE.rglob("*.py"))}
    methods: dict[str, set[str]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if called := _called(node):
                methods.setdefault(called[0], set()).add(called[1])
    uses = []
    for path, tree in trees.items():
        names = {
            id(node.value): target.id if isinstance(target, ast.Name) else getattr(target, "attr", "")
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
        }
        for node in ast.walk(tree):
            called = _called(node)
            if called is None or called[0] != "re" or called[1] not in _SEARCHING | {"compile", "match", "fullmatch"}:
                continue
            assert isinstance(node, ast.Call)
            used = {called[1]} if called[1] != "compile" else methods.get(names.get(id(node), ""), _SEARCHING)
            searching = not used.isdisjoint(_SEARCHING)
            uses.append(Use(f"{path.name}:{node.lineno}", _text_of(node.args[0]), searching))
    return uses


@pytest.mark.parametrize("use", _uses(), ids=lambda use: use.place)
def test_every_pattern_is_linear(use: Use) -> None:
    if use.pattern is None:
        assert use.place.partition(":")[0] in _MADE, "a pattern made at run time: say in _MADE what it is made of"
        return
    assert faults(use.pattern, use.searching) == [], use.pattern


def test_the_package_has_patterns() -> None:
    assert len(_uses()) > 20


@pytest.mark.parametrize(
    ("pattern", "searching"),
    [
        (r"\s*\[", True),
        (r"\{\s*(\d+)?\s*\}", False),
        (r'"(?:[^"\\\n]|\\.)*"', True),
        (r"(a+)+b", False),
        (r"(?:ab|[a-c]d)*e", False),
        (r"(?:a?)*b", False),
        (r"\w+\d", False),
        (r".*x", False),
        (r"a*?ab", False),
        (r"<[^>]*>", True),
        (r"(?m)^[^:]*:", True),
        (r"(?:/[\w.]+)+/?[\w]*z", False),
    ],
)
def test_patterns_that_are_not_linear_are_found(pattern: str, searching: bool) -> None:
    assert faults(pattern, searching)


@pytest.mark.parametrize(
    ("pattern", "searching"),
    [
        (r"\s+", True),
        (r"[\w.-]+/[\w.-]+", False),
        (r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', True),
        (r"(?m)^[ \t]*[a-z]+[ \t]*:", True),
        (r"\\u(?:[dD][89a-fA-F]|0000)", True),
        (r"^\s*\[", True),
        (r"(?:ab|cd)*e", False),
        (r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", False),
    ],
)
def test_patterns_that_are_linear_pass(pattern: str, searching: bool) -> None:
    assert faults(pattern, searching) == []
