"""What the log says of a request at its end: where it came from, how it ended, and how many tokens it took. No text."""

import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger("warpjet.serve")

_UNSHOWN = re.compile(r"[^\x21-\x7e]")
_LONGEST_PATH = 128


@dataclass(slots=True)
class RequestRecord:
    """Filled while one HTTP request is answered, over all its prompts and samples."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    trouble: str = ""  # what kept the answer from being whole


_current: ContextVar[RequestRecord] = ContextVar("request_record")  # tasks of a request inherit it


def begin_record() -> RequestRecord:
    """The record of the request that this task answers."""
    record = RequestRecord()
    _current.set(record)
    return record


def current_record() -> RequestRecord:
    """That of the request being answered; outside of one, a record that nobody reads."""
    return _current.get(None) or RequestRecord()


def log_request(
    scope: Mapping[str, Any], route: str, status: int, seconds: float, request_id: str, record: RequestRecord
) -> None:
    """One line. `route`: of the endpoint; "" shows the path that found none."""
    shown = route or _UNSHOWN.sub("?", scope["raw_path"].decode("latin-1")[:_LONGEST_PATH])
    _log.info(
        "%s %s %s %d, %.3f s, %d prompt tokens, %d output tokens, %s%s",
        *(_address(scope.get("client")), scope["method"], shown, status, seconds),
        *(record.prompt_tokens, record.output_tokens, request_id, record.trouble and f", {record.trouble}"),
    )


def _address(client: tuple[str, int] | None) -> str:
    if client is None:
        return "unix"
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
