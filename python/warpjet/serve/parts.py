"""Parts of bodies, as several APIs have them."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from warpjet.common.shown import shown
from warpjet.serve.http.errors import ServeError, bad_request
from warpjet.serve.http.schema import Schema
from warpjet.text.tools import MAX_TOOLS

if TYPE_CHECKING:
    from warpjet.structured import StructuredOutputsParams

_log = logging.getLogger("warpjet.serve")


class SkippedTools:
    """Tools that the server would have to run itself, such as web_search: the model is not told of them."""

    def __init__(self, route: str) -> None:
        self._route = route
        self._warned: set[str] = set()

    def skip(self, kind: str, where: str, strict: bool) -> None:
        """Logs each kind once. Raises ServeError 400 when strict."""
        kind = kind[:64]
        if strict:
            raise bad_request(f"{where}: tools of type {kind!r} are not run here; leave them out", where)
        if kind not in self._warned and len(self._warned) < 100:
            self._warned.add(kind)
            _log.warning(
                "a request for %s has a tool of type %r, which is left out: this server runs no tools",
                self._route,
                kind,
            )


def check_count(tools: Sequence[Any], where: str = "tools") -> None:
    """Raises ServeError 400 for more tools than a request may have, before any of them is read."""
    if len(tools) > MAX_TOOLS:
        raise bad_request(f"{where} has {len(tools)} entries, more than {MAX_TOOLS}", where)


def only_allowed(
    tools: list[dict[str, Any]], names: set[str], mode: Any, param: str = "tool_choice"
) -> tuple[list[dict[str, Any]], str]:
    """Function tools of these names, and the mode: auto or required. Raises ServeError 400 for names not in tools."""
    if mode not in ("auto", "required"):
        raise bad_request(f"{param}: the mode of allowed_tools must be auto or required, got {shown(mode)}", param)
    if missing := names - {tool["function"]["name"] for tool in tools}:
        raise bad_request(f"{param} allows {shown(min(missing))}, which is not in tools", param)
    return [tool for tool in tools if tool["function"]["name"] in names], mode


def instruct(messages: list[dict[str, Any]], instructions: str) -> None:
    """Puts them into the one system message that a conversation begins with."""
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = f"{instructions}\n{messages[0]['content']}"
    else:
        messages.insert(0, {"role": "system", "content": instructions})


def parse_part(schema: Schema, value: Mapping[str, Any] | None, where: str, strict: bool) -> dict[str, Any]:
    """Schema.parse() for an object within a body; None is empty. Raises ServeError 400 saying where."""
    try:
        return schema.parse(value or {}, strict)
    except ServeError as error:
        raise bad_request(f"{where}.{error.message}", where, error.code) from None


def constrain(where: str, **constraint: Any) -> "StructuredOutputsParams":
    """What the text must be: one of json, regex, json_object, ... Raises ServeError 400."""
    from warpjet.structured import StructuredOutputsParams

    try:
        return StructuredOutputsParams(**constraint)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise bad_request(f"{where}: {error}", where) from None
