// Plans: a model as a flat list of steps over named buffers and packed weights. ModelSpec -> Plan -> (packed weights) ->
// run. An engine directory is a plan and its weights on disk; nothing of a checkpoint is needed after that.
#pragma once

#include <warpjet/engine.h>

#include "core/core.h"
#include "device/device.h"
#include "model/model.h"
#include "ops/catalog.h"

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace warpjet {

// --- The plan -----------------------------------------------------------------------------------------------------------

// How many rows a buffer has in a step.
enum class Rows : std::uint8_t { tokens, sampled };

// Activations. Offsets are assigned when an engine opens (lay_out), so that buffers whose lifetimes do not overlap share
// memory; first and last are step indices.
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

// Steps name buffers and weights by index; -1 is none. Every step carries the kernel row chosen for it.
struct EmbedStep {
  int table, out;
};
struct RopeTableStep {
  int out;
};
struct NormStep {
  int x, weight, y;
};
struct GemmStep {
  int a, b, bias, residual, d;
  Gate gate;
};
struct RopeAppendKvStep {
  int qkv, cos_sin, q_norm, k_norm, layer;
};
struct AttentionStep {
  int qkv, out, layer;
  std::int64_t window;
};
struct GatherStep {
  int x, out;
};
using StepOp = std::variant<EmbedStep, RopeTableStep, NormStep, GemmStep, RopeAppendKvStep, AttentionStep, GatherStep>;

struct Step {
  std::string name;    // "layers.3.qkv"
  std::string kernel;  // "ref.gemm"
  StepOp op;
};

struct Plan {
  ModelSpec model;
  std::string scheme;
  DType activation = DType::f32, kv = DType::f32;
  std::vector<BufferSpec> buffers;
  std::vector<WeightRef> weights;
  std::vector<Step> steps;
  int logits = -1;  // buffer [sampled, vocab] f32

  std::int64_t weight_bytes() const;  // size of the blob
  std::int64_t parameters() const;
  std::int64_t kv_bytes_per_token() const;
};

// planner.cpp. slots give the weights' names, shapes and order.
Plan make_plan(const ModelSpec& model, std::span<const WeightSlot> slots, const Scheme& scheme, DType kv,
               const Catalogs& catalogs, const DeviceInfo& device);

Json plan_to_json(const Plan& plan);              // plan_json.cpp
Plan plan_from_json(const Json& json);            // throws corrupt: every index and size is checked

// --- Running ------------------------------------------------------------------------------------------------------------

// The inputs of one step. Row counts may be anything up to what the runner was opened for.
struct StepInputs {
  std::int64_t tokens = 0, seqs = 0, sampled = 0;
  std::int64_t max_context = 0;
  TensorView token_ids;        // [tokens] i32
  TensorView positions;        // [tokens] i32
  TensorView rope_lengths;     // [tokens] i32
  TensorView slots;            // [tokens] i64
  TensorView query_starts;     // [seqs + 1] i32
  TensorView context_lengths;  // [seqs] i32
  TensorView block_tables;     // [seqs, max_blocks] i32
  TensorView sample_rows;      // [sampled] i32
};

// The paged keys and values of every layer, as the runner needs them.
struct KvView {
  std::vector<TensorView> k, v;  // per layer: [blocks, kv_heads, block_size, head_dim]
  std::int64_t block_size = 0;
};

// Weights in device memory: one blob, owned or mapped.
struct Weights {
  Buffer owned;
  std::unique_ptr<MappedFile> mapped;
  const std::byte* data() const;
};

// The only interpreter of plans: resolves kernel names and addresses once, then run() launches the steps in order.
// Owned by the thread that steps; run() allocates nothing.
class Runner {
 public:
  Runner(Plan plan, Weights weights, const Catalogs& catalogs, Device& device, std::int64_t max_tokens,
         std::int64_t max_sampled);

  // Returns the logits [sampled, vocab] f32, valid until the next run.
  TensorView run(const StepInputs& inputs, const KvView& kv);

  const Plan& plan() const { return plan_; }
  std::int64_t arena_bytes() const { return static_cast<std::int64_t>(arena_.bytes()); }

 private:
  struct Launch;  // one step, resolved
  TensorView buffer(int index, const StepInputs& inputs) const;
  TensorView weight(int index) const;

  Plan plan_;
  Weights weights_;
  Device& device_;
  std::int64_t max_tokens_, max_sampled_;
  Buffer arena_;
  std::vector<std::int64_t> offsets_;  // of each buffer in the arena

  // Kernel of step i, resolved: which alternative is live follows plan_.steps[i].op.
  struct Resolved;
  std::vector<Resolved> resolved_;
};

// Arena offsets for these row counts; total in `bytes`.
std::vector<std::int64_t> lay_out(const Plan& plan, std::int64_t max_tokens, std::int64_t max_sampled,
                                  std::int64_t& bytes);

// What one step must do and move at least, for `info` and the roofline.
struct StepCost {
  double flops = 0, bytes = 0;
};
StepCost step_cost(const Plan& plan, const Step& step, std::int64_t tokens, std::int64_t sampled, std::int64_t context);

// --- Packing and engine directories -------------------------------------------------------------------------------------

// Packs a checkpoint into device memory, in the plan's order.
Weights pack(const Checkpoint& checkpoint, const Plan& plan, Device& device, const BuildProgress& progress = {});

// The engine directory: engine.json and weights.bin, plus the tokenizer's files copied as they are.
constexpr int kEngineFormat = 1;
void write_engine(const Checkpoint& checkpoint, Plan plan, const std::filesystem::path& source,
                  const std::filesystem::path& out, const BuildProgress& progress);
bool is_engine_directory(const std::filesystem::path& path);
Plan read_engine_plan(const std::filesystem::path& directory);   // throws corrupt or unsupported
Weights map_engine_weights(const std::filesystem::path& directory, const Plan& plan);  // verifies the checksums

}  // namespace warpjet
