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
from warpjet.requests.arguments import engine_config, fixed_names, is_fixed
from warpjet.serve.settings import CHOICES, Settings, read_setting

# Other servers' names of ours.
ALIASES = {
    "model_path": "model",
    "context_length": "max_model_len",
    "max_running_requests": "max_num_seqs",
    "max_queued_requests": "max_num_queued_reqs",
    "chunked_prefill_size": "max_num_batched_tokens",
    "max_prefill_tokens": "max_num_batched_tokens",
    "page_size": "block_size",
    "schedule_policy": "scheduling_policy",
    "random_seed": "seed",
    "tokenizer_path": "tokenizer",
    "mem_fraction_static": "gpu_memory_utilization",
    "max_total_tokens": "max_model_len",
    "tp_size": "tensor_parallel_size",
    "dp_size": "data_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "ep_size": "enable_expert_parallel",
    "uvicorn_log_level": "log_level",
    "disable_fastapi_docs": "disable_openapi",
    "hostname": "host",
    "max_concurrent_requests": "max_num_queued_reqs",
    "max_client_batch_size": "max_prompts",
    "ctx_size": "max_model_len",
    "n_ctx": "max_model_len",
    "num_ctx": "max_model_len",
    "max_seq_len": "max_model_len",
    "session_len": "max_model_len",
    "max_batch_size": "max_num_seqs",
    "parallel": "max_num_seqs",
    "max_num_tokens": "max_num_batched_tokens",
    "batch_size": "max_num_batched_tokens",
    "max_batch_prefill_tokens": "max_num_batched_tokens",
    "threads": "num_threads",
    "alias": "served_model_name",
    "model_name": "served_model_name",
    "model_id": "model",
    "chat_template_file": "chat_template",
    "ssl_key_file": "ssl_keyfile",
    "ssl_cert_file": "ssl_certfile",
    "tp": "tensor_parallel_size",
    "num_shard": "tensor_parallel_size",
    "quantize": "quantization",
    "kv_cache_free_gpu_memory_fraction": "gpu_memory_utilization",
    "cache_max_entry_count": "gpu_memory_utilization",
    "cuda_memory_fraction": "gpu_memory_utilization",
}

_ONE_DEVICE = "one device runs the whole model; start one server per device"
_NO_LORA = "merge the adapter into the checkpoint"
_NO_SPECULATION = "decoding is not speculative"

# Flags of other servers that leave no choice here: the values that mean what happens anyway (True is the flag alone),
# and what to do instead of others. Those of LLM are in arguments.py.
FIXED: dict[str, tuple[tuple[object, ...], str]] = {
    "all2all_backend": ((), _ONE_DEVICE),
    "api_server_count": ((1,), "one process serves"),
    "data_parallel_backend": ((), _ONE_DEVICE),
    "disable_cuda_graph": ((), "enforce_eager does that"),
    "disable_frontend_multiprocessing": ((True,), ""),
    "disable_log_requests": ((True,), ""),
    "disable_radix_cache": ((), "no-enable-prefix-caching does that"),
    "disable_uvicorn_access_log": ((True,), ""),
    "enable_auto_tool_choice": ((True,), ""),
    "enable_eplb": ((), _ONE_DEVICE),
    "enable_lora": ((), _NO_LORA),
    "enable_metrics": ((True,), ""),
    "enable_prompt_tokens_details": ((True,), ""),
    "enable_reasoning": ((True,), "reasoning_parser chooses the format"),
    "enable_request_id_headers": ((True,), ""),
    "cont_batching": ((True,), ""),
    "flash_attn": ((True, "auto", "on"), "there is one attention kernel per device"),
    "grammar_backend": (("llguidance",), "llguidance is what there is"),
    "guided_decoding_backend": (("auto", "guidance"), "llguidance is what there is"),
    "kv_events_config": ((), "kv_events keeps them"),
    "logprobs_mode": (("raw_logprobs",), "logprobs are those of the raw logits"),
    "lora_modules": ((), _NO_LORA),
    "master_addr": ((), _ONE_DEVICE),
    "master_port": ((), _ONE_DEVICE),
    "max_log_len": ((), "no text of requests is logged"),
    "middleware": ((), "put a proxy in front"),
    "n_gpu_layers": ((), "a model runs whole on one device: device is cuda or cpu"),
    "gpu_layers": ((), "a model runs whole on one device: device is cuda or cpu"),
    "nnodes": ((1,), _ONE_DEVICE),
    "node_rank": ((0,), _ONE_DEVICE),
    "otlp_traces_endpoint": ((), "trace writes a file for Perfetto"),
    "performance_mode": (("balanced",), "itl_target_ms and max_num_batched_tokens are the knobs"),
    "pooler_config": ((), "a request to /v1/embeddings says how"),
    "response_role": (("assistant",), "answers have the role assistant"),
    "skip_server_warmup": ((True,), ""),
    "speculative_algorithm": ((), _NO_SPECULATION),
    "speculative_draft_model_path": ((), _NO_SPECULATION),
    "speculative_eagle_topk": ((), _NO_SPECULATION),
    "speculative_num_draft_tokens": ((), _NO_SPECULATION),
    "speculative_num_steps": ((), _NO_SPECULATION),
    "ssl_cert_reqs": ((0,), "ssl_ca_certs asks clients for certificates"),
    "tool_parser_plugin": ((), "no code is loaded"),
    "tool_server": ((), "nothing is called over the network"),
    "uvicorn_access_log": ((), "enable_log_requests logs requests"),
}


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
    kinds = {row[0]: row[1] for row in EngineConfig.__fields__}
    server: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    model: str | None = None
    notices = []
    for spelled, value in given.items():
        name = spelled.replace("-", "_")
        if name in ALIASES:
            notices.append(f"{flag_of(name)} is {flag_of(ALIASES[name])} here")
            name = ALIASES[name]
        if name == "model":
            model = str(value)
        elif name in own:
            server[name] = read_setting(name, own[name].metadata["kind"], value)
        elif name in kinds:
            engine[name] = read_number(name, value) if kinds[name] == "int" and isinstance(value, str) else value
        elif name in FIXED:
            _require(name, value)
        elif is_fixed(name):
            engine[name] = _guess(value)
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
        if row.name in CHOICES:
            form["metavar"] = "{" + ",".join(text for text in CHOICES[row.name] if text) + "}"
        default = row.default_factory() if row.default is MISSING else row.default  # type: ignore[misc]
        doc = row.metadata["doc"]
        text = doc if "(default" in doc else f"{doc} (default: {default_text(default)})"
        parser.add_flag(group, flag_of(row.name), dest=f"server.{row.name}", help=text.replace("%", "%%"), **form)
    engine = [row for row in EngineConfig.__fields__ if row[0] not in without]
    add_fields(parser, "engine", engine, EngineConfig.__choices__)
    _add_other_names(parser, {"model", *(row.name for row in settings), *(row[0] for row in engine)})


def _add_other_names(parser: Parser, known: Collection[str]) -> None:
    """Names of other engines, for what this command knows or has no choice in."""
    fixed = {*FIXED, *fixed_names()}
    aliases = {name for name, ours in ALIASES.items() if ours in known or ours in fixed}
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
    known = [*own, *(row[0] for row in EngineConfig.__fields__), *ALIASES, *FIXED, *fixed_names(), "model"]
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


def _require(name: str, value: Any) -> None:
    accepted, advice = FIXED[name]
    if not any(_guess(value) == choice and type(_guess(value)) is type(choice) for choice in accepted):
        only = " or ".join(str(choice) for choice in accepted if choice is not True)
        text = f"{flag_of(name)} is not supported" + (f", only {only}" if only else "")
        raise NotImplementedError(f"{text}; {advice}" if advice else text)


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
