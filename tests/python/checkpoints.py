"""Random checkpoints in Hugging Face format, small enough to read and to compute by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

TINY = Path(__file__).resolve().parents[2] / "python" / "warpjet" / "models" / "tiny"

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def config_of(family: str = "llama", **changes: Any) -> dict[str, Any]:
    """A config.json; changes win."""
    return {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    } | changes


def tensors_of(config: dict[str, Any], seed: int = 0, scale: float = 0.2) -> dict[str, np.ndarray]:
    """Seeded normal weights, with the biases and norms that the family has."""
    rng = np.random.default_rng(seed)
    family, hidden, inter = config["model_type"], config["hidden_size"], config["intermediate_size"]
    head_dim, vocab = config["head_dim"], config["vocab_size"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, scale, shape).astype(np.float32)

    def near_one(size: int) -> np.ndarray:
        return 1 + normal(size)

    out = {"model.embed_tokens.weight": normal(vocab, hidden) * 5, "model.norm.weight": near_one(hidden)}
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = normal(vocab, hidden) * 3
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, rows, columns in (
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q),
            ("mlp.gate_proj", inter, hidden),
            ("mlp.up_proj", inter, hidden),
            ("mlp.down_proj", hidden, inter),
        ):
            out[f"{layer}{name}.weight"] = normal(rows, columns)
            if family == "qwen2" and name[10:] in ("q_proj", "k_proj", "v_proj"):
                out[f"{layer}{name}.bias"] = normal(rows)
        out[f"{layer}input_layernorm.weight"] = near_one(hidden)
        out[f"{layer}post_attention_layernorm.weight"] = near_one(hidden)
        if family == "qwen3":
            out[f"{layer}self_attn.q_norm.weight"] = near_one(head_dim)
            out[f"{layer}self_attn.k_norm.weight"] = near_one(head_dim)
    return out


def write_checkpoint(
    directory: Path,
    family: str = "llama",
    seed: int = 0,
    scale: float = 0.2,
    tokenizer: bool = False,
    **changes: Any,
) -> Path:
    """Writes config.json and model.safetensors; with `tokenizer`, the embedded model's (it has 3072 tokens)."""
    if tokenizer:
        changes.setdefault("vocab_size", 3072)
    config = config_of(family, **changes)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors_of(config, seed, scale), directory / "model.safetensors")
    if tokenizer:
        copy_tokenizer(directory)
    return directory


def copy_tokenizer(directory: Path) -> None:
    """The embedded model's tokenizer."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TINY / name, directory)


def copy_tiny(directory: Path) -> Path:
    """A copy of the embedded model, to be broken."""
    shutil.copytree(TINY, directory)
    return directory
