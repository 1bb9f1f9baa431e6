"""Constructor keywords of LLM and AsyncLLM: what each name may be.

Engine options are fields of the native EngineConfig. Names that other engines know and this one has no choice in are
accepted at the values that mean what happens anyway, and refused otherwise: nothing is ever ignored."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from warpjet._native import EngineConfig

_ONE_DEVICE = "one device runs the whole model; start one process per device for more throughput"
_CHECKPOINT_TYPE = "weights are used in the checkpoint's own floating-point type, or the one that dtype names"
_BOTH = "every model generates text, and embeds it with embed()"
_NO_HUB = "nothing is fetched; a revision in the local Hugging Face cache is model='org/name@revision'"
_NO_GRAPHS = "kernels are compiled ahead of time and graphs captured when needed; enforce_eager does without graphs"

# name: (values that are accepted, what to do instead)
_FIXED: dict[str, tuple[tuple[object, ...], str]] = {
    "allowed_local_media_path": (("", None), "prompts are text or token ids"),
    "allowed_media_domains": ((None,), "prompts are text or token ids"),
    "async_scheduling": ((None, True), "steps overlap; max_steps_in_flight=1 runs them one after another"),
    "attention_backend": ((None, "auto"), "there is one attention kernel per device"),
    "backend": ((None,), "there is one engine; device says where it runs"),
    "compilation_config": ((None, 0), _NO_GRAPHS),
    "config_format": (("auto", "hf"), "checkpoints are in Hugging Face format"),
    "convert": (("auto", "none"), _BOTH),
    "cpu_offload_gb": ((0, None), "weights stay where the model runs"),
    "cudagraph_capture_sizes": ((None,), _NO_GRAPHS),
    "data_parallel_size": ((1, None), _ONE_DEVICE),
    "disable_custom_all_reduce": ((False, True), ""),  # one device has nothing to reduce over
    "disable_log_stats": ((False, True), ""),  # always counted, and logged by `warpjet serve` alone: get_metrics()
    "distributed_executor_backend": ((None,), _ONE_DEVICE),
    "download_dir": ((None,), "HF_HUB_CACHE names another cache; nothing is fetched"),
    "enable_expert_parallel": ((False, None), _ONE_DEVICE),
    "enable_lora": ((False, None), "merge the adapter into the checkpoint"),
    "enable_sleep_mode": ((False,), "call shutdown() and open the model again"),
    "hf_config_path": ((None,), "config.json is read from the checkpoint directory"),
    "hf_token": ((None,), _NO_HUB),
    "kv_cache_dtype": (("auto",), "keys and values are kept in the type that dtype computes in"),
    "kv_transfer_config": ((None,), "each engine keeps its own KV cache"),
    "logits_processors": ((None, []), "use logit_bias, allowed_token_ids or bad_words in SamplingParams"),
    "max_lora_rank": ((None,), "merge the adapter into the checkpoint"),
    "max_loras": ((None,), "merge the adapter into the checkpoint"),
    "pipeline_parallel_size": ((1, None), _ONE_DEVICE),
    "quantization": ((None,), _CHECKPOINT_TYPE),
    "quantization_config": ((None,), _CHECKPOINT_TYPE),
    "revision": ((None,), _NO_HUB),
    "runner": (("auto", "generate"), _BOTH),
    "served_model_name": ((None,), "`warpjet serve` takes it"),
    "spec_method": ((None,), "decoding is not speculative"),
    "spec_model": ((None,), "decoding is not speculative"),
    "spec_tokens": ((None,), "decoding is not speculative"),
    "speculative_config": ((None,), "decoding is not speculative"),
    "structured_outputs_config": (
        (None,),
        "the backend is llguidance; see SamplingParams.structured_outputs",
    ),
    "swap_space": ((0, 4, None), "kv_offloading_size is the host memory (GiB) for KV blocks"),
    "task": ((None, "auto", "generate"), _BOTH),
    "tensor_parallel_size": ((1, None), _ONE_DEVICE),
    "tokenizer_mode": (("auto",), "the tokenizer is read from tokenizer.json"),
    "tokenizer_revision": ((None,), _NO_HUB),
    "trust_remote_code": ((False, None), "code in a checkpoint is never run"),
}

# Other engines' names of what we have.
_RENAMED = {
    "block_reuse": "enable_prefix_caching",
    "build_config": "max_model_len, max_num_seqs and max_num_batched_tokens",
    "chunked_prefill_size": "max_num_batched_tokens",
    "context_length": "max_model_len",
    "n_ctx": "max_model_len",
    "n_gpu_layers": "device",
    "n_threads": "num_threads",
    "disable_radix_cache": "enable_prefix_caching",
    "kv_cache_config": "kv_cache_memory_bytes and enable_prefix_caching",
    "max_batch_size": "max_num_seqs",
    "max_num_tokens": "max_num_batched_tokens",
    "max_queued_requests": "max_num_queued_reqs",
    "max_running_requests": "max_num_seqs",
    "max_seq_len": "max_model_len",
    "mem_fraction_static": "kv_cache_memory_bytes",
    "model_path": "model",
    "page_size": "block_size",
    "random_seed": "seed",
    "schedule_policy": "scheduling_policy",
    "session_len": "max_model_len",
    "tokenizer_path": "tokenizer",
    "tp_size": "tensor_parallel_size",
}

_OWN = ("model", "tokenizer", "skip_tokenizer_init", "chat_template", "generation_config")


def engine_config(options: Mapping[str, Any]) -> EngineConfig:
    """The engine's part of the keywords; None means the default. Raises TypeError for an unknown name,
    NotImplementedError for a wish that cannot be fulfilled and ValueError for a value out of range."""
    names = {row[0] for row in EngineConfig.__fields__}
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name == "hf_overrides":
            values[name] = overrides_text(value)
        elif value is None and (name in names or name in _FIXED or name in _RENAMED):
            continue
        elif name in names:
            values[name] = value
        elif name in _FIXED:
            _require_fixed(name, value)
        elif name in _RENAMED:
            raise TypeError(f"{name} is not supported; closest is {_RENAMED[name]}")
        else:
            near = difflib.get_close_matches(name, (*names, *_FIXED, *_OWN), n=1, cutoff=0.8)
            raise TypeError(f"LLM has no parameter {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return EngineConfig.from_dict(values)


def overrides_text(overrides: Mapping[str, Any] | str | None) -> str:
    """hf_overrides as the engine takes them: JSON text, empty for none."""
    if isinstance(overrides, Mapping):
        return json.dumps(dict(overrides)) if overrides else ""
    return overrides or ""


def _require_fixed(name: str, value: object) -> None:
    accepted, advice = _FIXED[name]
    if not any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in accepted):
        choices = " or ".join(repr(choice) for choice in accepted if choice is not None) or "None"
        text = f"{name}={value!r} is not supported, only {choices}"
        raise NotImplementedError(text + (f"; {advice}" if advice else ""))


def is_fixed(name: str) -> bool:
    """True for a name that is accepted only at the values that change nothing."""
    return name in _FIXED


def fixed_names() -> tuple[str, ...]:
    """The names of is_fixed()."""
    return tuple(_FIXED)
