"""warpjet info: what a model is and what a step of it costs."""

import json
from collections.abc import Sequence
from typing import Any

from warpjet._native import SimConfig, cuda_status, describe
from warpjet.common.machine import cpu_count, cpu_name, cpu_rates, memory_bytes
from warpjet.common.tables import bytes_text, count_text, table
from warpjet.requests.locate import find_model

_ANY_GPU = "H100"  # bytes and operations are the same on every one
_GPUS = {field.name: field for field in SimConfig.__fields__}["gpu"].choices
_KV_SHARE = 0.92  # of the memory, weights and KV cache together


def info(model: str | None, gpu: str | None, tokens: int, context: int, as_json: bool, every: bool) -> int:
    """Prints tables, or the JSON they are made from. Without `gpu`, times are those of this machine's GPU or CPU; equal
    layers are one row unless `every`."""
    directory = find_model(model, weights=False)
    gpu = gpu or _gpu_here()
    facts = json.loads(describe(directory, gpu=gpu or _ANY_GPU, tokens=tokens, context=context))
    if gpu is None:
        _use_cpu(facts)
    print(json.dumps(facts, indent=1) if as_json else _report(str(directory), facts, every))
    return 0


def _gpu_here() -> str | None:
    """This machine's GPU, by the name that describe() knows; None if it has none."""
    status = cuda_status()
    if status.usable < 0:
        return None
    words = status.gpus[status.usable].partition(",")[0].split()
    return next((name for name in _GPUS if {*name.split()} <= {*words}), _ANY_GPU)


def _use_cpu(facts: dict[str, Any]) -> None:
    """Times and memory of this machine's CPU in place of a GPU's."""
    del facts["gpu"]
    rates = cpu_rates()
    free = memory_bytes() * _KV_SHARE - facts["weight_bytes"]
    facts["cpu"] = {
        "name": cpu_name(),
        "gb_per_s": rates.gb_per_s,
        "tflops": rates.tflops,
        "memory_gib": memory_bytes() / 2**30,
        "source": f"a copy in memory, measured; {cpu_count()} cores x clock x width of their vectors",
        "fits": free > 0,
        "kv_tokens": max(0, free) // facts["kv_bytes_per_token"],
    }
    for step in facts["steps"]:
        step["roofline_us"] = max(step["bytes"] / rates.gb_per_s / 1e3, step["flops"] / rates.tflops / 1e6)
    facts["step_us"] = sum(step["roofline_us"] for step in facts["steps"])


def _report(name: str, facts: dict[str, Any], every: bool) -> str:
    model, tokens, total = facts["model"], facts["tokens"], facts["step_us"]
    kind = "cpu" if "cpu" in facts else "gpu"
    machine = facts[kind]
    head = [
        ("model", f"{name} ({facts['kind']}, {model.get('architecture', 'unknown')})"),
        ("parameters", f"{count_text(facts['parameters'])} in {facts['scheme']}, {bytes_text(facts['weight_bytes'])}"),
        ("KV cache", f"{bytes_text(facts['kv_bytes_per_token'])} a token in {facts['kv_cache_dtype']}"),
        (kind.upper(), f"{machine['name']}: {_fit(machine)}"),
    ]
    contexts = [(f"{row['tokens']}", bytes_text(row["kv_bytes"])) for row in facts["contexts"]]
    rows = [_row(step["name"], [step]) for step in facts["steps"]] if every else _folded(facts["steps"])
    rate = machine.get("bf16_tflops", machine.get("tflops"))
    bound = "if every byte comes from memory, not from a cache" if kind == "cpu" else "at least"
    return "\n\n".join(
        [
            "\n".join(f"{key:<11}{value}" for key, value in head),
            table(("context", "KV memory"), contexts),
            table(("step", "bytes", "flops", "us"), rows),
            f"{tokens} token(s) over {facts['context']} of context: {total:.1f} us on {machine['name']} {bound}, "
            f"{tokens / total * 1e6:.0f} tok/s (roofline: {machine['gb_per_s']:.0f} GB/s, {rate:.3g} "
            f"TFLOP/s; {machine['source']})",
        ]
    )


def _folded(steps: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Rows of steps; of layers that cost the same, one row for all of them and one for each step of one."""
    layers: dict[int, list[dict[str, Any]]] = {}
    for step in steps:
        if (index := _layer_of(step)) is not None:
            layers.setdefault(index, []).append(step)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for index, own in layers.items():
        kinds.setdefault(tuple((_short(step), step["bytes"], step["flops"]) for step in own), []).append(index)
    first = {indices[0]: indices for indices in kinds.values()}
    rows, seen = [], set[int]()
    for step in steps:
        index = _layer_of(step)
        if index is None:
            rows.append(_row(step["name"], [step]))
        elif index in first and index not in seen:
            seen.add(index)
            rows.append(_row(_layers_text(first[index]), [step for i in first[index] for step in layers[i]]))
            rows += [_row(f"  {_short(step)}", [step]) for step in layers[index]]
    return rows


def _layers_text(indices: Sequence[int]) -> str:
    """ "layers 0-31, x32"; ranges of those that are not neighbours."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    shown = [f"{low}-{high}" if low < high else f"{low}" for low, high in ranges[:3]]
    return f"layers {', '.join(shown + ['...'] * (len(ranges) > 3))}, x{len(indices)}"


def _layer_of(step: dict[str, Any]) -> int | None:
    parts = step["name"].split(".")
    return int(parts[1]) if parts[0] == "layers" and len(parts) > 2 else None


def _short(step: dict[str, Any]) -> str:
    return str(step["name"].split(".", 2)[2])


def _row(name: str, steps: Sequence[dict[str, Any]]) -> tuple[str, str, str, str]:
    size, flops, us = (sum(step[key] for step in steps) for key in ("bytes", "flops", "roofline_us"))
    return name, bytes_text(size), count_text(flops), f"{us:.2f}"


def _fit(machine: dict[str, Any]) -> str:
    if not machine["fits"]:
        return f"the weights do not fit in {machine['memory_gib']:.0f} GiB"
    return f"{machine['memory_gib']:.0f} GiB hold the weights and {count_text(machine['kv_tokens'])} tokens of KV"
