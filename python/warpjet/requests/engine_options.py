"""The keywords of LLM and AsyncLLM, for editors and type checkers; tests hold them against EngineConfig."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict


class EngineOptions(TypedDict, total=False):
    """Fields of EngineConfig, whose documentation says what each is; None is the default."""

    device: str | None
    dtype: str | None
    load_format: str | None
    max_model_len: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    block_size: int | None
    gpu_memory_utilization: float | None
    kv_cache_memory_bytes: int | None
    num_gpu_blocks_override: int | None
    enforce_eager: bool | None
    enable_prefix_caching: bool | None
    enable_chunked_prefill: bool | None
    max_num_queued_reqs: int | None
    max_num_queued_tokens: int | None
    max_logprobs: int | None
    scheduling_policy: str | None
    max_steps_in_flight: int | None
    admission_quantile: float | None
    preemption_mode: str | None
    kv_offloading_size: float | None
    itl_target_ms: float | None
    max_num_queued_reqs_per_tenant: int | None
    max_unread_tokens: int | None
    kv_events: int | None
    guide_timeout: float | None
    watchdog_timeout: float | None
    trace: str | None
    seed: int | None
    num_threads: int | None
    hf_overrides: Mapping[str, Any] | str | None


class OtherOptions(EngineOptions, total=False):
    """Names that other engines know, taken at the values that change nothing here."""

    allowed_local_media_path: Any
    allowed_media_domains: Any
    async_scheduling: Any
    backend: Any
    attention_backend: Any
    compilation_config: Any
    config_format: Any
    convert: Any
    cpu_offload_gb: Any
    cudagraph_capture_sizes: Any
    data_parallel_size: Any
    disable_custom_all_reduce: Any
    disable_log_stats: Any
    distributed_executor_backend: Any
    download_dir: Any
    enable_expert_parallel: Any
    enable_lora: Any
    enable_sleep_mode: Any
    hf_config_path: Any
    hf_token: Any
    kv_cache_dtype: Any
    kv_transfer_config: Any
    logits_processors: Any
    max_lora_rank: Any
    max_loras: Any
    pipeline_parallel_size: Any
    quantization: Any
    quantization_config: Any
    revision: Any
    runner: Any
    served_model_name: Any
    spec_method: Any
    spec_model: Any
    spec_tokens: Any
    speculative_config: Any
    structured_outputs_config: Any
    swap_space: Any
    task: Any
    tensor_parallel_size: Any
    tokenizer_mode: Any
    tokenizer_revision: Any
    trust_remote_code: Any


class EngineArgs(OtherOptions, total=False):
    """Keywords that LLM and AsyncLLM share, as a dict: LLM(**args), AsyncLLM.from_engine_args(args)."""

    model: str | Path | None
    tokenizer: str | Path | None
    skip_tokenizer_init: bool
    chat_template: str | Path | None
    generation_config: str | Path
    reasoning_parser: str | None
    tool_call_parser: str | None


AsyncEngineArgs = EngineArgs
