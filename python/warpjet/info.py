"""warpjet info: what a model is and what a step of it costs."""

import json
from typing import Any

from warpjet._native import describe
from warpjet.locate import find_model
from warpjet.tables import bytes_text, count_text, table


def info(model: str | None, gpu: str, tokens: int, context: int, as_json: bool) -> int:
    """Prints tables, or the JSON they are made from."""
    directory = find_model(model, weights=False)
    text = describe(directory, gpu=gpu, tokens=tokens, context=context)
    print(json.dumps(json.loads(text), indent=1) if as_json else _report(str(directory), json.loads(text)))
    return 0


def _report(name: str, facts: dict[str, Any]) -> str:
    model, gpu, tokens = facts["model"], facts["gpu"], facts["tokens"]
    head = [
        ("model", f"{name} ({facts['kind']}, {model.get('architecture', 'unknown')})"),
        ("parameters", f"{count_text(facts['parameters'])} in {facts['scheme']}, {bytes_text(facts['weight_bytes'])}"),
        ("KV cache", f"{bytes_text(facts['kv_bytes_per_token'])} a token in {facts['kv_cache_dtype']}"),
        ("GPU", f"{gpu['name']}: {_fit(gpu)}"),
    ]
    contexts = [(f"{row['tokens']}", bytes_text(row["kv_bytes"])) for row in facts["contexts"]]
    steps = [
        (
            step["name"],
            step["kernel"],
            bytes_text(step["bytes"]),
            count_text(step["flops"]),
            f"{step['roofline_us']:.2f}",
        )
        for step in facts["steps"]
    ]
    total = facts["step_us"]
    return "\n\n".join(
        [
            "\n".join(f"{key:<11}{value}" for key, value in head),
            table(("context", "KV memory"), contexts),
            table(("step", "kernel", "bytes", "flops", "us"), steps),
            f"{tokens} token(s) over {facts['context']} of context: at least {total:.1f} us on {gpu['name']}, "
            f"{tokens / total * 1e6:.0f} tok/s (roofline: {gpu['gb_per_s']:.0f} GB/s, {gpu['bf16_tflops']:.0f} "
            f"bf16 TFLOP/s, {gpu['source']})",
        ]
    )


def _fit(gpu: dict[str, Any]) -> str:
    if not gpu["fits"]:
        return f"the weights do not fit in {gpu['memory_gib']:.0f} GiB"
    return f"{gpu['memory_gib']:.0f} GiB hold the weights and {count_text(gpu['kv_tokens'])} tokens of KV"
