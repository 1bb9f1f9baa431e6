// Rotary embedding, KV append and paged attention.
#pragma once

#include "ops/kernel.h"

#include <algorithm>

namespace warpjet {

// cos_sin[t] = scale * {cos(p f_0) .. cos(p f_{d/2-1}), sin(p f_0) .. sin(p f_{d/2-1})} with p = positions[t] and d =
// dim (Su et al. 2021). The frequencies f are given, whatever scaling made them, except for the "dynamic" one, whose
// frequencies depend on rope_lengths[t], the length of text that token t is rotated for: beyond ntk_original positions
// f_i is divided by (ntk_factor * length / ntk_original - (ntk_factor - 1)) ^ (2i / (d - 2)).
struct RopeTable {
  static constexpr std::string_view name = "rope_table";
  struct Problem {
    std::int64_t tokens = 0, dim = 0;
    float scale = 1.0f;
    float ntk_factor = 0.0f;  // 0: frequencies do not depend on the length
    std::int64_t ntk_original = 0;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"tokens", &P::tokens}, Field{"dim", &P::dim}, Field{"scale", &P::scale},
                        Field{"ntk_factor", &P::ntk_factor}, Field{"ntk_original", &P::ntk_original}};
    }
  };
  struct Args {
    Problem problem;
    TensorView positions;     // [tokens] i32; 0 for padding
    TensorView rope_lengths;  // [tokens] i32: the prompt's length for prompt tokens, position + 1 for later ones
    TensorView frequencies;   // [dim / 2] f32
    TensorView cos_sin;       // [tokens, dim] f32
  };
  static double flops(const Problem& p) { return 2.0 * p.tokens * p.dim; }
  static double bytes(const Problem& p) { return p.tokens * (8.0 + 4.0 * p.dim); }
  static Kernel<RopeTable> reference();
};

// Splits qkv, applies the optional per-head RMS norms of q and k, rotates both (half-split pairs: element i with
// i + dim/2), writes q back in place and appends k and v to the paged cache.
struct RopeAppendKv {
  static constexpr std::string_view name = "rope_append_kv";
  struct Problem {
    std::int64_t tokens = 0, heads = 0, kv_heads = 0, head_dim = 0, block_size = 0;
    DType qkv = DType::f32, kv = DType::f32, weight = DType::f32;
    bool qk_norm = false;
    float eps = 1e-6f;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"tokens", &P::tokens},
                        Field{"heads", &P::heads},
                        Field{"kv_heads", &P::kv_heads},
                        Field{"head_dim", &P::head_dim},
                        Field{"block_size", &P::block_size},
                        Field{"qkv", &P::qkv},
                        Field{"kv", &P::kv},
                        Field{"weight", &P::weight},
                        Field{"qk_norm", &P::qk_norm},
                        Field{"eps", &P::eps}};
    }
  };
  struct Args {
    Problem problem;
    TensorView qkv;               // [tokens, (heads + 2 kv_heads) * head_dim]
    TensorView cos_sin;           // [tokens, head_dim] f32
    TensorView q_norm, k_norm;    // [head_dim], with qk_norm
    TensorView cache_rows;        // [tokens] i64: block * block_size + offset; -1 (padding) appends nothing
    TensorView k_cache, v_cache;  // [blocks, kv_heads, block_size, head_dim]
  };
  static double flops(const Problem& p) { return 3.0 * p.tokens * (p.heads + p.kv_heads) * p.head_dim; }
  static double bytes(const Problem& p) {
    const double q = p.heads * p.head_dim, kv = 2.0 * p.kv_heads * p.head_dim;
    return p.tokens * ((2 * q + kv) * type_bytes(p.qkv) + kv * type_bytes(p.kv) + 4.0 * p.head_dim + 8.0);
  }
  static Kernel<RopeAppendKv> reference();
};

// Causal attention of packed query chunks over paged keys and values. Sequence b owns query rows
// query_starts[b] .. query_starts[b+1], which are the last of its context_lengths[b] positions. A query at position p
// sees keys max(0, p - window + 1) .. p (window 0: all). Softmax in fp32 over a fixed order of keys.
//
// Steps of a fixed size are padded: a sequence may have no query rows, rows from query_starts[seqs] on are not written,
// and a query may lie before position 0 (a context shorter than its queries): it sees no key and its output is zeros.
struct Attention {
  static constexpr std::string_view name = "attention";
  struct Problem {
    std::int64_t tokens = 0, seqs = 0, heads = 0, kv_heads = 0, head_dim = 0, block_size = 0;
    std::int64_t max_context = 0;  // longest context in the batch; costs only
    DType q = DType::f32, kv = DType::f32, out = DType::f32;
    float scale = 1.0f;
    float softcap = 0.0f;  // scores s become softcap * tanh(s / softcap); 0: they do not
    std::int64_t window = 0;
    bool sinks = false;  // a head's softmax has one more score in its denominator, without a value

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"tokens", &P::tokens},
                        Field{"seqs", &P::seqs},
                        Field{"heads", &P::heads},
                        Field{"kv_heads", &P::kv_heads},
                        Field{"head_dim", &P::head_dim},
                        Field{"block_size", &P::block_size},
                        Field{"max_context", &P::max_context},
                        Field{"q", &P::q},
                        Field{"kv", &P::kv},
                        Field{"out", &P::out},
                        Field{"scale", &P::scale},
                        Field{"softcap", &P::softcap},
                        Field{"window", &P::window},
                        Field{"sinks", &P::sinks}};
    }
  };
  struct Args {
    Problem problem;
    TensorView q;                 // [tokens, heads * head_dim], rows may be strided (a slice of qkv)
    TensorView k_cache, v_cache;  // [blocks, kv_heads, block_size, head_dim]
    TensorView block_tables;      // [rows, max_blocks] i32
    TensorView table_rows;        // [seqs] i32: the sequence's row of block_tables
    TensorView query_starts;      // [seqs + 1] i32
    TensorView context_lengths;   // [seqs] i32
    TensorView sinks;             // [heads] f32, with sinks
    TensorView out;               // [tokens, heads * head_dim]
    TensorView workspace;         // u8, see Kernel::workspace
  };
  static double flops(const Problem& p) { return 4.0 * p.tokens * p.heads * p.head_dim * p.max_context; }
  static double bytes(const Problem& p) {
    const double seen = p.window > 0 ? std::min(p.window, p.max_context) : p.max_context;
    return p.tokens * p.heads * p.head_dim * (type_bytes(p.q) + type_bytes(p.out)) +
           p.seqs * seen * 2.0 * p.kv_heads * p.head_dim * type_bytes(p.kv);
  }
  static Kernel<Attention> reference();
};

}  // namespace warpjet
