// describe(): what a checkpoint or an engine is and what a step of it costs, without touching a weight.
#include <algorithm>
#include <cmath>

#include "plan/plan.h"

namespace warpjet {
namespace {

Plan plan_of(const std::filesystem::path& model) {
  if (is_engine_directory(model)) return read_engine_plan(model);
  const Checkpoint checkpoint = Checkpoint::without_weights(model);
  Catalogs catalogs;
  register_reference(catalogs);
  const Scheme& scheme = find_scheme(checkpoint.scheme);
  return make_plan(checkpoint.spec, checkpoint.slots, scheme, scheme.kv, catalogs, make_cpu_device(1)->info());
}

Json steps_json(const Plan& plan, const GpuSpec& gpu, const DescribeOptions& options, double& total_us) {
  Json steps{Json::Array{}};
  for (int i = 0; i < static_cast<int>(plan.nodes.size()); ++i) {
    const StepSizes sizes{.rows = options.tokens, .seqs = options.tokens, .max_context = options.context};
    const NodeCost cost = node_cost(plan.nodes[i].op, plan.shapes(sizes));
    const double us = std::max(cost.bytes / (gpu.gb_per_s * 1e3), cost.flops / (gpu.bf16_tflops * 1e6));
    total_us += us;
    steps.push(Json::Object{{"name", plan.nodes[i].name},
                            {"kernel", plan.nodes[i].kernel_for(options.tokens)},
                            {"bytes", cost.bytes},
                            {"flops", cost.flops},
                            {"roofline_us", us}});
  }
  return steps;
}

// Query heads that share a head of keys and values, on average over layers.
double queries_per_kv(const Plan& plan) {
  double sum = 0;
  int layers = 0;
  for (const Node& node : plan.nodes) {
    const auto* attention = std::get_if<AttentionNode>(&node.op);
    if (!attention) continue;
    sum += static_cast<double>(attention->heads) / attention->kv_heads;
    ++layers;
  }
  return layers > 0 ? sum / layers : 1;
}

Json contexts_json(const Plan& plan) {
  Json rows{Json::Array{}};
  for (std::int64_t tokens = 1024;; tokens *= 4) {
    const std::int64_t capped = std::min<std::int64_t>(tokens, plan.model.max_positions);
    rows.push(Json::Object{{"tokens", capped}, {"kv_bytes", capped * plan.kv_bytes_per_token()}});
    if (capped == plan.model.max_positions) return rows;
  }
}

}  // namespace

std::string describe(const std::filesystem::path& model, const DescribeOptions& options) {
  WJ_REQUIRE(options.tokens > 0 && options.tokens <= 1 << 20, invalid_argument, "tokens must be 1 to 1048576, got ",
             options.tokens);
  WJ_REQUIRE(options.context > 0, invalid_argument, "context must be positive, got ", options.context);
  const GpuSpec& gpu = find_gpu(options.gpu);
  const Plan plan = plan_of(model);
  double total_us = 0;
  Json steps = steps_json(plan, gpu, options, total_us);
  const double weights = static_cast<double>(plan.weight_bytes());
  const double free = gpu.memory_gib * 1024 * 1024 * 1024 * 0.92 - weights;
  return Json(Json::Object{
                  {"kind", is_engine_directory(model) ? "engine" : "checkpoint"},
                  {"model", json_of(plan.model)},
                  {"scheme", plan.scheme},
                  {"kv_cache_dtype", to_string(plan.caches.front().format)},
                  {"parameters", plan.parameters()},
                  {"queries_per_kv", queries_per_kv(plan)},
                  {"weight_bytes", plan.weight_bytes()},
                  {"kv_bytes_per_token", plan.kv_bytes_per_token()},
                  {"contexts", contexts_json(plan)},
                  {"gpu", Json::Object{{"name", gpu.name},
                                       {"gb_per_s", gpu.gb_per_s},
                                       {"bf16_tflops", gpu.bf16_tflops},
                                       {"memory_gib", gpu.memory_gib},
                                       {"source", gpu.source},
                                       {"fits", free > 0},
                                       {"kv_tokens", free > 0 ? std::floor(free / plan.kv_bytes_per_token()) : 0.0}}},
                  {"tokens", options.tokens},
                  {"context", options.context},
                  {"step_us", total_us},
                  {"steps", steps},
              })
      .dump();
}

}  // namespace warpjet
