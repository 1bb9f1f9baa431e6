// Queries and keys normalised and rotated in place; keys and values appended to the paged cache.
#pragma once

#include "ops/attention.h"
#include "plan/operand.h"

namespace warpjet {

struct RopeAppendKvNode {
  using Op = RopeAppendKv;
  static constexpr std::string_view name = "rope_append_kv";
  InOut qkv;  // [(heads + 2 kv_heads) * head_dim]
  In cos_sin;
  OptionalWeight q_norm, k_norm;  // both or none
  int cache = -1;
  int heads = 0, kv_heads = 0, head_dim = 0;
  double eps = 1e-6;  // of the norms

  static constexpr auto fields() {
    using C = RopeAppendKvNode;
    return std::tuple{Field{"qkv", &C::qkv},           Field{"cos_sin", &C::cos_sin},   Field{"q_norm", &C::q_norm},
                      Field{"k_norm", &C::k_norm},     Field{"cache", &C::cache},       Field{"heads", &C::heads},
                      Field{"kv_heads", &C::kv_heads}, Field{"head_dim", &C::head_dim}, Field{"eps", &C::eps}};
  }
  RopeAppendKv::Problem problem(const Shapes& s) const {
    return {.tokens = s.sizes.rows,
            .heads = heads,
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .block_size = s.sizes.block_size,
            .qkv = s[qkv].dtype,
            .kv = s.caches[cache].format.element,
            .weight = q_norm ? s[q_norm].format.element : s[qkv].dtype,
            .qk_norm = static_cast<bool>(q_norm),
            .eps = static_cast<float>(eps)};
  }
  RopeAppendKv::Args args(const Scope& s) const {
    return {.problem = problem(s),
            .qkv = s.at(qkv),
            .cos_sin = s.at(cos_sin),
            .q_norm = s.at(q_norm),
            .k_norm = s.at(k_norm),
            .cache_rows = s.inputs->cache_rows_of(s.kv->caches[cache].group),
            .k_cache = s.kv->caches[cache].k,
            .v_cache = s.kv->caches[cache].v};
  }
  void check(const Rules& rules) const {
    rules.over(Rows::tokens);
    rules.heads(heads, kv_heads, head_dim);
    rules.cache(cache, kv_heads, head_dim);
    rules.width(qkv, (heads + 2ll * kv_heads) * head_dim);
    rules.width(cos_sin, head_dim);
    rules.type(cos_sin, DType::f32);
    rules.require(static_cast<bool>(q_norm) == static_cast<bool>(k_norm), "q_norm and k_norm come together");
    rules.require(eps >= 0 && eps < 1, "eps ", eps, " is outside [0, 1)");
    if (!q_norm) return;
    rules.vector(q_norm, head_dim);
    rules.vector(k_norm, head_dim);
    rules.require(rules[q_norm].format == rules[k_norm].format, "q_norm and k_norm types differ");
  }
};

}  // namespace warpjet
