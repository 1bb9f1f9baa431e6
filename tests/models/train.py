#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains and checks the small models that live in this repository (README.md has the exact commands).

    python train.py train --arch llama --data synth.txt.xz --out out/tiny --minutes 9 --compile
    python train.py train --arch draft --data synth.txt.xz --tokenizer out/tiny --teacher out/tiny --out out/draft
    python train.py train --arch moe   --data synth.txt.xz --tokenizer out/tiny --out out/moe
    python train.py verify out/tiny                      # logits and greedy text against transformers
    python train.py test out/tiny questions.jsonl        # answers right, by kind of question
    python train.py accept out/tiny out/draft            # acceptance rate of the draft model
    python train.py sample out/tiny --prompt "Once upon a time"

Writes a Hugging Face folder: config.json, generation_config.json, model.safetensors (bf16), tokenizer.json,
tokenizer_config.json, special_tokens_map.json, and training.json (what was run, and its losses).
Documents in the data files end with a line holding only the character 0x1E.
Needs torch, tokenizers, safetensors, numpy; transformers only for verify.
"""

import argparse
import json
import lzma
import math
import random
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

START = time.time()
SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|reserved|>"]
PAD, BOS, EOS, END = 0, 1, 2, 6
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# Every matrix dimension is a multiple of 64 (most of 128), head_dim 64: the shapes that GPU kernels and
# 64/128-wide quantization groups want.
ARCH: dict[str, dict] = {
    "llama": dict(
        model_type="llama",
        architectures=["LlamaForCausalLM"],
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
    ),
    "draft": dict(
        model_type="llama",
        architectures=["LlamaForCausalLM"],
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
    ),
    "moe": dict(
        model_type="qwen3_moe",
        architectures=["Qwen3MoeForCausalLM"],
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        router_aux_loss_coef=0.01,
        use_sliding_window=False,
        output_router_logits=False,
    ),
}


def make_config(arch: str, vocab: int, max_positions: int) -> dict:
    return ARCH[arch] | dict(
        vocab_size=vocab,
        hidden_act="silu",
        max_position_embeddings=max_positions,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
        attention_bias=False,
        attention_dropout=0.0,
        mlp_bias=False,
        tie_word_embeddings=True,
        initializer_range=0.02,
        use_cache=True,
        bos_token_id=BOS,
        eos_token_id=[EOS, END],
        pad_token_id=PAD,
        torch_dtype="bfloat16",  # for transformers 4
        dtype="bfloat16",  # for transformers 5
    )


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


# ---------------------------------------------------------------------------------------------------- tokenizer
def train_tokenizer(docs: Sequence[str], vocab: int) -> Tokenizer:
    tok = Tokenizer(models.BPE(byte_fallback=False))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator((re.sub(r"<\|\w+\|>", "\n", d) for d in docs), trainer)
    tok.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)]
    )
    return tok


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def save_tokenizer(tok: Tokenizer, out: Path, max_positions: int) -> None:
    tok.save(str(out / "tokenizer.json"))
    names = dict(bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>")
    config = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
        add_bos_token=True,
        chat_template=CHAT,
    )
    write_json(out / "tokenizer_config.json", config | names)
    write_json(out / "special_tokens_map.json", names)


# --------------------------------------------------------------------------------------------------------- data
def read_docs(paths: Sequence[Path]) -> list[str]:
    docs: list[str] = []
    for p in paths:
        data = p.read_bytes()
        text = (lzma.decompress(data) if p.suffix == ".xz" else data).decode()
        docs += [d.rstrip("\n") for d in text.split("\x1e\n") if d.strip()]
    random.Random(1).shuffle(docs)
    return docs


class Tokens:
    """All documents as one array of tokens on the device, from which windows are cut."""

    def __init__(self, tok: Tokenizer, docs: Sequence[str], device: torch.device):
        parts = []
        for i in range(0, len(docs), 4000):
            for e in tok.encode_batch_fast(docs[i : i + 4000], add_special_tokens=False):
                parts.append(np.array([BOS, *e.ids, EOS], dtype=np.int16))
        ends = np.cumsum([len(p) for p in parts])
        self.data = torch.from_numpy(np.concatenate(parts)).to(device)
        self.starts = torch.from_numpy(np.concatenate([[0], ends[:-1]])).to(device)

    def windows(self, start: Tensor, ctx: int) -> tuple[Tensor, Tensor]:
        w = self.data[start[:, None] + torch.arange(ctx + 1, device=start.device)].long()
        return w[:, :-1], w[:, 1:]

    def sample(self, batch: int, ctx: int) -> tuple[Tensor, Tensor]:
        """Random windows: one half begin at the start of a document, the others anywhere."""
        dev, n = self.data.device, len(self.data) - ctx - 1
        at_doc = self.starts[torch.randint(len(self.starts), (batch,), device=dev)]
        start = torch.where(torch.rand(batch, device=dev) < 0.5, at_doc, torch.randint(n, (batch,), device=dev))
        return self.windows(start.clamp(max=n), ctx)


# -------------------------------------------------------------------------------------------------------- model
class RMS(nn.Module):
    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def rope_tables(c: dict, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    d = c["head_dim"]
    freq = 1.0 / c["rope_theta"] ** (torch.arange(0, d, 2, device=device).float() / d)
    angle = torch.outer(torch.arange(n, device=device).float(), freq)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    h = x.shape[-1] // 2
    return x * cos.to(x.dtype) + torch.cat([-x[..., h:], x[..., :h]], -1) * sin.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        self.h, self.k, self.d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        dim = c["hidden_size"]
        self.q_proj = nn.Linear(dim, self.h * self.d, bias=False)
        self.k_proj = nn.Linear(dim, self.k * self.d, bias=False)
        self.v_proj = nn.Linear(dim, self.k * self.d, bias=False)
        self.o_proj = nn.Linear(self.h * self.d, dim, bias=False)
        self.qk_norm = c["model_type"].startswith("qwen3")
        if self.qk_norm:
            self.q_norm = RMS(self.d, c["rms_norm_eps"])
            self.k_norm = RMS(self.d, c["rms_norm_eps"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.h, self.d)
        k = self.k_proj(x).view(b, t, self.k, self.d)
        v = self.v_proj(x).view(b, t, self.k, self.d).transpose(1, 2)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rope(q.transpose(1, 2), cos, sin), rope(k.transpose(1, 2), cos, sin)
        repeat = self.h // self.k
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(o.transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        dim, inner = c["hidden_size"], c["intermediate_size"]
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)), x.new_zeros(())


class MoE(nn.Module):
    """Computes every expert and masks: simple, and fast enough for eight small experts."""

    def __init__(self, c: dict):
        super().__init__()
        dim, inner, experts = c["hidden_size"], c["moe_intermediate_size"], c["num_experts"]
        self.experts, self.inner, self.top = experts, inner, c["num_experts_per_tok"]
        self.gate = nn.Linear(dim, experts, bias=False)
        self.w_gate = nn.Parameter(torch.empty(experts, inner, dim))
        self.w_up = nn.Parameter(torch.empty(experts, inner, dim))
        self.w_down = nn.Parameter(torch.empty(experts, dim, inner))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's output and the load balancing loss of its router."""
        p = F.softmax(self.gate(x).float(), -1)
        v, i = p.topk(self.top, -1)
        w = torch.zeros_like(p).scatter(-1, i, v / v.sum(-1, keepdim=True)).to(x.dtype)
        dim = x.shape[-1]
        h = F.silu(F.linear(x, self.w_gate.reshape(-1, dim))) * F.linear(x, self.w_up.reshape(-1, dim))
        h = (h.view(*x.shape[:-1], self.experts, self.inner) * w.unsqueeze(-1)).flatten(-2)
        y = F.linear(h, self.w_down.transpose(0, 1).reshape(dim, -1))
        load = (w > 0).float().mean((0, 1)) / self.top
        return y, self.experts * (load * p.mean((0, 1))).sum()


EXPERT_WEIGHTS = ("w_gate", "w_up", "w_down")


class Block(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        self.input_layernorm = RMS(c["hidden_size"], c["rms_norm_eps"])
        self.post_attention_layernorm = RMS(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.mlp = MoE(c) if "num_experts" in c else MLP(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        y, aux = self.mlp(self.post_attention_layernorm(x))
        return x + y, aux


class LM(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMS(c["hidden_size"], c["rms_norm_eps"])
        for name, p in self.named_parameters():
            if p.dim() > 1:
                s = 0.02 if "embed" in name else p.shape[-1] ** -0.5
                if name.endswith(("o_proj.weight", "down_proj.weight", "w_down")):
                    s /= math.sqrt(2 * c["num_hidden_layers"])
                nn.init.normal_(p, 0, s)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the mean load balancing loss (0 without experts)."""
        x = self.embed_tokens(ids)
        aux = torch.zeros((), device=ids.device)
        cos, sin = rope_tables(self.c, ids.shape[1], ids.device)
        for layer in self.layers:
            x, a = layer(x, cos, sin)
            aux = aux + a
        return F.linear(self.norm(x), self.embed_tokens.weight), aux / len(self.layers)


# --------------------------------------------------------------------------------------------------- HF folders
def to_hf(m: LM) -> dict[str, Tensor]:
    out = {}
    for name, p in m.state_dict().items():
        p = p.detach().cpu().to(torch.bfloat16)
        prefix, last = f"model.{name}".rsplit(".", 1)
        if last in EXPERT_WEIGHTS:
            for e in range(p.shape[0]):
                out[f"{prefix}.experts.{e}.{last[2:]}_proj.weight"] = p[e].clone().contiguous()
        else:
            out[f"{prefix}.{last}"] = p.contiguous()
    return out


def save(m: LM, out: Path) -> None:
    save_file(to_hf(m), str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    write_json(out / "config.json", m.c)
    generation = dict(
        bos_token_id=BOS,
        eos_token_id=[EOS, END],
        pad_token_id=PAD,
        do_sample=True,
        temperature=0.7,
        top_p=0.95,
        max_new_tokens=256,
    )
    write_json(out / "generation_config.json", generation)


def load(folder: Path, device: str | torch.device = "cpu") -> LM:
    m = LM(json.loads((folder / "config.json").read_text()))
    weights = load_file(str(folder / "model.safetensors"))
    state = {}
    for name in m.state_dict():
        prefix, last = f"model.{name}".rsplit(".", 1)
        if last in EXPERT_WEIGHTS:
            experts = range(m.c["num_experts"])
            state[name] = torch.stack([weights[f"{prefix}.experts.{e}.{last[2:]}_proj.weight"] for e in experts])
        else:
            state[name] = weights[f"{prefix}.{last}"]
    m.load_state_dict({k: v.float() for k, v in state.items()})
    return m.to(device).eval()


# ---------------------------------------------------------------------------------------------------------- use
def encode(tok: Tokenizer, text: str) -> list[int]:
    return [BOS, *tok.encode(text, add_special_tokens=False).ids]


@torch.no_grad()
def generate(m: LM, ids: list[int], n: int, temp: float = 0.0, top_p: float = 0.95, seed: int = 0) -> list[int]:
    dev = m.embed_tokens.weight.device
    g = torch.Generator().manual_seed(seed)
    ids = list(ids)
    for _ in range(n):
        logits = m(torch.tensor([ids[-m.c["max_position_embeddings"] :]], device=dev))[0][0, -1].float().cpu()
        if temp == 0:
            t = int(logits.argmax())
        else:
            p, i = F.softmax(logits / temp, -1).sort(descending=True)
            p[(p.cumsum(-1) - p) > top_p] = 0
            t = int(i[torch.multinomial(p / p.sum(), 1, generator=g)])
        ids.append(t)
        if t in (EOS, END):
            break
    return ids


def ask(*turns: str) -> str:
    """The chat template's text for a user's question, or for turns of user and assistant by turns."""
    roles = ("user", "assistant")
    return "".join(f"<|{roles[i % 2]}|>{t}<|end|>" for i, t in enumerate(turns)) + "<|assistant|>"


PROMPTS = [
    "Once upon a time",
    "Once upon a time, there was a small fox",
    ask("Tell me a story about a fox."),
    ask("Tell me a story about a fox named Pip."),
    ask("Tell me a story about a fox and a lantern."),
    ask("Tell me a fable."),
    ask("What is a candle?"),
    ask("What is 7 plus 5?"),
    ask("What is 12 + 7?"),
    ask("What is 15 minus 8?"),
    ask("The secret word is lantern. There was soup on the table. What is the secret word?"),
    ask("Tom has a red ball. Mia has a blue kite. Who has the kite?"),
    ask("Count from 3 to 9."),
    ask("Write JSON for a child named Ada, age 7, with an owl and a favorite color of green."),
    ask("Hello!"),
    ask("Hello!", "Hello! What would you like to hear today? I can tell you a story.", "Tell me a story about a bear."),
    ask("What is 2 + 2?", "2 + 2 = 4", "Name three birds."),
    "The old man looked at the sea and",
]


def show(m: LM, tok: Tokenizer, n: int = 300, temps: Sequence[float] = (0.0, 0.7)) -> None:
    for p in PROMPTS:
        for temp in temps:
            text = tok.decode(generate(m, encode(tok, p), n, temp), skip_special_tokens=False)
            print(f"  [{temp}]", text.replace("\n", " / "), flush=True)


@torch.no_grad()
def answers(m: LM, tok: Tokenizer, prompts: Sequence[str], n: int = 64, batch: int = 256) -> list[str]:
    """Greedy answers, many prompts at once: padded on the right, which causal attention never looks at."""
    dev, out = m.embed_tokens.weight.device, []
    for i in range(0, len(prompts), batch):
        enc = [encode(tok, ask(p)) for p in prompts[i : i + batch]]
        length = torch.tensor([len(e) for e in enc], device=dev)
        row = torch.arange(len(enc), device=dev)
        ids = torch.zeros(len(enc), int(length.max()) + n, dtype=torch.long, device=dev)
        for j, e in enumerate(enc):
            ids[j, : len(e)] = torch.tensor(e)
        done = torch.zeros(len(enc), dtype=torch.bool, device=dev)
        for _ in range(n):
            t = m(ids[:, : int(length.max())])[0][row, length - 1].argmax(-1)
            done |= (t == EOS) | (t == END)
            if done.all():
                break
            ids[row[~done], length[~done]] = t[~done]
            length += ~done
        out += [tok.decode(ids[j, len(e) : length[j]].tolist()) for j, e in enumerate(enc)]
    return out


def test(folder: Path, questions: Path, device: str) -> None:
    """Exact match of greedy answers, by kind of question."""
    m, tok = load(folder, device), load_tokenizer(folder)
    items = [json.loads(line) for line in questions.read_text().splitlines()]
    right: dict[str, list[bool]] = {}
    shown: dict[str, int] = {}
    for q, a in zip(items, answers(m, tok, [q["question"] for q in items]), strict=True):
        right.setdefault(q["kind"], []).append(a == q["answer"])
        if a != q["answer"] and shown.setdefault(q["kind"], 0) < 5:
            shown[q["kind"]] += 1
            print(f"  wrong: {q['question']!r} -> {a!r}, not {q['answer']!r}")
    for kind, r in right.items():
        print(f"{folder.name}: {kind}: {sum(r)} of {len(r)} right ({100 * sum(r) / len(r):.1f} %)", flush=True)


@torch.no_grad()
def evaluate(m: LM, val: Tokens, ctx: int, amp: torch.autocast, windows: int) -> float:
    """Mean loss a token over the first windows of the held-out documents."""
    total = count = 0
    n = min(windows, (len(val.data) - 1) // ctx)
    for i in range(0, n, 8):
        x, y = val.windows(torch.arange(i, min(i + 8, n), device=val.data.device) * ctx, ctx)
        with amp:
            logits = m(x)[0].float()
        total += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
        count += y.numel()
    return total / count


def verify(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    m, hf_tok, tok = load(folder), AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    text = 'Once upon a time, there was a small fox named Pip. "What is 12 + 7?" asked the owl.'
    assert hf_tok(text).input_ids == tok.encode(text).ids
    assert hf_tok.decode(hf_tok(text).input_ids, skip_special_tokens=True) == text
    hello = [{"role": "user", "content": "Hello!"}]
    chat = hf_tok.apply_chat_template(hello, add_generation_prompt=True, tokenize=False)
    assert chat == "<|bos|><|user|>Hello!<|end|><|assistant|>", chat
    ids = torch.tensor([hf_tok(text).input_ids])
    with torch.no_grad():
        ours, theirs = m(ids)[0], hf(ids).logits
    text1 = generate(m, ids[0].tolist(), 40)
    text2 = hf.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=[EOS, END])[0].tolist()
    diff, n = (ours - theirs).abs().max().item(), sum(p.numel() for p in m.parameters())
    print(f"{folder}: {type(hf).__name__}, {n:,} parameters, largest logit difference {diff:.2e}", end="")
    print(f" (logits up to {theirs.abs().max().item():.1f}), greedy text equal: {text1 == text2}")
    assert diff < 1e-3 and text1 == text2


@torch.no_grad()
def accept(target: Path, draft: Path, device: str, n: int = 12, k: int = 4) -> None:
    """Acceptance on text the target wrote: the sum of min(p, q) at temperature 1, and agreement of the greedy token."""
    t, q, tok = load(target, device), load(draft, device), load_tokenizer(target)
    topics = ["Tell me a fable.", "Tell me a story about a storm.", "Tell me a story about a fox."]
    prompts = ["Once upon a time", "One day", "It was winter.", *map(ask, topics)]
    for name, temp in (("temperature 1.0", 1.0), ("greedy", 0.0)):
        accepted: list[float] = []
        run: list[float] = []
        for i in range(n):
            prompt = encode(tok, prompts[i % len(prompts)])
            x = torch.tensor([generate(t, prompt, 150, temp, 1.0, seed=i)[:-1]], device=device)
            p_t, p_q = (F.softmax(m(x)[0][0, len(prompt) - 1 :].float(), -1) for m in (t, q))
            a = torch.minimum(p_t, p_q).sum(-1) if temp else (p_t.argmax(-1) == p_q.argmax(-1)).float()
            accepted += a.tolist()
            run += [1 + float(a[j : j + k].cumprod(0).sum()) for j in range(len(a) - k)]
        print(f"{name}: acceptance {np.mean(accepted):.3f},", end=" ")
        print(f"expected tokens a target step with {k} drafted: {np.mean(run):.2f} ({len(accepted)} positions)")


# -------------------------------------------------------------------------------------------------------- train
def losses(m: LM, teacher: LM | None, kd: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss to minimize, and the cross entropy for the log."""
    logits, aux = m(x)
    logits = logits.float().flatten(0, 1)
    ce = F.cross_entropy(logits, y.flatten())
    loss = ce + 0.01 * aux
    if teacher is not None:
        with torch.no_grad():
            goal = F.log_softmax(teacher(x)[0].float().flatten(0, 1), -1)
        kl = F.kl_div(F.log_softmax(logits, -1), goal, log_target=True, reduction="batchmean")
        loss = (1 - kd) * loss + kd * kl
    return loss, ce


def train(a: argparse.Namespace) -> None:
    torch.manual_seed(a.seed)
    dev = torch.device(a.device)
    if dev.type == "cuda":
        torch.set_float32_matmul_precision("high")
    a.out.mkdir(parents=True, exist_ok=True)
    docs = read_docs(a.data)
    held_out = min(4000, len(docs) // 50)
    tok = load_tokenizer(a.tokenizer) if a.tokenizer else train_tokenizer(docs[:100000], a.vocab)
    save_tokenizer(tok, a.out, a.max_pos)
    val, data = Tokens(tok, docs[:held_out], dev), Tokens(tok, docs[held_out:], dev)
    bytes_per_token = sum(len(d.encode()) for d in docs[:held_out]) / len(val.data)
    m = LM(make_config(a.arch, tok.get_vocab_size(), a.max_pos)).to(dev)
    if a.init:
        m.load_state_dict(load(a.init).state_dict())
    parameters = sum(p.numel() for p in m.parameters())
    print(f"{a.arch}: {parameters:,} parameters, {len(docs):,} documents, {len(data.data):,} training tokens,", end=" ")
    print(f"{bytes_per_token:.2f} bytes a token, ready after {time.time() - START:.0f} s", flush=True)
    teacher = load(a.teacher, dev) if a.teacher else None

    decay = [p for n, p in m.named_parameters() if p.dim() > 1 and "embed" not in n]
    rest = [p for n, p in m.named_parameters() if p.dim() < 2 or "embed" in n]
    groups = [dict(params=decay, weight_decay=a.wd), dict(params=rest, weight_decay=0.0)]
    opt = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95), fused=dev.type == "cuda")
    amp = torch.autocast(dev.type, torch.bfloat16, enabled=dev.type == "cuda")
    forward = torch.compile(losses) if a.compile else losses

    t0, history, step, done = time.time(), [], 0, 0.0
    while done < 1:
        done = step / a.steps
        if a.minutes:
            done = max(done, (time.time() - t0) / (60 * a.minutes + START - t0))
        lr = a.lr * min(1, (step + 1) / a.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, done))))
        for g in opt.param_groups:
            g["lr"] = lr
        x, y = data.sample(a.batch, a.ctx)
        with amp:
            loss, ce = forward(m, teacher, a.kd, x, y)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        step += 1
        if step % a.log == 0 or step == 1:
            train_loss, seconds = ce.item(), time.time() - t0
            speed = step * a.batch * a.ctx / seconds
            print(f"step {step} loss {train_loss:.4f} lr {lr:.2e} {speed:,.0f} tok/s {seconds:.0f} s", flush=True)
        if step % a.eval_every == 0:
            history.append((step, round(evaluate(m, val, a.ctx, amp, a.eval_windows), 4)))
            print(f"step {step} validation loss {history[-1][1]:.4f}", flush=True)
    seconds = time.time() - t0

    save(m, a.out)
    full = torch.autocast(dev.type, enabled=False)
    loss = evaluate(m, val, a.ctx, full, a.eval_windows)
    m = load(a.out, dev)
    rounded = evaluate(m, val, a.ctx, full, a.eval_windows)
    bits = rounded / math.log(2) / bytes_per_token
    print(f"step {step}: validation loss {loss:.4f}, with bf16 weights {rounded:.4f} ({bits:.4f} bits a byte)", end=" ")
    print(f"after {step * a.batch * a.ctx:,} tokens in {seconds:.0f} s", flush=True)
    facts = dict(
        arch=a.arch,
        parameters=parameters,
        steps=step,
        corpus_tokens=len(data.data),
        tokens=step * a.batch * a.ctx,
        seconds=round(seconds),
        validation=history,
        validation_end=round(loss, 4),
        validation_end_bf16=round(rounded, 4),
        bits_per_byte=round(bits, 4),
    )
    settings = {k: getattr(a, k) for k in ("lr", "warmup", "batch", "ctx", "seed", "wd", "kd")}
    write_json(a.out / "training.json", facts | settings)


def main() -> None:
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    cuda = "cuda" if torch.cuda.is_available() else "cpu"
    sub = ap.add_subparsers(dest="command", required=True)

    p = sub.add_parser("train", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--arch", choices=list(ARCH), default="llama")
    p.add_argument("--data", nargs="+", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json; trained from the data without it")
    p.add_argument("--vocab", type=int, default=3072)
    p.add_argument("--init", type=Path, help="folder of a model of the same shape and tokenizer to go on from")
    p.add_argument("--teacher", type=Path, help="folder of a model with the same tokenizer: adds distillation")
    p.add_argument("--kd", type=float, default=0.7, help="share of the distillation loss")
    p.add_argument("--steps", type=int, default=30000)
    p.add_argument("--minutes", type=float, default=0, help="end the schedule this long after the program's start")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--ctx", type=int, default=1024)
    p.add_argument("--max-pos", type=int, default=1024, help="max_position_embeddings of the config")
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--warmup", type=int, default=300)
    p.add_argument("--wd", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default=cuda)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--log", type=int, default=500)
    p.add_argument("--eval-every", type=int, default=5000)
    p.add_argument("--eval-windows", type=int, default=256)

    p = sub.add_parser("verify")
    p.add_argument("folder", type=Path)
    p = sub.add_parser("test")
    p.add_argument("folder", type=Path)
    p.add_argument("questions", type=Path)
    p.add_argument("--device", default=cuda)
    p = sub.add_parser("accept")
    p.add_argument("target", type=Path)
    p.add_argument("draft", type=Path)
    p.add_argument("--device", default=cuda)
    p = sub.add_parser("sample")
    p.add_argument("folder", type=Path)
    p.add_argument("--prompt", help="a sheet of samples without it")
    p.add_argument("--temp", type=float, default=0.7)
    p.add_argument("--device", default=cuda)

    a = ap.parse_args()
    if a.command == "train":
        train(a)
    elif a.command == "verify":
        verify(a.folder)
    elif a.command == "test":
        test(a.folder, a.questions, a.device)
    elif a.command == "accept":
        accept(a.target, a.draft, a.device)
    else:
        m, tok = load(a.folder, a.device), load_tokenizer(a.folder)
        if a.prompt:
            print(tok.decode(generate(m, encode(tok, a.prompt), 300, a.temp), skip_special_tokens=False))
        else:
            show(m, tok)


if __name__ == "__main__":
    main()
