// The rows of the reference kernels, and what problems look like in messages and cost in bytes.
#include "ops/catalog.h"

#include "ops/ref/reference.h"

#include <algorithm>

namespace warpjet {
namespace {

template <class Op>
void add_reference(Catalogs& catalogs, std::string_view name,
                   std::int64_t (*workspace)(const typename Op::Problem&, const DeviceInfo&) = nullptr) {
  catalogs.of<Op>().add({.name = name,
                         .sm_min = 0,
                         .sm_max = 1,
                         .supports = ref::supports,
                         .workspace = workspace,
                         .launch = ref::launch});
}

double type_bytes(DType dtype) {
  return dtype_bytes(dtype);
}

// " gate=silu bias" for what is there.
std::string flag(bool on, std::string_view text) {
  return on ? cat(" ", text) : std::string();
}

}  // namespace

void register_reference(Catalogs& catalogs) {
  add_reference<Embed>(catalogs, "ref.embed");
  add_reference<Norm>(catalogs, "ref.norm");
  add_reference<Gather>(catalogs, "ref.gather");
  add_reference<Gemm>(catalogs, "ref.gemm");
  add_reference<RopeTable>(catalogs, "ref.rope_table");
  add_reference<RopeAppendKv>(catalogs, "ref.rope_append_kv");
  add_reference<Attention>(catalogs, "ref.attention");
  add_reference<Penalize>(catalogs, "ref.penalize", ref::workspace);
  add_reference<Select>(catalogs, "ref.select");
  add_reference<Logprob>(catalogs, "ref.logprob");
  add_reference<AppendTokens>(catalogs, "ref.append_tokens");
  add_reference<Edit>(catalogs, "ref.edit");
  add_reference<PrepareRows>(catalogs, "ref.prepare_rows");
  add_reference<CopyBlocks>(catalogs, "ref.copy_blocks");
}

// --- Messages -------------------------------------------------------------------------------------------------------

std::string_view to_string(Gate gate) {
  switch (gate) {
    case Gate::none:
      return "none";
    case Gate::silu:
      return "silu";
    case Gate::gelu:
      return "gelu";
    case Gate::gelu_tanh:
      return "gelu_tanh";
    case Gate::relu:
      return "relu";
  }
  return "unknown";
}

std::string to_string(const Embed::Problem& p) {
  return cat("{tokens=", p.tokens, " hidden=", p.hidden, " vocab=", p.vocab, " table=", to_string(p.table),
             " out=", to_string(p.out), "}");
}

std::string to_string(const Norm::Problem& p) {
  return cat("{tokens=", p.tokens, " hidden=", p.hidden, " x=", to_string(p.x), " weight=", to_string(p.weight),
             " y=", to_string(p.y), " eps=", p.eps, "}");
}

std::string to_string(const Gather::Problem& p) {
  return cat("{rows=", p.rows, " hidden=", p.hidden, " dtype=", to_string(p.dtype), "}");
}

std::string to_string(const Gemm::Problem& p) {
  return cat("{m=", p.m, " n=", p.n, " k=", p.k, " a=", to_string(p.a), " b=", to_string(p.b), " d=", to_string(p.d),
             flag(p.gate != Gate::none, cat("gate=", to_string(p.gate))), flag(p.bias, "bias"),
             flag(p.residual, "residual"), "}");
}

std::string to_string(const RopeTable::Problem& p) {
  return cat("{tokens=", p.tokens, " dim=", p.dim, " scale=", p.scale,
             flag(p.ntk_factor != 0, cat("ntk_factor=", p.ntk_factor, " ntk_original=", p.ntk_original)), "}");
}

std::string to_string(const RopeAppendKv::Problem& p) {
  return cat("{tokens=", p.tokens, " heads=", p.heads, " kv_heads=", p.kv_heads, " head_dim=", p.head_dim,
             " block_size=", p.block_size, " qkv=", to_string(p.qkv), " kv=", to_string(p.kv),
             flag(p.qk_norm, cat("qk_norm=", to_string(p.weight), " eps=", p.eps)), "}");
}

std::string to_string(const Attention::Problem& p) {
  return cat("{tokens=", p.tokens, " seqs=", p.seqs, " heads=", p.heads, " kv_heads=", p.kv_heads,
             " head_dim=", p.head_dim, " block_size=", p.block_size, " max_context=", p.max_context,
             " q=", to_string(p.q), " kv=", to_string(p.kv), " out=", to_string(p.out),
             flag(p.softcap != 0, cat("softcap=", p.softcap)), flag(p.window > 0, cat("window=", p.window)),
             flag(p.sinks, "sinks"), "}");
}

std::string to_string(const Penalize::Problem& p) {
  return cat("{rows=", p.rows, " vocab=", p.vocab, "}");
}
std::string to_string(const Select::Problem& p) {
  return cat("{rows=", p.rows, " vocab=", p.vocab, "}");
}
std::string to_string(const Logprob::Problem& p) {
  return cat("{rows=", p.rows, " vocab=", p.vocab, " top=", p.top, "}");
}
std::string to_string(const AppendTokens::Problem& p) {
  return cat("{rows=", p.rows, "}");
}

std::string to_string(const Edit::Problem& p) {
  return cat("{count=", p.count, "}");
}
std::string to_string(const PrepareRows::Problem& p) {
  return cat("{tokens=", p.tokens, " seqs=", p.seqs, " samples=", p.samples, " block_size=", p.block_size, "}");
}
std::string to_string(const CopyBlocks::Problem& p) {
  return cat("{count=", p.count, " tensors=", p.tensors, " block_bytes=", p.block_bytes, " blocks=", p.blocks, "}");
}

// --- Bytes moved, each operand once ---------------------------------------------------------------------------------

double Embed::bytes(const Problem& p) {
  return p.tokens * (4.0 + p.hidden * (type_bytes(p.table) + type_bytes(p.out)));
}

double Norm::bytes(const Problem& p) {
  return p.tokens * p.hidden * (type_bytes(p.x) + type_bytes(p.y)) + p.hidden * type_bytes(p.weight);
}

double Gather::bytes(const Problem& p) {
  return p.rows * (4.0 + 2.0 * p.hidden * type_bytes(p.dtype));
}

double Gemm::bytes(const Problem& p) {
  const double columns = p.gate == Gate::none ? p.n : p.n / 2;
  const double outputs = columns * p.m * type_bytes(p.d) * (p.residual ? 2 : 1);
  return 1.0 * p.m * p.k * type_bytes(p.a) + (1.0 * p.n * p.k + (p.bias ? p.n : 0)) * type_bytes(p.b) + outputs;
}

double RopeAppendKv::bytes(const Problem& p) {
  const double q = p.heads * p.head_dim, kv = 2.0 * p.kv_heads * p.head_dim;
  return p.tokens * ((2 * q + kv) * type_bytes(p.qkv) + kv * type_bytes(p.kv) + 4.0 * p.head_dim + 8.0);
}

double Attention::bytes(const Problem& p) {
  const double seen = p.window > 0 ? std::min(p.window, p.max_context) : p.max_context;
  return p.tokens * p.heads * p.head_dim * (type_bytes(p.q) + type_bytes(p.out)) +
         p.seqs * seen * 2.0 * p.kv_heads * p.head_dim * type_bytes(p.kv);
}

}  // namespace warpjet
