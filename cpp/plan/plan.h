// Plans: a model as a flat list of steps over named buffers and packed weights. ModelSpec -> Plan -> (packed weights)
// -> run. An engine directory is a plan and its weights on disk; nothing of a checkpoint is needed after that.
#pragma once

#include <warpjet/engine.h>

#include "core/core.h"
#include "device/device.h"
#include "model/model.h"
#include "ops/catalog.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace warpjet {

// --- The plan
// -----------------------------------------------------------------------------------------------------------

// How many rows a buffer has in a step.
enum class Rows : std::uint8_t { tokens, sampled };

// Activations. Offsets are assigned when an engine opens (lay_out), so that buffers whose lifetimes do not overlap
// share memory; first and last are step indices.
struct BufferSpec {
  std::string name;
  DType dtype = DType::f32;
  Rows rows = Rows::tokens;
  std::int64_t width = 0;  // elements in a row
  int first = 0, last = 0;
};

// A packed weight: where it is in the blob and what it looks like.
struct WeightRef {
  std::string name;  // the slot's
  DType dtype = DType::f32;
  Shape shape;
  std::int64_t offset = 0;  // bytes from the start of the blob, kWeightAlignment aligned
  std::string checksum;     // set when packed to disk
};
constexpr std::int64_t kWeightAlignment = 4096;

// Steps name buffers and weights by index; -1 is none.
struct EmbedStep {
  static constexpr std::string_view name = "embed";
  int table = -1, out = -1;
  static constexpr auto fields() {
    using C = EmbedStep;
    return std::tuple{Field{"table", &C::table, "weight"}, Field{"out", &C::out, "buffer"}};
  }
};
struct RopeTableStep {
  static constexpr std::string_view name = "rope_table";
  int out = -1;
  static constexpr auto fields() { return std::tuple{Field{"out", &RopeTableStep::out, "buffer"}}; }
};
struct NormStep {
  static constexpr std::string_view name = "norm";
  int x = -1, weight = -1, y = -1;
  static constexpr auto fields() {
    using C = NormStep;
    return std::tuple{Field{"x", &C::x, "buffer"}, Field{"weight", &C::weight, "weight"}, Field{"y", &C::y, "buffer"}};
  }
};
struct GemmStep {
  static constexpr std::string_view name = "gemm";
  int a = -1, b = -1, bias = -1, residual = -1, d = -1;
  Gate gate = Gate::none;
  static constexpr auto fields() {
    using C = GemmStep;
    return std::tuple{Field{"a", &C::a, "buffer"},
                      Field{"b", &C::b, "weight"},
                      Field{"bias", &C::bias, "weight or -1"},
                      Field{"residual", &C::residual, "buffer or -1"},
                      Field{"d", &C::d, "buffer"},
                      Field{"gate", &C::gate, "gate of a gated MLP"}};
  }
};
struct RopeAppendKvStep {
  static constexpr std::string_view name = "rope_append_kv";
  int qkv = -1, cos_sin = -1, q_norm = -1, k_norm = -1, layer = -1;
  static constexpr auto fields() {
    using C = RopeAppendKvStep;
    return std::tuple{Field{"qkv", &C::qkv, "buffer"}, Field{"cos_sin", &C::cos_sin, "buffer"},
                      Field{"q_norm", &C::q_norm, "weight or -1"}, Field{"k_norm", &C::k_norm, "weight or -1"},
                      Field{"layer", &C::layer, "layer of the KV cache"}};
  }
};
struct AttentionStep {
  static constexpr std::string_view name = "attention";
  int qkv = -1, out = -1, layer = -1;
  static constexpr auto fields() {
    using C = AttentionStep;
    return std::tuple{Field{"qkv", &C::qkv, "buffer"}, Field{"out", &C::out, "buffer"},
                      Field{"layer", &C::layer, "layer of the KV cache"}};
  }
};
struct GatherStep {
  static constexpr std::string_view name = "gather";
  int x = -1, out = -1;
  static constexpr auto fields() {
    using C = GatherStep;
    return std::tuple{Field{"x", &C::x, "buffer"}, Field{"out", &C::out, "buffer"}};
  }
};
using StepOp = std::variant<EmbedStep, RopeTableStep, NormStep, GemmStep, RopeAppendKvStep, AttentionStep, GatherStep>;

// Calls visit(index) for every buffer that a step uses, inputs before outputs.
template <class Visitor>
void for_each_buffer(const StepOp& op, Visitor&& visit);

// The catalogue row chosen for steps of up to this many rows: "ref.gemm".
struct Tactic {
  std::int64_t max_rows = 0;
  std::string kernel;
  bool operator==(const Tactic&) const = default;
};
constexpr std::int64_t kAnyRows = 1 << 20;
// Where a step's tactics may change: the row counts that kernels are chosen and timed for.
constexpr std::int64_t kRowBuckets[] = {8, 16, 32, 64, 128, 256, 512, 1024, 2048, kAnyRows};

struct Step {
  std::string name;             // "layers.3.qkv"
  std::vector<Tactic> tactics;  // by max_rows; the last takes any number
  StepOp op;

  const std::string& kernel_for(std::int64_t rows) const {
    auto tactic = tactics.begin();
    while (tactic->max_rows < rows) ++tactic;
    return tactic->kernel;
  }
};

// Steps before `first_sampled` run over all tokens of a step; those from there on (gather, last norm, output head) run
// over the rows whose logits are wanted, and may run several times.
struct Plan {
  ModelSpec model;
  std::string scheme;
  DType activation = DType::f32, kv = DType::f32;
  std::vector<BufferSpec> buffers;
  std::vector<WeightRef> weights;
  std::vector<Step> steps;
  int first_sampled = 0;
  int logits = -1;  // buffer [sampled, vocab] f32, written by the last step, a gemm

  const GemmStep& head() const { return std::get<GemmStep>(steps.back().op); }

  std::int64_t weight_bytes() const;  // size of the blob
  std::int64_t parameters() const;
  std::int64_t kv_bytes_per_token() const;
};

template <class Visitor>
void for_each_buffer(const StepOp& op, Visitor&& visit) {
  struct {
    Visitor& visit;
    void operator()(const EmbedStep& s) { visit(s.out); }
    void operator()(const RopeTableStep& s) { visit(s.out); }
    void operator()(const NormStep& s) { visit(s.x), visit(s.y); }
    void operator()(const GemmStep& s) { visit(s.a), visit(s.residual), visit(s.d); }
    void operator()(const RopeAppendKvStep& s) { visit(s.qkv), visit(s.cos_sin); }
    void operator()(const AttentionStep& s) { visit(s.qkv), visit(s.out); }
    void operator()(const GatherStep& s) { visit(s.x), visit(s.out); }
  } buffers{visit};
  std::visit(buffers, op);
}

// planner.cpp. slots give the weights' names, shapes and order.
Plan make_plan(const ModelSpec& model, std::span<const WeightSlot> slots, const Scheme& scheme, DType kv,
               const Catalogs& catalogs, const DeviceInfo& device);

Json plan_to_json(const Plan& plan);    // plan_json.cpp
Plan plan_from_json(const Json& json);  // throws corrupt; the result passed check_plan

// --- Problems
// -----------------------------------------------------------------------------------------------------------

// The sizes of one step, and the problem that each of its ops then poses: what kernels are chosen by, launched with and
// costed by. (problem.cpp)
struct StepSizes {
  std::int64_t rows = 1;  // tokens, or sampled rows after first_sampled
  std::int64_t seqs = 1;
  std::int64_t max_context = 1;
  std::int64_t block_size = 32;
};
Embed::Problem problem(const Plan& plan, const EmbedStep& step, const StepSizes& sizes);
RopeTable::Problem problem(const Plan& plan, const RopeTableStep& step, const StepSizes& sizes);
Norm::Problem problem(const Plan& plan, const NormStep& step, const StepSizes& sizes);
Gemm::Problem problem(const Plan& plan, const GemmStep& step, const StepSizes& sizes);
RopeAppendKv::Problem problem(const Plan& plan, const RopeAppendKvStep& step, const StepSizes& sizes);
Attention::Problem problem(const Plan& plan, const AttentionStep& step, const StepSizes& sizes);
Gather::Problem problem(const Plan& plan, const GatherStep& step, const StepSizes& sizes);

// The op behind a kind of step.
template <class Step>
struct OpOf;
template <>
struct OpOf<EmbedStep> : std::type_identity<Embed> {};
template <>
struct OpOf<RopeTableStep> : std::type_identity<RopeTable> {};
template <>
struct OpOf<NormStep> : std::type_identity<Norm> {};
template <>
struct OpOf<GemmStep> : std::type_identity<Gemm> {};
template <>
struct OpOf<RopeAppendKvStep> : std::type_identity<RopeAppendKv> {};
template <>
struct OpOf<AttentionStep> : std::type_identity<Attention> {};
template <>
struct OpOf<GatherStep> : std::type_identity<Gather> {};

// What one step must do and move at least.
struct StepCost {
  double flops = 0, bytes = 0;
};
StepCost step_cost(const Plan& plan, const Step& step, const StepSizes& sizes);

// Throws corrupt unless every index is in range, every step's shapes and types fit each other and the model, and
// buffers are written before they are read: after this, no plan can make a kernel leave its memory. (check.cpp)
void check_plan(const Plan& plan);

// --- Running
// ------------------------------------------------------------------------------------------------------------

// The inputs of one step. Row counts may be anything up to what the runner was opened for.
struct StepInputs {
  std::int64_t tokens = 0, seqs = 0;
  std::int64_t max_context = 0;
  TensorView token_ids;        // [tokens] i32
  TensorView positions;        // [tokens] i32
  TensorView rope_lengths;     // [tokens] i32
  TensorView slots;            // [tokens] i64
  TensorView query_starts;     // [seqs + 1] i32
  TensorView context_lengths;  // [seqs] i32
  TensorView block_tables;     // [rows, max_blocks] i32
  TensorView table_rows;       // [seqs] i32: the sequence's row of block_tables
};

// The paged keys and values of every layer, as the runner needs them.
struct KvView {
  std::vector<TensorView> k, v;  // per layer: [blocks, kv_heads, block_size, head_dim]
  std::int64_t block_size = 0;
};

// Weights in device memory: one blob, a copy of what the files held when they were read.
struct Weights {
  Buffer owned;
  int readers = 1;  // threads that loaded them
  const std::byte* data() const { return owned.at(0); }
};

// The only interpreter of plans: resolves kernel names and addresses once, then launches the steps in order. Owned by
// the thread that steps; forward() and logits() allocate nothing.
class Runner {
 public:
  // Throws unsupported when a kernel of the plan is not in the catalogues or does not run on the device.
  Runner(Plan plan, Weights weights, const Catalogs& catalogs, Device& device, std::int64_t max_tokens,
         std::int64_t max_sampled, std::int64_t block_size);

  // Computes all tokens of a step and appends their keys and values.
  void forward(const StepInputs& inputs, const KvView& kv);

  // One step by itself, with a kernel by name: for timing. The scope is that of forward() or, for a sampled step, of
  // logits().
  void run_step(int index, const std::string& kernel, const Catalogs& catalogs, const StepInputs& inputs,
                const KvView& kv, TensorView rows);
  const Buffer& arena() const { return arena_; }

  // The last forward was a repetition of one with so many tokens.
  void set_rows(std::int64_t tokens) { tokens_ = tokens; }

  // Logits [rows, vocab] f32 of these token rows of the last forward ([rows] i32), valid until the next call.
  TensorView logits(TensorView rows);

  // What logits() would multiply with the output head: hidden states after the last norm, [rows, hidden_size] of the
  // plan's activation type. Valid until the next call of either.
  TensorView hidden(TensorView rows);

  const Plan& plan() const { return plan_; }
  std::int64_t max_sampled() const { return max_sampled_; }

  // Bytes beside weights and KV cache that a runner of this plan takes.
  static std::int64_t memory_bytes(const Plan& plan, const Catalogs& catalogs, const DeviceInfo& device,
                                   std::int64_t max_tokens, std::int64_t max_sampled, std::int64_t block_size);

 private:
  using KernelRow =
      std::variant<const Kernel<Embed>*, const Kernel<RopeTable>*, const Kernel<Norm>*, const Kernel<Gemm>*,
                   const Kernel<RopeAppendKv>*, const Kernel<Attention>*, const Kernel<Gather>*>;
  struct Choice {
    std::int64_t max_rows;
    KernelRow row;
  };
  struct Scope;   // what a run of steps sees: row counts, inputs, cache
  struct Launch;  // one step in its scope
  void run(int first, int last, const Scope& scope);
  TensorView buffer(int index, const Scope& scope) const;
  TensorView weight(int index) const;
  TensorView workspace_view() const {
    return {workspace_.data(), DType::u8, {static_cast<std::int64_t>(workspace_.bytes())}};
  }

  Plan plan_;
  Weights weights_;
  Stream& stream_;
  std::int64_t max_tokens_, max_sampled_;
  Buffer arena_, frequencies_, workspace_;
  std::vector<std::int64_t> offsets_;         // of each buffer in the arena
  std::vector<std::vector<Choice>> kernels_;  // of each step
  std::int64_t tokens_ = 0;                   // of the last forward
};

// Arena offsets for these row counts; total in `bytes`.
std::vector<std::int64_t> lay_out(const Plan& plan, std::int64_t max_tokens, std::int64_t max_sampled,
                                  std::int64_t& bytes);

// --- Packing and engine directories
// -------------------------------------------------------------------------------------

// Packs a checkpoint into device memory, in the plan's order.
Weights pack(const Checkpoint& checkpoint, const Plan& plan, Device& device);

// Random matrices, norms of one and biases of zero, the same every time: for measuring. (dummy.cpp)
Weights make_dummy_weights(const Plan& plan, Device& device);

// The engine directory: engine.json and weights.bin, plus the tokenizer's files copied as they are.
constexpr int kEngineFormat = 2;
void write_engine(const Checkpoint& checkpoint, Plan plan, const std::filesystem::path& source,
                  const std::filesystem::path& out, bool overwrite, const BuildProgress& progress);
bool is_engine_directory(const std::filesystem::path& path);
Plan read_engine_plan(const std::filesystem::path& directory);  // throws corrupt or unsupported
// Copies the weights to the device and verifies their checksums, by several threads; throws corrupt.
Weights read_engine_weights(const std::filesystem::path& directory, const Plan& plan, Device& device);

// A model that is known but not loaded yet: an engine directory as it is, or a checkpoint, planned for this device.
// load() puts the weights into the device's memory; once.
struct OpenedModel {
  Plan plan;
  std::string source;  // "engine", "checkpoint" or "dummy"
  std::function<Weights(Device& device)> load;
};
struct LoadOptions {
  std::string dtype = "auto";        // or a scheme's name; an engine keeps the one that it was built with
  std::string load_format = "auto";  // or safetensors or dummy, which an engine refuses
  std::string hf_overrides;          // of config.json, which an engine has not
};
// Throws io when the path holds neither.
OpenedModel open_model(const std::filesystem::path& path, const LoadOptions& options, const Catalogs& catalogs,
                       const DeviceInfo& device);
LoadReport load_weights(const OpenedModel& model, Device& device, Weights& weights);

}  // namespace warpjet
