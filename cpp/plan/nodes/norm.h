// RMS norm, and a residual that is added to it.
#pragma once

#include "ops/token.h"
#include "plan/operand.h"

namespace warpjet {

struct NormNode {
  using Op = Norm;
  static constexpr std::string_view name = "norm";
  In x;
  Weight weight;
  OptionalIn residual;
  Out y;
  double eps = 1e-6;

  static constexpr auto fields() {
    using C = NormNode;
    return std::tuple{Field{"x", &C::x}, Field{"weight", &C::weight}, Field{"residual", &C::residual},
                      Field{"y", &C::y}, Field{"eps", &C::eps}};
  }
  Norm::Problem problem(const Shapes& s) const {
    return {.tokens = s.sizes.rows,
            .hidden = s[x].width,
            .x = s[x].dtype,
            .weight = s[weight].format.element,
            .y = s[y].dtype,
            .eps = static_cast<float>(eps),
            .residual = static_cast<bool>(residual)};
  }
  Norm::Args args(const Scope& s) const {
    return {.problem = problem(s), .x = s.at(x), .weight = s.at(weight), .residual = s.at(residual), .y = s.at(y)};
  }
  void check(const Rules& rules) const {
    rules.vector(weight, rules[x].width);
    rules.width(y, rules[x].width);
    if (residual) {
      rules.width(residual, rules[x].width);
      rules.type(residual, rules[y].dtype);
    }
    rules.require(eps >= 0 && eps < 1, "eps ", eps, " is outside [0, 1)");
  }
};

}  // namespace warpjet
