"""Grammars under which a model must call tools, in the format of its parser, with arguments of the tools' schemas."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from warpjet.guided.schemas import WHITESPACE, prepared
from warpjet.parsing.chat_parser import check_parsers
from warpjet.parsing.harmony import CHANNEL, MESSAGE, START, Harmony
from warpjet.parsing.json_text import MAX_NAME
from warpjet.parsing.parameters import Parameter, Shape, parameter, shapes
from warpjet.parsing.pythonic import KEYWORD, Pythonic
from warpjet.parsing.reasoning_parsers import REASONING_PARSERS
from warpjet.parsing.tool_parsers import TOOL_PARSERS, Layout, ToolParser
from warpjet.parsing.xml_calls import Xml
from warpjet.text.tools import ToolChoice, Tools, chosen_name

TokenId = Callable[[str], int | None]

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True}
_ROOT = "arguments"  # where the schema of all arguments is, for a schema of one that refers to it
ANY_TEXT = "/(?s:.*)/"
_WORDS: dict[str, tuple[bool | None, ...]] = {"boolean": (True, False), "null": (None,)}


def tool_call_lark(
    parser: str | None,
    tools: Tools,
    tool_choice: ToolChoice,
    parallel: bool = True,
    reasoning_parser: str | None = None,
    prompt: str = "",
    token_id: TokenId | None = None,
    *,
    continued: bool = False,
    answer: bool = False,
) -> str:
    """Lark text, with embedded JSON schemas, of a completion that calls tools. answer: it may be @answer instead, or
    must be, without tools.

    "auto" and "required" are one call or more, of any tools; with parallel False, and where a tool is named, exactly
    one. Reasoning may come first if there is a reasoning_parser; prompt is what tells whether it has begun. continued:
    the prompt ends within the answer. token_id: of a token by its text, for markers that are tokens. Raises ValueError
    for parsers that exclude each other and for tools that the format cannot call."""
    check_parsers(reasoning_parser, parser)
    writer = _Writer((), token_id)
    reasoning, lead = _before_answer(writer, reasoning_parser, prompt, continued)
    bodies = [f"{lead} @answer"] if answer else []
    if tools:
        if parser is None:
            raise ValueError("tool_choice needs a tool_call_parser: the model's format of calls is not known")
        bodies.insert(0, _calls(writer, TOOL_PARSERS[parser], tools, chosen_name(tool_choice), parallel, answer))
    return "\n".join([f"start: {reasoning} ({' | '.join(bodies)})", *writer.rules])


def _calls(
    writer: "_Writer", row: ToolParser, tools: Tools, name: str | None, parallel: bool, beside_answer: bool
) -> str:
    layout = row.layout
    writer.add_tokens(row.format.tokens)
    chosen = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    as_value = beside_answer and layout.call[0].startswith("{") and not layout.before.strip("[")
    for index, function in enumerate(chosen):
        if as_value:
            call = _json_call(layout, function)
        else:
            before_name, before_arguments, after = layout.call
            begin = writer.literal(before_name + function["name"] + before_arguments)
            call = f"{begin} {_arguments(writer, row.format, function)} {writer.literal(after)}"
        writer.rule(f"call_{index}", call)
    calls = writer.rule("call", " | ".join(f"call_{index}" for index in range(len(chosen))))
    if parallel and name is None and layout.between is not None:
        calls = f"call ({writer.literal(layout.between)} call)*"
    return f"{writer.literal(layout.before)} {calls} {writer.literal(layout.after)}"


def _json_call(layout: Layout, function: Mapping[str, Any]) -> str:
    """A call without a marker as JSON in its own right: beside an answer that is JSON, no longer piece of text may be
    taken for the beginning of both."""
    parameters = _schema_of(function)
    shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    key = layout.call[1].split('"')[-2]
    schema = {
        **shared,
        "type": "object",
        "properties": {"name": {"const": function["name"]}, key: parameters},
        "required": ["name", key],
        "additionalProperties": False,
        "x-guidance": {"whitespace_pattern": WHITESPACE, "coerce_one_of": True},
    }
    return f"%json {json.dumps(schema, ensure_ascii=True)}"


def _schema_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """Of a tool's arguments. As in OpenAI's strict mode, its objects are closed unless they say otherwise; strict:
    false leaves them open."""
    given = {"type": "object", **(function.get("parameters") or {})}
    try:
        return prepared(given, closed=function.get("strict") is not False)
    except ValueError as error:
        raise ValueError(f"tools: the parameters of {function['name']!r}: {error}") from None


class _Writer:
    """Rules of a grammar, and its text in them."""

    def __init__(self, tokens: Sequence[str], token_id: TokenId | None) -> None:
        self.rules: list[str] = []
        self._tokens = set(tokens)
        self._token_id = token_id

    def add_tokens(self, tokens: Sequence[str]) -> None:
        self._tokens.update(tokens)

    def rule(self, name: str, body: str) -> str:
        self.rules.append(f"{name}: {body}")
        return name.partition("[")[0]

    def literal(self, text: str) -> str:
        """A marker may be written with its token, which to the grammar is not the same as its letters."""
        return " ".join(self._part(part) for part in self._split(text))

    def text(self, end: str, kinds: Sequence[str] = (ANY_TEXT,), without: Sequence[str] = ()) -> str:
        """A text of one of these kinds, which are terminals, then its end marker. Nothing of `without` is in it."""
        number = len(self.rules)
        begin, *rest = self._split_tokens(end)
        token, is_any = self._find(begin), list(kinds) == [ANY_TEXT]
        parts = {part for marker in (end, *without) for part in self._split_tokens(marker)}
        tokens = {part for part in parts if self._find(part) is not None}
        # Any text ends at the first marker by itself, one with conditions only where they are met.
        excluded = tokens | ({*without} - {begin} if is_any else {*without, begin})
        if excluded:
            unwanted = "|".join(map(_escaped, sorted(excluded)))
            kinds = [f"({kind}) & ~/(?s:.*)({unwanted})(?s:.*)/" for kind in kinds]
        names = [self.rule(f"TEXT_{number}_{index}", kind) for index, kind in enumerate(kinds)]
        if token is not None:
            return f"({' | '.join(names)}) <[{token}]> {self.literal(''.join(rest))}"
        name = self.rule(f"text_{number}[suffix={_quoted(begin)}]", " | ".join(names))
        return f"{name}{'+' if rest and is_any else ''} {self.literal(''.join(rest))}"

    def schema(self, schema: Mapping[str, Any]) -> str:
        return f"%json {json.dumps({**schema, 'x-guidance': _COMPACT}, ensure_ascii=True)}"

    def _split(self, text: str) -> list[str]:
        """At tokens, and at line breaks: where two literals begin alike, the compiler's lexer would take the longer."""
        return [part for one in self._split_tokens(text) for part in re.split("(\n)", one) if part]

    def _split_tokens(self, text: str) -> list[str]:
        tokens = sorted((t for t in self._tokens if self._find(t) is not None), key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, tokens)) + ")", text) if tokens else [text]
        return [part for part in parts if part]

    def _part(self, part: str) -> str:
        token = self._find(part)
        return _quoted(part) if token is None else f"({_quoted(part)} | <[{token}]>)"

    def _find(self, text: str) -> int | None:
        return self._token_id(text) if self._token_id is not None and text in self._tokens else None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    """As a regular expression between slashes."""
    return re.sub(r"[\\/.+*?()|\[\]{}^$&~#-]", r"\\\g<0>", text).replace("\n", "\\n")


def _arguments(writer: _Writer, form: object, function: Mapping[str, Any]) -> str:
    schema = _schema_of(function)
    if not isinstance(form, (Pythonic, Xml)):
        return writer.rule(f"arguments_{len(writer.rules)}", writer.schema(schema))
    write = _keywords if isinstance(form, Pythonic) else partial(_elements, form=form)
    return f"({' | '.join(write(writer, shape, schema, function['name']) for shape in shapes(schema))})"


def _keywords(writer: _Writer, shape: Shape, root: Mapping[str, Any], function: str) -> str:
    """name=value, ... in the order of the schema; optional ones may be missing. Two rules for each: what may follow
    when nothing has been written yet, and when something has."""
    first = after = writer.rule(f"none_{len(writer.rules)}", '""')
    for name, schema in reversed(_writable(shape, function, lambda name: KEYWORD.fullmatch(name) is not None)):
        number = len(writer.rules)
        one = writer.rule(f"keyword_{number}", f"{_quoted(name + '=')} ({_python(writer, schema, root)})")
        skip_first, skip_after = ("", "") if name in shape.required else (f" | {first}", f" | {after}")
        first = writer.rule(f"first_{number}", f"{one} {after}{skip_first}")
        after = writer.rule(f"after_{number}", f'", " {one} {after}{skip_after}')
    return first


def _python(writer: _Writer, schema: Any, root: Mapping[str, Any]) -> str:
    """A value as Python writes it: as JSON does, but for three words."""
    wanted = parameter(schema, root)
    words: set[str] = set()
    for one in wanted.alternatives:
        values = [value for kind in one.types for value in _WORDS.get(kind, ())] if one.values is None else one.values
        words.update(_quoted(repr(value)) for value in values if value is None or isinstance(value, bool))
    rest = wanted.types - _WORDS.keys()
    others = [writer.schema(_member(schema, root, rest if words else None))] if rest or not words else []
    return " | ".join([*sorted(words), *others])


def _elements(writer: _Writer, shape: Shape, root: Mapping[str, Any], function: str, form: Xml) -> str:
    writer.add_tokens((*form.tokens, form.value_end))
    out = []
    for name, schema in _writable(shape, function, lambda name: not any(end in name for end in (*form.key_ends, "<"))):
        wanted = parameter(schema, root)
        begin = [writer.literal(form.key + name + end) for end in form.key_ends]
        kinds = _kinds_of_text(wanted)
        others = frozenset() if ANY_TEXT in kinds and not form.typed else wanted.types - {"string"}
        written = []
        if kinds:
            written.append(f"{begin[0]} {_text_value(writer, form, kinds)}")
        if others or not kinds:
            value = writer.schema(_member(schema, root, others if kinds else None))
            end = writer.literal(("\n" if form.padded else "") + form.value_end)
            pad = writer.literal("\n") if form.padded else ""
            written.append(f"{begin[1 if form.typed else 0]} {pad} {value} {end}")
        element = writer.rule(f"element_{len(writer.rules)}", f'({" | ".join(written)}) "\\n"')
        out.append(element + ("" if name in shape.required else "?"))
    return " ".join(out) or '""'


def _text_value(writer: _Writer, form: Xml, kinds: Sequence[str]) -> str:
    """A string with no quotes around it, up to the end of its element."""
    pad = "\n" if form.padded else ""
    end = form.value_end if list(kinds) == [ANY_TEXT] else pad + form.value_end
    return f"{writer.literal(pad)} {writer.text(end, kinds, form.ends)}"


def _kinds_of_text(wanted: Parameter) -> list[str]:
    """Terminals of the strings that fit; ANY_TEXT alone where every string does."""
    texts = [one for one in wanted.alternatives if "string" in one.types]
    if any(one.is_free_text for one in texts):
        return [ANY_TEXT]
    kinds = list(map(_quoted, sorted(wanted.choices)))
    for one in texts:
        if one.values is None:
            length = f"/(?s:.{{{one.min_length},{'' if one.max_length is None else one.max_length}}})/"
            kinds.append(" & ".join([length, *map(_pattern, one.patterns)]))
    return kinds


def _pattern(pattern: str) -> str:
    """A terminal of the strings in which a schema's pattern is found. Its anchors are those at its ends."""
    inner, begin, end = pattern, "(?s:.*)", "(?s:.*)"
    if inner.startswith("^"):
        inner, begin = inner[1:], ""
    if inner.endswith("$") and (len(inner) - len(inner[:-1].rstrip("\\"))) % 2:
        inner, end = inner[:-1], ""
    return "/" + f"{begin}(?:{inner}){end}".replace("\n", "\\n").replace("/", "\\/") + "/"


def _writable(shape: Shape, function: str, can_write: Callable[[str], bool]) -> list[tuple[str, Any]]:
    """The members whose names the format can write. Raises ValueError if one that is required is not among them."""
    for name in shape.required:
        if not can_write(name) or len(name) > MAX_NAME:
            raise ValueError(f"tool {function!r}: its format cannot write a parameter called {name!r:.100}")
    return [(name, schema) for name, schema in shape.members.items() if can_write(name) and len(name) <= MAX_NAME]


def _member(schema: Any, root: Mapping[str, Any], types: frozenset[str] | None) -> Mapping[str, Any]:
    """A schema within `root` as one that stands alone, for values of these types. None: whatever it says itself."""
    alone: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else {} if schema else {"not": {}}
    shared = {}
    if '"$ref"' in json.dumps(alone):
        alone, shared = {"allOf": [_moved(alone)]}, {"$defs": {_ROOT: _moved(root)}}
    if types is not None:
        alone = {"allOf": [alone], "type": sorted(types - {"integer"} if "number" in types else types)}
    return alone | shared


def _moved(schema: Any) -> Any:
    """With references that lead into the root where it is now."""
    if isinstance(schema, list):
        return [_moved(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    ref = schema.get("$ref")
    moved = {key: value if key in ("const", "enum") else _moved(value) for key, value in schema.items()}
    if isinstance(ref, str) and ref.startswith("#"):
        moved["$ref"] = f"#/$defs/{_ROOT}{ref[1:]}"
    return moved


def _before_answer(writer: _Writer, parser: str | None, prompt: str, continued: bool) -> tuple[str, str]:
    """(reasoning that may come first, what comes before the text of an answer)."""
    if parser is None:
        return "", ""
    form = REASONING_PARSERS[parser].format
    writer.add_tokens(form.tokens)
    if isinstance(form, Harmony):
        return _before_harmony_answer(writer, Harmony.left_open(prompt))
    opened = form.opened_by(prompt, continued)
    if not opened and (continued or prompt.rstrip().endswith(form.closes)):
        return "", ""
    begin = writer.literal(form.opens[0])
    rest = f'{writer.text(form.closes[0])} ("\\n" "\\n"?)?'
    return (f"{begin}? {rest}" if opened else f"({begin} {rest})?"), ""


def _before_harmony_answer(writer: _Writer, begun: str) -> tuple[str, str]:
    """begun: what the prompt has of the message that the model goes on with."""
    next_message = writer.literal(f"{START}assistant")
    thought = f"{writer.text('<|end|>')} {next_message}"
    thoughts = f"({writer.literal(f'{CHANNEL}analysis{MESSAGE}')} {thought})*"
    lead = writer.literal(f"{CHANNEL}final{MESSAGE}")
    header, message, _ = begun.partition(MESSAGE)
    if not header and not message:
        return thoughts, lead
    if "analysis" in header and message:
        return f"{thought} {thoughts}", lead
    return "", "" if message else writer.literal(MESSAGE)
