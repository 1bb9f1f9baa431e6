"""What torch and transformers take for the problems of `warpjet bench kernels` and `bench latency`: needs a GPU.

python bench/peers.py kernels OUT.json    F.linear (silu, product), addmm, rms_norm, scaled_dot_product_attention
python bench/peers.py model OUT.json      generate() of a model of random weights, bf16, SDPA, greedy

Shapes are Llama-3.1-8B's. A kernel's time is the median of 20 replays of a CUDA graph over several weights."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

CONFIG = Path(__file__).resolve().parent / "configs" / "llama-3.1-8b"
MATRICES = {"qkv": (6144, 4096), "out": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
ROWS = (1, 8, 64, 256, 2048)


def median_us(calls: Sequence[Callable[[], object]], repeats: int = 20) -> float:
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return sorted(times)[repeats // 2]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def gated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    gate, up = F.linear(x, weight).chunk(2, -1)
    return F.silu(gate) * up


def kernels() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(step: str, count: int, us: float) -> None:
        rows.append({"step": step, "rows": count, "us": round(us, 2)})

    for name, (n, k) in MATRICES.items():
        weights = [random(n, k) * 0.02 for _ in range(8)]
        for m in ROWS:
            x, residual = random(m, k), random(m, n)
            products = {
                "gate_up": lambda w, x=x: gated(x, w),
                "qkv": lambda w, x=x: F.linear(x, w),
            }
            product = products.get(name, lambda w, x=x, r=residual: torch.addmm(r, x, w.t()))
            add(f"layers.0.{name}", m, median_us([lambda w=w, f=product: f(w) for w in weights]))
    heads = [random(128256, 4096) for _ in range(2)]
    for m in ROWS[:-1]:
        x = random(m, 4096)
        add("head", m, median_us([lambda w=w, x=x: F.linear(x, w) for w in heads]))
    gain = torch.ones(4096, device="cuda", dtype=torch.bfloat16)
    for m in ROWS:
        x = random(m, 4096)
        add("layers.0.norm1", m, median_us([lambda x=x: F.rms_norm(x, (4096,), gain, 1e-5)] * 8))
    for m in (256, 2048):
        query, caches = random(1, 32, m, 128), [(random(1, 8, m, 128), random(1, 8, m, 128)) for _ in range(8)]
        times = []
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            with sdpa_kernel(backend):
                calls = [
                    lambda k=k, v=v, q=query: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                    for k, v in caches
                ]
                times.append(median_us(calls))
        add("layers.0.attention", m, min(times))
    return rows


def model() -> dict[str, dict[str, float]]:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        config = AutoConfig.from_pretrained(CONFIG)
        llama = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    results = {}
    for batch in (1, 32):
        prompt = torch.randint(5, 1000, (batch, 128), device="cuda")

        def seconds(tokens: int, prompt: torch.Tensor = prompt) -> float:
            options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
            torch.cuda.synchronize()
            start = time.perf_counter()
            with torch.no_grad():
                llama.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
            torch.cuda.synchronize()
            return time.perf_counter() - start

        seconds(4)
        short, long = (sorted(seconds(tokens) for _ in range(3))[1] for tokens in (2, 34))
        step = (long - short) / 32
        results[f"batch_{batch}"] = {"step_ms": round(step * 1e3, 3), "tokens_per_s": round(batch / step, 1)}
    return results


def main() -> int:
    what, out = sys.argv[1:]
    record = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name()}
    record |= {"rows": kernels()} if what == "kernels" else model()  # type: ignore[dict-item]
    Path(out).write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
