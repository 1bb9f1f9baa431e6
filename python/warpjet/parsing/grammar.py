"""Grammars under which a model must call tools, in the format of its parser, with arguments of the tools' schemas."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from warpjet.parsing.chat_parser import check_parsers
from warpjet.parsing.harmony import CHANNEL, MESSAGE, START, Harmony
from warpjet.parsing.pythonic import NAME, Pythonic
from warpjet.parsing.reasoning_parsers import REASONING_PARSERS
from warpjet.parsing.tool_parsers import TOOL_PARSERS
from warpjet.parsing.tools import ToolChoice, Tools, check_tool_choice, chosen_name
from warpjet.parsing.xml_calls import Xml

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams

TokenId = Callable[[str], int | None]

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_PYTHON_WORDS = {"boolean": '("True" | "False")', "null": '"None"'}


def tool_call_grammar(
    parser: str | None,
    tools: Tools | None,
    tool_choice: ToolChoice,
    parallel: bool = True,
    *,
    reasoning_parser: str | None = None,
    prompt: str = "",
    token_id: TokenId | None = None,
) -> "StructuredOutputsParams | None":
    """What a completion must be for this tool_choice; None for "auto" and "none", which ask for nothing.

    "required" is one call or more, of any tools; with parallel False, and where a tool is named, exactly one. Reasoning
    may come first if there is a reasoning_parser; prompt is what tells whether it has begun. token_id: of a token by
    its text, for markers that are tokens. Raises ValueError for a malformed tool_choice or one that cannot be granted.
    """
    check_tool_choice(tools, tool_choice)
    if tool_choice in ("auto", "none"):
        return None
    from warpjet.structured import StructuredOutputsParams

    return StructuredOutputsParams(
        grammar=tool_call_lark(parser, tools or (), tool_choice, parallel, reasoning_parser, prompt, token_id)
    )


def tool_call_lark(
    parser: str | None,
    tools: Tools,
    tool_choice: ToolChoice,
    parallel: bool = True,
    reasoning_parser: str | None = None,
    prompt: str = "",
    token_id: TokenId | None = None,
) -> str:
    """The grammar itself, as Lark text with embedded JSON schemas."""
    if parser is None:
        raise ValueError("tool_choice needs a tool_call_parser: the model's format of calls is not known")
    check_parsers(reasoning_parser, parser)
    row = TOOL_PARSERS[parser]
    writer = _Writer(row.format.tokens, token_id)
    name = chosen_name(tool_choice)
    chosen = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    layout = row.layout
    for index, function in enumerate(chosen):
        before_name, before_arguments, after = layout.call
        begin = writer.literal(before_name + function["name"] + before_arguments)
        writer.rule(f"call_{index}", f"{begin} {_arguments(writer, row.format, function)} {writer.literal(after)}")
    calls = writer.rule("call", " | ".join(f"call_{index}" for index in range(len(chosen))))
    if parallel and name is None and layout.between is not None:
        calls = f"call ({writer.literal(layout.between)} call)*"
    reasoning = _reasoning(writer, reasoning_parser, prompt)
    start = f"start: {reasoning} {writer.literal(layout.before)} {calls} {writer.literal(layout.after)}"
    return "\n".join([start, *writer.rules])


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

    def until(self, marker: str) -> str:
        """Any text, and the marker after it."""
        number = len(self.rules)
        begin, *rest = self._split(marker)
        if (token := self._find(begin)) is not None:
            return f"{self.rule(f'TEXT_{number}', '/(?s:.*)/')} <[{token}]> {self.literal(''.join(rest))}"
        text = self.rule(f"text_{number}[suffix={_quoted(begin)}]", "/(?s:.*)/")
        return f"{text}+ {self.literal(''.join(rest))}" if rest else text

    def schema(self, schema: Mapping[str, Any]) -> str:
        return f"%json {json.dumps({**schema, 'x-guidance': _COMPACT}, ensure_ascii=True)}"

    def _split(self, text: str) -> list[str]:
        """At tokens, and at line breaks: where two literals begin alike, the compiler's lexer would take the longer."""
        tokens = sorted((t for t in self._tokens if self._find(t) is not None), key=len, reverse=True)
        parts = re.split("(" + "|".join([*map(re.escape, tokens), "\n"]) + ")", text)
        return [part for part in parts if part]

    def _part(self, part: str) -> str:
        token = self._find(part)
        return _quoted(part) if token is None else f"({_quoted(part)} | <[{token}]>)"

    def _find(self, text: str) -> int | None:
        return self._token_id(text) if self._token_id is not None and text in self._tokens else None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _arguments(writer: _Writer, form: object, function: Mapping[str, Any]) -> str:
    schema: Mapping[str, Any] = {"type": "object", **(function.get("parameters") or {})}
    if isinstance(form, Pythonic):
        return _keywords(writer, schema, function["name"])
    if isinstance(form, Xml):
        return _elements(writer, schema, form)
    return writer.rule(f"arguments_{len(writer.rules)}", writer.schema(schema))


def _members(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], bool]]:
    """(name, schema, required) of each property. References within the schema still lead where they led."""
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    required = schema.get("required") or ()
    properties = schema.get("properties") or {}
    return [
        (name, {**shared, **value} if isinstance(value, Mapping) else shared, name in required)
        for name, value in properties.items()
    ]


def _keywords(writer: _Writer, schema: Mapping[str, Any], function: str) -> str:
    """name=value, ... in the order of the schema; optional ones may be missing. Two rules for each: what may follow
    when nothing has been written yet, and when something has."""
    first = after = writer.rule(f"none_{len(writer.rules)}", '""')
    for name, member, required in reversed(_members(schema)):
        if not NAME.fullmatch(name):
            if required:
                raise ValueError(f"tool {function!r}: its format cannot write a parameter called {name!r}")
            continue
        kind = member.get("type")
        value = writer.schema(member)
        if isinstance(kind, str) and kind in _PYTHON_WORDS:
            value = _PYTHON_WORDS[kind]
        number = len(writer.rules)
        one = writer.rule(f"keyword_{number}", f"{_quoted(name + '=')} {value}")
        skip_first, skip_after = ("", "") if required else (f" | {first}", f" | {after}")
        first = writer.rule(f"first_{number}", f"{one} {after}{skip_first}")
        after = writer.rule(f"after_{number}", f'", " {one} {after}{skip_after}')
    return first


def _elements(writer: _Writer, schema: Mapping[str, Any], form: Xml) -> str:
    writer.add_tokens((form.value_end,))
    pad = "\n" if form.padded else ""
    out = []
    for name, member, required in _members(schema):
        values = member.get("enum")
        choices = values if isinstance(values, list) and all(isinstance(value, str) for value in values) else ()
        is_text = choices or member.get("type") == "string"
        key_end = form.key_ends[1 if form.typed and not is_text else 0]
        begin = writer.literal(form.key + name + key_end + pad)
        if choices:
            value = f"({' | '.join(map(_quoted, choices))}) {writer.literal(pad + form.value_end)}"
        elif is_text:
            value = writer.until(form.value_end)
        else:
            value = f"{writer.schema(member)} {writer.literal(pad + form.value_end)}"
        out.append(writer.rule(f"element_{len(writer.rules)}", f'{begin} {value} "\\n"') + ("" if required else "?"))
    return " ".join(out)


def _reasoning(writer: _Writer, parser: str | None, prompt: str) -> str:
    """Reasoning that may come first."""
    if parser is None:
        return ""
    form = REASONING_PARSERS[parser].format
    writer.add_tokens(form.tokens)
    if isinstance(form, Harmony):
        begin, end = writer.literal(f"{CHANNEL}analysis{MESSAGE}"), writer.literal(f"{START}assistant")
        return f"({begin} {writer.until('<|end|>')} {end})?"
    begin = writer.literal(form.opens[0])
    rest = f'{writer.until(form.closes[0])} ("\\n" "\\n"?)?'
    return f"{begin}? {rest}" if form.opened_by(prompt) else f"({begin} {rest})?"
