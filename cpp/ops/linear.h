// Matrix products with fused epilogues.
#pragma once

#include "ops/kernel.h"

#include <array>

namespace warpjet {

// Gate of a gated MLP: d = gate(a·b_gateᵀ) * (a·b_upᵀ).
enum class Gate : std::uint8_t { none, silu, gelu, gelu_tanh, relu };
constexpr auto names_of(Gate) {
  return std::to_array<std::string_view>({"none", "silu", "gelu", "gelu_tanh", "relu"});
}

// d[m, n'] = epilogue(a[m, k] · b[n, k]ᵀ + bias[n]), accumulated in fp32 and rounded once.
//   gate == none: n' = n;   d = acc (+ residual[m, n])
//   gate != none: n' = n/2; b's first half are gate rows, its second half up rows; d = gate(acc_gate) * acc_up
// Every output element is reduced over k in one fixed order, whatever m is: a row never depends on its neighbours.
struct Gemm {
  static constexpr std::string_view name = "gemm";
  struct Problem {
    std::int64_t m = 0, n = 0, k = 0;
    DType a = DType::f32;
    Format b = DType::f32;
    DType d = DType::f32;  // residual has type d, bias that of b or, where b is scaled, of a
    Gate gate = Gate::none;
    bool bias = false;
    bool residual = false;  // not with a gate

    DType bias_type() const { return b.scaled() ? a : b.element; }

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"m", &P::m},       Field{"n", &P::n},       Field{"k", &P::k},
                        Field{"a", &P::a},       Field{"b", &P::b},       Field{"d", &P::d},
                        Field{"gate", &P::gate}, Field{"bias", &P::bias}, Field{"residual", &P::residual}};
    }
  };
  struct Args {
    Problem problem;
    TensorView a, b, bias, residual, d;  // residual may be d itself
    TensorView b_scales;                 // f32, Format::scale_shape, with a scaled b
  };
  static double flops(const Problem& p) { return 2.0 * p.m * p.n * p.k; }
  static double bytes(const Problem& p) {
    const double columns = p.gate == Gate::none ? p.n : p.n / 2;
    const double outputs = columns * p.m * type_bytes(p.d) * (p.residual ? 2 : 1);
    return 1.0 * p.m * p.k * type_bytes(p.a) + 1.0 * p.n * p.k * type_bytes(p.b) +
           (p.bias ? p.n * type_bytes(p.bias_type()) : 0) + outputs;
  }
  static Kernel<Gemm> reference();
};

}  // namespace warpjet
