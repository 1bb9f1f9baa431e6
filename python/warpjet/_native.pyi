# Made by `python -m nanobind.stubgen -m warpjet._native`; the errors, __fields__, __hash__ and __version__ by hand.
"""The native half of warpjet: configs, the engine and its errors."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from warpjet.structured import StructuredOutputsParams

__version__: str

class EngineError(RuntimeError):
    """The engine failed, is closed, or met a bug in warpjet."""

class DeviceError(EngineError):
    """The device that was asked for cannot be used here, or failed."""

class QueueFullError(RuntimeError):
    """A queue limit is reached; try again when requests have finished."""

class ModelFormatError(ValueError):
    """A file of a checkpoint or an engine is malformed."""

class Field(NamedTuple):
    """A field of a config: its range in words (takes), as JSON Schema (shape), and the texts that it takes, if few."""

    name: str
    type: str
    default: object
    doc: str
    unit: str
    takes: str
    choices: tuple[str, ...]
    shape: dict[str, Any]

class SamplingParams:
    """
    How one request is sampled. Raises ValueError or TypeError naming the field.
    """

    def __init__(
        self,
        *,
        n: int = 1,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None,
        ignore_eos: bool | None = False,
        max_tokens: int | None = 16,
        min_tokens: int = 0,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        detokenize: bool | None = True,
        skip_special_tokens: bool | None = True,
        spaces_between_special_tokens: bool | None = True,
        include_stop_str_in_output: bool | None = False,
        output_kind: str = "cumulative",
        logit_bias: Mapping[int, float] | None = None,
        allowed_token_ids: Sequence[int] | None = None,
        bad_words: str | Sequence[str] | None = None,
        bad_words_token_ids: Sequence[Sequence[int]] | None = None,
        structured_outputs: StructuredOutputsParams | Mapping[str, object] | str | None = None,
        skip_reading_prefix_cache: bool | None = False,
        beam_width: int = 1,
        length_penalty: float = 1.0,
    ) -> None: ...
    def __repr__(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def replace(self, **changes: object) -> SamplingParams:
        """A copy with these fields changed."""

    def __replace__(self, **changes: object) -> SamplingParams: ...
    def __copy__(self) -> SamplingParams: ...
    def __deepcopy__(self, memo: object) -> SamplingParams: ...
    def to_dict(self) -> dict[str, object]:
        """Every field, as plain Python values."""

    @staticmethod
    def from_dict(values: dict[str, object]) -> SamplingParams:
        """The inverse of to_dict(); missing fields keep their defaults."""

    def __getstate__(self) -> dict[str, object]: ...
    def __setstate__(self, state: dict[str, object], /) -> None: ...
    @property
    def n(self) -> int:
        """completions per prompt (from 1 to 128)"""

    @n.setter
    def n(self, value: int, /) -> None: ...
    @property
    def presence_penalty(self) -> float:
        """subtracted once from each token already generated (from -2 to 2)"""

    @presence_penalty.setter
    def presence_penalty(self, value: float, /) -> None: ...
    @property
    def frequency_penalty(self) -> float:
        """subtracted per occurrence in the generated text (from -2 to 2)"""

    @frequency_penalty.setter
    def frequency_penalty(self, value: float, /) -> None: ...
    @property
    def repetition_penalty(self) -> float:
        """
        divides positive and multiplies negative logits of tokens in prompt or output; 1 is off (above 0)
        """

    @repetition_penalty.setter
    def repetition_penalty(self, value: float, /) -> None: ...
    @property
    def temperature(self) -> float:
        """divides the logits; 0 is greedy (at least 0)"""

    @temperature.setter
    def temperature(self, value: float, /) -> None: ...
    @property
    def top_p(self) -> float:
        """
        keep the smallest set of most likely tokens with this mass (above 0 and at most 1)
        """

    @top_p.setter
    def top_p(self, value: float, /) -> None: ...
    @property
    def top_k(self) -> int:
        """keep the k most likely tokens; 0 and -1 are off (at least -1)"""

    @top_k.setter
    def top_k(self, value: int, /) -> None: ...
    @property
    def min_p(self) -> float:
        """
        drop tokens less likely than this times the most likely one (from 0 to 1)
        """

    @min_p.setter
    def min_p(self, value: float, /) -> None: ...
    @property
    def seed(self) -> int | None:
        """64-bit seed; None draws one"""

    @seed.setter
    def seed(self, value: int | None, /) -> None: ...
    @property
    def stop(self) -> tuple[str, ...]:
        """strings that end the text (at most 16, each from 1 to 1024 bytes)"""

    @stop.setter
    def stop(self, value: str | Sequence[str] | None, /) -> None: ...
    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """token ids that end the text (at most 256)"""

    @stop_token_ids.setter
    def stop_token_ids(self, value: Sequence[int] | None, /) -> None: ...
    @property
    def ignore_eos(self) -> bool:
        """go on after the model's end-of-sequence token"""

    @ignore_eos.setter
    def ignore_eos(self, value: bool | None, /) -> None: ...
    @property
    def max_tokens(self) -> int | None:
        """
        most tokens to generate; None is up to the context length, 0 only with prompt_logprobs (at least 0)
        """

    @max_tokens.setter
    def max_tokens(self, value: int | None, /) -> None: ...
    @property
    def min_tokens(self) -> int:
        """no end-of-sequence or stop token before this many tokens (at least 0)"""

    @min_tokens.setter
    def min_tokens(self, value: int, /) -> None: ...
    @property
    def logprobs(self) -> int | None:
        """
        log-probabilities of this many most likely tokens per position; -1 is all (at least -1)
        """

    @logprobs.setter
    def logprobs(self, value: int | None, /) -> None: ...
    @property
    def prompt_logprobs(self) -> int | None:
        """the same for the prompt's tokens (at least -1)"""

    @prompt_logprobs.setter
    def prompt_logprobs(self, value: int | None, /) -> None: ...
    @property
    def detokenize(self) -> bool:
        """produce text; False returns token ids alone"""

    @detokenize.setter
    def detokenize(self, value: bool | None, /) -> None: ...
    @property
    def skip_special_tokens(self) -> bool:
        """leave special tokens out of the text"""

    @skip_special_tokens.setter
    def skip_special_tokens(self, value: bool | None, /) -> None: ...
    @property
    def spaces_between_special_tokens(self) -> bool:
        """put spaces between special tokens; cannot be turned off"""

    @spaces_between_special_tokens.setter
    def spaces_between_special_tokens(self, value: bool | None, /) -> None: ...
    @property
    def include_stop_str_in_output(self) -> bool:
        """keep the stop string or token in the text"""

    @include_stop_str_in_output.setter
    def include_stop_str_in_output(self, value: bool | None, /) -> None: ...
    @property
    def output_kind(self) -> str:
        """what a stream yields"""

    @output_kind.setter
    def output_kind(self, value: str, /) -> None: ...
    @property
    def logit_bias(self) -> Mapping[int, float]:
        """
        token id -> value added to its logit (at most 4096, each from -100 to 100)
        """

    @logit_bias.setter
    def logit_bias(self, value: Mapping[int, float] | None, /) -> None: ...
    @property
    def allowed_token_ids(self) -> tuple[int, ...] | None:
        """only these tokens can be drawn (at most 262144)"""

    @allowed_token_ids.setter
    def allowed_token_ids(self, value: Sequence[int] | None, /) -> None: ...
    @property
    def bad_words(self) -> tuple[str, ...]:
        """
        strings that must not be generated (at most 128, each from 1 to 1024 bytes)
        """

    @bad_words.setter
    def bad_words(self, value: str | Sequence[str] | None, /) -> None: ...
    @property
    def bad_words_token_ids(self) -> tuple[tuple[int, ...], ...]:
        """
        token sequences that must not be generated, of 4096 tokens in all (at most 1024)
        """

    @bad_words_token_ids.setter
    def bad_words_token_ids(self, value: Sequence[Sequence[int]] | None, /) -> None: ...
    @property
    def structured_outputs(self) -> StructuredOutputsParams | None:
        """
        what the text must be: {"json": SCHEMA}, {"regex": TEXT}, {"choice": [TEXT, ...]}, {"grammar": TEXT}
        """
    @structured_outputs.setter
    def structured_outputs(self, value: StructuredOutputsParams | Mapping[str, object] | str | None, /) -> None: ...
    @property
    def skip_reading_prefix_cache(self) -> bool:
        """compute the whole prompt anew"""

    @skip_reading_prefix_cache.setter
    def skip_reading_prefix_cache(self, value: bool | None, /) -> None: ...
    @property
    def beam_width(self) -> int:
        """
        above 1: beam search, which returns this many completions, the best first (from 1 to 16)
        """

    @beam_width.setter
    def beam_width(self, value: int, /) -> None: ...
    @property
    def length_penalty(self) -> float:
        """
        of beams: ranked by log-probability / length ** length_penalty, length in output tokens (from -100 to 100)
        """

    @length_penalty.setter
    def length_penalty(self, value: float, /) -> None: ...

    __fields__: ClassVar[tuple[Field, ...]]

class PoolingParams:
    """How a prompt becomes an embedding. Raises ValueError or TypeError naming the field."""

    def __init__(
        self,
        *,
        pooling: str = "last",
        normalize: bool | None = True,
        dimensions: int | None = None,
    ) -> None: ...
    def __repr__(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def replace(self, **changes: object) -> PoolingParams:
        """A copy with these fields changed."""

    def __replace__(self, **changes: object) -> PoolingParams: ...
    def __copy__(self) -> PoolingParams: ...
    def __deepcopy__(self, memo: object) -> PoolingParams: ...
    def to_dict(self) -> dict[str, object]:
        """Every field, as plain Python values."""

    @staticmethod
    def from_dict(values: dict[str, object]) -> PoolingParams:
        """The inverse of to_dict(); missing fields keep their defaults."""

    def __getstate__(self) -> dict[str, object]: ...
    def __setstate__(self, state: dict[str, object], /) -> None: ...
    @property
    def pooling(self) -> str:
        """last: the last token's hidden state; mean: of all tokens'"""

    @pooling.setter
    def pooling(self, value: str, /) -> None: ...
    @property
    def normalize(self) -> bool:
        """scale the embedding to a length of one"""

    @normalize.setter
    def normalize(self, value: bool | None, /) -> None: ...
    @property
    def dimensions(self) -> int | None:
        """
        keep only the first ones, before it is normalized; for models that were trained for it (at least 1)
        """

    @dimensions.setter
    def dimensions(self, value: int | None, /) -> None: ...

    __fields__: ClassVar[tuple[Field, ...]]

class EngineConfig:
    """How an engine runs. 0 means chosen from the model and the machine."""

    def __init__(
        self,
        *,
        device: str = "auto",
        dtype: str = "auto",
        load_format: str = "auto",
        hf_overrides: str = "",
        max_model_len: int = 0,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 2048,
        block_size: int = 32,
        gpu_memory_utilization: float = 0.92,
        kv_cache_memory_bytes: int = 0,
        num_gpu_blocks_override: int = 0,
        enforce_eager: bool | None = False,
        enable_prefix_caching: bool | None = True,
        enable_chunked_prefill: bool | None = True,
        max_num_queued_reqs: int = 16384,
        max_num_queued_tokens: int = 67108864,
        max_logprobs: int = 20,
        scheduling_policy: str = "fcfs",
        max_steps_in_flight: int = 2,
        admission_quantile: float = 0.9,
        preemption_mode: str = "auto",
        kv_offloading_size: float = 0.0,
        itl_target_ms: float = 0.0,
        max_num_queued_reqs_per_tenant: int = 0,
        max_unread_tokens: int = 65536,
        kv_events: int = 0,
        guide_timeout: float = 10.0,
        watchdog_timeout: float = 300.0,
        trace: str = "",
        seed: int = 0,
        num_threads: int = 0,
    ) -> None: ...
    def __repr__(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def replace(self, **changes: object) -> EngineConfig:
        """A copy with these fields changed."""

    def __replace__(self, **changes: object) -> EngineConfig: ...
    def __copy__(self) -> EngineConfig: ...
    def __deepcopy__(self, memo: object) -> EngineConfig: ...
    def to_dict(self) -> dict[str, object]:
        """Every field, as plain Python values."""

    @staticmethod
    def from_dict(values: dict[str, object]) -> EngineConfig:
        """The inverse of to_dict(); missing fields keep their defaults."""

    def __getstate__(self) -> dict[str, object]: ...
    def __setstate__(self, state: dict[str, object], /) -> None: ...
    @property
    def device(self) -> str:
        """
        where to run: auto is the first GPU if there is one; null reads no weights, computes nothing and makes
        tokens up, to measure everything else
        """

    @device.setter
    def device(self, value: str, /) -> None: ...
    @property
    def dtype(self) -> str:
        """
        compute type; auto is the checkpoint's; bf16, fp16 and fp32 are names of them too
        """

    @dtype.setter
    def dtype(self, value: str, /) -> None: ...
    @property
    def load_format(self) -> str:
        """
        the model's files, or dummy: random weights, for which config.json is enough
        """

    @load_format.setter
    def load_format(self, value: str, /) -> None: ...
    @property
    def hf_overrides(self) -> str:
        """
        keys of config.json as they should be, a JSON object; null drops a key that the checkpoint has
        """

    @hf_overrides.setter
    def hf_overrides(self, value: str, /) -> None: ...
    @property
    def max_model_len(self) -> int:
        """
        longest prompt plus output; 0 is the model's own limit (at least 0 tokens)
        """

    @max_model_len.setter
    def max_model_len(self, value: int, /) -> None: ...
    @property
    def max_num_seqs(self) -> int:
        """most sequences in one step (from 1 to 65536)"""

    @max_num_seqs.setter
    def max_num_seqs(self, value: int, /) -> None: ...
    @property
    def max_num_batched_tokens(self) -> int:
        """most tokens in one step (from 1 to 1048576)"""

    @max_num_batched_tokens.setter
    def max_num_batched_tokens(self, value: int, /) -> None: ...
    @property
    def block_size(self) -> int:
        """length of a KV block (16, 32 or 64 tokens)"""

    @block_size.setter
    def block_size(self, value: int, /) -> None: ...
    @property
    def gpu_memory_utilization(self) -> float:
        """
        share of a GPU's memory that weights, activations and KV cache may take together (above 0 and at most 1)
        """

    @gpu_memory_utilization.setter
    def gpu_memory_utilization(self, value: float, /) -> None: ...
    @property
    def kv_cache_memory_bytes(self) -> int:
        """memory for the KV cache; 0 is chosen (at least 0 bytes)"""

    @kv_cache_memory_bytes.setter
    def kv_cache_memory_bytes(self, value: int, /) -> None: ...
    @property
    def num_gpu_blocks_override(self) -> int:
        """KV blocks, instead of a size in bytes (at least 0)"""

    @num_gpu_blocks_override.setter
    def num_gpu_blocks_override(self, value: int, /) -> None: ...
    @property
    def enforce_eager(self) -> bool:
        """start every kernel by itself instead of replaying CUDA graphs"""

    @enforce_eager.setter
    def enforce_eager(self, value: bool | None, /) -> None: ...
    @property
    def enable_prefix_caching(self) -> bool:
        """reuse the KV blocks of equal prefixes"""

    @enable_prefix_caching.setter
    def enable_prefix_caching(self, value: bool | None, /) -> None: ...
    @property
    def enable_chunked_prefill(self) -> bool:
        """let a long prompt span several steps"""

    @enable_chunked_prefill.setter
    def enable_chunked_prefill(self, value: bool | None, /) -> None: ...
    @property
    def max_num_queued_reqs(self) -> int:
        """requests accepted and not yet finished, at most (at least 1)"""

    @max_num_queued_reqs.setter
    def max_num_queued_reqs(self, value: int, /) -> None: ...
    @property
    def max_num_queued_tokens(self) -> int:
        """prompt tokens of those requests, at most (at least 1)"""

    @max_num_queued_tokens.setter
    def max_num_queued_tokens(self, value: int, /) -> None: ...
    @property
    def max_logprobs(self) -> int:
        """
        highest logprobs a request may ask for; -1 is the vocabulary (at least -1)
        """

    @max_logprobs.setter
    def max_logprobs(self, value: int, /) -> None: ...
    @property
    def scheduling_policy(self) -> str:
        """
        order of requests: by arrival; by priority, lower first; or fair (tenants share, priorities age)
        """

    @scheduling_policy.setter
    def scheduling_policy(self, value: str, /) -> None: ...
    @property
    def max_steps_in_flight(self) -> int:
        """
        steps planned ahead of their results; 1 is one after another (from 1 to 3)
        """

    @max_steps_in_flight.setter
    def max_steps_in_flight(self, value: int, /) -> None: ...
    @property
    def admission_quantile(self) -> float:
        """
        outputs are expected to be as long as this share of past ones; 1 never preempts, 0 admits what fits
        now (from 0 to 1)
        """

    @admission_quantile.setter
    def admission_quantile(self, value: float, /) -> None: ...
    @property
    def preemption_mode(self) -> str:
        """
        what becomes of a preempted sequence's KV: swap (to host memory), recompute, or auto (swap if it can)
        """

    @preemption_mode.setter
    def preemption_mode(self, value: str, /) -> None: ...
    @property
    def kv_offloading_size(self) -> float:
        """host memory for KV blocks; 0 is off (from 0 to 1048576 GiB)"""

    @kv_offloading_size.setter
    def kv_offloading_size(self, value: float, /) -> None: ...
    @property
    def itl_target_ms(self) -> float:
        """
        prompts get only as many tokens as keep steps this short; 0 is off (from 0 to 1000000 ms)
        """

    @itl_target_ms.setter
    def itl_target_ms(self, value: float, /) -> None: ...
    @property
    def max_num_queued_reqs_per_tenant(self) -> int:
        """
        requests of one tenant accepted and not yet finished, at most; 0 is no limit of its own (at least 0)
        """

    @max_num_queued_reqs_per_tenant.setter
    def max_num_queued_reqs_per_tenant(self, value: int, /) -> None: ...
    @property
    def max_unread_tokens(self) -> int:
        """a request with this many unread tokens pauses (at least 1)"""

    @max_unread_tokens.setter
    def max_unread_tokens(self, value: int, /) -> None: ...
    @property
    def kv_events(self) -> int:
        """
        changes of the prefix cache to keep for kv_events(); 0 keeps none (from 0 to 16777216)
        """

    @kv_events.setter
    def kv_events(self, value: int, /) -> None: ...
    @property
    def guide_timeout(self) -> float:
        """
        time after which a guided sample without an answer ends (above 0 and at most 1000000 seconds)
        """
    @guide_timeout.setter
    def guide_timeout(self, value: float, /) -> None: ...
    @property
    def watchdog_timeout(self) -> float:
        """time without progress after which the engine fails (above 0 seconds)"""

    @watchdog_timeout.setter
    def watchdog_timeout(self, value: float, /) -> None: ...
    @property
    def trace(self) -> str:
        """
        file for a trace of steps and requests, written at the end; opens in Perfetto
        """

    @trace.setter
    def trace(self, value: str, /) -> None: ...
    @property
    def seed(self) -> int:
        """seeds the draws of requests that bring no seed"""

    @seed.setter
    def seed(self, value: int, /) -> None: ...
    @property
    def num_threads(self) -> int:
        """CPU threads; 0 is one per core (from 0 to 1024)"""

    @num_threads.setter
    def num_threads(self, value: int, /) -> None: ...

    __fields__: ClassVar[tuple[Field, ...]]

class BuildConfig:
    """How a checkpoint is compiled into an engine directory."""

    def __init__(
        self,
        *,
        device: str = "auto",
        scheme: str = "auto",
        kv_cache_dtype: str = "auto",
        hf_overrides: str = "",
        overwrite: bool | None = False,
    ) -> None: ...
    def __repr__(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def replace(self, **changes: object) -> BuildConfig:
        """A copy with these fields changed."""

    def __replace__(self, **changes: object) -> BuildConfig: ...
    def __copy__(self) -> BuildConfig: ...
    def __deepcopy__(self, memo: object) -> BuildConfig: ...
    def to_dict(self) -> dict[str, object]:
        """Every field, as plain Python values."""

    @staticmethod
    def from_dict(values: dict[str, object]) -> BuildConfig:
        """The inverse of to_dict(); missing fields keep their defaults."""

    def __getstate__(self) -> dict[str, object]: ...
    def __setstate__(self, state: dict[str, object], /) -> None: ...
    @property
    def device(self) -> str:
        """what the engine will run on, from this machine"""

    @device.setter
    def device(self, value: str, /) -> None: ...
    @property
    def scheme(self) -> str:
        """precision of the weights; auto is the checkpoint's"""

    @scheme.setter
    def scheme(self, value: str, /) -> None: ...
    @property
    def kv_cache_dtype(self) -> str:
        """precision of the KV cache; auto is that of the weights"""

    @kv_cache_dtype.setter
    def kv_cache_dtype(self, value: str, /) -> None: ...
    @property
    def hf_overrides(self) -> str:
        """
        keys of config.json as they should be, a JSON object; null drops a key that the checkpoint has
        """

    @hf_overrides.setter
    def hf_overrides(self, value: str, /) -> None: ...
    @property
    def overwrite(self) -> bool:
        """replace an engine directory that is already there"""

    @overwrite.setter
    def overwrite(self, value: bool | None, /) -> None: ...

    __fields__: ClassVar[tuple[Field, ...]]

class SimConfig:
    """A simulation of arrivals, a router and many engines."""

    def __init__(
        self,
        *,
        trace: str = "azure-conv-23",
        rate: float = 0.0,
        duration_s: float = 0.0,
        max_tokens: int = 2048,
        tenants: int = 1,
        replicas: int = 1,
        max_replicas: int = 1024,
        router: str = "round_robin",
        router_epoch_ms: float = 100.0,
        ttft_ms: float = 1000.0,
        itl_ms: float = 50.0,
        goodput_target: float = 0.99,
        gpu: str = "H100",
        gpus_per_replica: int = 1,
        params_b: float = 8.03,
        weight_bytes_per_param: float = 2.0,
        kv_bytes_per_token: float = 131072.0,
        queries_per_kv: float = 4.0,
        kv_cache_gib: float = 0.0,
        kv_offloading_size: float = 0.0,
        compute_efficiency: float = 0.7,
        bandwidth_efficiency: float = 0.85,
        step_overhead_us: float = 500.0,
        step_host_us: float = 20.0,
        host_gb_per_s: float = 50.0,
        cost_model: str = "",
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 2048,
        block_size: int = 32,
        enable_prefix_caching: bool | None = True,
        enable_chunked_prefill: bool | None = True,
        max_num_queued_reqs: int = 16384,
        scheduling_policy: str = "fcfs",
        max_steps_in_flight: int = 2,
        admission_quantile: float = 0.9,
        preemption_mode: str = "auto",
        itl_target_ms: float = 0.0,
        seed: int = 0,
        threads: int = 0,
    ) -> None: ...
    def __repr__(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def replace(self, **changes: object) -> SimConfig:
        """A copy with these fields changed."""

    def __replace__(self, **changes: object) -> SimConfig: ...
    def __copy__(self) -> SimConfig: ...
    def __deepcopy__(self, memo: object) -> SimConfig: ...
    def to_dict(self) -> dict[str, object]:
        """Every field, as plain Python values."""

    @staticmethod
    def from_dict(values: dict[str, object]) -> SimConfig:
        """The inverse of to_dict(); missing fields keep their defaults."""

    def __getstate__(self) -> dict[str, object]: ...
    def __setstate__(self, state: dict[str, object], /) -> None: ...
    @property
    def trace(self) -> str:
        """
        azure-conv-23, azure-code-23, arxiv-sum, burst, tool-agent, or a .jsonl file in Mooncake's format
        """

    @trace.setter
    def trace(self, value: str, /) -> None: ...
    @property
    def rate(self) -> float:
        """requests a second; 0 is the trace's own (from 0 to 1000000)"""

    @rate.setter
    def rate(self, value: float, /) -> None: ...
    @property
    def duration_s(self) -> float:
        """
        time in which requests arrive; 0 is 600, or all of a file; then what is there is finished (from 0 to
        10000000 seconds)
        """

    @duration_s.setter
    def duration_s(self, value: float, /) -> None: ...
    @property
    def max_tokens(self) -> int:
        """
        output tokens that a request asks for; it gets what the trace says. 0 asks for exactly that (from 0 to 16777216)
        """

    @max_tokens.setter
    def max_tokens(self, value: int, /) -> None: ...
    @property
    def tenants(self) -> int:
        """
        whose requests they are, by Zipf's law; a file says it itself (from 1 to 65535)
        """

    @tenants.setter
    def tenants(self, value: int, /) -> None: ...
    @property
    def replicas(self) -> int:
        """
        engines; 0 searches the smallest number that meets the target (from 0 to 65536)
        """

    @replicas.setter
    def replicas(self, value: int, /) -> None: ...
    @property
    def max_replicas(self) -> int:
        """where that search ends (from 1 to 65536)"""

    @max_replicas.setter
    def max_replicas(self, value: int, /) -> None: ...
    @property
    def router(self) -> str:
        """
        round_robin, least_loaded (unfinished requests) or prefix_affinity (where its prefix went last)
        """

    @router.setter
    def router(self, value: str, /) -> None: ...
    @property
    def router_epoch_ms(self) -> float:
        """how old the loads that a router sees may be (from 1 to 1000000 ms)"""

    @router_epoch_ms.setter
    def router_epoch_ms(self, value: float, /) -> None: ...
    @property
    def ttft_ms(self) -> float:
        """
        objective: a request's first token comes within this (above 0 and at most 1000000000 ms)
        """

    @ttft_ms.setter
    def ttft_ms(self, value: float, /) -> None: ...
    @property
    def itl_ms(self) -> float:
        """
        objective: and the others this far apart, in its mean (above 0 and at most 1000000000 ms)
        """

    @itl_ms.setter
    def itl_ms(self, value: float, /) -> None: ...
    @property
    def goodput_target(self) -> float:
        """objective: for this share of requests (above 0 and at most 1)"""

    @goodput_target.setter
    def goodput_target(self, value: float, /) -> None: ...
    @property
    def gpu(self) -> str:
        """whose memory and rates engines have; 4090 is RTX 4090"""

    @gpu.setter
    def gpu(self, value: str, /) -> None: ...
    @property
    def gpus_per_replica(self) -> int:
        """
        GPUs of an engine; they add up, so what communication costs goes into the efficiencies (from 1 to 1024)
        """

    @gpus_per_replica.setter
    def gpus_per_replica(self, value: int, /) -> None: ...
    @property
    def params_b(self) -> float:
        """the model's parameters, in billions (above 0 and at most 1000000)"""

    @params_b.setter
    def params_b(self, value: float, /) -> None: ...
    @property
    def weight_bytes_per_param(self) -> float:
        """2 for bf16, 1 for fp8, 0.5 for 4 bits (above 0 and at most 8 bytes)"""

    @weight_bytes_per_param.setter
    def weight_bytes_per_param(self, value: float, /) -> None: ...
    @property
    def kv_bytes_per_token(self) -> float:
        """warpjet info tells it (from 1 to 1000000000 bytes)"""

    @kv_bytes_per_token.setter
    def kv_bytes_per_token(self, value: float, /) -> None: ...
    @property
    def queries_per_kv(self) -> float:
        """query heads for each KV head (from 0 to 1024)"""

    @queries_per_kv.setter
    def queries_per_kv(self, value: float, /) -> None: ...
    @property
    def kv_cache_gib(self) -> float:
        """
        KV cache of an engine; 0 is what weights leave of 92 % of the memory (from 0 to 1048576 GiB)
        """

    @kv_cache_gib.setter
    def kv_cache_gib(self, value: float, /) -> None: ...
    @property
    def kv_offloading_size(self) -> float:
        """host memory for KV blocks; 0 is off (from 0 to 1048576 GiB)"""

    @kv_offloading_size.setter
    def kv_offloading_size(self, value: float, /) -> None: ...
    @property
    def compute_efficiency(self) -> float:
        """share of the GPU's bf16 rate that is reached (above 0 and at most 1)"""

    @compute_efficiency.setter
    def compute_efficiency(self, value: float, /) -> None: ...
    @property
    def bandwidth_efficiency(self) -> float:
        """
        share of the GPU's memory bandwidth that is reached (above 0 and at most 1)
        """

    @bandwidth_efficiency.setter
    def bandwidth_efficiency(self, value: float, /) -> None: ...
    @property
    def step_overhead_us(self) -> float:
        """time of a step beside all that (from 0 to 1000000000 us)"""

    @step_overhead_us.setter
    def step_overhead_us(self, value: float, /) -> None: ...
    @property
    def step_host_us(self) -> float:
        """
        host time from one step's results to the next step; hidden while another one runs (from 0 to 1000000000 us)
        """

    @step_host_us.setter
    def step_host_us(self, value: float, /) -> None: ...
    @property
    def host_gb_per_s(self) -> float:
        """
        between device and host, for KV blocks (above 0 and at most 1000000 GB/s)
        """

    @host_gb_per_s.setter
    def host_gb_per_s(self, value: float, /) -> None: ...
    @property
    def cost_model(self) -> str:
        """
        JSON file of measured steps to use instead: {"step_us": [[tokens, context, us], ...]}
        """

    @cost_model.setter
    def cost_model(self, value: str, /) -> None: ...
    @property
    def max_num_seqs(self) -> int:
        """most sequences in one step (from 1 to 65536)"""

    @max_num_seqs.setter
    def max_num_seqs(self, value: int, /) -> None: ...
    @property
    def max_num_batched_tokens(self) -> int:
        """most tokens in one step (from 1 to 1048576)"""

    @max_num_batched_tokens.setter
    def max_num_batched_tokens(self, value: int, /) -> None: ...
    @property
    def block_size(self) -> int:
        """length of a KV block (16, 32 or 64 tokens)"""

    @block_size.setter
    def block_size(self, value: int, /) -> None: ...
    @property
    def enable_prefix_caching(self) -> bool:
        """reuse the KV blocks of equal prefixes"""

    @enable_prefix_caching.setter
    def enable_prefix_caching(self, value: bool | None, /) -> None: ...
    @property
    def enable_chunked_prefill(self) -> bool:
        """let a long prompt span several steps"""

    @enable_chunked_prefill.setter
    def enable_chunked_prefill(self, value: bool | None, /) -> None: ...
    @property
    def max_num_queued_reqs(self) -> int:
        """
        requests that an engine has accepted and not finished, at most; more are refused (at least 1)
        """

    @max_num_queued_reqs.setter
    def max_num_queued_reqs(self, value: int, /) -> None: ...
    @property
    def scheduling_policy(self) -> str:
        """order of requests"""

    @scheduling_policy.setter
    def scheduling_policy(self, value: str, /) -> None: ...
    @property
    def max_steps_in_flight(self) -> int:
        """steps planned ahead of their results (from 1 to 3)"""

    @max_steps_in_flight.setter
    def max_steps_in_flight(self, value: int, /) -> None: ...
    @property
    def admission_quantile(self) -> float:
        """
        outputs are expected to be as long as this share of past ones (from 0 to 1)
        """

    @admission_quantile.setter
    def admission_quantile(self, value: float, /) -> None: ...
    @property
    def preemption_mode(self) -> str:
        """what becomes of a preempted sequence's KV"""

    @preemption_mode.setter
    def preemption_mode(self, value: str, /) -> None: ...
    @property
    def itl_target_ms(self) -> float:
        """
        prompts get only as many tokens as keep steps this short; 0 is off (from 0 to 1000000 ms)
        """

    @itl_target_ms.setter
    def itl_target_ms(self, value: float, /) -> None: ...
    @property
    def seed(self) -> int:
        """of the arrivals"""

    @seed.setter
    def seed(self, value: int, /) -> None: ...
    @property
    def threads(self) -> int:
        """
        threads to simulate with; 0 is one per core. Results do not depend on it (from 0 to 1024)
        """

    @threads.setter
    def threads(self, value: int, /) -> None: ...

    __fields__: ClassVar[tuple[Field, ...]]

class Output:
    """What happened to one sample of one request since its last output."""

    @property
    def id(self) -> int: ...
    @property
    def sample(self) -> int: ...
    @property
    def sequence(self) -> int:
        """0, 1, 2, ... per (id, sample), without a gap"""

    @property
    def tokens(self) -> list[int]:
        """new token ids; a stop token is included"""

    @property
    def logprobs(self) -> list[list[tuple[int, float, int]]]:
        """
        for each token: itself, then the most likely, as (token, logprob, rank)
        """

    @property
    def prompt_logprobs(self) -> list[list[tuple[int, float, int]]]: ...
    @property
    def finish(self) -> str | None:
        """stop, length, abort or error; None while it runs"""

    @property
    def stop_token(self) -> int | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def retriable(self) -> bool:
        """the same request may succeed elsewhere"""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def queue_ms(self) -> float: ...
    @property
    def ttft_ms(self) -> float: ...
    @property
    def cumulative_logprob(self) -> float:
        """of a beam"""

    @property
    def embedding(self) -> list[float]:
        """in the final output of a request with pooling"""

    @property
    def times(self) -> dict[str, float]:
        """in the final output: where its time went, in milliseconds"""

class ModelInfo:
    """What a caller needs to know of the model it opened."""

    @property
    def architecture(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int:
        """of an embedding"""

    @property
    def parameters(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
    @property
    def eos_token_ids(self) -> list[int]: ...
    @property
    def bos_token_id(self) -> int:
        """-1 when the model has none"""

    @property
    def generates(self) -> bool:
        """False when it has no output head, and embeds only"""

class OutputQueue:
    """Where outputs arrive; any number of requests may share one."""

    def __init__(self) -> None: ...
    def poll(self, timeout: float = 0.0) -> list[Output]:
        """
        Waits up to this many seconds until there is something; returns everything there is.
        """

    def wait_fd(self) -> int:
        """A file descriptor that is readable while outputs wait."""

class Engine:
    """
    An opened model that takes requests. Methods may be called from any thread.
    """

    @staticmethod
    def open(model: str | os.PathLike[str], config: EngineConfig) -> Engine:
        """Opens a checkpoint or an engine directory."""

    def submit(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        queue: OutputQueue,
        *,
        priority: int = 0,
        cache_salt: str = "",
        timeout: float | None = None,
        tenant: str = "",
        cache_priority: int = 3,
        pooling: PoolingParams | None = None,
        mask: bytes | bytearray | memoryview | None = None,
        guide_queue: OutputQueue | None = None,
    ) -> int:
        """
        Either raises and has no effect, or returns an id that gets one final output for each sample. With pooling that
        is an embedding of the prompt; the sampling must be the default then. mask and guide_queue: the request is
        guided, see guide().
        """

    def guide(self, answers: Iterable[tuple[int, int, int, bytes | bytearray | memoryview | str | None]]) -> None:
        """
        What may follow in guided samples, as (id, sample, position, answer): after `position` tokens of the sample,
        as its guide queue has given them, the next one must be one that the mask allows (32-bit words, bit set =
        allowed); or the text is complete (None); or it fails with an error. An answer to another position than the
        sample's has no effect.
        """

    def cancel(self, id: int, sample: int | None = None) -> None:
        """
        Ends the request's live samples, or one of them; an unknown or finished id is no error.
        """

    def reset_prefix_cache(self) -> None:
        """Drops every cached prefix block that no live sequence holds."""

    def pause(self, id: int) -> None:
        """Takes a request off the device until resume(). Idempotent."""

    def resume(self, id: int) -> None: ...
    def kv_events(self, number: int = 0) -> list[dict[str, int | str]]:
        """
        Changes of the prefix cache from this number on, as far as EngineConfig.kv_events of them are kept.
        """

    def snapshot(self, since_step: int = 0) -> dict[str, Any]:
        """
        What it is doing now, and what of the last steps is newer than since_step; those are recorded from one call
        until 2 s after the latest. Keys: step, now_us, block_size, kv_blocks, max_model_len, max_num_seqs; pool: a
        byte for each block, 0 free, 255 cached and held by nobody, else by how many; sequences: at most 512 dicts of
        id, sample, state (running, waiting, paused, parked, preempted), prompt, computed, output, cached, blocks;
        steps: at most 128 dicts of step, us, start_us, rows [[id, sample, start, count], ...]; first_tokens: [[id,
        step, ttft_ms], ...]; finished: [[id, sample, step, reason, output_tokens, total_ms], ...]. An end between two
        steps has the number of the step to come, so it may be told again.
        """

    def stats(self) -> dict[str, int]: ...
    def metrics(self) -> str:
        """Counters, gauges and histograms in Prometheus' text format."""

    def health(self) -> str:
        """serving, degraded, failed or closed"""

    @property
    def model(self) -> ModelInfo: ...
    @property
    def config(self) -> EngineConfig:
        """as resolved: no zeros left"""

    @property
    def load_report(self) -> dict[str, int | float | str]:
        """how the weights came into memory"""

    def close(self) -> None:
        """Stops accepting, ends live requests with abort. Idempotent."""

class BuildReport:
    """What a build did."""

    @property
    def scheme(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def peak_rss_bound(self) -> int:
        """bytes the build promised not to exceed"""

    @property
    def seconds(self) -> float: ...

def build_engine(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: BuildConfig,
    progress: Callable[[int, int], object] | None = None,
) -> BuildReport:
    """
    Compiles a checkpoint directory into an engine directory; progress gets (bytes done, bytes in all).
    """

def measure_kernels(
    model: str | os.PathLike[str],
    config: EngineConfig,
    row: Callable[[str], object],
    *,
    rows: Sequence[int] = ...,
    context: int = 1024,
    all: bool = False,
) -> None:
    """
    Times the kernels of a model's steps on a GPU, one by one: row gets JSON text. Of every kernel that could be used
    with all=True.
    """

def measure_engine(repeats: int, row: Callable[[str], object]) -> None:
    """
    What the host side costs on a device that computes nothing: row gets JSON text, one row at a time.
    """

def build_peak_rss_bound() -> int:
    """The bound that build_engine() keeps, in bytes."""

def describe(model: str | os.PathLike[str], *, gpu: str = "H100", tokens: int = 1, context: int = 1024) -> str:
    """What a model is, as JSON text, without loading weights."""

def simulate(config: SimConfig) -> str:
    """Runs a simulation; returns its report as JSON text."""

def arrivals(config: SimConfig) -> str:
    """The requests of a simulation, as JSON text: name, duration_s and requests."""

class CudaStatus:
    """The NVIDIA GPUs of this machine, as this build sees them."""

    @property
    def driver(self) -> str:
        """the newest CUDA that the driver knows, or nothing"""

    @property
    def gpus(self) -> list[str]: ...
    @property
    def usable(self) -> int:
        """the index of the first that can be used; -1 when none can"""

    @property
    def unavailable_reason(self) -> str:
        """why none can be used; empty when one can"""

def cuda_status() -> CudaStatus:
    """Looks at the machine anew."""

def cuda_architectures() -> str:
    """
    What this build holds GPU kernels for, such as '80 90a'; empty without the CUDA backend.
    """

def set_log_level(level: str) -> None:
    """
    The native log's level from now on: error, warning, info or debug. Raises ValueError.
    """
