// Plans: a model as a flat list of nodes over named buffers and packed weights. ModelSpec -> Plan -> (packed weights)
// -> run. An engine directory is a plan and its weights on disk; nothing of a checkpoint is needed after that.
#pragma once

#include <warpjet/engine.h>

#include "core/core.h"
#include "device/device.h"
#include "model/model.h"
#include "plan/nodes.h"

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace warpjet {

// --- The plan --------------------------------------------------------------------------------------------------------

// The catalogue row chosen for steps of up to this many rows: "ref.gemm".
struct Tactic {
  std::int64_t max_rows = 0;
  std::string kernel;

  static constexpr auto fields() {
    return std::tuple{Field{"max_rows", &Tactic::max_rows}, Field{"kernel", &Tactic::kernel}};
  }
  bool operator==(const Tactic&) const = default;
};
constexpr std::int64_t kAnyRows = 1 << 20;
// Where a node's tactics may change: the row counts that kernels are chosen and timed for.
constexpr std::int64_t kRowBuckets[] = {8, 16, 32, 64, 128, 256, 512, 1024, 2048, kAnyRows};

struct Node {
  std::string name;             // "layers.3.qkv"
  std::vector<Tactic> tactics;  // by max_rows; the last takes any number
  AnyNode op;

  const std::string& kernel_for(std::int64_t rows) const {
    auto tactic = tactics.begin();
    while (tactic->max_rows < rows) ++tactic;
    return tactic->kernel;
  }
};

// Nodes that run together, over the same rows: from `first` up to the next phase. A phase over sampled rows may run
// several times after the one over tokens that it follows.
struct Phase {
  std::string name;
  Rows rows = Rows::tokens;
  int first = 0;

  static constexpr auto fields() {
    using C = Phase;
    return std::tuple{Field{"name", &C::name}, Field{"rows", &C::rows}, Field{"first", &C::first}};
  }
};
// A plan has these, in this order: all tokens of a step; hidden states of the rows that are asked for; their logits.
constexpr std::string_view kTokensPhase = "tokens", kHiddenPhase = "hidden", kLogitsPhase = "logits";

// A buffer that goes out of the plan, by name.
struct Tap {
  std::string name;
  Out buffer;

  static constexpr auto fields() { return std::tuple{Field{"name", &Tap::name}, Field{"buffer", &Tap::buffer}}; }
};
// [sampled, hidden_size] of the activation type, after the last norm; and [sampled, vocab_size] f32.
constexpr std::string_view kHiddenTap = "hidden", kLogitsTap = "logits";

// What a plan knows of its model: names and limits. Whatever a node computes with is in the node.
struct ModelFacts {
  std::string architecture;  // "LlamaForCausalLM"
  int vocab_size = 0, hidden_size = 0;
  int num_layers = 0;
  int max_positions = 0;  // longest text, scaling included
  int rope_original = 0;  // texts beyond it are rotated by their own length ("dynamic" scaling); 0: none are
  bool generates = true;  // false: the checkpoint has no output head, so it embeds only
  std::vector<std::int32_t> eos_token_ids;
  std::int32_t bos_token_id = -1;

  static constexpr auto fields() {
    using C = ModelFacts;
    return std::tuple{Field{"architecture", &C::architecture},   Field{"vocab_size", &C::vocab_size},
                      Field{"hidden_size", &C::hidden_size},     Field{"num_layers", &C::num_layers},
                      Field{"max_positions", &C::max_positions}, Field{"rope_original", &C::rope_original},
                      Field{"generates", &C::generates},         Field{"eos_token_ids", &C::eos_token_ids},
                      Field{"bos_token_id", &C::bos_token_id}};
  }
};

struct Plan {
  ModelFacts model;
  std::string scheme;
  std::vector<BufferSpec> buffers;
  std::vector<WeightRef> weights;
  std::vector<CacheSpec> caches;  // of each attention layer
  std::vector<Node> nodes;
  std::vector<Phase> phases;
  std::vector<Tap> taps;

  static constexpr auto fields() {
    using C = Plan;
    return std::tuple{Field{"model", &C::model},     Field{"scheme", &C::scheme}, Field{"buffers", &C::buffers},
                      Field{"weights", &C::weights}, Field{"caches", &C::caches}, Field{"nodes", &C::nodes},
                      Field{"phases", &C::phases},   Field{"taps", &C::taps}};
  }
  Shapes shapes(const StepSizes& sizes) const {
    return {.buffers = buffers, .weights = weights, .caches = caches, .sizes = sizes};
  }
  int first_of(std::string_view phase) const;  // throws internal when there is none
  int end_of(std::string_view phase) const;    // one past its last node
  const Phase& phase_of(int node) const;
  const Out& tap(std::string_view name) const;  // throws internal when there is none
  std::int64_t weight_bytes() const;            // size of the blob
  std::int64_t parameters() const;
  std::int64_t kv_bytes_per_token() const;
};

// planner.cpp. slots give the weights' names, shapes and order.
Plan make_plan(const ModelSpec& model, std::span<const WeightSlot> slots, const Scheme& scheme, DType kv,
               const Catalogs& catalogs, const DeviceInfo& device);

Json plan_to_json(const Plan& plan);    // plan_json.cpp
Plan plan_from_json(const Json& json);  // throws corrupt; the result passed check_plan

// Throws corrupt unless every index is in range, every node's shapes and types fit each other and its caches, and
// buffers are written before they are read: after this, no plan can make a kernel leave its memory. (check.cpp)
void check_plan(const Plan& plan);

// --- Running ---------------------------------------------------------------------------------------------------------

// Weights in device memory: one blob, a copy of what the files held when they were read.
struct Weights {
  Buffer owned;
  int readers = 1;  // threads that loaded them
  const std::byte* data() const { return owned.at(0); }
};

// The only interpreter of plans: resolves kernel names and addresses once, then launches the nodes in order. Owned by
// the thread that steps; forward() and logits() allocate nothing.
class Runner {
 public:
  // Throws unsupported when a kernel of the plan is not in the catalogues or does not run on the device.
  Runner(Plan plan, Weights weights, const Catalogs& catalogs, Device& device, std::int64_t max_tokens,
         std::int64_t max_sampled, std::int64_t block_size);

  // Computes all tokens of a step and appends their keys and values.
  void forward(const StepInputs& inputs, const KvView& kv);

  // One node by itself, with a kernel by name: for timing. The scope is that of forward() or, in a phase over sampled
  // rows, of logits().
  void run_node(int index, const std::string& kernel, const Catalogs& catalogs, const StepInputs& inputs,
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
  struct Choice {
    std::int64_t max_rows;
    KernelRow row;
  };
  Scope scope_of(const StepSizes& sizes) const;
  void run(std::string_view phase, Scope scope);
  void run_node(int index, const KernelRow& row, Scope& scope);

  Plan plan_;
  Weights weights_;
  Stream& stream_;
  std::int64_t max_tokens_, max_sampled_;
  Buffer arena_, workspace_;
  std::vector<std::int64_t> offsets_;         // of each buffer in the arena
  std::vector<std::vector<Choice>> kernels_;  // of each node
  std::vector<Buffer> constants_;             // of each node
  std::int64_t tokens_ = 0;                   // of the last forward
};

// Arena offsets for these row counts; total in `bytes`.
std::vector<std::int64_t> lay_out(const Plan& plan, std::int64_t max_tokens, std::int64_t max_sampled,
                                  std::int64_t& bytes);

// --- Packing and engine directories ----------------------------------------------------------------------------------

// Packs a checkpoint into device memory, in the plan's order.
Weights pack(const Checkpoint& checkpoint, const Plan& plan, Device& device);

// Random matrices, norms of one and biases of zero, the same every time: for measuring. (dummy.cpp)
Weights make_dummy_weights(const Plan& plan, Device& device);

// The engine directory: engine.json and weights.bin, plus the tokenizer's files copied as they are.
constexpr int kEngineFormat = 4;
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
// The scheme that is asked for; under "auto" the checkpoint's own or, where it is quantised in a way that the device
// has no kernels for, the plain one of its activations. Throws unsupported when the checkpoint cannot give it.
const Scheme& choose_scheme(const Checkpoint& checkpoint, std::string_view name, const Catalogs& catalogs,
                            const DeviceInfo& device);

// Throws io when the path holds neither.
OpenedModel open_model(const std::filesystem::path& path, const LoadOptions& options, const Catalogs& catalogs,
                       const DeviceInfo& device);
LoadReport load_weights(const OpenedModel& model, Device& device, Weights& weights);

}  // namespace warpjet
