// Plan <-> JSON. Everything but a node's kind follows from the fields of the structs.
#include "plan/plan.h"

namespace warpjet {

static Json json_of(const Shape& shape) {
  Json extents{Json::Array{}};
  for (std::int64_t extent : shape.extents()) extents.push(extent);
  return extents;
}
static void from_json(const Json& json, Shape& shape) {
  std::vector<std::int64_t> extents;
  from_json(json, extents);
  WJ_REQUIRE(extents.size() <= Shape::kMaxRank, corrupt, "shape of rank ", extents.size());
  shape = Shape(extents);
}

namespace {

// Tries each alternative of the variant until the name fits.
template <std::size_t I = 0>
AnyNode node_of(const std::string& name, const Json& args) {
  if constexpr (I == std::variant_size_v<AnyNode>) {
    WJ_FAIL(corrupt, "unknown op \"", name, "\"");
  } else {
    using N = std::variant_alternative_t<I, AnyNode>;
    if (N::name != name) return node_of<I + 1>(name, args);
    N node;
    from_json(args, node);
    return node;
  }
}

}  // namespace

static Json json_of(const Node& node) {
  return std::visit(
      [&]<class N>(const N& op) {
        return Json(Json::Object{
            {"name", node.name}, {"op", N::name}, {"tactics", json_of(node.tactics)}, {"args", json_of(op)}});
      },
      node.op);
}
static void from_json(const Json& json, Node& node) {
  node.name = json.at("name").as_string();
  from_json(json.at("tactics"), node.tactics);
  node.op = node_of(json.at("op").as_string(), json.at("args"));
}

Json plan_to_json(const Plan& plan) {
  return json_of(plan);
}

Plan plan_from_json(const Json& json) {
  Plan plan;
  from_json(json, plan);
  check_plan(plan);
  return plan;
}

}  // namespace warpjet
