"""Limits of what is compiled. A constraint comes from anywhere, so everything is bounded before it is compiled: its
text, how deep it nests, how long its chains of rules are. Every check is linear in the text."""

import json
import re
from collections.abc import Iterator
from typing import Any

from warpjet.common.json_size import read_bounded

MAX_TEXT = 1 << 20  # bytes
MAX_GBNF = 1 << 17  # GBNF is read character by character, in Python
MAX_DEPTH = 100  # of brackets, objects and lists
_MAX_RULES = 4000
_MAX_CHAIN = 20_000  # $refs times the depth between them
_MAX_PROPERTIES = 3000  # of one object
_MAX_ENTRIES = 10_000  # of one list: native code reads a list without a pause, about 4 us an entry
_MAX_REPEAT = 100_000  # more than any context holds

# Possessive: what has matched is not looked at again. Quoted text counts too, as which quotes quote is the language's.
_RULE = re.compile(r"(?m)^[ \t]*+[?!]?+[A-Za-z_][\w-]*+(?:\.\d++|\[[^\]\n]*+\]|\{[^}\n]*+\})*+[ \t]*+:")
_REPEAT = re.compile(r"\{\s*+(\d++)?+\s*+(?:,\s*+(\d++)?+\s*+)?+\}")
_REFERENCE = re.compile(r'ref"|\\u00')  # of a schema within Lark, perhaps hidden behind escapes


def check_size(what: str, text: str, limit: int = MAX_TEXT) -> None:
    """Raises ValueError, as all of these."""
    size = len(text.encode(errors="surrogatepass"))
    if size > limit:
        raise ValueError(f"{what}: {size} bytes are more than the {limit} that are compiled")


def check_repeats(what: str, pattern: str) -> None:
    """Counts of repetitions in a regex or a grammar."""
    for match in _REPEAT.finditer(pattern):
        for count in match.groups():
            if count and (len(count) > 9 or int(count) > _MAX_REPEAT):
                raise ValueError(
                    f"{what}: a repetition may have a count of {_MAX_REPEAT} at most, got {match.group()[:50]}"
                )


def check_grammar(what: str, text: str) -> None:
    """Lark or GBNF."""
    check_size(what, text)
    check_repeats(what, text)
    rules, refs = len(_RULE.findall(text)), len(_REFERENCE.findall(text))
    if rules > _MAX_RULES:
        raise ValueError(f"{what}: {rules} rules are more than the {_MAX_RULES} that are compiled")
    if refs * MAX_DEPTH > _MAX_CHAIN:
        raise ValueError(f"{what}: {refs} references in its schemas are more than are compiled; pass them as json")


def read_json(what: str, value: Any) -> Any:
    """JSON text is read; other values are as they were."""
    if not isinstance(value, str):
        return value
    check_size(what, value)
    try:
        return read_bounded(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: not JSON: {error}") from None


def check_schema(what: str, schema: Any) -> None:
    """A chain of references visits each of them once at most, and what is nested between."""
    refs = depth = 0
    for node, level in _nodes(schema):
        depth = max(depth, level)
        if level > MAX_DEPTH:
            raise ValueError(f"{what}: it nests more than {MAX_DEPTH} deep")
        if isinstance(node, list) and len(node) > _MAX_ENTRIES:
            raise ValueError(f"{what}: a list of {len(node)} entries; at most {_MAX_ENTRIES} are compiled")
        if not isinstance(node, dict):
            continue
        refs += "$ref" in node
        if len(node) > _MAX_PROPERTIES:
            raise ValueError(f"{what}: an object of {len(node)} properties; at most {_MAX_PROPERTIES} are compiled")
        for name in ("pattern", "patternProperties"):
            patterns = node.get(name)
            for pattern in patterns if isinstance(patterns, dict) else [patterns]:
                if isinstance(pattern, str):
                    check_repeats(what, pattern)
    if (refs + 1) * depth > _MAX_CHAIN:
        raise ValueError(f"{what}: {refs} references, {depth} levels deep, are more than are compiled")


def schema_text(what: str, schema: Any) -> str:
    """JSON text of a schema."""
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: not JSON: {error}") from None
    check_size(what, text)
    return text


def _nodes(schema: Any) -> Iterator[tuple[Any, int]]:
    """Every value in it, with its depth."""
    stack = [(schema, 1)]
    while stack:
        node, level = stack.pop()
        yield node, level
        children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
        stack.extend((child, level + 1) for child in children)
