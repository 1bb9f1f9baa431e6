"""warpjet doctor: what is there, what is missing, what to do."""

import platform
from importlib.metadata import PackageNotFoundError, version

from warpjet._native import __version__, cuda_architectures, cuda_status
from warpjet.common.machine import cpu_count, cpu_flags, cpu_name, cuda_driver, memory_bytes
from warpjet.common.tables import bytes_text


def doctor() -> int:
    """Prints a line for each thing; nothing that is missing here is an error."""
    driver = cuda_driver()
    status = cuda_status()
    architectures = cuda_architectures().replace(" ", ", ")
    lines = {
        "warpjet": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "cpu": f"{cpu_name()}, {cpu_count()} core(s) for this process: {', '.join(cpu_flags()) or 'no vector units'}",
        "memory": bytes_text(memory_bytes()),
        "cuda": f"built in, for {architectures}" if architectures else "not built in: models run on the CPU",
        "driver": f"NVIDIA driver for CUDA {driver}" if driver else "no NVIDIA driver (libcuda.so.1)",
    }
    for package in ("tokenizers", "jinja2", "tqdm"):
        lines[package] = _version(package)
    for name, text in lines.items():
        print(f"{name:<11}{text}")
    for index, gpu in enumerate(status.gpus):
        print(f"{f'cuda:{index}':<11}{gpu}")
    if status.unavailable_reason:
        print(f"\nModels run on the CPU: {status.unavailable_reason}")
    return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"missing: pip install {package}"
