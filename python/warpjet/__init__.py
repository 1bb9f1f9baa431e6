"""Warpjet: runs large language models. `LLM` completes prompts, `build` compiles a checkpoint into an engine.

Names load when they are first used, so that importing costs next to nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warpjet._native import (
        BuildConfig,
        BuildReport,
        DeviceError,
        EngineConfig,
        EngineError,
        ModelFormatError,
        PoolingParams,
        QueueFullError,
        SamplingParams,
        __version__,
    )
    from warpjet.async_llm import AsyncLLM
    from warpjet.llm import LLM
    from warpjet.requests.background import Generation
    from warpjet.requests.beams import BeamSearchOutput, BeamSearchParams, BeamSearchSequence
    from warpjet.requests.building import build, built_with_cuda
    from warpjet.requests.engine_options import AsyncEngineArgs, EngineArgs
    from warpjet.requests.outputs import (
        CompletionOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        Logprob,
        RequestOutput,
        RequestOutputKind,
    )
    from warpjet.structured import StructuredOutputsParams
    from warpjet.text.prompts import TextPrompt, TokensPrompt

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "BuildConfig",
    "BuildReport",
    "CompletionOutput",
    "DeviceError",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "EngineConfig",
    "EngineError",
    "Generation",
    "Logprob",
    "ModelFormatError",
    "PoolingParams",
    "QueueFullError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "__version__",
    "build",
    "built_with_cuda",
]

_MODULES = {
    "LLM": "llm",
    "AsyncEngineArgs": "requests.engine_options",
    "AsyncLLM": "async_llm",
    "BeamSearchOutput": "requests.beams",
    "BeamSearchParams": "requests.beams",
    "BeamSearchSequence": "requests.beams",
    "Generation": "requests.background",
    "build": "requests.building",
    "built_with_cuda": "requests.building",
    "CompletionOutput": "requests.outputs",
    "EmbeddingOutput": "requests.outputs",
    "EmbeddingRequestOutput": "requests.outputs",
    "EngineArgs": "requests.engine_options",
    "Logprob": "requests.outputs",
    "RequestOutput": "requests.outputs",
    "RequestOutputKind": "requests.outputs",
    "StructuredOutputsParams": "structured",
    "TextPrompt": "text.prompts",
    "TokensPrompt": "text.prompts",
}

# Other engines' names: what is here instead.
_ELSEWHERE = {
    "AsyncLLMEngine": "it is AsyncLLM here",
    "GuidedDecodingParams": "it is StructuredOutputsParams here",
    "KvCacheConfig": "its fields are keywords of LLM: kv_cache_memory_bytes, enable_prefix_caching, kv_offloading_size",
    "LLMEngine": "it is LLM here",
    "LoRARequest": "adapters are not supported; merge the adapter into the checkpoint",
    "PromptType": "prompts are str, TextPrompt, TokensPrompt or lists of token ids",
    "SchedulerConfig": "its fields are keywords of LLM: max_num_seqs, max_num_batched_tokens, scheduling_policy",
    "inputs": "import TextPrompt and TokensPrompt from warpjet",
    "llmapi": "import from warpjet itself",
    "sampling_params": "import SamplingParams from warpjet",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        advice = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        raise AttributeError(f"module 'warpjet' has no attribute {name!r}{advice}")
    value = getattr(importlib.import_module(f"warpjet.{_MODULES.get(name, '_native')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
