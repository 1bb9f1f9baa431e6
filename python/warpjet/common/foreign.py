"""What other engines call their options, and what to do with each name here: one table behind the keywords of Python,
the flags of the command line, the files of settings and the bodies of requests."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

# option: of an engine: a keyword of LLM, a flag, or a key of a file. server: a flag or a key of such a file.
# sampling: a keyword of SamplingParams, a flag of generate and chat, or a field of a body. body: a field of a body.
# command: a flag of a program that only a command line has.
Where = Literal["option", "server", "sampling", "body", "command"]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A row. `ours` alone means the same by another name. With `advice` the meaning or the values differ: it says what
    to use. `accepted`: values that mean what happens anyway; None always does."""

    engine: str
    name: str
    where: Where
    ours: str = ""
    accepted: tuple[object, ...] = ()
    advice: str = ""

    @property
    def is_alias(self) -> bool:
        return bool(self.ours) and not self.advice

    def takes(self, value: object) -> bool:
        """Whether the value changes nothing. True is not 1."""
        if value is None:
            return True
        return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in self.accepted)

    def answer(self) -> str:
        """What a refusal ends with: the same on every way in."""
        return self.advice or (f"closest is {self.ours}" if self.ours else "")

    def refusal(self, shown: str, only: Iterable[str] = ()) -> str:
        """`shown`: the name and perhaps the value, as they were given."""
        values = " or ".join(only)
        parts = [f"{shown} is not supported" + (f", only {values}" if values else ""), self.answer()]
        return "; ".join(part for part in parts if part)


_ONE_DEVICE = "one device runs the whole model; start one engine per device for more throughput"
_CHECKPOINT_TYPE = "weights are used in the checkpoint's own floating-point type, or the one that dtype names"
_BOTH = "every model generates text, and embeds it with embed() or /v1/embeddings"
_NO_HUB = "nothing is fetched; a revision in the local Hugging Face cache is model='org/name@revision'"
_NO_GRAPHS = "kernels are compiled ahead of time and graphs captured when needed; enforce_eager does without graphs"
_NO_LORA = "merge the adapter into the checkpoint"
_NO_SPECULATION = "decoding is not speculative"
_ONE_ATTENTION = "there is one attention kernel per device"
_WHOLE = "a model runs whole on one device: device is cuda or cpu"
_TEXT_ONLY = "prompts are text or token ids"
_LLGUIDANCE = "llguidance is what there is"
_STRUCTURED = "use structured_outputs"
_NO_EXTENSIONS = "there are no extensions to pass it to; logit_bias changes logits"


def _rows() -> Iterator[Foreign]:
    yield from _OPTIONS
    yield from _SERVER
    yield from _SAMPLING
    yield from _BODY
    yield from _COMMANDS


def _renamed(engine: str, where: Where, **names: str) -> tuple[Foreign, ...]:
    """Rows of the same meaning by another name: theirs=ours."""
    return tuple(Foreign(engine, name, where, ours) for name, ours in names.items())


def _kept(engine: str, where: Where, advice: str, **names: tuple[object, ...]) -> tuple[Foreign, ...]:
    """Rows that are accepted at the values that change nothing, with one advice for others."""
    return tuple(Foreign(engine, name, where, "", accepted, advice) for name, accepted in names.items())


_OPTIONS = (
    *_kept("vLLM", "option", _TEXT_ONLY, allowed_local_media_path=("",), allowed_media_domains=()),
    Foreign(
        "vLLM", "async_scheduling", "option", "", (True,), "steps overlap; max_steps_in_flight=1 runs them one by one"
    ),
    *_kept("vLLM", "option", _ONE_ATTENTION, attention_backend=("auto",)),
    *_kept("TensorRT-LLM", "option", "there is one engine; device says where it runs", backend=()),
    *_kept("vLLM", "option", _NO_GRAPHS, compilation_config=(0,), cudagraph_capture_sizes=()),
    *_kept("vLLM", "option", "checkpoints are in Hugging Face format", config_format=("auto", "hf")),
    *_kept("vLLM", "option", _BOTH, convert=("auto", "none"), runner=("auto", "generate"), task=("auto", "generate")),
    *_kept("vLLM", "option", "weights stay where the model runs", cpu_offload_gb=(0,)),
    *_kept("vLLM", "option", _ONE_DEVICE, data_parallel_size=(1,), distributed_executor_backend=()),
    *_kept("vLLM", "option", _ONE_DEVICE, enable_expert_parallel=(False,), pipeline_parallel_size=(1,)),
    *_kept("vLLM", "option", _ONE_DEVICE, tensor_parallel_size=(1,)),
    # One device has nothing to reduce over; statistics are always counted, and get_metrics() gives them.
    *_kept("vLLM", "option", "leave it out", disable_custom_all_reduce=(False, True), disable_log_stats=(False, True)),
    *_kept("vLLM", "option", "HF_HUB_CACHE names another cache; nothing is fetched", download_dir=()),
    *_kept("vLLM", "option", _NO_LORA, enable_lora=(False,), max_lora_rank=(), max_loras=()),
    *_kept("vLLM", "option", "call shutdown() and open the model again", enable_sleep_mode=(False,)),
    *_kept("vLLM", "option", "config.json is read from the checkpoint directory", hf_config_path=()),
    *_kept("vLLM", "option", _NO_HUB, hf_token=(), revision=(), tokenizer_revision=()),
    *_kept("vLLM", "option", "keys and values are kept in the type that dtype computes in", kv_cache_dtype=("auto",)),
    *_kept("vLLM", "option", "each engine keeps its own KV cache", kv_transfer_config=()),
    *_kept("vLLM", "option", _CHECKPOINT_TYPE, quantization=(), quantization_config=()),
    *_kept("vLLM", "option", "`warpjet serve` takes it", served_model_name=()),
    *_kept("vLLM", "option", "use logit_bias, allowed_token_ids or bad_words of a request", logits_processors=([],)),
    *_kept("vLLM", "option", _NO_SPECULATION, spec_method=(), spec_model=(), spec_tokens=(), speculative_config=()),
    *_kept("vLLM", "option", f"{_LLGUIDANCE}; see SamplingParams.structured_outputs", structured_outputs_config=()),
    *_kept("vLLM", "option", "kv_offloading_size is the host memory (GiB) for KV blocks", swap_space=(0, 4)),
    *_kept("vLLM", "option", "the tokenizer is read from tokenizer.json", tokenizer_mode=("auto",)),
    *_kept("vLLM", "option", "code in a checkpoint is never run", trust_remote_code=(False,)),
    *_renamed(
        "SGLang",
        "option",
        **{"model_path": "model", "tokenizer_path": "tokenizer", "random_seed": "seed", "page_size": "block_size"},
        **{
            "context_length": "max_model_len",
            "max_total_tokens": "max_model_len",
            "max_running_requests": "max_num_seqs",
        },
        **{"max_queued_requests": "max_num_queued_reqs", "schedule_policy": "scheduling_policy"},
        **{"chunked_prefill_size": "max_num_batched_tokens", "max_prefill_tokens": "max_num_batched_tokens"},
        **{"mem_fraction_static": "gpu_memory_utilization"},
        **{"tp_size": "tensor_parallel_size", "dp_size": "data_parallel_size", "pp_size": "pipeline_parallel_size"},
        **{"ep_size": "enable_expert_parallel"},
    ),
    Foreign(
        "SGLang", "disable_radix_cache", "option", "enable_prefix_caching", (), "enable_prefix_caching=False does that"
    ),
    Foreign("SGLang", "disable_cuda_graph", "option", "enforce_eager", (), "enforce_eager does that"),
    *_renamed(
        "TensorRT-LLM",
        "option",
        max_batch_size="max_num_seqs",
        max_num_tokens="max_num_batched_tokens",
        max_seq_len="max_model_len",
        block_reuse="enable_prefix_caching",
        kv_cache_free_gpu_memory_fraction="gpu_memory_utilization",
    ),
    Foreign(
        *("TensorRT-LLM", "build_config", "option", "max_model_len", ()),
        advice="use max_model_len, max_num_seqs and max_num_batched_tokens",
    ),
    Foreign(
        *("TensorRT-LLM", "kv_cache_config", "option", "kv_cache_memory_bytes", ()),
        advice="use kv_cache_memory_bytes and enable_prefix_caching",
    ),
    *_renamed(
        "llama.cpp",
        "option",
        **{"n_ctx": "max_model_len", "ctx_size": "max_model_len", "n_threads": "num_threads", "threads": "num_threads"},
        **{"parallel": "max_num_seqs", "batch_size": "max_num_batched_tokens"},
    ),
    Foreign("llama.cpp", "n_gpu_layers", "option", "device", (), _WHOLE),
    Foreign("llama.cpp", "gpu_layers", "option", "device", (), _WHOLE),
    *_renamed("Ollama", "option", num_ctx="max_model_len"),
    *_renamed("LMDeploy", "option", session_len="max_model_len", tp="tensor_parallel_size"),
    *_renamed("LMDeploy", "option", cache_max_entry_count="gpu_memory_utilization"),
    *_renamed("TGI", "option", model_id="model", num_shard="tensor_parallel_size", quantize="quantization"),
    *_renamed("TGI", "option", cuda_memory_fraction="gpu_memory_utilization"),
    *_renamed("TGI", "option", max_concurrent_requests="max_num_queued_reqs"),
    *_renamed("TGI", "option", max_batch_prefill_tokens="max_num_batched_tokens"),
)

# Flags of other servers. In `accepted`, True is the flag alone.
_SERVER = (
    *_renamed("vLLM", "server", uvicorn_log_level="log_level", disable_fastapi_docs="disable_openapi"),
    *_renamed("TGI", "server", hostname="host", max_client_batch_size="max_prompts"),
    *_renamed("llama.cpp", "server", alias="served_model_name", chat_template_file="chat_template"),
    *_renamed("llama.cpp", "server", ssl_key_file="ssl_keyfile", ssl_cert_file="ssl_certfile"),
    *_renamed("LMDeploy", "server", model_name="served_model_name"),
    *_kept("vLLM", "server", _ONE_DEVICE, all2all_backend=(), data_parallel_backend=(), enable_eplb=(), master_addr=()),
    *_kept("vLLM", "server", _ONE_DEVICE, master_port=(), nnodes=(1,), node_rank=(0,)),
    *_kept("vLLM", "server", "one process serves", api_server_count=(1,)),
    *_kept("vLLM", "server", "leave it out", disable_frontend_multiprocessing=(True,), disable_log_requests=(True,)),
    *_kept("vLLM", "server", "leave it out", disable_uvicorn_access_log=(True,), enable_auto_tool_choice=(True,)),
    *_kept("vLLM", "server", "leave it out", enable_prompt_tokens_details=(True,), enable_request_id_headers=(True,)),
    *_kept("vLLM", "server", "reasoning_parser chooses the format", enable_reasoning=(True,)),
    *_kept("vLLM", "server", _LLGUIDANCE, guided_decoding_backend=("auto", "guidance")),
    *_kept("vLLM", "server", "kv_events keeps them", kv_events_config=()),
    *_kept("vLLM", "server", "logprobs are those of the raw logits", logprobs_mode=("raw_logprobs",)),
    *_kept("vLLM", "server", _NO_LORA, lora_modules=()),
    *_kept("vLLM", "server", "no text of requests is logged", max_log_len=()),
    *_kept("vLLM", "server", "put a proxy in front", middleware=()),
    *_kept("vLLM", "server", "trace writes a file for Perfetto", otlp_traces_endpoint=()),
    *_kept("vLLM", "server", "use itl_target_ms and max_num_batched_tokens", performance_mode=("balanced",)),
    *_kept("vLLM", "server", "a request to /v1/embeddings says how", pooler_config=()),
    *_kept("vLLM", "server", "answers have the role assistant", response_role=("assistant",)),
    *_kept("vLLM", "server", "ssl_ca_certs asks clients for certificates", ssl_cert_reqs=(0,)),
    *_kept("vLLM", "server", "no code is loaded", tool_parser_plugin=()),
    *_kept("vLLM", "server", "nothing is called over the network", tool_server=()),
    *_kept("vLLM", "server", "enable_log_requests logs requests", uvicorn_access_log=()),
    *_kept("SGLang", "server", "leave it out", enable_metrics=(True,), skip_server_warmup=(True,)),
    *_kept("SGLang", "server", _LLGUIDANCE, grammar_backend=("llguidance",)),
    *_kept("SGLang", "server", _NO_SPECULATION, speculative_algorithm=(), speculative_draft_model_path=()),
    *_kept("SGLang", "server", _NO_SPECULATION, speculative_eagle_topk=(), speculative_num_draft_tokens=()),
    *_kept("SGLang", "server", _NO_SPECULATION, speculative_num_steps=()),
    *_kept("llama.cpp", "server", "leave it out", cont_batching=(True,)),
    *_kept("llama.cpp", "server", _ONE_ATTENTION, flash_attn=(True, "auto", "on")),
)

_SAMPLING = (
    *_renamed("transformers", "sampling", max_new_tokens="max_tokens", min_new_tokens="min_tokens"),
    *_renamed("transformers", "sampling", num_beams="beam_width"),
    *_renamed("llama.cpp", "sampling", temp="temperature", n_predict="max_tokens", predict="max_tokens"),
    *_renamed("llama.cpp", "sampling", repeat_penalty="repetition_penalty"),
    *_renamed("Ollama", "sampling", num_predict="max_tokens"),
    *_renamed("TensorRT-LLM", "sampling", stop_words="stop", random_seed="seed"),
    *_renamed("SGLang", "sampling", sampling_seed="seed"),
    Foreign("transformers", "do_sample", "sampling", "temperature", (True,), "use temperature (0 is greedy)"),
    Foreign(
        *("vLLM", "best_of", "sampling", "beam_width", (1,)),
        advice="use n and rank them by cumulative_logprob, or search with beams",
    ),
    Foreign("vLLM", "use_beam_search", "sampling", "beam_width", (False,), "use beam_width"),
    Foreign("TensorRT-LLM", "beam_width_array", "sampling", "beam_width", (), "use beam_width"),
    Foreign("TensorRT-LLM", "end_id", "sampling", "stop_token_ids", (), "use stop_token_ids"),
    Foreign("TensorRT-LLM", "pad_id", "sampling", "", (), "batches are not padded"),
    Foreign("TensorRT-LLM", "return_log_probs", "sampling", "logprobs", (), "use logprobs"),
    Foreign(
        "SGLang", "no_stop_trim", "sampling", "include_stop_str_in_output", (False,), "use include_stop_str_in_output"
    ),
    Foreign("SGLang", "stop_regex", "sampling", "stop", (), "use stop"),
    Foreign(
        "SGLang", "stream_interval", "sampling", "output_kind", (1,), "use output_kind, or stream_interval of a request"
    ),
    *_kept("vLLM", "sampling", _NO_EXTENSIONS, extra_args=({},)),
    Foreign(
        *("vLLM", "logits_processors", "sampling", "logit_bias", ([],)),
        advice="use logit_bias, allowed_token_ids or bad_words",
    ),
    Foreign("vLLM", "logprob_token_ids", "sampling", "logprobs", (), "use logprobs"),
    Foreign(
        *("vLLM", "repetition_detection", "sampling", "repetition_penalty", ()),
        advice="use repetition_penalty and frequency_penalty",
    ),
    Foreign("vLLM", "thinking_token_budget", "sampling", "max_tokens", (), "use max_tokens"),
    Foreign("vLLM", "truncate_prompt_tokens", "sampling", "", (), "shorten prompt_token_ids"),
    *_kept("vLLM", "sampling", _STRUCTURED, guided_decoding=()),
    *_kept(
        "SGLang", "sampling", 'use structured_outputs={"json": ...}, or response_format of a request', json_schema=()
    ),
    *_kept("SGLang", "sampling", 'use structured_outputs={"regex": ...}', regex=()),
    *_kept("SGLang", "sampling", _STRUCTURED, structural_tag=()),
    *_kept("SGLang", "sampling", 'use structured_outputs={"grammar": ...}', ebnf=()),
    *_kept("llama.cpp", "sampling", 'use structured_outputs={"grammar": ...}', grammar=()),
    # Samplers at the values that turn them off.
    *_kept("transformers", "sampling", "use top_p or min_p", typical_p=(1,)),
    *_kept("llama.cpp", "sampling", "use top_p or min_p", tfs_z=(1,), top_a=(0,)),
    *_kept("llama.cpp", "sampling", "use temperature", xtc_probability=(0,), dynatemp_range=(0,)),
    *_kept("llama.cpp", "sampling", "use repetition_penalty", dry_multiplier=(0,)),
    *_kept("llama.cpp", "sampling", "use temperature and top_p", mirostat=(0,), mirostat_mode=(0,)),
    *_kept("transformers", "sampling", "use top_k", min_tokens_to_keep=(1,)),
)

_BODY = (
    *_kept("OpenAI", "body", "nothing is stored", store=(False,)),
    *_kept("OpenAI", "body", "every request is treated alike; use priority", service_tier=("auto", "default")),
    *_kept("vLLM", "body", "each engine keeps its own KV cache", kv_transfer_params=()),
    *_kept("vLLM", "body", _NO_EXTENSIONS, vllm_xargs=({},)),
    *_kept("vLLM", "body", "prompts are text", mm_processor_kwargs=({},)),
    *_kept("vLLM", "body", "use structured_outputs, or response_format", guided_json=()),
    *_kept("vLLM", "body", _STRUCTURED, guided_regex=(), guided_choice=(), guided_grammar=()),
    *_kept("vLLM", "body", _STRUCTURED, guided_whitespace_pattern=()),
    *_kept("vLLM", "body", _LLGUIDANCE, guided_decoding_backend=("auto", "guidance")),
)

_COMMANDS = (
    *_kept("llama.cpp", "command", "nothing is needed: text is plain", color=()),
    *_kept("llama.cpp", "command", "use warpjet chat", interactive=(), conversation=()),
    *_kept("llama.cpp", "command", "nothing is needed: the model's chat template is always used", jinja=()),
    *_kept("Ollama", "command", "use hf download", pull=()),
)

FOREIGN = tuple(_rows())


def rows(*where: Where) -> dict[str, Foreign]:
    """Rows by name."""
    return {row.name: row for row in FOREIGN if row.where in where}


def check_sampling(name: str, value: object) -> bool:
    """False for a name that the table does not have as one of sampling. Raises NotImplementedError unless the value
    changes nothing."""
    row = rows("sampling").get(name)
    if row is not None and not row.takes(value):
        raise NotImplementedError(row.refusal(name))
    return row is not None
