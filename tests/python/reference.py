"""An independent computation in NumPy: a Llama's logits, and the documented steps from logits to a token."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from checkpoints import config_of, tensors_of

from warpjet import SamplingParams

_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Llama:
    """The model that checkpoints.write_checkpoint(seed) writes for the family llama, in float64."""

    def __init__(self, seed: int = 0) -> None:
        self.config = config_of("llama")
        self.weights = {name: value.astype(np.float64) for name, value in tensors_of(self.config, seed).items()}

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """[len(tokens), vocab]: after each token."""
        return self.hidden(tokens) @ self.weights["lm_head.weight"].T

    def hidden(self, tokens: Sequence[int]) -> np.ndarray:
        """[len(tokens), hidden_size]: what the output head sees."""
        c, w = self.config, self.weights
        heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        length = len(tokens)
        x = w["model.embed_tokens.weight"][list(tokens)]
        angles = np.outer(np.arange(length), c["rope_theta"] ** (-np.arange(0, dim, 2) / dim))
        hidden_future = np.triu(np.full((length, length), -np.inf), 1)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            y = self._norm(x, w[p + "input_layernorm.weight"])
            q, k, v = (
                (y @ w[f"{p}self_attn.{n}_proj.weight"].T).reshape(length, -1, dim).transpose(1, 0, 2) for n in "qkv"
            )
            q, k = _rotate(q, angles), _rotate(k, angles)
            k, v = (np.repeat(a, heads // kv_heads, axis=0) for a in (k, v))
            scores = _softmax(q @ k.transpose(0, 2, 1) / math.sqrt(dim) + hidden_future)
            attended = (scores @ v).transpose(1, 0, 2).reshape(length, -1)
            x = x + attended @ w[p + "self_attn.o_proj.weight"].T
            y = self._norm(x, w[p + "post_attention_layernorm.weight"])
            gate, up = y @ w[p + "mlp.gate_proj.weight"].T, y @ w[p + "mlp.up_proj.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
        return self._norm(x, w["model.norm.weight"])

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * weight


def _rotate(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    cos, sin, a, b = np.cos(angles), np.sin(angles), x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


# --- From logits to a token: the order is that of SamplingParams' documentation ---------------------------------------


def penalized(logits: np.ndarray, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> np.ndarray:
    """Penalties, logit_bias, then bans."""
    out = logits.copy()
    for token in {*prompt, *output}:
        out[token] = (
            out[token] / params.repetition_penalty if out[token] > 0 else out[token] * params.repetition_penalty
        )
    for token in set(output):
        out[token] -= params.presence_penalty + params.frequency_penalty * list(output).count(token)
    for token, bias in params.logit_bias.items():
        out[token] += bias
    if params.allowed_token_ids is not None:
        banned = np.ones(len(out), dtype=bool)
        banned[list(params.allowed_token_ids)] = False
        out[banned] = -np.inf
    text = [*prompt, *output]
    for sequence in params.bad_words_token_ids:
        tail = list(sequence[:-1])
        if not tail or text[-len(tail) :] == tail:
            out[sequence[-1]] = -np.inf
    return out


def scores(logits: np.ndarray, params: SamplingParams, seed: int, sample: int, position: int) -> np.ndarray:
    """What is maximised: -inf for tokens that were cut."""
    if params.temperature == 0:
        return logits
    x = logits / params.temperature
    keep = np.isfinite(x)
    probability = _softmax(x)
    keep &= probability >= params.min_p * probability.max()
    order = sorted(np.flatnonzero(keep), key=lambda token: (-x[token], token))
    if params.top_k > 0:
        order = order[: params.top_k]
    mass = probability[order] / probability[order].sum()
    order = order[: int(np.searchsorted(np.cumsum(mass), params.top_p - 1e-12)) + 1]
    out = np.full(len(x), -np.inf)
    key = random_key(seed, sample)
    out[order] = [x[token] + gumbel(key, position, int(token)) for token in order]
    return out


def random_key(seed: int, sample: int) -> int:
    """SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (seed + (sample + 1) * _GOLDEN) & _MASK64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK64
    return z ^ (z >> 31)


def gumbel(key: int, position: int, token: int) -> float:
    """Noise from Philox4x32-10 (Salmon et al. 2011) with counter (token / 4, position, 0, 0)."""
    counter: list[Any] = [token // 4, position, 0, 0]
    low, high = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ low, b & 0xFFFFFFFF, (a >> 32) ^ counter[3] ^ high, a & 0xFFFFFFFF]
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    w = min((counter[token % 4] + 0.5) / 2**32, 1 - 2**-24)
    return -math.log(-math.log1p(-w))
