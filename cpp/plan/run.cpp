// The only interpreter of plans.
#include "plan/plan.h"

#include <algorithm>

namespace warpjet {

struct Runner::Scope {
  StepSizes sizes;
  const StepInputs* inputs = nullptr;  // token phase
  const KvView* kv = nullptr;
  TensorView sample_rows = {};  // sampled phase
};

// Launches one step: arguments from the plan, its problem and the scope.
struct Runner::Launch {
  const Runner& runner;
  const Scope& scope;
  const KernelRow& kernel;

  TensorView buffer(int index) const { return index >= 0 ? runner.buffer(index, scope) : TensorView{}; }
  TensorView weight(int index) const { return index >= 0 ? runner.weight(index) : TensorView{}; }
  template <class S>
  auto pose(const S& step) const {
    return problem(runner.plan_, step, scope.sizes);
  }
  template <class Op>
  void launch(const typename Op::Args& args) const {
    std::get<const Kernel<Op>*>(kernel)->launch(args, runner.stream_);
  }

  void operator()(const EmbedStep& s) const {
    launch<Embed>({.problem = pose(s), .ids = scope.inputs->token_ids, .table = weight(s.table), .out = buffer(s.out)});
  }
  void operator()(const RopeTableStep& s) const {
    launch<RopeTable>({.problem = pose(s),
                       .positions = scope.inputs->positions,
                       .rope_lengths = scope.inputs->rope_lengths,
                       .frequencies = {runner.frequencies_.data(), DType::f32, {runner.plan_.model.head_dim / 2}},
                       .cos_sin = buffer(s.out)});
  }
  void operator()(const NormStep& s) const {
    launch<Norm>({.problem = pose(s), .x = buffer(s.x), .weight = weight(s.weight), .y = buffer(s.y)});
  }
  void operator()(const GemmStep& s) const {
    launch<Gemm>({.problem = pose(s),
                  .a = buffer(s.a),
                  .b = weight(s.b),
                  .bias = weight(s.bias),
                  .residual = buffer(s.residual),
                  .d = buffer(s.d)});
  }
  void operator()(const RopeAppendKvStep& s) const {
    launch<RopeAppendKv>({.problem = pose(s),
                          .qkv = buffer(s.qkv),
                          .cos_sin = buffer(s.cos_sin),
                          .q_norm = weight(s.q_norm),
                          .k_norm = weight(s.k_norm),
                          .slots = scope.inputs->slots,
                          .k_cache = scope.kv->k[s.layer],
                          .v_cache = scope.kv->v[s.layer]});
  }
  void operator()(const AttentionStep& s) const {
    const TensorView qkv = buffer(s.qkv);
    launch<Attention>({.problem = pose(s),
                       .q = {qkv.data, qkv.dtype, {qkv.shape[0], runner.plan_.model.q_width()}, qkv.row_stride},
                       .k_cache = scope.kv->k[s.layer],
                       .v_cache = scope.kv->v[s.layer],
                       .block_tables = scope.inputs->block_tables,
                       .table_rows = scope.inputs->table_rows,
                       .query_starts = scope.inputs->query_starts,
                       .context_lengths = scope.inputs->context_lengths,
                       .out = buffer(s.out),
                       .workspace = runner.workspace_view()});
  }
  void operator()(const GatherStep& s) const {
    launch<Gather>({.problem = pose(s), .x = buffer(s.x), .rows = scope.sample_rows, .out = buffer(s.out)});
  }
};

namespace {

// An engine file names its kernels; here they must exist, run on this device and support what the plan asks of them.
template <class Op>
const Kernel<Op>* resolve(const Catalogs& catalogs, const Step& step, const std::string& kernel,
                          const typename Op::Problem& problem, const DeviceInfo& device) {
  const Kernel<Op>& row = catalogs.of<Op>().find(kernel);
  WJ_REQUIRE(device.sm >= row.sm_min && device.sm < row.sm_max, unsupported, "kernel ", kernel, " does not run on ",
             device.name, "; rebuild the engine for this device");
  WJ_REQUIRE(row.supports(problem), unsupported, "step ", step.name, ": kernel ", kernel, " does not support ",
             Op::name, to_string(problem), "; rebuild the engine");
  return &row;
}

// Calls visit(tactic, kernel, problem) for every tactic of a step, each at the most rows that it will be given.
template <class Visit>
void for_each_tactic(const Plan& plan, const Step& step, const Catalogs& catalogs, const DeviceInfo& device,
                     const StepSizes& most, Visit visit) {
  std::visit(
      [&]<class S>(const S& op) {
        using Op = typename OpOf<S>::type;
        for (const Tactic& tactic : step.tactics) {
          StepSizes sizes = most;
          sizes.rows = std::min(tactic.max_rows, most.rows);
          sizes.seqs = std::min(sizes.seqs, sizes.rows);
          const auto posed = problem(plan, op, sizes);
          visit(tactic, resolve<Op>(catalogs, step, tactic.kernel, posed, device), posed);
        }
      },
      step.op);
}

std::int64_t workspace_bytes(const Plan& plan, const Catalogs& catalogs, const DeviceInfo& device,
                             std::int64_t max_tokens, std::int64_t max_sampled, std::int64_t block_size) {
  std::int64_t bytes = 0;
  for (int i = 0; i < static_cast<int>(plan.steps.size()); ++i) {
    const StepSizes most = {.rows = i < plan.first_sampled ? max_tokens : max_sampled,
                            .seqs = max_sampled,
                            .max_context = plan.model.max_positions,
                            .block_size = block_size};
    for_each_tactic(plan, plan.steps[i], catalogs, device, most,
                    [&](const Tactic&, const auto* kernel, const auto& problem) {
                      if (kernel->workspace) bytes = std::max(bytes, kernel->workspace(problem, device));
                    });
  }
  return bytes;
}

}  // namespace

Runner::Runner(Plan plan, Weights weights, const Catalogs& catalogs, Device& device, std::int64_t max_tokens,
               std::int64_t max_sampled, std::int64_t block_size)
    : plan_(std::move(plan)),
      weights_(std::move(weights)),
      stream_(device.stream()),
      max_tokens_(max_tokens),
      max_sampled_(max_sampled) {
  std::int64_t bytes = 0;
  offsets_ = lay_out(plan_, max_tokens, max_sampled, bytes);
  arena_ = device.allocate(bytes);
  workspace_ = device.allocate(workspace_bytes(plan_, catalogs, device.info(), max_tokens, max_sampled, block_size));

  const std::vector<float> frequencies = rope_frequencies(plan_.model.rope, plan_.model.head_dim);
  frequencies_ = device.allocate(frequencies.size() * sizeof(float));
  stream_.copy(frequencies_.data(), frequencies.data(), frequencies_.bytes());
  stream_.synchronize();

  const StepSizes most = {.rows = kAnyRows, .seqs = max_sampled, .block_size = block_size};
  for (const Step& step : plan_.steps) {
    std::vector<Choice>& choices = kernels_.emplace_back();
    for_each_tactic(plan_, step, catalogs, device.info(), most,
                    [&](const Tactic& tactic, const auto* kernel, const auto&) {
                      choices.push_back({.max_rows = tactic.max_rows, .row = kernel});
                    });
  }
}

std::int64_t Runner::memory_bytes(const Plan& plan, const Catalogs& catalogs, const DeviceInfo& device,
                                  std::int64_t max_tokens, std::int64_t max_sampled, std::int64_t block_size) {
  std::int64_t bytes = 0;
  lay_out(plan, max_tokens, max_sampled, bytes);
  return bytes + workspace_bytes(plan, catalogs, device, max_tokens, max_sampled, block_size);
}

void Runner::forward(const StepInputs& inputs, const KvView& kv) {
  WJ_CHECK(inputs.tokens <= max_tokens_, "step of ", inputs.tokens, " tokens, opened for ", max_tokens_);
  tokens_ = inputs.tokens;
  const StepSizes sizes{
      .rows = inputs.tokens, .seqs = inputs.seqs, .max_context = inputs.max_context, .block_size = kv.block_size};
  run(0, plan_.first_sampled, {.sizes = sizes, .inputs = &inputs, .kv = &kv});
}

TensorView Runner::logits(TensorView rows) {
  const std::int64_t count = rows.shape[0];
  WJ_CHECK(count <= max_sampled_, count, " rows, opened for ", max_sampled_);
  const Scope scope{.sizes = {.rows = count}, .sample_rows = rows};
  run(plan_.first_sampled, static_cast<int>(plan_.steps.size()), scope);
  return buffer(plan_.logits, scope);
}

TensorView Runner::hidden(TensorView rows) {
  const std::int64_t count = rows.shape[0];
  WJ_CHECK(count <= max_sampled_, count, " rows, opened for ", max_sampled_);
  const Scope scope{.sizes = {.rows = count}, .sample_rows = rows};
  run(plan_.first_sampled, static_cast<int>(plan_.steps.size()) - 1, scope);
  return buffer(plan_.head().a, scope);
}

void Runner::run(int first, int last, const Scope& scope) {
  for (int i = first; i < last; ++i) {
    auto choice = kernels_[i].begin();
    while (choice->max_rows < scope.sizes.rows) ++choice;
    std::visit(Launch{*this, scope, choice->row}, plan_.steps[i].op);
  }
}

void Runner::run_step(int index, const std::string& kernel, const Catalogs& catalogs, const StepInputs& inputs,
                      const KvView& kv, TensorView rows) {
  const bool sampled = index >= plan_.first_sampled;
  tokens_ = inputs.tokens;
  const StepSizes sizes = {.rows = sampled ? rows.shape[0] : inputs.tokens,
                           .seqs = inputs.seqs,
                           .max_context = inputs.max_context,
                           .block_size = kv.block_size};
  const Scope scope{.sizes = sizes, .inputs = &inputs, .kv = &kv, .sample_rows = rows};
  const KernelRow row =
      std::visit([&]<class S>(const S&) -> KernelRow { return &catalogs.of<typename OpOf<S>::type>().find(kernel); },
                 plan_.steps[index].op);
  std::visit(Launch{*this, scope, row}, plan_.steps[index].op);
}

TensorView Runner::buffer(int index, const Scope& scope) const {
  const BufferSpec& spec = plan_.buffers[index];
  const std::int64_t rows = spec.rows == Rows::tokens ? tokens_ : scope.sizes.rows;
  return {arena_.at(offsets_[index]), spec.dtype, {rows, spec.width}};
}

TensorView Runner::weight(int index) const {
  const WeightRef& ref = plan_.weights[index];
  return {const_cast<std::byte*>(weights_.data() + ref.offset), ref.dtype, ref.shape};
}

}  // namespace warpjet
