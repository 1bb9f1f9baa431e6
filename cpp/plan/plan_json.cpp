// Plan <-> JSON. Types, layouts and steps are stored by name.
#include "plan/plan.h"

namespace warpjet {

// Found by argument-dependent lookup from json_of and from_json of the structs that hold them.
static Json json_of(Gate gate) {
  return Json(to_string(gate));
}
static void from_json(const Json& json, Gate& gate) {
  for (Gate candidate : {Gate::none, Gate::silu, Gate::gelu, Gate::gelu_tanh, Gate::relu}) {
    if (to_string(candidate) == json.as_string()) {
      gate = candidate;
      return;
    }
  }
  WJ_FAIL(corrupt, "unknown gate \"", json.as_string(), "\"");
}

namespace {

DType dtype_of(const Json& json) {
  const std::optional<DType> dtype = dtype_from_string(json.as_string());
  WJ_REQUIRE(dtype, corrupt, "unknown type \"", json.as_string(), "\"");
  return *dtype;
}

int index_of(const Json& json) {
  int value = 0;
  from_json(json, value);
  return value;
}

template <class T, class F>
Json list_to_json(const std::vector<T>& items, F&& convert) {
  Json out{Json::Array{}};
  for (const T& item : items) out.push(convert(item));
  return out;
}

template <class F>
auto list_from_json(const Json& json, F&& convert) {
  std::vector<decltype(convert(json))> out;
  for (const Json& item : json.as_array()) out.push_back(convert(item));
  return out;
}

Json buffer_to_json(const BufferSpec& b) {
  return Json::Object{{"name", b.name},
                      {"dtype", to_string(b.dtype)},
                      {"rows", b.rows == Rows::tokens ? "tokens" : "sampled"},
                      {"width", b.width},
                      {"first", b.first},
                      {"last", b.last}};
}

BufferSpec buffer_from_json(const Json& json) {
  const std::string& rows = json.at("rows").as_string();
  WJ_REQUIRE(rows == "tokens" || rows == "sampled", corrupt, "unknown rows \"", rows, "\"");
  return {.name = json.at("name").as_string(),
          .dtype = dtype_of(json.at("dtype")),
          .rows = rows == "tokens" ? Rows::tokens : Rows::sampled,
          .width = json.at("width").as_int(),
          .first = index_of(json.at("first")),
          .last = index_of(json.at("last"))};
}

Json weight_to_json(const WeightRef& w) {
  Json shape{Json::Array{}};
  for (std::int64_t extent : w.shape.extents()) shape.push(extent);
  return Json::Object{{"name", w.name},
                      {"dtype", to_string(w.dtype)},
                      {"shape", shape},
                      {"offset", w.offset},
                      {"checksum", w.checksum}};
}

WeightRef weight_from_json(const Json& json) {
  std::vector<std::int64_t> extents;
  from_json(json.at("shape"), extents);
  WJ_REQUIRE(extents.size() <= Shape::kMaxRank, corrupt, "shape of rank ", extents.size());
  return {.name = json.at("name").as_string(),
          .dtype = dtype_of(json.at("dtype")),
          .shape = Shape(extents),
          .offset = json.at("offset").as_int(),
          .checksum = json.at("checksum").as_string()};
}

Json tactic_to_json(const Tactic& tactic) {
  return Json::Object{{"max_rows", tactic.max_rows}, {"kernel", tactic.kernel}};
}

Tactic tactic_from_json(const Json& json) {
  return {.max_rows = json.at("max_rows").as_int(), .kernel = json.at("kernel").as_string()};
}

Json step_to_json(const Step& step) {
  return std::visit(
      [&]<class S>(const S& op) {
        return Json(Json::Object{{"name", step.name},
                                 {"op", S::name},
                                 {"tactics", list_to_json(step.tactics, tactic_to_json)},
                                 {"args", json_of(op)}});
      },
      step.op);
}

// Tries each alternative of the variant until the name fits.
template <std::size_t I = 0>
StepOp step_op(const std::string& name, const Json& args) {
  if constexpr (I == std::variant_size_v<StepOp>) {
    WJ_FAIL(corrupt, "unknown op \"", name, "\"");
  } else {
    using S = std::variant_alternative_t<I, StepOp>;
    if (S::name != name) return step_op<I + 1>(name, args);
    S op;
    from_json(args, op);
    return op;
  }
}

Step step_from_json(const Json& json) {
  return {.name = json.at("name").as_string(),
          .tactics = list_from_json(json.at("tactics"), tactic_from_json),
          .op = step_op(json.at("op").as_string(), json.at("args"))};
}

}  // namespace

Json plan_to_json(const Plan& plan) {
  return Json::Object{{"model", json_of(plan.model)},
                      {"scheme", plan.scheme},
                      {"activation", to_string(plan.activation)},
                      {"kv", to_string(plan.kv)},
                      {"buffers", list_to_json(plan.buffers, buffer_to_json)},
                      {"weights", list_to_json(plan.weights, weight_to_json)},
                      {"steps", list_to_json(plan.steps, step_to_json)},
                      {"first_sampled", plan.first_sampled},
                      {"logits", plan.logits}};
}

Plan plan_from_json(const Json& json) {
  Plan plan;
  from_json(json.at("model"), plan.model);
  plan.scheme = json.at("scheme").as_string();
  plan.activation = dtype_of(json.at("activation"));
  plan.kv = dtype_of(json.at("kv"));
  plan.buffers = list_from_json(json.at("buffers"), buffer_from_json);
  plan.weights = list_from_json(json.at("weights"), weight_from_json);
  plan.steps = list_from_json(json.at("steps"), step_from_json);
  plan.first_sampled = index_of(json.at("first_sampled"));
  plan.logits = index_of(json.at("logits"));
  check_plan(plan);
  return plan;
}

}  // namespace warpjet
