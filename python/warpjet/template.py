"""Chat templates come with checkpoints, so they are untrusted: a sandbox with limits on time and size.

Jinja's sandbox forbids attributes that lead out. Here every loop turn and call checks a deadline, and every operation
that can make a long value checks a size, so a template can neither hang nor fill the memory."""

import datetime
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from warpjet.template_values import NoContent

MAX_TEMPLATE_BYTES = 1 << 20
MAX_OUTPUT_CHARS = 16 << 20
MAX_SECONDS = 2.0
_MAX_NUMBER = 1 << 63

# Filters whose result is not much longer than what goes in; the others have no use in a chat template.
_FILTERS = {
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape"),
    *("groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *("reverse", "round", "safe", "select", "selectattr", "sort", "string", "striptags", "sum", "title", "trim"),
    *("truncate", "unique", "upper", "wordcount"),
}
_ABSENCE_TESTS = ("none", "undefined", "defined")
_PADDING_METHODS = {"center", "expandtabs", "format_map", "ljust", "rjust", "translate", "zfill"}


class _Generation(Extension):
    """{% generation %} marks what an assistant said, for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        self._clock = threading.local()  # a template may be rendered by several threads at once
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters |= {"tojson": _to_json, "join": _join, "replace": _replace, "indent": _indent}
        self.filters |= {"format": _format}
        self.filters |= {"_turns": self._turns, "_sized": _sized}
        self.tests |= {name: _told_of_no_content(TESTS[name], name != "defined") for name in _ABSENCE_TESTS}
        self.globals = {
            "dict": dict,
            "namespace": self.globals["namespace"],
            "range": self.globals["range"],  # the sandbox's own: at most 100000 entries
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filtered(loop.iter, "_turns")
        for parent in list(tree.find_all(nodes.Node)):
            for field, child in parent.iter_fields():
                if isinstance(child, nodes.Concat):
                    setattr(parent, field, _filtered(child, "_sized"))
                elif isinstance(child, list):
                    child[:] = [_filtered(c, "_sized") if isinstance(c, nodes.Concat) else c for c in child]
        return tree

    def set_deadline(self, seconds: float) -> None:
        """Of this thread, from now."""
        self._clock.deadline = time.monotonic() + seconds

    def check_deadline(self) -> None:
        # Without a deadline the compiler is folding constants, which it does before set_deadline().
        if time.monotonic() > getattr(self._clock, "deadline", math.inf):
            raise SecurityError(f"it takes longer than {MAX_SECONDS:g} s")

    def _turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.check_deadline()
            yield item

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.check_deadline()
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return _replace(owner, *args)
        if isinstance(owner, str) and name == "join" and len(args) == 1:
            return _join(args[0], owner)
        return super().call(context, function, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, str) and attribute == "format":
            _require_narrow(obj)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _PADDING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("** is not available")
        if operator == "%" and isinstance(left, str):
            _require_narrow(left)
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    _require_size(len(value) * max(times, 0))
        if operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            _require_size(len(left) + len(right))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > _MAX_NUMBER:
            raise SecurityError("a number is too large")
        return result


def _filtered(node: nodes.Node, name: str) -> nodes.Node:
    return nodes.Filter(node, name, [], [], None, None).set_lineno(node.lineno)


def _told_of_no_content(test: Any, answer: bool) -> Callable[[Any], bool]:
    return lambda value: answer if isinstance(value, NoContent) else bool(test(value))


def _require_size(size: int) -> None:
    if size > MAX_OUTPUT_CHARS:
        raise SecurityError(f"it makes a value longer than {MAX_OUTPUT_CHARS}")


def _require_narrow(form: str) -> None:
    """A format string whose widths are numbers below a thousand."""
    nested = any(field.count("{") > 1 for field in form.split("}"))
    if nested or "*" in form or re.search(r"[0-9]{4}", form):
        raise SecurityError("a format string has a width that is too large")


def _format(form: str, *args: Any, **kwargs: Any) -> str:
    _require_narrow(str(form))
    return str(form) % (kwargs or args)


def _sized(text: str) -> str:
    _require_size(len(text))
    return text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, this one does not escape for HTML: templates expect plain JSON."""
    if isinstance(indent, int) and indent > 64:
        raise SecurityError("tojson takes an indent of at most 64")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _join(values: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    texts = [str(value if attribute is None else value[attribute]) for value in values]
    _require_size(sum(len(text) + len(d) for text in texts))
    return str(d).join(texts)


def _replace(text: str, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    found = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    _require_size(len(text) + found * max(len(new) - len(old), 0))
    return text.replace(old, new, found)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    prefix = width if isinstance(width, str) else " " * min(int(width), 64)
    lines = str(text).split("\n")
    _require_size(len(text) + len(lines) * len(prefix))
    return "\n".join(prefix + line if (first or i > 0) and (blank or line) else line for i, line in enumerate(lines))


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


Renderer = Callable[[dict[str, Any], float], str]


def compile_template(source: str) -> Renderer:
    """A function from variables and seconds to text. Both steps raise ValueError."""
    if len(source) > MAX_TEMPLATE_BYTES:
        raise ValueError(f"the chat template has {len(source)} characters, more than {MAX_TEMPLATE_BYTES}")
    sandbox = _Sandbox()
    try:
        template = sandbox.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ValueError(f"the chat template does not compile: {error}") from None

    def render(variables: dict[str, Any], seconds: float = MAX_SECONDS) -> str:
        sandbox.set_deadline(seconds)
        try:
            pieces, size = [], 0
            for piece in template.generate(variables):
                sandbox.check_deadline()
                size += len(piece)
                _require_size(size)
                pieces.append(piece)
            return "".join(pieces)
        except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"the chat template refuses this conversation: {error}") from None

    return render
