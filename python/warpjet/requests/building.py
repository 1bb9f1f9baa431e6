"""Checkpoint to engine directory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from warpjet._native import BuildConfig, BuildReport, build_engine, cuda_architectures
from warpjet.requests.arguments import overrides_text
from warpjet.requests.locate import find_model


def build(
    checkpoint: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    scheme: str = "auto",
    kv_cache_dtype: str = "auto",
    hf_overrides: Mapping[str, Any] | str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> BuildReport:
    """Compile a Hugging Face directory into an engine directory, which LLM opens like a checkpoint.

    device: what the engine will run on, from this machine; on a GPU, its kernels are timed there.
    hf_overrides: keys of config.json as they should be; None drops one.
    progress is called with (bytes done, bytes in all). The directory appears whole or not at all. Raises
    FileNotFoundError, ModelFormatError, ValueError, NotImplementedError or OSError."""
    config = BuildConfig(
        device=device,
        scheme=scheme,
        kv_cache_dtype=kv_cache_dtype,
        hf_overrides=overrides_text(hf_overrides),
        overwrite=overwrite,
    )
    directory = find_model(checkpoint)
    if (directory / "engine.json").is_file():
        raise ValueError(f"{directory} is an engine already: it opens as it is, and is built from its checkpoint")
    return build_engine(directory, out, config, progress)


def built_with_cuda() -> bool:
    """Whether this build has the CUDA backend; `warpjet doctor` tells whether it can be used here."""
    return bool(cuda_architectures())
