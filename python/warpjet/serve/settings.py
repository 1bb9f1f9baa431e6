"""What `warpjet serve` can be told, beside the engine's own fields: one table, which is the command line and the
config file."""

import json
import math
from dataclasses import Field, dataclass, field, fields
from typing import Any

from warpjet.common.log import LEVELS
from warpjet.text.chat import CONTENT_FORMATS


def _s(
    default: Any,
    doc: str,
    kind: str = "",
    above: float | None = None,
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """kind is a word of read_setting(); it follows from the default when it is left out. A number is above `above` or
    in `between`; a text is one of `choices`, or None where that is the default."""
    takes = f"above {above:g}" if above is not None else f"from {between[0]:g} to {between[1]:g}" if between else ""
    facts = {"above": above, "between": between, "choices": choices, "takes": takes}
    made: dict[str, Any] = {"metadata": {"doc": doc, "kind": kind or type(default).__name__, **facts}}
    if isinstance(default, dict):
        return field(default_factory=lambda: default, **made)
    return field(default=default, **made)


_PORTS = (0, 65535)


@dataclass(frozen=True)
class Settings:
    """Every setting of the server. Raises ValueError for a value that cannot be."""

    host: str = _s("127.0.0.1", "address to listen on; 0.0.0.0 is every one")
    port: int = _s(8000, "port to listen on; 0 takes a free one", between=_PORTS)
    uds: str | None = _s(None, "listen on this Unix socket, its owner's alone, instead of a port", "str")
    served_model_name: tuple[str, ...] = _s(
        (),
        "names of the model; * takes every name (default: org/name of the hub, or else its directory's name and path)",
        "names",
    )
    tokenizer: str | None = _s(None, "directory to take the tokenizer from", "str")
    skip_tokenizer_init: bool = _s(False, "serve token ids only")
    generation_config: str = _s("auto", "default sampling: auto (the model's), warpjet (neutral) or a directory")
    override_generation_config: dict[str, Any] = _s({}, "default sampling: these fields differ, as JSON")  # noqa: RUF009
    api_key: tuple[str, ...] = _s((), "keys of users; name:key names a tenant", "names")
    api_key_file: str | None = _s(None, "a file of such keys, one a line", "str")
    admin_api_key: tuple[str, ...] = _s((), "keys of the admin routes", "names")
    admin_port: int | None = _s(None, "port of the admin routes, on the loopback address", "int", between=_PORTS)
    admin_uds: str | None = _s(None, "Unix socket of the admin routes", "str")
    ssl_keyfile: str | None = _s(None, "TLS: the private key", "str")
    ssl_certfile: str | None = _s(None, "TLS: the certificate chain", "str")
    ssl_ca_certs: str | None = _s(None, "TLS: ask clients for a certificate of these authorities", "str")
    root_path: str = _s("", "path prefix that a proxy in front strips")
    max_body_bytes: int = _s(32 << 20, "longest body of a request", above=0)
    max_bodies_bytes: int = _s(
        512 << 20, "memory of all bodies held at one time, until their answers have ended", above=0
    )
    header_timeout: float = _s(60.0, "seconds in which a request's head must arrive", above=0)
    body_timeout: float = _s(60.0, "seconds in which a request's body must arrive", above=0)
    keep_alive_timeout: float = _s(75.0, "seconds that an idle connection is kept", above=0)
    send_timeout: float = _s(600.0, "seconds that a client may stop reading its answer", above=0)
    prepare_timeout: float = _s(10.0, "seconds that tokenising and the chat template may take", above=0)
    prepare_threads: int = _s(4, "threads that tokenise long prompts", above=0)
    max_connections: int = _s(16384, "connections at one time; more get 503", above=0)
    shutdown_timeout: float = _s(30.0, "seconds that live requests get to finish after SIGTERM")
    max_prompts: int = _s(
        1024, "completions of one request: prompts x n, or x beams; texts of an embeddings request", above=0
    )
    max_request_tokens: int = _s(1 << 20, "tokens that one request may ask for: its completions x max_tokens", above=0)
    rate_limit: float = _s(
        0.0, "requests a second of one tenant (a key, or keys of one name; everybody, without keys); 0 is no limit"
    )
    rate_limit_burst: int = _s(20, "requests that it may send at once", above=0)
    strict: bool = _s(False, "refuse unknown fields of a request; otherwise they are logged once")
    allowed_hosts: tuple[str, ...] = _s(
        (),
        "names in the header Host, beside local ones, that a keyless server on loopback answers to; * is all",
        "names",
    )
    allowed_origins: tuple[str, ...] = _s((), "CORS: origins whose pages may call; * is all", "names")
    allowed_methods: tuple[str, ...] = _s(("GET", "POST"), "CORS: methods", "names")
    allowed_headers: tuple[str, ...] = _s(("*",), "CORS: headers", "names")
    allow_credentials: bool = _s(False, "CORS: credentials")
    chat_template: str | None = _s(None, "chat template, as Jinja or a file", "str")
    chat_template_content_format: str = _s(
        "auto",
        "how the chat template gets content: string, openai (a list of parts), or auto, as it reads it",
        choices=CONTENT_FORMATS,
    )
    default_chat_template_kwargs: dict[str, Any] = _s({}, "variables of the chat template, as JSON")  # noqa: RUF009
    trust_request_chat_template: bool = _s(False, "let requests bring a chat template")
    tool_call_parser: str = _s("auto", "format of tool calls; auto finds it in the chat template")
    reasoning_parser: str = _s("auto", "format of reasoning; auto finds it, none leaves it in the text")
    return_tokens_as_token_ids: bool = _s(False, "name tokens in logprobs token_id:N")
    enable_force_include_usage: bool = _s(False, "end every stream with usage")
    metrics_compat: str | None = _s(
        None, "also give /metrics the names of this server", "str", choices=("vllm", "sglang", "tgi")
    )
    disable_openapi: bool = _s(False, "serve no /openapi.json")
    enable_log_requests: bool = _s(
        False, "log a line for each request at its end: its client, route, status, seconds and tokens; no text"
    )
    disable_log_stats: bool = _s(False, "log no line of the load every 10 s; serve alone has one")
    log_level: str | None = _s(
        None,
        "how much is logged, by the native code too (default: the variable WARPJET_LOG, or else info for serve and "
        "warning for other commands)",
        "str",
        choices=LEVELS,
    )

    def __post_init__(self) -> None:
        for row in fields(self):
            _check(row, getattr(self, row.name))
        if (self.admin_port is not None or self.admin_uds is not None) and not self.admin_api_key:
            raise ValueError("admin_port and admin_uds need admin_api_key")
        if self.admin_api_key and self.admin_port is None and self.admin_uds is None:
            raise ValueError("admin_api_key needs admin_port or admin_uds: admin routes have a port of their own")
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ValueError("ssl_keyfile and ssl_certfile go together")
        if self.ssl_ca_certs is not None and self.ssl_certfile is None:
            raise ValueError("ssl_ca_certs needs ssl_certfile")


def _check(row: "Field[Any]", value: Any) -> None:
    """Raises ValueError for a value outside of what the setting takes."""
    facts = row.metadata
    if value is None and row.default is None:
        return
    if facts["choices"] and value not in facts["choices"]:
        raise ValueError(f"{row.name} must be one of {', '.join(facts['choices'])}, got {value!r}")
    low, high = facts["between"] or (-math.inf, math.inf)
    if facts["takes"] and not (value > facts["above"] if facts["above"] is not None else low <= value <= high):
        raise ValueError(f"{row.name} must be {facts['takes']}, got {value}")


def read_setting(name: str, kind: str, value: Any) -> Any:
    """A value as given by a flag or a file. Raises TypeError or ValueError naming the setting."""
    if kind == "names":
        texts = [value] if isinstance(value, str) else list(value)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{name} must be a string or a list of strings")
        return tuple(texts)
    if kind == "dict" and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{name} must be a JSON object: {error}") from None
    wanted = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict}[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):  # type: ignore[arg-type]
        raise TypeError(f"{name} must be {kind.replace('dict', 'an object')}, got {value!r}")
    return float(value) if kind == "float" else value
