"""What this machine is."""

import ctypes
import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from warpjet._native import cuda_status

# Instructions that the kernels for the CPU profit from.
_CPU_FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16")


def cpu_name() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def device_name(device: str = "auto") -> str:
    """What an engine with this EngineConfig.device runs on: the GPU's name, or cpu."""
    status = cuda_status()
    if device == "cpu" or status.usable < 0:
        return "cpu"
    index = status.usable if device == "auto" else int(device.partition(":")[2] or 0)
    return status.gpus[index] if index < len(status.gpus) else device  # which the engine then refuses


def cpu_flags() -> list[str]:
    """Those of the instruction sets that matter which are there."""
    flags = _cpuinfo("flags").split()
    return [flag for flag in _CPU_FLAGS if flag in flags]


@dataclass(frozen=True, slots=True)
class Rates:
    """What a processor reaches at best."""

    gb_per_s: float  # read and written, to memory
    tflops: float  # fp32


def cpu_rates() -> Rates:
    """This machine's: memory measured by a copy on every core (0.1 s), arithmetic by its clock and vectors."""
    flags = cpu_flags()
    # Two units that multiply and add: 2 x 2 x 16 or 8 lanes; without them, one of four lanes.
    per_cycle = 64 if "avx512f" in flags else 32 if "avx2" in flags and "fma" in flags else 8
    clock = float(_cpuinfo("cpu MHz") or 2000) * 1e6
    return Rates(_copy_rate(), cpu_count() * clock * per_cycle / 1e12)


_COPIED_BYTES = 32 << 20  # for each core: more than its caches hold


def _copy_rate() -> float:
    """GB/s of the best of three copies, each by all cores at once."""
    buffers = [(bytearray(_COPIED_BYTES), bytearray(_COPIED_BYTES)) for _ in range(cpu_count())]
    places = [[(ctypes.c_char * _COPIED_BYTES).from_buffer(buffer) for buffer in pair] for pair in buffers]
    best = float("inf")
    for _ in range(3):
        threads = [threading.Thread(target=ctypes.memmove, args=(to, of, _COPIED_BYTES)) for to, of in places]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - start)
    return 2 * _COPIED_BYTES * len(buffers) / best / 1e9


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cuda_driver() -> str | None:
    """Version of the NVIDIA driver's CUDA, such as "13.0"; None without a driver."""
    version = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
