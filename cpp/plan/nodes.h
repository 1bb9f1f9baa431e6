// THE TABLE of nodes. Lifetimes, range checks, JSON, costs, kernel rows and launches are derived from it: a new kind of
// node is its file in plan/nodes and a name here.
//
// A node has an Op, a name, fields() (operands by type, and numbers of its own), problem(shapes), args(scope),
// check(rules) and, where it needs numbers in device memory, constants().
#pragma once

#include "ops/catalog.h"
#include "plan/nodes/attention.h"
#include "plan/nodes/embed.h"
#include "plan/nodes/gather.h"
#include "plan/nodes/gemm.h"
#include "plan/nodes/norm.h"
#include "plan/nodes/rope_append_kv.h"
#include "plan/nodes/rope_table.h"

#include <variant>

namespace warpjet {

using AnyNode = std::variant<EmbedNode, RopeTableNode, NormNode, GemmNode, RopeAppendKvNode, AttentionNode, GatherNode>;

// The row of the catalogue that a node is launched by.
template <class>
struct RowOf;
template <class... Node>
struct RowOf<std::variant<Node...>> {
  using type = std::variant<const Kernel<typename Node::Op>*...>;
};
using KernelRow = RowOf<AnyNode>::type;

// Calls visit(operand) for every operand that is there, in the order of fields(): inputs before outputs.
template <class Visit>
void for_each_operand(const AnyNode& node, Visit visit) {
  std::visit(
      [&]<class N>(const N& n) {
        for_each_field<N>([&](const auto& field) {
          const auto& value = n.*(field.member);
          using Operand = std::remove_cvref_t<decltype(value)>;
          if constexpr (Buffered<Operand> || Weighted<Operand>) {
            if (!Optional<Operand> || value.index != -1) visit(value);
          }
        });
      },
      node);
}

// The least that a node must compute and move.
struct NodeCost {
  double flops = 0, bytes = 0;
};
inline NodeCost node_cost(const AnyNode& node, const Shapes& shapes) {
  return std::visit(
      [&]<class N>(const N& n) {
        const auto problem = n.problem(shapes);
        return NodeCost{.flops = N::Op::flops(problem), .bytes = N::Op::bytes(problem)};
      },
      node);
}

inline void launch(const AnyNode& node, const KernelRow& row, const Scope& scope, Stream& stream) {
  std::visit([&]<class N>(const N& n) { std::get<const Kernel<typename N::Op>*>(row)->run(n.args(scope), stream); },
             node);
}

inline std::vector<float> constants_of(const AnyNode& node) {
  return std::visit(
      []<class N>(const N& n) {
        if constexpr (requires { n.constants(); }) return n.constants();
        return std::vector<float>{};
      },
      node);
}

}  // namespace warpjet
