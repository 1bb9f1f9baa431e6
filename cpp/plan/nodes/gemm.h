// A product with a weight matrix and its fused epilogue: d = gate(a · bᵀ + bias) + residual.
#pragma once

#include "ops/linear.h"
#include "plan/operand.h"

namespace warpjet {

struct GemmNode {
  using Op = Gemm;
  static constexpr std::string_view name = "gemm";
  In a;
  Weight b;
  OptionalWeight bias;
  OptionalIn residual;
  Out d;
  Gate gate = Gate::none;

  static constexpr auto fields() {
    using C = GemmNode;
    return std::tuple{Field{"a", &C::a},       Field{"b", &C::b},
                      Field{"bias", &C::bias}, Field{"residual", &C::residual},
                      Field{"d", &C::d},       Field{"gate", &C::gate}};
  }
  Gemm::Problem problem(const Shapes& s) const {
    return {.m = s.sizes.rows,
            .n = s[b].shape[0],
            .k = s[b].shape[1],
            .a = s[a].dtype,
            .b = s[b].format,
            .d = s[d].dtype,
            .gate = gate,
            .bias = static_cast<bool>(bias),
            .residual = static_cast<bool>(residual)};
  }
  Gemm::Args args(const Scope& s) const {
    return {.problem = problem(s),
            .a = s.at(a),
            .b = s.at(b),
            .bias = s.at(bias),
            .residual = s.at(residual),
            .d = s.at(d),
            .b_scales = s.scales_of(b)};
  }
  void check(const Rules& rules) const {
    rules.matrix(b);
    const std::int64_t n = rules[b].shape[0], width = gate == Gate::none ? n : n / 2;
    rules.width(a, rules[b].shape[1]);
    rules.width(d, width);
    rules.require(gate == Gate::none || (n % 2 == 0 && !residual), "a gate needs an even width and no residual");
    rules.require(a.index != d.index, "input and output are the same buffer");
    if (bias) {
      rules.vector(bias, n);
      rules.require(rules[bias].format == Format(problem(rules).bias_type()), "bias and matrix have different types");
    }
    if (residual) {
      rules.width(residual, width);
      rules.type(residual, rules[d].dtype);
    }
  }
};

}  // namespace warpjet
