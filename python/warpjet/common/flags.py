"""Flags of the command line: made from tables of fields, with short help, human numbers and suggestions."""

import argparse
import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from warpjet.common.foreign import rows

if TYPE_CHECKING:
    from warpjet._native import Field

# Flags that short help shows; --help=all shows every one.
_COMMON = {
    *("model", "device", "dtype", "max_model_len", "max_num_seqs", "gpu_memory_utilization", "trace"),
    *("temperature", "top_p", "top_k", "max_tokens", "seed", "stop", "n", "structured_outputs"),
    *("host", "port", "served_model_name", "api_key", "chat_template", "tool_call_parser", "reasoning_parser"),
    *("rate", "replicas", "gpu", "ttft_ms", "itl_ms", "scheme", "overwrite", "override_generation_config"),
}

# A second name of a field whose own name means something else in another command.
_SECOND_NAMES = {"engine.trace": "--trace-out", "simulation.trace": "--workload"}

# Fields in which 0, and so "auto", is chosen from the model and the machine.
_AUTO = {"max_model_len", "kv_cache_memory_bytes", "num_gpu_blocks_override", "num_threads"}

# Short flags of vLLM and llama.cpp, spelled out before parsing: argparse would take -c for the start of -cc.
_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-ep": "--enable-expert-parallel",
    "-q": "--quantization",
    "-sc": "--speculative-config",
    "-cc": "--compilation-config",
    "-asc": "--api-server-count",
    "-O": "--compilation-config",
    "-m": "--model",
    "-c": "--max-model-len",
    "-t": "--num-threads",
    "-b": "--max-num-batched-tokens",
    "-np": "--max-num-seqs",
    "-ngl": "--n-gpu-layers",
    "-n": "--max-tokens",
    "-s": "--seed",
    "-hf": "--model",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help is short unless asked for more, and whose errors take two lines."""

    def __init__(self, **options: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **options)
        self._flags: dict[str, list[argparse.Action]] = {}  # of fields, by group
        self.add_argument("-h", "--help", action=_Help, nargs="?", const="", metavar="WHAT", help=argparse.SUPPRESS)

    def add_flag(self, group: argparse._ArgumentGroup, *names: str, **form: Any) -> None:
        """A flag that is one of many: short help shows it if it is common."""
        title = (group.title or "").split()[0]
        self._flags.setdefault(title, []).append(group.add_argument(*names, default=argparse.SUPPRESS, **form))

    def show(self, what: str) -> None:
        """Prints short help (""), all of it ("all"), a group's flags, or those with `what` in their name."""
        every = [action for actions in self._flags.values() for action in actions]
        kept = every
        if what in self._flags:
            kept = self._flags[what]
        elif what == "":
            kept = [action for action in every if action.dest.rpartition(".")[2] in _COMMON]
        elif what != "all":
            kept = [action for action in every if what.replace("_", "-") in " ".join(action.option_strings)]
        if every and not kept:
            self.error(f"--help={what}: no flag has that word, and the groups are {', '.join(self._flags)} and all")
        for action in every:
            if action not in kept:
                action.help = argparse.SUPPRESS
        if len(kept) < len(every):
            groups = ", ".join(f"--help={name}" for name in self._flags)
            self.epilog = f"More flags: {groups}, --help=all; --help=WORD shows those with that word."
        self.print_help()

    def flags(self) -> Iterator[str]:
        """Every long flag, those of other engines included."""
        return (name for name in self._option_string_actions if name.startswith("--"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Names the nearest choice of a word that is none."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if near := difflib.get_close_matches(str(value), map(str, action.choices or ()), n=1):
                error.message += f"; did you mean {near[0]}?"
            raise

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n{self.format_usage()}")

    def format_usage(self) -> str:
        return super().format_usage().rstrip("\n") + f"   ({self.prog} --help)\n"


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _: object, what: Any, __: object = None) -> None:
        assert isinstance(parser, Parser)
        parser.show(what)
        parser.exit()


# --- What was typed --------------------------------------------------------------------------------------------------

_FLAG = re.compile(r"(?P<name>--?[A-Za-z][\w-]*)(?P<value>=.*)?", re.ASCII | re.DOTALL)


def spell_out(words: Sequence[str], sampling: bool) -> list[str]:
    """Words as this command line has them: `--max_tokens` and `-c`, and with `sampling` also `--temp`, by their
    names."""
    out: list[str] = []
    for index, word in enumerate(words):
        if word == "--":
            return out + list(words[index:])
        out.append(_spelled(word, sampling) if (found := _FLAG.fullmatch(word)) and found["name"] else word)
    return out


def _spelled(word: str, sampling: bool) -> str:
    name, equals, value = word.partition("=")
    if re.fullmatch(r"-O\d", name):
        return f"{_SHORT['-O']}={name[2:]}"
    name = _SHORT.get(name, name)
    if name.startswith("--"):
        name = name.replace("_", "-")
        row = rows("sampling").get(name[2:].replace("-", "_")) if sampling else None
        name = flag_of(row.ours) if row is not None and row.is_alias else name
    return name + equals + value


def advice(word: str, own: Iterable[str], others: Mapping[str, Collection[str]]) -> str:
    """What to say of a flag that a command does not have: the nearest of its own, or the command that has it."""
    flag = word.partition("=")[0]
    name = flag.lstrip("-").replace("-", "_")
    if row := rows("sampling", "option", "command").get(name):
        return f"; {row.answer()}"
    if near := difflib.get_close_matches(flag, own, n=1, cutoff=0.8):
        return f"; did you mean {near[0]}?"
    if owners := [command for command, flags in others.items() if flag in flags]:
        return f"; it is a flag of warpjet {' and '.join(owners)}"
    return ""


# --- Flags from tables of fields -------------------------------------------------------------------------------------


def add_fields(
    parser: Parser,
    title: str,
    fields: "Iterable[Field]",
    defaults: Mapping[str, str] | None = None,
) -> None:
    """One flag a field, named `title`.field in the namespace. Flags that are not given leave no trace, so defaults stay
    where they are defined; `defaults` says those that a command has of its own."""
    group = parser.add_argument_group(f"{title} flags")
    for field in fields:
        key = f"{title}.{field.name}"
        names = [flag_of(field.name), *([_SECOND_NAMES[key]] if key in _SECOND_NAMES else [])]
        shown = (defaults or {}).get(field.name, default_text(field.default))
        form = _form(field.name, field.type)
        if field.choices:
            form["metavar"] = "{" + ",".join(field.choices) + "}"
        facts = f"{field.takes}; default: {shown}" if field.takes else f"default: {shown}"
        parser.add_flag(group, *names, dest=key, help=f"{field.doc} ({facts})".replace("%", "%%"), **form)


def flag_of(name: str) -> str:
    """max_tokens -> --max-tokens"""
    return "--" + name.replace("_", "-")


def default_text(value: object) -> str:
    """A default as help shows it."""
    if value is None or value == "" or (isinstance(value, Collection) and not value):
        return "none"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _form(name: str, kind: str) -> dict[str, Any]:
    if kind == "int | None":
        return {"type": _number_or_none, "metavar": "N"}
    kind = kind.removesuffix(" | None")
    if kind == "bool":
        return {"action": argparse.BooleanOptionalAction}
    if kind == "tuple[str, ...]":
        return {"action": "append", "metavar": "TEXT"}
    if kind == "tuple[int, ...]":
        return {"nargs": "+", "type": whole_number, "metavar": "ID"}
    if kind == "StructuredOutputsParams":
        return {"metavar": "JSON"}
    if kind.startswith("Mapping"):
        return {"nargs": "+", "type": _pair, "metavar": "ID=VALUE"}
    if kind == "int":
        return {"type": _number_or_auto if name in _AUTO else whole_number, "metavar": "N"}
    return {"type": {"float": float, "str": str}[kind], "metavar": {"float": "X", "str": "TEXT"}[kind]}


def _pair(text: str) -> tuple[int, float]:
    key, _, value = text.partition("=")
    return int(key), float(value)


_NUMBER = re.compile(r"(?P<digits>-?\d{1,18}(?:\.\d{1,9})?)(?P<unit>[kmgtKMGT](?:iB)?)?", re.ASCII)


def whole_number(text: str) -> int:
    """ "4096", "8k" (8000), "8K" (8192), "25.6k", "2GiB"."""
    from decimal import Decimal

    if found := _NUMBER.fullmatch(text.strip()):
        unit = found["unit"] or ""
        base = 1 if not unit else 1024 if unit[0].isupper() or unit.endswith("iB") else 1000
        value = Decimal(found["digits"]) * Decimal(base) ** ("kmgt".find(unit[:1].lower()) + 1 if unit else 0)
        if value == int(value):
            return int(value)
    raise argparse.ArgumentTypeError(f"must be a whole number, such as 4096, 8k (8000) or 8K (8192), got {text!r}")


def _number_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else whole_number(text)


def _number_or_auto(text: str) -> int:
    return 0 if text == "auto" else whole_number(text)


def read_number(name: str, text: str) -> int:
    """A field of a config file written as a flag's text. Raises ValueError."""
    try:
        return _number_or_auto(text) if name in _AUTO else whole_number(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name} {error}") from None


def given(args: argparse.Namespace, group: str) -> dict[str, Any]:
    """The flags of a group that were given, by field."""
    values = {key.removeprefix(group + "."): value for key, value in vars(args).items() if key.startswith(group + ".")}
    if pairs := values.get("logit_bias"):
        values["logit_bias"] = dict(pairs)
    return values
