"""Warpjet: runs large language models. `LLM` completes prompts, `build` compiles a checkpoint into an engine.

Names load when they are first used, so that importing costs next to nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warpjet._native import (
        BuildConfig,
        BuildReport,
        EngineConfig,
        EngineError,
        ModelFormatError,
        QueueFullError,
        SamplingParams,
        __version__,
    )
    from warpjet.async_llm import AsyncLLM
    from warpjet.building import build, built_with_cuda
    from warpjet.llm import LLM
    from warpjet.outputs import CompletionOutput, Logprob, RequestOutput, RequestOutputKind
    from warpjet.structured import StructuredOutputsParams

__all__ = [
    "LLM",
    "AsyncLLM",
    "BuildConfig",
    "BuildReport",
    "CompletionOutput",
    "EngineConfig",
    "EngineError",
    "Logprob",
    "ModelFormatError",
    "QueueFullError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
    "build",
    "built_with_cuda",
]

_MODULES = {
    "LLM": "llm",
    "AsyncLLM": "async_llm",
    "build": "building",
    "built_with_cuda": "building",
    "CompletionOutput": "outputs",
    "Logprob": "outputs",
    "RequestOutput": "outputs",
    "RequestOutputKind": "outputs",
    "StructuredOutputsParams": "structured",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'warpjet' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"warpjet.{_MODULES.get(name, '_native')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
