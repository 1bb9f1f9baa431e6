"""Constructor keywords of LLM and AsyncLLM: what each name may be.

Engine options are fields of the native EngineConfig. Names that other engines know and this one has no choice in are
accepted at the values that mean what happens anyway, and refused otherwise: nothing is ever ignored."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from warpjet._native import EngineConfig
from warpjet.common.foreign import rows

_FOREIGN = rows("option")
_OWN = ("model", "tokenizer", "skip_tokenizer_init", "chat_template", "generation_config")


def engine_config(options: Mapping[str, Any]) -> EngineConfig:
    """The engine's part of the keywords; None means the default. Raises TypeError for an unknown name,
    NotImplementedError for a wish that cannot be fulfilled and ValueError for a value out of range."""
    names = {field.name for field in EngineConfig.__fields__}
    values: dict[str, Any] = {}
    for name, value in options.items():
        row = _FOREIGN.get(name)
        if name == "hf_overrides":
            values[name] = overrides_text(value)
        elif value is None and (name in names or row is not None):
            continue
        elif name in names:
            values[name] = value
        elif row is None:
            near = difflib.get_close_matches(name, (*names, *fixed_names(), *_OWN), n=1, cutoff=0.8)
            raise TypeError(f"LLM has no parameter {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif row.is_alias:
            raise TypeError(row.refusal(name))
        elif not row.takes(value):
            raise NotImplementedError(row.refusal(f"{name}={value!r}", map(repr, row.accepted)))
    return EngineConfig.from_dict(values)


def overrides_text(overrides: Mapping[str, Any] | str | None) -> str:
    """hf_overrides as the engine takes them: JSON text, empty for none."""
    if isinstance(overrides, Mapping):
        return json.dumps(dict(overrides)) if overrides else ""
    return overrides or ""


def fixed_names() -> tuple[str, ...]:
    """Names that are accepted only at the values that change nothing."""
    return tuple(name for name, row in _FOREIGN.items() if not row.ours)
