// Per-token ops: embedding, RMS norm, row gather.
#pragma once

#include "ops/kernel.h"

namespace warpjet {

// out[t] = table[ids[t]] * scale, the product in fp32. ids are checked before they reach an op.
struct Embed {
  static constexpr std::string_view name = "embed";
  struct Problem {
    std::int64_t tokens = 0, hidden = 0, vocab = 0;
    DType table = DType::f32, out = DType::f32;
    float scale = 1.0f;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"tokens", &P::tokens}, Field{"hidden", &P::hidden}, Field{"vocab", &P::vocab},
                        Field{"table", &P::table},   Field{"out", &P::out},       Field{"scale", &P::scale}};
    }
  };
  struct Args {
    Problem problem;
    TensorView ids;    // [tokens] i32
    TensorView table;  // [vocab, hidden]
    TensorView out;    // [tokens, hidden]
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) {
    return p.tokens * (4.0 + p.hidden * (type_bytes(p.table) + type_bytes(p.out)));
  }
  static Kernel<Embed> reference();
};

// y = x / sqrt(mean(x²) + eps) * weight (+ residual), in fp32, rounded once (Zhang & Sennrich 2019).
struct Norm {
  static constexpr std::string_view name = "norm";
  struct Problem {
    std::int64_t tokens = 0, hidden = 0;
    DType x = DType::f32, weight = DType::f32, y = DType::f32;
    float eps = 1e-5f;
    bool residual = false;  // of y's type

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"tokens", &P::tokens},    Field{"hidden", &P::hidden}, Field{"x", &P::x},
                        Field{"weight", &P::weight},    Field{"y", &P::y},           Field{"eps", &P::eps},
                        Field{"residual", &P::residual}};
    }
  };
  struct Args {
    Problem problem;
    TensorView x;         // [tokens, hidden]
    TensorView weight;    // [hidden]
    TensorView residual;  // [tokens, hidden], with residual; may be y
    TensorView y;         // [tokens, hidden], may be x
  };
  static double flops(const Problem& p) { return 4.0 * p.tokens * p.hidden; }
  static double bytes(const Problem& p) {
    return p.tokens * p.hidden * (type_bytes(p.x) + type_bytes(p.y) * (p.residual ? 2 : 1)) +
           p.hidden * type_bytes(p.weight);
  }
  static Kernel<Norm> reference();
};

// out[r] = x[rows[r]]: the hidden states of the rows that are sampled.
struct Gather {
  static constexpr std::string_view name = "gather";
  struct Problem {
    std::int64_t rows = 0, hidden = 0;
    DType dtype = DType::f32;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"rows", &P::rows}, Field{"hidden", &P::hidden}, Field{"dtype", &P::dtype}};
    }
  };
  struct Args {
    Problem problem;
    TensorView x;     // [tokens, hidden]
    TensorView rows;  // [rows] i32
    TensorView out;   // [rows, hidden]
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return p.rows * (4.0 + 2.0 * p.hidden * type_bytes(p.dtype)); }
  static Kernel<Gather> reference();
};

}  // namespace warpjet
