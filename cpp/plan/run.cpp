// The only interpreter of plans.
#include "plan/plan.h"

#include <algorithm>

namespace warpjet {

namespace {

// An engine file names its kernels; here they must exist, run on this device and support what the plan asks of them.
template <class Op>
const Kernel<Op>* resolve(const Catalogs& catalogs, const Node& node, const std::string& kernel,
                          const typename Op::Problem& problem, const DeviceInfo& device) {
  const Kernel<Op>& row = catalogs.of<Op>().find(kernel);
  WJ_REQUIRE(device.sm >= row.sm_min && device.sm < row.sm_max, unsupported, "kernel ", kernel, " does not run on ",
             device.name, "; rebuild the engine for this device");
  WJ_REQUIRE(row.supports(problem), unsupported, "node ", node.name, ": kernel ", kernel, " does not support ",
             Op::name, to_string(problem), "; rebuild the engine");
  return &row;
}

// Calls visit(tactic, kernel, problem) for every tactic of a node, each at the most rows that it will be given.
template <class Visit>
void for_each_tactic(const Plan& plan, const Node& node, const Catalogs& catalogs, const DeviceInfo& device,
                     const StepSizes& most, Visit visit) {
  std::visit(
      [&]<class N>(const N& op) {
        for (const Tactic& tactic : node.tactics) {
          StepSizes sizes = most;
          sizes.rows = std::min(tactic.max_rows, most.rows);
          sizes.seqs = std::min(sizes.seqs, sizes.rows);
          const auto problem = op.problem(plan.shapes(sizes));
          visit(tactic, resolve<typename N::Op>(catalogs, node, tactic.kernel, problem, device), problem);
        }
      },
      node.op);
}

std::int64_t workspace_bytes(const Plan& plan, const Catalogs& catalogs, const DeviceInfo& device,
                             std::int64_t max_tokens, std::int64_t max_sampled, std::int64_t block_size) {
  std::int64_t bytes = 0;
  for (int i = 0; i < static_cast<int>(plan.nodes.size()); ++i) {
    const StepSizes most = {.rows = plan.phase_of(i).rows == Rows::tokens ? max_tokens : max_sampled,
                            .seqs = max_sampled,
                            .max_context = plan.model.max_positions,
                            .block_size = block_size};
    for_each_tactic(plan, plan.nodes[i], catalogs, device, most,
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

  const StepSizes most = {.rows = kAnyRows, .seqs = max_sampled, .block_size = block_size};
  for (const Node& node : plan_.nodes) {
    const std::vector<float> constants = constants_of(node.op);
    Buffer& on_device = constants_.emplace_back(device.allocate(constants.size() * sizeof(float)));
    if (!constants.empty()) {
      stream_.copy(on_device.data(), constants.data(), on_device.bytes());
      stream_.synchronize();
    }
    std::vector<Choice>& choices = kernels_.emplace_back();
    for_each_tactic(plan_, node, catalogs, device.info(), most,
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
  Scope scope = scope_of(
      {.rows = inputs.tokens, .seqs = inputs.seqs, .max_context = inputs.max_context, .block_size = kv.block_size});
  scope.inputs = &inputs;
  scope.kv = &kv;
  run(kTokensPhase, scope);
}

TensorView Runner::hidden(TensorView rows) {
  const std::int64_t count = rows.shape[0];
  WJ_CHECK(count <= max_sampled_, count, " rows, opened for ", max_sampled_);
  Scope scope = scope_of({.rows = count});
  scope.sample_rows = rows;
  run(kHiddenPhase, scope);
  return scope.at(plan_.tap(kHiddenTap));
}

TensorView Runner::logits(TensorView rows) {
  hidden(rows);
  const Scope scope = scope_of({.rows = rows.shape[0]});
  run(kLogitsPhase, scope);
  return scope.at(plan_.tap(kLogitsTap));
}

Scope Runner::scope_of(const StepSizes& sizes) const {
  Scope scope{plan_.shapes(sizes)};
  scope.workspace = {workspace_.data(), DType::u8, {static_cast<std::int64_t>(workspace_.bytes())}};
  scope.arena = arena_.at(0);
  scope.blob = weights_.data();
  scope.offsets = offsets_.data();
  scope.tokens = tokens_;
  return scope;
}

void Runner::run(std::string_view phase, Scope scope) {
  const int end = plan_.end_of(phase);
  for (int i = plan_.first_of(phase); i < end; ++i) {
    auto choice = kernels_[i].begin();
    while (choice->max_rows < scope.sizes.rows) ++choice;
    run_node(i, choice->row, scope);
  }
}

void Runner::run_node(int index, const KernelRow& row, Scope& scope) {
  const Buffer& constants = constants_[index];
  scope.constants = {constants.data(), DType::f32, {static_cast<std::int64_t>(constants.bytes() / sizeof(float))}};
  launch(plan_.nodes[index].op, row, scope, stream_);
}

void Runner::run_node(int index, const std::string& kernel, const Catalogs& catalogs, const StepInputs& inputs,
                      const KvView& kv, TensorView rows) {
  tokens_ = inputs.tokens;
  Scope scope = scope_of({.rows = plan_.phase_of(index).rows == Rows::sampled ? rows.shape[0] : inputs.tokens,
                          .seqs = inputs.seqs,
                          .max_context = inputs.max_context,
                          .block_size = kv.block_size});
  scope.inputs = &inputs;
  scope.kv = &kv;
  scope.sample_rows = rows;
  const KernelRow row =
      std::visit([&]<class N>(const N&) -> KernelRow { return &catalogs.of<typename N::Op>().find(kernel); },
                 plan_.nodes[index].op);
  run_node(index, row, scope);
}

}  // namespace warpjet
