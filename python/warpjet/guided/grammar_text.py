"""From a constraint to the grammar that is compiled."""

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from warpjet.common.shown import shown
from warpjet.guided.limits import (
    MAX_GBNF,
    check_grammar,
    check_repeats,
    check_schema,
    check_size,
    read_json,
    schema_text,
)
from warpjet.guided.schemas import WHITESPACE, prepared
from warpjet.structured import Constraint, Framed, StructuredOutputsParams
from warpjet.text.tokenizer import Tokenizer

_JSON_OBJECT = {"type": "object"}
_MAX_TAG = 1024  # characters
_GBNF_RULE = re.compile(r"(?m)^[ \t]*+[\w-]++[ \t]*+::=")
_GBNF_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([-/^'{}()|*+?.$])|.)", re.DOTALL)
_ESCAPED = re.compile(r"\\.", re.DOTALL)

Part = dict[str, Any]  # a grammar of llguidance's: json_schema or lark_grammar


def parts_of(constraint: Constraint, tokenizer: Tokenizer) -> list[tuple[str, Part]]:
    """llguidance's grammars, each with the words that errors have for it; the first is what the text must be, and names
    the other. Raises ValueError."""
    if isinstance(constraint, StructuredOutputsParams):
        return [_part(constraint, tokenizer)]
    check_size("tools", constraint.frame)
    for what, schema in constraint.schemas:
        check_schema(what, schema)
    frame: tuple[str, Part] = ("tools", {"lark_grammar": constraint.frame})
    if constraint.answer is None:
        return [frame]
    what, answer = _part(constraint.answer, tokenizer)
    return [frame, (what, {**answer, "name": "answer"})]


def schemas_of(constraint: Constraint) -> list[tuple[str, Part]]:
    """The tools' schemas, each as a grammar of its own."""
    schemas = constraint.schemas if isinstance(constraint, Framed) else ()
    return [(what, {"json_schema": _schema(what, schema, True, {})}) for what, schema in schemas]


def text_of(*parts: tuple[str, Part]) -> str:
    """What llguidance reads."""
    return json.dumps({"grammars": [part for _, part in parts]}, ensure_ascii=False)


def _part(params: StructuredOutputsParams, tokenizer: Tokenizer) -> tuple[str, Part]:
    """The name of the field that constrains, and its grammar."""
    if params.json is not None:
        return "json", _from_schema("json", params.json, params)
    if params.json_object is not None:
        return "json_object", _from_schema("json_object", _JSON_OBJECT, params)
    if params.regex is not None:
        return "regex", _from_regex("regex", params.regex)
    if params.choice is not None:
        return "choice", _from_choice(params.choice)
    if params.grammar is not None:
        return "grammar", _from_grammar(params.grammar)
    return "structural_tag", _from_tags(params.structural_tag, params, tokenizer)


def _from_schema(what: str, schema: Any, params: StructuredOutputsParams) -> Part:
    options: dict[str, Any] = {"whitespace_pattern": params.whitespace_pattern or WHITESPACE}
    if params.whitespace_pattern is not None:
        check_repeats("whitespace_pattern", params.whitespace_pattern)
    if params.disable_any_whitespace:
        options = {"whitespace_flexible": False}
    schema = read_json(what, schema)
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError(f"{what}: a schema is an object, got {json.dumps(schema)[:50]}")
    return {"json_schema": _schema(what, schema, params.disable_additional_properties, options)}


def _schema(what: str, schema: dict[str, Any], closed: bool, options: dict[str, Any]) -> dict[str, Any]:
    """oneOf is taken for anyOf: a grammar cannot say that exactly one holds."""
    check_schema(what, schema)
    try:
        schema = prepared(schema, closed)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    given = schema.get("x-guidance")
    options = {**(given if isinstance(given, dict) else {}), **options, "coerce_one_of": True}
    schema_text(what, schema)
    return {**schema, "x-guidance": options}


def _from_regex(what: str, regex: str) -> Part:
    from llguidance import LLMatcher

    check_size(what, regex)
    check_repeats(what, regex)
    regex = _ESCAPED.sub(lambda found: r"\z" if found[0] == r"\Z" else found[0], regex)  # Python's spelling
    part: Part = json.loads(LLMatcher.grammar_from_regex(regex))["grammars"][0]
    return {"lark_grammar": part["lark_grammar"]}


def _from_choice(choice: Sequence[str]) -> Part:
    lark = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choice)
    check_size("choice", lark)
    return {"lark_grammar": lark}


def _from_grammar(grammar: str) -> Part:
    check_grammar("grammar", grammar)
    return {"lark_grammar": _from_gbnf(grammar) if _GBNF_RULE.search(grammar) else grammar}


def _from_gbnf(grammar: str) -> str:
    """As Lark. The rules get names of their own, as Lark gives meaning to start and to the case of a name."""
    from llguidance.gbnf_to_lark import GrammarParser, RegexNode, RuleRefNode, resolve

    check_size("grammar", grammar, MAX_GBNF)
    try:
        rules = GrammarParser().parse(_GBNF_ESCAPE.sub(_escape, grammar))
        names = {name: "root" if name == "root" else f"rule_{index}" for index, name in enumerate(rules)}
        nodes: list[Any] = list(rules.values())
        while nodes:
            node = nodes.pop()
            nodes.extend(node.children())
            if isinstance(node, RegexNode):  # && and ~~ are operators in the classes of its language
                node.rx = node.rx.replace("&", r"\x26").replace("~", r"\x7e")
            if isinstance(node, RuleRefNode):
                if node.name not in names:
                    raise ValueError(f"there is no rule {node.name!r}")
                node.name = names[node.name]
        renamed = {}
        for rule in rules.values():
            rule.name, rule.comment = names[rule.name], ""
            renamed[rule.name] = rule
        resolve(renamed)
    except RecursionError:
        raise ValueError("grammar: it nests too deeply") from None
    except Exception as error:  # the parser raises whatever it likes
        raise ValueError(f"grammar: {error}") from None
    return "\n".join(map(str, renamed.values()))


def _escape(found: re.Match[str]) -> str:
    """As the parser and the language behind it both take it: \\xHH, or the character itself."""
    if found[3]:
        return f"\\x{ord(found[3]):02x}"
    if not (digits := found[1] or found[2]):
        return found[0]
    code = int(digits, 16)
    if code > sys.maxunicode or 0xD800 <= code < 0xE000:
        raise ValueError(f"{found[0]} is no character")
    return f"\\x{code:02x}" if code < 0x100 else chr(code)


def _from_tags(given: dict[str, Any] | str | None, params: StructuredOutputsParams, tokenizer: Tokenizer) -> Part:
    """Free text, in which every begin is followed by its schema and its end. A tag is noticed by its trigger."""
    tag = read_json("structural_tag", given)
    if not isinstance(tag, dict) or not isinstance(tag.get("structures"), list) or not tag["structures"]:
        raise ValueError("structural_tag needs structures, a list of {begin, schema, end}")
    triggers = tag.get("triggers")
    if not isinstance(triggers, list) or not all(isinstance(t, str) and t for t in triggers):
        raise ValueError("structural_tag needs triggers, a list of strings")
    if unknown := set(tag) - {"type", "structures", "triggers"}:
        raise ValueError(f"structural_tag has no field {shown(min(unknown))}")
    literal = _Literals(tokenizer)
    rules, names = [], []
    for index, structure in enumerate(tag["structures"]):
        what = f"structural_tag: structures[{index}]"
        fields = structure if isinstance(structure, dict) else {}
        begin, end, schema = (fields.get(key) for key in ("begin", "end", "schema"))
        if not isinstance(begin, str) or not isinstance(end, str) or not isinstance(schema, (dict, bool)):
            raise ValueError(f"{what} needs begin, schema and end")
        if len(begin) > _MAX_TAG or len(end) > _MAX_TAG:
            raise ValueError(f"{what}: begin and end may have {_MAX_TAG} characters")
        trigger = next((t for t in triggers if begin.startswith(t)), None)
        if trigger is None:
            raise ValueError(f"{what} begins with none of the triggers")
        schema = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
        options = {"whitespace_pattern": WHITESPACE}
        schema = _schema(f"{what}.schema", schema, params.disable_additional_properties, options)
        body = f"%json {schema_text(what, schema)} {literal(end)}"
        rest = literal(begin[len(trigger) :])
        if literal.is_special(trigger):
            rules.append(f"tag_{index}: TEXT {literal(trigger)} {rest} {body}")
        else:
            rules.append(f"trigger_{index}[lazy]: TEXT {json.dumps(trigger)}")
            rules.append(f"tag_{index}: trigger_{index} {rest} {body}")
        names.append(f"tag_{index}")
    lark = "\n".join([f"start: ({' | '.join(names)})* rest", "rest: TEXT", r"TEXT: /(.|\n)*/", *rules])
    check_size("structural_tag", lark)
    return {"lark_grammar": lark}


class _Literals:
    """Fixed text in Lark: special tokens by their ids, since no text spells them, and the rest quoted."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        special = sorted(tokenizer.special_texts, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, special)) + ")") if special else None

    def __call__(self, text: str) -> str:
        parts = self._pattern.split(text) if self._pattern else [text]
        return " ".join(self._part(part) for part in parts if part)

    def is_special(self, text: str) -> bool:
        return text in self._tokenizer.special_texts

    def _part(self, part: str) -> str:
        return f"<[{self._tokenizer.token_id(part)}]>" if self.is_special(part) else json.dumps(part)
