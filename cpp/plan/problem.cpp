// The problem that each step poses, from the plan and the sizes of a step.
#include <cmath>

#include "plan/plan.h"

namespace warpjet {

Embed::Problem problem(const Plan& plan, const EmbedStep& step, const StepSizes& sizes) {
  const WeightRef& table = plan.weights[step.table];
  return {.tokens = sizes.rows,
          .hidden = table.shape[1],
          .vocab = table.shape[0],
          .table = table.dtype,
          .out = plan.buffers[step.out].dtype};
}

RopeTable::Problem problem(const Plan& plan, const RopeTableStep&, const StepSizes& sizes) {
  const RopeSpec& rope = plan.model.rope;
  return {.tokens = sizes.rows,
          .dim = plan.model.head_dim,
          .scale = static_cast<float>(rope.attention_factor),
          .ntk_factor = rope.scaling == "dynamic" ? static_cast<float>(rope.factor) : 0.0f,
          .ntk_original = rope.original_max_positions};
}

Norm::Problem problem(const Plan& plan, const NormStep& step, const StepSizes& sizes) {
  const BufferSpec& x = plan.buffers[step.x];
  return {.tokens = sizes.rows,
          .hidden = x.width,
          .x = x.dtype,
          .weight = plan.weights[step.weight].dtype,
          .y = plan.buffers[step.y].dtype,
          .eps = static_cast<float>(plan.model.norm_eps)};
}

Gemm::Problem problem(const Plan& plan, const GemmStep& step, const StepSizes& sizes) {
  const WeightRef& b = plan.weights[step.b];
  return {.m = sizes.rows,
          .n = b.shape[0],
          .k = b.shape[1],
          .a = plan.buffers[step.a].dtype,
          .b = b.dtype,
          .d = plan.buffers[step.d].dtype,
          .gate = step.gate,
          .bias = step.bias >= 0,
          .residual = step.residual >= 0};
}

RopeAppendKv::Problem problem(const Plan& plan, const RopeAppendKvStep& step, const StepSizes& sizes) {
  const ModelSpec& m = plan.model;
  return {.tokens = sizes.rows,
          .heads = m.num_heads,
          .kv_heads = m.num_kv_heads,
          .head_dim = m.head_dim,
          .block_size = sizes.block_size,
          .qkv = plan.activation,
          .kv = plan.kv,
          .weight = step.q_norm >= 0 ? plan.weights[step.q_norm].dtype : plan.activation,
          .qk_norm = step.q_norm >= 0,
          .eps = static_cast<float>(m.norm_eps)};
}

Attention::Problem problem(const Plan& plan, const AttentionStep& step, const StepSizes& sizes) {
  const ModelSpec& m = plan.model;
  return {.tokens = sizes.rows,
          .seqs = sizes.seqs,
          .heads = m.num_heads,
          .kv_heads = m.num_kv_heads,
          .head_dim = m.head_dim,
          .block_size = sizes.block_size,
          .max_context = sizes.max_context,
          .q = plan.activation,
          .kv = plan.kv,
          .out = plan.activation,
          .scale = 1.0f / std::sqrt(static_cast<float>(m.head_dim)),
          .window = m.layers[step.layer].window};
}

Gather::Problem problem(const Plan& plan, const GatherStep& step, const StepSizes& sizes) {
  const BufferSpec& x = plan.buffers[step.x];
  return {.rows = sizes.rows, .hidden = x.width, .dtype = x.dtype};
}

StepCost step_cost(const Plan& plan, const Step& step, const StepSizes& sizes) {
  return std::visit(
      [&]<class S>(const S& op) {
        using Op = typename OpOf<S>::type;
        const auto p = problem(plan, op, sizes);
        return StepCost{.flops = Op::flops(p), .bytes = Op::bytes(p)};
      },
      step.op);
}

}  // namespace warpjet
