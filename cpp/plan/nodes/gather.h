// The hidden states of the rows that are sampled.
#pragma once

#include "ops/token.h"
#include "plan/operand.h"

namespace warpjet {

struct GatherNode {
  using Op = Gather;
  static constexpr std::string_view name = "gather";
  InTokens x;
  Out out;

  static constexpr auto fields() {
    using C = GatherNode;
    return std::tuple{Field{"x", &C::x}, Field{"out", &C::out}};
  }
  Gather::Problem problem(const Shapes& s) const {
    return {.rows = s.sizes.rows, .hidden = s[x].width, .dtype = s[x].dtype};
  }
  Gather::Args args(const Scope& s) const {
    return {.problem = problem(s), .x = s.at(x), .rows = s.sample_rows, .out = s.at(out)};
  }
  void check(const Rules& rules) const {
    rules.over(Rows::sampled);
    rules.width(out, rules[x].width);
    rules.type(out, rules[x].dtype);
  }
};

}  // namespace warpjet
