// cos and sin of every token's position, for the layers that share a rotary embedding.
#pragma once

#include "model/rope.h"
#include "ops/attention.h"
#include "plan/operand.h"

namespace warpjet {

struct RopeTableNode {
  using Op = RopeTable;
  static constexpr std::string_view name = "rope_table";
  Out cos_sin;
  int dim = 0;  // elements of a head that are rotated
  RopeSpec rope;

  static constexpr auto fields() {
    using C = RopeTableNode;
    return std::tuple{Field{"cos_sin", &C::cos_sin}, Field{"dim", &C::dim}, Field{"rope", &C::rope}};
  }
  std::vector<float> constants() const { return rope_frequencies(rope, dim); }
  RopeTable::Problem problem(const Shapes& s) const {
    return {.tokens = s.sizes.rows,
            .dim = dim,
            .scale = static_cast<float>(rope.attention_factor),
            .ntk_factor = rope.scaling == "dynamic" ? static_cast<float>(rope.factor) : 0.0f,
            .ntk_original = rope.original_max_positions};
  }
  RopeTable::Args args(const Scope& s) const {
    return {.problem = problem(s),
            .positions = s.inputs->positions,
            .rope_lengths = s.inputs->rope_lengths,
            .frequencies = s.constants,
            .cos_sin = s.at(cos_sin)};
  }
  void check(const Rules& rules) const {
    rules.over(Rows::tokens);
    rules.require(dim > 0 && dim % 2 == 0, "dim ", dim, " is not a positive even number");
    rules.require(rope.theta > 0 && rope.factor > 0, "theta and factor must be positive");
    rules.width(cos_sin, dim);
    rules.type(cos_sin, DType::f32);
  }
};

}  // namespace warpjet
