// Attention of a step's queries over the paged cache.
#pragma once

#include "ops/attention.h"
#include "plan/operand.h"

namespace warpjet {

struct AttentionNode {
  using Op = Attention;
  static constexpr std::string_view name = "attention";
  In qkv;  // [(heads + 2 kv_heads) * head_dim]: the queries come first
  Out out;
  int cache = -1;
  int heads = 0, kv_heads = 0, head_dim = 0;
  int window = 0;  // tokens that a query sees, itself included; 0: all of them
  double scale = 1, softcap = 0;

  static constexpr auto fields() {
    using C = AttentionNode;
    return std::tuple{Field{"qkv", &C::qkv},       Field{"out", &C::out},           Field{"cache", &C::cache},
                      Field{"heads", &C::heads},   Field{"kv_heads", &C::kv_heads}, Field{"head_dim", &C::head_dim},
                      Field{"window", &C::window}, Field{"scale", &C::scale},       Field{"softcap", &C::softcap}};
  }
  Attention::Problem problem(const Shapes& s) const {
    return {.tokens = s.sizes.rows,
            .seqs = s.sizes.seqs,
            .heads = heads,
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .block_size = s.sizes.block_size,
            .max_context = s.sizes.max_context,
            .q = s[qkv].dtype,
            .kv = s.caches[cache].format.element,
            .out = s[out].dtype,
            .scale = static_cast<float>(scale),
            .softcap = static_cast<float>(softcap),
            .window = window};
  }
  Attention::Args args(const Scope& s) const {
    const TensorView all = s.at(qkv);
    return {.problem = problem(s),
            .q = {all.data, all.dtype, {all.shape[0], static_cast<std::int64_t>(heads) * head_dim}, all.row_stride},
            .k_cache = s.kv->caches[cache].k,
            .v_cache = s.kv->caches[cache].v,
            .block_tables = s.inputs->block_tables_of(s.kv->caches[cache].group),
            .table_rows = s.inputs->table_rows,
            .query_starts = s.inputs->query_starts,
            .context_lengths = s.inputs->context_lengths,
            .out = s.at(out),
            .workspace = s.workspace};
  }
  void check(const Rules& rules) const {
    rules.over(Rows::tokens);
    rules.heads(heads, kv_heads, head_dim);
    const int kept = rules.cache(cache, kv_heads, head_dim).window;
    rules.require(window >= 0 && (kept == 0 || (window > 0 && window <= kept)), "window ", window,
                  " of a cache that keeps ", kept, " tokens");
    rules.require(scale > 0 && softcap >= 0, "scale ", scale, " and softcap ", softcap);
    rules.width(qkv, (heads + 2ll * kv_heads) * head_dim);
    rules.width(out, static_cast<std::int64_t>(heads) * head_dim);
    rules.type(out, rules[qkv].dtype);
  }
};

}  // namespace warpjet
