"""What torch and transformers take for what `warpjet bench kernels` and `bench latency` time: needs a GPU.

python bench/peers.py kernels OUT.json --rows FILE    the problems in FILE, a record of `warpjet bench kernels --output`
python bench/peers.py model OUT.json [--model DIR]    generate() of a model of random weights, bf16, SDPA, greedy

A kernel's time is the median of 31 replays of a CUDA graph over the operands of eight layers, as ours is. torch has no
product with an epilogue of its own: what follows one is a call more. It gives bf16 where ours gives fp32 logits."""

import argparse
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
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "fp16": torch.float16, "f32": torch.float32}
GATES = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu}
LAYERS = 8
ROTATED_BYTES = 8 << 30  # the output head is too large for eight copies, and needs none: it is larger than the L2
REPEATS = 31
BATCHES = (1, 32)
INPUT_LEN = 128

Call = Callable[[], object]


def median_us(calls: Sequence[Call]) -> float:
    """Of one call."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # captures are warmed up beside the default stream
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return sorted(times)[REPEATS // 2]


# --- Problems, as warpjet writes them: "{m=8 n=6144 k=4096 a=bf16 b=bf16 d=bf16 bias}" --------------------------------


def fields(problem: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in problem.strip("{}").split())
    return {name: value for name, _, value in pairs}


def random(device: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=dtype)


def gemm_calls(p: dict[str, str], device: str) -> list[Call]:
    m, n, k, dtype = int(p["m"]), int(p["n"]), int(p["k"]), TYPES[p["b"]]
    copies = max(2, min(LAYERS, ROTATED_BYTES // (n * k * dtype.itemsize)))
    x = random(device, dtype, m, k)
    bias = random(device, dtype, n) if "bias" in p else None
    residual = random(device, dtype, m, n) if "residual" in p else None
    gate = GATES[p["gate"]] if "gate" in p else None

    def product(weight: torch.Tensor) -> torch.Tensor:
        if gate:
            left, right = F.linear(x, weight, bias).chunk(2, -1)
            return gate(left) * right
        if residual is None:
            return F.linear(x, weight, bias)
        return torch.addmm(residual, x, weight.t()) if bias is None else F.linear(x, weight, bias) + residual

    weights = [random(device, dtype, n, k) * 0.02 for _ in range(copies)]
    return [lambda weight=weight: product(weight) for weight in weights]


def norm_calls(p: dict[str, str], device: str) -> list[Call]:
    hidden, dtype = int(p["hidden"]), TYPES[p["x"]]
    x, eps = random(device, dtype, int(p["tokens"]), hidden), float(p["eps"])
    gains = [random(device, TYPES[p["weight"]], hidden) for _ in range(LAYERS)]
    return [lambda gain=gain: F.rms_norm(x, (hidden,), gain, eps) for gain in gains]


def embed_calls(p: dict[str, str], device: str) -> list[Call]:
    vocab = int(p["vocab"])
    rows = random(device, TYPES[p["table"]], vocab, int(p["hidden"]))
    drawn = [torch.randint(vocab, (int(p["tokens"]),), device=device) for _ in range(LAYERS)]
    return [lambda ids=ids: F.embedding(ids, rows) for ids in drawn]


def attention_calls(p: dict[str, str], device: str) -> list[Call]:
    """Of one whole prompt. torch has none for paged keys, nor with a window."""
    tokens, dtype = int(p["tokens"]), TYPES[p["q"]]
    if p["seqs"] != "1" or p["max_context"] != p["tokens"] or tokens == 1 or {"window", "softcap", "sinks"} & p.keys():
        return []
    head_dim, kv_heads = int(p["head_dim"]), int(p["kv_heads"])
    query = random(device, dtype, 1, int(p["heads"]), tokens, head_dim)
    caches = [[random(device, dtype, 1, kv_heads, tokens, head_dim) for _ in "kv"] for _ in range(LAYERS)]
    return [
        lambda k=k, v=v: F.scaled_dot_product_attention(query, k, v, is_causal=True, enable_gqa=True) for k, v in caches
    ]


CALLS = {"gemm": gemm_calls, "norm": norm_calls, "embed": embed_calls, "attention": attention_calls}


def kernel_us(op: str, problem: str) -> float | None:
    """None where torch has nothing like it."""
    make = CALLS.get(op)
    calls = make(fields(problem), "cuda") if make else []
    if not calls:
        return None
    if op != "attention":
        return median_us(calls)
    times = []
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        try:
            with sdpa_kernel(backend):
                times.append(median_us(calls))
        except RuntimeError as error:  # this torch has it not, or not for such heads
            print(f"{backend}: {error}", file=sys.stderr)
    return min(times, default=None)


def kernels(record: dict[str, Any]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], float | None] = {}
    rows = []
    for row in record["rows"]:
        key = (row["op"], row["problem"])
        if key not in found:
            found[key] = kernel_us(*key)
        if (us := found[key]) is not None:
            rows.append({"step": row["step"], "rows": row["rows"], "problem": row["problem"], "us": round(us, 2)})
    return rows


# --- A whole model ----------------------------------------------------------------------------------------------------


def model(directory: Path) -> dict[str, float]:
    """Tokens a second after the first: from the difference of two lengths, so that the prompt does not count."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        config = AutoConfig.from_pretrained(directory)
        peer = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    results = {}
    for batch in BATCHES:
        prompt = torch.randint(5, 1000, (batch, INPUT_LEN), device="cuda")

        def seconds(tokens: int, prompt: torch.Tensor = prompt) -> float:
            options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
            torch.cuda.synchronize()
            start = time.perf_counter()
            with torch.no_grad():
                peer.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
            torch.cuda.synchronize()
            return time.perf_counter() - start

        seconds(4)
        short, long = (sorted(seconds(tokens) for _ in range(3))[1] for tokens in (2, 34))
        step = (long - short) / 32
        results[f"batch_{batch}_step_ms"] = round(step * 1e3, 3)
        results[f"batch_{batch}_tokens_per_s"] = round(batch / step, 1)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kernels", "model"])
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=Path, help="kernels: a record of warpjet bench kernels")
    parser.add_argument("--model", type=Path, default=CONFIG, help="model: a directory with config.json")
    args = parser.parse_args()
    record: dict[str, Any] = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name()}
    if args.what == "kernels":
        if args.rows is None:
            parser.error("kernels needs --rows")
        record["rows"] = kernels(json.loads(args.rows.read_text()))
    else:
        import transformers

        record |= {"transformers": transformers.__version__, "results": model(args.model)}
    args.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
