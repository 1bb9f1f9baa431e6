"""Grammars: what StructuredOutputsParams ask for, compiled by llguidance within limits of size, depth and time.

What a request may ask for comes from anywhere, so everything is bounded before it is compiled: the text, how deep it
nests, how long its chains of rules are (the compiler recurses over them, on a stack that is large enough for these
limits), and then the compiler's own work. Nothing is fetched: a $ref leads into its own schema or nowhere."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from warpjet._native import ModelInfo, QueueFullError
from warpjet.structured import StructuredOutputsParams, to_text
from warpjet.tokenizer import Tokenizer

COMPILE_SECONDS = 5.0
_START_SECONDS = 60.0  # a first grammar waits for the tokenizer's trie
_MAX_PENDING = 32  # grammars that are compiled or wait for that
_CACHED_GRAMMARS = 64
_CACHED_BYTES = 1 << 20  # of their texts; compiled they are a hundred times as large

_MAX_TEXT = 1 << 20  # bytes
_MAX_GBNF = 1 << 17  # GBNF is read character by character, in Python
_MAX_RULES = 4000
_MAX_DEPTH = 100  # of brackets, objects and lists
_MAX_CHAIN = 20_000  # $refs times the depth between them
_MAX_PROPERTIES = 3000  # of one object
_MAX_REPEAT = 100_000  # more than any context holds
_STACK_BYTES = 512 << 20  # of address space; what is not used is not there

# As the compiler counts. The rest are its own defaults.
_LIMITS: dict[str, Any] = {
    "max_grammar_size": 30_000,
    "max_items_in_row": 20_000,
    "max_lexer_states": 50_000,
    "verbose_errors": False,
}

_WHITESPACE = r"\r?\n[ \t]{0,64}|[ \t]{1,64}"  # a line break and its indent: with more, some models write nothing else
_JSON_OBJECT = {"type": "object"}
_QUOTED = re.compile(r'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?+')
_RULE = re.compile(r"(?m)^[ \t]*[?!]?[A-Za-z_][\w-]*(?:\.\d+|\[[^\]\n]*\]|\{[^}\n]*\})*[ \t]*(?::|::=)")
_REPEAT = re.compile(r"\{\s*+(\d++)?+\s*+(?:,\s*+(\d++)?+\s*+)?+\}")
_REFERENCE = re.compile(r'ref"|\\u00')  # of a schema within Lark, perhaps hidden behind escapes


class Grammar:
    """A compiled one: where each text starts. Safe to use from several threads."""

    def __init__(self, matcher: Any, mask: bytes) -> None:
        self.mask = mask  # of the first token
        self._matcher = matcher
        self._lock = threading.Lock()

    def start(self) -> Any:
        """A matcher of its own for one text."""
        with self._lock:
            return self._matcher.deep_copy()


class Compiler:
    """Compiles for one model, each grammar once; keeps the latest. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, model: ModelInfo) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = model.vocab_size
        self._eos = model.eos_token_ids
        self._mask_bytes = (model.vocab_size + 31) // 32 * 4
        self._lock = threading.Lock()
        self._grammars: OrderedDict[str, Grammar] = OrderedDict()
        self._pending: dict[str, Job] = {}
        self._turn = threading.BoundedSemaphore(2)
        self._trie_lock = threading.Lock()
        self._trie: Any = None

    def job(self, params: StructuredOutputsParams) -> "Job":
        """Starts compiling, unless that was done. Raises QueueFullError when too many are waiting."""
        key = to_text(params)
        with self._lock:
            if (grammar := self._grammars.get(key)) is not None:
                self._grammars.move_to_end(key)
                return Job.of(grammar)
            if (job := self._pending.get(key)) is not None:
                return job
            if len(self._pending) >= _MAX_PENDING:
                raise QueueFullError("too many grammars are being compiled; try again in a few seconds")
            job = self._pending[key] = Job()
            _start_thread(lambda: self._run(job, key, params))
            return job

    def _run(self, job: "Job", key: str, params: StructuredOutputsParams) -> None:
        grammar, error = None, None
        try:
            with self._turn:
                trie = self._get_trie()
                job.started.set_result(None)
                grammar = self._compile(params, trie)
        except Exception as e:
            error = e
        with self._lock:
            del self._pending[key]
            if grammar is not None:
                self._keep(key, grammar)
        if not job.started.done():
            job.started.set_result(None)
        if grammar is not None:
            job.grammar.set_result(grammar)
        else:
            job.grammar.set_exception(error or RuntimeError("no grammar"))

    def _keep(self, key: str, grammar: Grammar) -> None:
        if len(key) > _CACHED_BYTES // 4:
            return
        self._grammars[key] = grammar
        while len(self._grammars) > _CACHED_GRAMMARS or sum(map(len, self._grammars)) > _CACHED_BYTES:
            self._grammars.popitem(last=False)

    def _get_trie(self) -> Any:
        """llguidance's view of the vocabulary, which is padded to the model's."""
        with self._trie_lock:
            if self._trie is None:
                from llguidance import LLTokenizer

                size = max(self._vocab_size, self._tokenizer.vocab_size)
                self._trie = LLTokenizer(self._tokenizer.to_json(), n_vocab=size, eos_token=self._eos or None)
            return self._trie

    def _compile(self, params: StructuredOutputsParams, trie: Any) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        what, text = _source(params, self._tokenizer)
        matcher = LLMatcher(trie, text, log_level=0, limits=LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise ValueError(f"{what}: {reason_of(matcher)}")
        mask = matcher.compute_bitmask()[: self._mask_bytes]
        if matcher.is_error():
            raise ValueError(f"{what}: no text satisfies it ({reason_of(matcher)})")
        if matcher.is_stopped() or (matcher.is_accepting() and allows_only(mask, trie.eos_tokens)):
            raise ValueError(f"{what}: only the empty text satisfies it")
        return Grammar(matcher, mask)


class Job:
    """One compilation. `started` comes when it is its turn."""

    def __init__(self) -> None:
        self.started: Future[None] = Future()
        self.grammar: Future[Grammar] = Future()

    @staticmethod
    def of(grammar: Grammar) -> "Job":
        job = Job()
        job.started.set_result(None)
        job.grammar.set_result(grammar)
        return job

    def wait(self) -> Grammar:
        """Raises ValueError for a bad grammar, or one that takes too long; QueueFullError when others took too long."""
        try:
            self.started.result(_START_SECONDS)
            return self.grammar.result(COMPILE_SECONDS)
        except TimeoutError:
            raise self._late() from None

    async def wait_async(self) -> Grammar:
        """wait() on an event loop."""
        import asyncio

        try:
            for future, seconds in ((self.started, _START_SECONDS), (self.grammar, COMPILE_SECONDS)):
                if not future.done():
                    await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), seconds)
        except TimeoutError:
            raise self._late() from None
        return self.grammar.result()

    def _late(self) -> Exception:
        if not self.started.done():
            return QueueFullError("other grammars are still being compiled; try again in a few seconds")
        return ValueError(f"structured_outputs takes more than {COMPILE_SECONDS:g} s to compile; make it simpler")


def _start_thread(work: Callable[[], None]) -> None:
    """Not a daemon: the interpreter may not go while native code runs, and that ends within seconds."""
    before = threading.stack_size(_STACK_BYTES)
    try:
        threading.Thread(target=work, name="warpjet-grammar").start()
    finally:
        threading.stack_size(before)


def reason_of(matcher: Any) -> str:
    """Why a matcher is in error, in a line or two and without its state."""
    text: str = matcher.get_error()
    text = re.split(r"<state>|<non-verbose/>", text)[0].strip()
    if text in ("", "NoExtension", "NoExtensionBias"):
        return "nothing in the vocabulary can follow"
    return text if len(text) <= 300 else text[:300] + "..."


def allows_only(mask: bytes, tokens: Sequence[int]) -> bool:
    """Whether the mask allows none but these."""
    bits = int.from_bytes(mask, "little")
    for token in tokens:
        bits &= ~(1 << token)
    return bits == 0


# --- From a constraint to the text that is compiled -------------------------------------------------------------------


def _source(params: StructuredOutputsParams, tokenizer: Tokenizer) -> tuple[str, str]:
    """The name of the field that constrains, and llguidance's text of it. Raises ValueError."""
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
    return "structural_tag", _from_tags(params.structural_tag, tokenizer)


def _from_schema(what: str, schema: Any, params: StructuredOutputsParams) -> str:
    from llguidance import LLMatcher

    options: Any = {"whitespace_pattern": params.whitespace_pattern or _WHITESPACE}
    if params.whitespace_pattern is not None:
        _check_repeats("whitespace_pattern", params.whitespace_pattern)
    if params.disable_any_whitespace:
        options = {"whitespace_flexible": False}
    schema = _read_json(what, schema)
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError(f"{what}: a schema is an object, got {json.dumps(schema)[:50]}")
    if params.disable_additional_properties:
        schema = _closed(schema)
    text: str = LLMatcher.grammar_from_json_schema(_checked_schema(what, schema), overrides=options)
    return text


def _from_regex(what: str, regex: str) -> str:
    from llguidance import LLMatcher

    _check_size(what, regex, _MAX_TEXT)
    _check_repeats(what, regex)
    text: str = LLMatcher.grammar_from_regex(regex)
    return text


def _from_choice(choice: Sequence[str]) -> str:
    from llguidance import LLMatcher

    lark = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choice)
    _check_size("choice", lark, _MAX_TEXT)
    text: str = LLMatcher.grammar_from_lark(lark)
    return text


def _from_grammar(grammar: str) -> str:
    from llguidance import LLMatcher

    _check_size("grammar", grammar, _MAX_TEXT)
    _check_lark("grammar", grammar)
    if "::=" in _QUOTED.sub('""', grammar):
        from llguidance.gbnf_to_lark import any_to_lark

        _check_size("grammar", grammar, _MAX_GBNF)
        try:
            grammar = any_to_lark(grammar)
        except RecursionError:
            raise ValueError("grammar: it nests too deeply") from None
        except Exception as error:  # the converter raises whatever it likes
            raise ValueError(f"grammar: {error}") from None
    text: str = LLMatcher.grammar_from_lark(grammar)
    return text


def _from_tags(given: dict[str, Any] | str | None, tokenizer: Tokenizer) -> str:
    """Free text, in which every begin is followed by its schema and its end. A tag is noticed by its trigger."""
    from llguidance import LLMatcher

    tag = _read_json("structural_tag", given)
    if not isinstance(tag, dict) or not isinstance(tag.get("structures"), list) or not tag["structures"]:
        raise ValueError("structural_tag needs structures, a list of {begin, schema, end}")
    triggers = tag.get("triggers")
    if not isinstance(triggers, list) or not all(isinstance(t, str) and t for t in triggers):
        raise ValueError("structural_tag needs triggers, a list of strings")
    if unknown := set(tag) - {"type", "structures", "triggers"}:
        raise ValueError(f"structural_tag has no field {min(unknown)!r}")
    literal = _Literals(tokenizer)
    rules, names = [], []
    for index, structure in enumerate(tag["structures"]):
        begin, end, schema = (structure.get(key) for key in ("begin", "end", "schema"))
        if not isinstance(begin, str) or not isinstance(end, str) or not isinstance(schema, (dict, bool)):
            raise ValueError(f"structural_tag: structures[{index}] needs begin, schema and end")
        trigger = next((t for t in triggers if begin.startswith(t)), None)
        if trigger is None:
            raise ValueError(f"structural_tag: structures[{index}] begins with none of the triggers")
        body = f"%json {_checked_schema(f'structures[{index}].schema', schema)} {literal(end)}"
        rest = literal(begin[len(trigger) :])
        if literal.is_special(trigger):
            rules.append(f"tag_{index}: TEXT {literal(trigger)} {rest} {body}")
        else:
            rules.append(f"trigger_{index}[lazy]: TEXT {json.dumps(trigger)}")
            rules.append(f"tag_{index}: trigger_{index} {rest} {body}")
        names.append(f"tag_{index}")
    lark = "\n".join([f"start: ({' | '.join(names)})* rest", "rest: TEXT", r"TEXT: /(.|\n)*/", *rules])
    _check_size("structural_tag", lark, _MAX_TEXT)
    text: str = LLMatcher.grammar_from_lark(lark)
    return text


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


# --- Limits -----------------------------------------------------------------------------------------------------------


def _check_size(what: str, text: str, limit: int) -> None:
    size = len(text.encode(errors="surrogatepass"))
    if size > limit:
        raise ValueError(f"{what}: {size} bytes are more than the {limit} that are compiled")


def _check_repeats(what: str, pattern: str) -> None:
    for match in _REPEAT.finditer(pattern):
        for count in match.groups():
            if count and (len(count) > 9 or int(count) > _MAX_REPEAT):
                raise ValueError(f"{what}: a repetition may have a count of {_MAX_REPEAT} at most, got {match.group()}")


def _check_lark(what: str, text: str) -> None:
    bare = _QUOTED.sub('""', text)
    _check_repeats(what, bare)
    rules, refs = len(_RULE.findall(bare)), len(_REFERENCE.findall(text))
    if rules > _MAX_RULES:
        raise ValueError(f"{what}: {rules} rules are more than the {_MAX_RULES} that are compiled")
    if refs * _MAX_DEPTH > _MAX_CHAIN:
        raise ValueError(f"{what}: {refs} references in its schemas are more than are compiled; pass them as json")


def _read_json(what: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    _check_size(what, value, _MAX_TEXT)
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: not JSON: {error}") from None


def _checked_schema(what: str, schema: Any) -> str:
    """The schema's text. A chain of references visits each of them once at most, and what is nested between."""
    refs = depth = 0
    for node, level in _nodes(schema):
        depth = max(depth, level)
        if level > _MAX_DEPTH:
            raise ValueError(f"{what}: it nests more than {_MAX_DEPTH} deep")
        if not isinstance(node, dict):
            continue
        refs += "$ref" in node
        if len(node) > _MAX_PROPERTIES:
            raise ValueError(f"{what}: an object of {len(node)} properties; at most {_MAX_PROPERTIES} are compiled")
        for name in ("pattern", "patternProperties"):
            patterns = node.get(name)
            for pattern in patterns if isinstance(patterns, dict) else [patterns]:
                if isinstance(pattern, str):
                    _check_repeats(what, pattern)
    if (refs + 1) * depth > _MAX_CHAIN:
        raise ValueError(f"{what}: {refs} references, {depth} levels deep, are more than are compiled")
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: not JSON: {error}") from None
    _check_size(what, text, _MAX_TEXT)
    return text


def _nodes(schema: Any) -> Iterator[tuple[Any, int]]:
    """Every value in it, with its depth."""
    stack = [(schema, 1)]
    while stack:
        node, level = stack.pop()
        yield node, level
        children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
        stack.extend((child, level + 1) for child in children)


_VALUES = ("const", "enum", "default", "examples")  # no schemas in these
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def _closed(schema: Any, level: int = 0) -> Any:
    """Objects take no properties but those that they list, unless they say otherwise."""
    if level > _MAX_DEPTH:
        return schema  # which is refused
    if isinstance(schema, list):
        return [_closed(item, level + 1) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _VALUES:
            out[name] = value
        elif name in _NAMED_SCHEMAS and isinstance(value, dict):
            out[name] = {key: _closed(item, level + 2) for key, item in value.items()}
        else:
            out[name] = _closed(value, level + 1)
    if schema.get("type") == "object" or "properties" in schema:
        out.setdefault("additionalProperties", False)
    return out
