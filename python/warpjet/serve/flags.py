"""The names of a configuration: the server's settings, the engine's fields, and what other servers call them."""

import argparse
import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from warpjet._native import EngineConfig
from warpjet.common.flags import Parser, add_fields, default_text, flag_of, read_number, whole_number
from warpjet.common.foreign import rows
from warpjet.requests.arguments import engine_config
from warpjet.serve.settings import Settings, read_setting

_FOREIGN = rows("option", "server")


@dataclass(frozen=True)
class Plan:
    """A whole configuration: the server's settings, LLM's keywords, and the model."""

    model: str | None
    settings: Settings
    engine: dict[str, Any]
    notices: tuple[str, ...] = ()


def plan(given: Mapping[str, Any]) -> Plan:
    """Sorts names and values, as given by flags or a file, into a Plan. Raises ValueError, TypeError or
    NotImplementedError, naming what is wrong and what is closest."""
    own = {row.name: row for row in fields(Settings)}
    kinds = {field.name: field.type for field in EngineConfig.__fields__}
    server: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    model: str | None = None
    notices = []
    for spelled, value in given.items():
        name = spelled.replace("-", "_")
        row = _FOREIGN.get(name)
        if row is not None and row.is_alias:
            notices.append(f"{flag_of(name)} is {flag_of(row.ours)} here")
            name = row.ours
            row = _FOREIGN.get(name)
        if name == "model":
            model = str(value)
        elif name in own:
            server[name] = read_setting(name, own[name].metadata["kind"], value)
        elif name in kinds:
            engine[name] = read_number(name, value) if kinds[name] == "int" and isinstance(value, str) else value
        elif row is not None and row.where == "option":
            engine[name] = _guess(value)
        elif row is not None:
            if not row.takes(_guess(value)):
                raise NotImplementedError(row.refusal(flag_of(name), (str(v) for v in row.accepted if v is not True)))
        else:
            raise ValueError(f"there is no setting {spelled!r}{_near(name)}")
    engine_config(engine)  # raises what is wrong with it
    return Plan(model, Settings(**server), engine, tuple(notices))


def read_config(path: str) -> dict[str, Any]:
    """Settings by name from a JSON file, or YAML where the yaml package is there. Raises ValueError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if path.endswith((".yaml", ".yml")):
        try:
            import yaml  # type: ignore[import-untyped, unused-ignore]
        except ImportError:
            raise ValueError(f"{path}: reading YAML needs the package pyyaml; or write the file in JSON") from None
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from None
    else:
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object of settings")
    return values


def add_flags(parser: Parser, only: Collection[str] | None = None, without: Collection[str] = ()) -> None:
    """A flag for every name, or of the server's settings only these, and of the engine's fields all but `without`.
    Names of other engines are not shown."""
    settings = [row for row in fields(Settings) if only is None or row.name in only]
    group = parser.add_argument_group("server flags")
    for row in settings:
        form = dict(_FORMS[row.metadata["kind"]])
        if choices := row.metadata["choices"]:
            form["metavar"] = "{" + ",".join(choices) + "}"
        default = row.default_factory() if row.default is MISSING else row.default  # type: ignore[misc]
        doc, takes = row.metadata["doc"], row.metadata["takes"]
        text = doc if "(default" in doc else f"{doc} ({takes and takes + '; '}default: {default_text(default)})"
        parser.add_flag(group, flag_of(row.name), dest=f"server.{row.name}", help=text.replace("%", "%%"), **form)
    engine = [field for field in EngineConfig.__fields__ if field.name not in without]
    add_fields(parser, "engine", engine)
    _add_other_names(parser, {"model", *(row.name for row in settings), *(field.name for field in engine)})


def _add_other_names(parser: Parser, known: Collection[str]) -> None:
    """Names of other engines, for what this command knows or has no choice in."""
    fixed = {name for name, row in _FOREIGN.items() if not row.is_alias}
    aliases = {name for name, row in _FOREIGN.items() if row.is_alias and (row.ours in known or row.ours in fixed)}
    for name in sorted((fixed | aliases) - {*known, *(row.name for row in fields(Settings))}):
        parser.add_argument(
            flag_of(name),
            dest=f"other.{name}",
            nargs="?",
            const=True,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def given_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of add_flags() that were given, by name."""
    out = {}
    for key, value in values.items():
        group, dot, name = key.partition(".")
        if dot and group in ("server", "engine", "other"):
            out[name] = _guess(value) if group == "other" else value
    return out


def _near(name: str) -> str:
    """A suggestion, or nothing."""
    own = [row.name for row in fields(Settings)]
    known = [*own, *(field.name for field in EngineConfig.__fields__), *_FOREIGN, "model"]
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {found[0]!r}?" if found else ""


_FORMS: dict[str, dict[str, Any]] = {
    "bool": {"action": argparse.BooleanOptionalAction},
    "names": {"nargs": "+", "action": "extend", "metavar": "TEXT"},
    "dict": {"metavar": "JSON"},
    "str": {"metavar": "TEXT"},
    "int": {"type": whole_number, "metavar": "N"},
    "float": {"type": float, "metavar": "X"},
}


def _guess(value: Any) -> Any:
    """The value that a flag's text stands for."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[value.lower()]
    try:
        return json.loads(value)
    except ValueError:
        return value
