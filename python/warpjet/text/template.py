"""Chat templates come with checkpoints, so they are untrusted: a sandbox with limits on time and size.

Jinja's sandbox forbids attributes that lead out. Here every loop turn, call and filter checks a deadline, and whatever
makes a value is charged for its bytes against one budget of the rendering, before it is made where that may be much. So
a template can neither hang nor fill the memory."""

import datetime
import functools
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_round
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from warpjet.text.template_values import NoContent

MAX_TEMPLATE_BYTES = 1 << 20
MAX_OUTPUT_CHARS = 16 << 20
MAX_SECONDS = 2.0  # of processor time
_MAX_BYTES = 384 << 20  # of all values that a rendering makes
_ITEM_BYTES = 64  # a list's slot and a small value in it
_MAX_NUMBER = 1 << 63
_MAX_STRFTIME = 256
_MAX_PRECISION = 100  # digits

# Filters that go through their value, and those that split a text into words.
_ITERATING = {
    "join",
    "list",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "sort",
    "sum",
    "unique",
}
_SPLITTING = {"groupby", "striptags", "title", "wordcount"}

# Filters whose result is not much longer than what goes in; the others have no use in a chat template.
_FILTERS = {
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape"),
    *("groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
    *("reverse", "round", "safe", "select", "selectattr", "sort", "string", "striptags", "sum", "title", "trim"),
    *("truncate", "unique", "upper", "wordcount"),
}
_ABSENCE_TESTS = ("none", "undefined", "defined")
_SEQUENCES = (str, bytes, list, tuple)
_SPLITTERS = {"split", "rsplit", "splitlines"}
_MAX_DEPTH = 200
_MAX_TAGS = 8192  # large templates have 500
_MAX_NODES = 32768  # of a template's syntax tree; large templates have 5000
_PADDING_METHODS = {"center", "expandtabs", "format_map", "ljust", "rjust", "to_bytes", "translate", "zfill"}


class _Generation(Extension):
    """{% generation %} marks what an assistant said, for training; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        self._limits = threading.local()  # a template may be rendered by several threads at once
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # constants are computed under the limits, too
            finalize=jinja2.pass_context(lambda context, value: self.charged(value)),
        )
        filters = {name: self.filters[name] for name in _FILTERS}
        filters |= {"tojson": self._to_json, "join": self._join, "replace": self._replace, "indent": self._indent}
        filters |= {"format": self._format, "round": _round}
        self.filters = {name: self._limited(name, function) for name, function in filters.items()}
        self.filters |= {"_turns": self._turns, "_charged": jinja2.pass_context(lambda context, v: self.charged(v))}
        self.tests |= {name: _told_of_no_content(TESTS[name], name != "defined") for name in _ABSENCE_TESTS}
        self.globals = {
            "dict": dict,
            "namespace": self.globals["namespace"],
            "range": self.globals["range"],  # the sandbox's own: at most 100000 entries
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _require_few_nodes(tree)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filtered(loop.iter, "_turns")
        for parent in list(tree.find_all(nodes.Node)):
            for field, child in parent.iter_fields():
                if _makes_value(child):
                    setattr(parent, field, _filtered(child, "_charged"))
                elif isinstance(child, list):
                    child[:] = [_filtered(c, "_charged") if _makes_value(c) else c for c in child]
        for concat in list(tree.find_all(nodes.Concat)):
            concat.nodes[:] = [n if isinstance(n, nodes.Const) else _filtered(n, "_charged") for n in concat.nodes]
        return tree

    def start(self, seconds: float) -> None:
        """A rendering of this thread begins; seconds of its processor time, which a busy machine does not shorten."""
        self._limits.deadline = time.thread_time() + seconds
        self._limits.bytes_left = _MAX_BYTES

    def check_deadline(self) -> None:
        """Raises SecurityError when the time is over."""
        if time.thread_time() > self._limits.deadline:
            raise SecurityError("it takes longer than its time")

    def charge(self, size: int) -> None:
        """Raises SecurityError when all values together are larger than the budget."""
        self._limits.bytes_left -= size
        if self._limits.bytes_left < 0:
            raise SecurityError(f"its values are larger than {_MAX_BYTES} bytes")

    def charged(self, value: Any) -> Any:
        """The value, paid for with all that is in it; a text of it is not longer than that."""
        if isinstance(value, (str, bytes)):
            _require_size(len(value))
            self.charge(sys.getsizeof(value))
        elif isinstance(value, (list, tuple, dict)):
            self.charge(self._weight(value))
        return value

    def _weight(self, value: Any) -> int:
        """Bytes of a container as text, where what is in it several times counts as often."""
        total, left = 0, [iter((value,))]
        while left:
            for item in left[-1]:
                total += _ITEM_BYTES
                if isinstance(item, (str, bytes)):
                    total += len(item)
                elif isinstance(item, (list, tuple)):
                    left.append(iter(item))
                    break
                elif isinstance(item, dict):
                    left.append(iter((*item.keys(), *item.values())))
                    break
                _require_size(total // 4)
            else:
                left.pop()
            if len(left) > _MAX_DEPTH:
                raise SecurityError("it makes values within values too deep")
            self.check_deadline()
        return total

    def concat(self, pieces: Iterable[str]) -> str:
        """The text of a block or macro."""
        pieces = list(pieces)
        size = sum(map(len, pieces))
        _require_size(size)
        self.charge(size)
        return "".join(pieces)

    def _turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.check_deadline()
            yield item

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter under the limits. Its value is the first argument, or the second behind what Jinja passes."""
        place = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.check_deadline()
            if len(args) > place:
                args = (*args[:place], self._readable(name, args[place]), *args[place + 1 :])
            return self._paid(function(*args, **kwargs))

        return limited

    def _readable(self, name: str, value: Any) -> Any:
        if name in _ITERATING and isinstance(value, Iterable) and not isinstance(value, dict):
            return self._read(value)
        if name in _SPLITTING or (name in _ITERATING and isinstance(value, dict)) or name == "dictsort":
            self.charge(len(value) * _ITEM_BYTES if hasattr(value, "__len__") else 0)
        if name in ("string", "tojson", "escape", "e", "forceescape", "trim", "upper", "lower"):
            self.charged(value)
        return value

    def _read(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.check_deadline()
            self.charge(_ITEM_BYTES)
            yield item

    def _paid(self, value: Any) -> Any:
        """A result of which the parts have been paid for, or were there before."""
        if isinstance(value, (str, bytes)):
            _require_size(len(value))
        if isinstance(value, (str, bytes, list, tuple, dict, set)):
            self.charge(sys.getsizeof(value))
        return value

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.check_deadline()
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, (str, bytes)):
            if name == "replace" and isinstance(owner, str):
                return self._paid(self._replace(owner, *args))
            if name == "join" and len(args) == 1:
                return self._paid(self._join(args[0], owner))
            if name in _SPLITTERS:
                self.charge(len(owner) * _ITEM_BYTES // 2 if not args or args[0] is None else _pieces(owner, args[0]))
            if name in ("format", "format_map"):
                self.charged([args, kwargs])
        if function is dict:
            self.charged([args, kwargs])
        return self._paid(super().call(context, function, *args, **kwargs))

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, str) and attribute == "format":
            _require_narrow(obj)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, (str, bytes, int)) and attr in _PADDING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("** is not available")
        self.check_deadline()
        if operator == "%" and isinstance(left, (str, bytes)):
            _require_narrow(str(left))
            self.charged([right])
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
                    self._require_room(value, len(value) * max(times, 0))
        if operator == "+" and isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
            self._require_room(left, len(left) + len(right))
        result = self._paid(super().call_binop(context, operator, left, right))
        if isinstance(result, int) and abs(result) > _MAX_NUMBER:
            raise SecurityError("a number is too large")
        return result

    def _format(self, form: str, *args: Any, **kwargs: Any) -> str:
        _require_narrow(str(form))
        self.charged([args, kwargs])
        return str(form) % (kwargs or args)

    def _to_json(
        self,
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

    def _join(self, values: Iterable[Any], d: Any = "", attribute: str | None = None) -> str:
        texts, size = [], 0
        for value in values:
            texts.append(str(self.charged(value if attribute is None else value[attribute])))
            size += len(texts[-1]) + len(d)
            _require_size(size)
        return str(d).join(texts)

    def _replace(self, text: str, old: str, new: str, count: int | None = None) -> str:
        text, old, new = str(self.charged(text)), str(old), str(new)
        found = text.count(old) if count is None or count < 0 else min(count, text.count(old))
        _require_size(len(text) + found * max(len(new) - len(old), 0))
        return text.replace(old, new, found)

    def _indent(self, text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        prefix = width if isinstance(width, str) else " " * min(int(width), 64)
        self.charge(_pieces(str(text), "\n"))
        lines = str(text).split("\n")
        _require_size(len(text) + len(lines) * len(prefix))
        return "\n".join(
            prefix + line if (first or i > 0) and (blank or line) else line for i, line in enumerate(lines)
        )

    def _require_room(self, value: Any, length: int) -> None:
        _require_size(length)
        if length * (1 if isinstance(value, (str, bytes)) else 8) > self._limits.bytes_left:
            raise SecurityError(f"its values are larger than {_MAX_BYTES} bytes")


def _filtered(node: Any, name: str) -> Any:
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


def _require_few_nodes(tree: nodes.Node) -> None:
    count, left = 0, [tree]
    while left:
        count += 1
        left += left.pop().iter_child_nodes()
        if count > _MAX_NODES:
            raise jinja2.TemplateError(f"it has more than {_MAX_NODES} nodes")


def _makes_value(node: Any) -> bool:
    if isinstance(node, nodes.Tuple):
        return node.ctx == "load" and bool(node.items)
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Slice)
    return isinstance(node, (nodes.Concat, nodes.List, nodes.Dict))


def _pieces(text: str | bytes, separator: Any) -> int:
    return (text.count(separator) + 1) * _ITEM_BYTES


def _strftime_now(form: str) -> str:
    if len(form) > _MAX_STRFTIME:
        raise SecurityError(f"strftime_now takes a format of at most {_MAX_STRFTIME} characters")
    return datetime.datetime.now().strftime(form)


def _round(value: Any, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> Any:
    if abs(precision) > _MAX_PRECISION:  # a power of ten is computed
        raise SecurityError(f"round takes a precision of at most {_MAX_PRECISION}")
    return do_round(value, precision, method)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


_REFUSALS: tuple[type[Exception], ...] = (
    *(jinja2.TemplateError, ArithmeticError, AttributeError, LookupError),
    *(MemoryError, RecursionError, TypeError, ValueError),
)

Renderer = Callable[[dict[str, Any], float], str]


def compile_template(source: str) -> Renderer:
    """A function from variables and seconds to text. Both steps raise ValueError."""
    if len(source) > MAX_TEMPLATE_BYTES:
        raise ValueError(f"the chat template has {len(source)} characters, more than {MAX_TEMPLATE_BYTES}")
    if (tags := source.count("{%") + source.count("{{")) > _MAX_TAGS:
        raise ValueError(f"the chat template has {tags} tags, more than {_MAX_TAGS}")
    sandbox = _Sandbox()
    try:
        template = sandbox.from_string(source)
    except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
        reason = str(error) or "it is too deep or too large"
        raise ValueError(f"the chat template does not compile: {reason}") from None

    def render(variables: dict[str, Any], seconds: float = MAX_SECONDS) -> str:
        sandbox.start(seconds)
        try:
            pieces, size = [], 0
            for piece in template.generate(variables):
                sandbox.check_deadline()
                size += len(piece)
                _require_size(size)
                pieces.append(piece)
            return "".join(pieces)
        except _REFUSALS as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"the chat template refuses this conversation: {reason}") from None

    return render
