// Token ids -> hidden states.
#pragma once

#include "ops/token.h"
#include "plan/operand.h"

namespace warpjet {

struct EmbedNode {
  using Op = Embed;
  static constexpr std::string_view name = "embed";
  Weight table;
  Out out;
  double scale = 1;

  static constexpr auto fields() {
    using C = EmbedNode;
    return std::tuple{Field{"table", &C::table}, Field{"out", &C::out}, Field{"scale", &C::scale}};
  }
  Embed::Problem problem(const Shapes& s) const {
    return {.tokens = s.sizes.rows,
            .hidden = s[table].shape[1],
            .vocab = s[table].shape[0],
            .table = s[table].format.element,
            .out = s[out].dtype,
            .scale = static_cast<float>(scale)};
  }
  Embed::Args args(const Scope& s) const {
    return {.problem = problem(s), .ids = s.inputs->token_ids, .table = s.at(table), .out = s.at(out)};
  }
  void check(const Rules& rules) const {
    rules.over(Rows::tokens);
    rules.matrix(table);
    rules.plain(table);
    rules.width(out, rules[table].shape[1]);
    rules.require(rules[table].shape[0] == rules.vocab_size, "the table has ", rules[table].shape[0], " rows, not ",
                  rules.vocab_size);
  }
};

}  // namespace warpjet
