// The only interpreter of plans.
#include "plan/plan.h"

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
                       .out = buffer(s.out)});
  }
  void operator()(const GatherStep& s) const {
    launch<Gather>({.problem = pose(s), .x = buffer(s.x), .rows = scope.sample_rows, .out = buffer(s.out)});
  }
};

namespace {

// An engine file names its kernels; here they must exist, run on this device and support what the plan asks of them.
template <class Op>
const Kernel<Op>* resolve(const Catalogs& catalogs, const Step& step, const typename Op::Problem& problem,
                          const DeviceInfo& device) {
  const Kernel<Op>& row = catalogs.of<Op>().find(step.kernel);
  WJ_REQUIRE(device.sm >= row.sm_min && device.sm < row.sm_max, unsupported, "kernel ", step.kernel,
             " does not run on ", device.name, "; rebuild the engine for this device");
  WJ_REQUIRE(row.supports(problem), unsupported, "step ", step.name, ": kernel ", step.kernel, " does not support ",
             Op::name, to_string(problem), "; rebuild the engine");
  return &row;
}

}  // namespace

const std::byte* Weights::data() const {
  return mapped ? mapped->bytes().data() : static_cast<const std::byte*>(owned.data());
}

Runner::Runner(Plan plan, Weights weights, const Catalogs& catalogs, Device& device, std::int64_t max_tokens,
               std::int64_t max_sampled)
    : plan_(std::move(plan)),
      weights_(std::move(weights)),
      stream_(device.stream()),
      max_tokens_(max_tokens),
      max_sampled_(max_sampled) {
  std::int64_t bytes = 0;
  offsets_ = lay_out(plan_, max_tokens, max_sampled, bytes);
  arena_ = device.allocate(bytes);

  const std::vector<float> frequencies = rope_frequencies(plan_.model.rope, plan_.model.head_dim);
  frequencies_ = device.allocate(frequencies.size() * sizeof(float));
  stream_.copy(frequencies_.data(), frequencies.data(), frequencies_.bytes());
  stream_.synchronize();

  for (const Step& step : plan_.steps) {
    kernels_.push_back(std::visit(
        [&]<class S>(const S& op) -> KernelRow {
          return resolve<typename OpOf<S>::type>(catalogs, step, problem(plan_, op, {}), device.info());
        },
        step.op));
  }
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

void Runner::run(int first, int last, const Scope& scope) {
  for (int i = first; i < last; ++i) std::visit(Launch{*this, scope, kernels_[i]}, plan_.steps[i].op);
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
