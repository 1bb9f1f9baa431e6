// Models: what a checkpoint is. Reads safetensors and config.json, and turns them into a ModelSpec (the architecture as
// data) and a list of WeightSlots (where each packed weight comes from). Used at build time only.
#pragma once

#include "core/core.h"
#include "model/rope.h"
#include "quant/quant.h"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace warpjet {

// --- The architecture as data ----------------------------------------------------------------------------------------

// Attention with grouped heads (Ainslie et al. 2023) and rotary positions.
struct AttentionSpec {
  int heads = 0, kv_heads = 0, head_dim = 0;
  int window = 0;  // tokens that a query sees, itself included; 0 is all of them
  int rope = 0;    // of ModelSpec::ropes
  double scale = 1;
  bool qkv_bias = false, out_bias = false;
  bool qk_norm = false;  // RMS norm of each query and key head, before they are rotated

  std::int64_t q_width() const { return static_cast<std::int64_t>(heads) * head_dim; }
  std::int64_t kv_width() const { return static_cast<std::int64_t>(kv_heads) * head_dim; }
  bool operator==(const AttentionSpec&) const = default;
};

// down(activation(gate(x)) * up(x)).
struct DenseMlp {
  int width = 0;
  std::string activation = "silu";  // silu gelu gelu_tanh relu
  bool bias = false;
  bool operator==(const DenseMlp&) const = default;
};

// THE TABLES of what a layer may be made of: the planner and the walk over weights have a case for each.
using Mixer = std::variant<AttentionSpec>;
using Mlp = std::variant<DenseMlp>;

// Where a block's norms are. pre: x += f(norm(x)). sandwich: x += norm'(f(norm(x))).
enum class NormOrder : std::uint8_t { pre, sandwich };

struct LayerSpec {
  Mixer mixer;
  Mlp mlp;
  NormOrder order = NormOrder::pre;

  AttentionSpec& attention() { return std::get<AttentionSpec>(mixer); }
  const AttentionSpec& attention() const { return std::get<AttentionSpec>(mixer); }
  DenseMlp& dense() { return std::get<DenseMlp>(mlp); }
  const DenseMlp& dense() const { return std::get<DenseMlp>(mlp); }
  bool operator==(const LayerSpec&) const = default;
};

struct ModelSpec {
  std::string architecture;  // "LlamaForCausalLM"
  int vocab_size = 0;
  int hidden_size = 0;
  int max_positions = 0;  // longest text, scaling included
  double norm_eps = 1e-6;
  double embed_scale = 1;  // of the token embeddings
  bool tied_head = false;
  bool generates = true;  // false: the checkpoint has no output head, so it embeds only
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
  std::vector<std::int32_t> eos_token_ids;
  std::int32_t bos_token_id = -1;
  bool operator==(const ModelSpec&) const = default;
};

// --- Weights ---------------------------------------------------------------------------------------------------------

// What is done to a part's values on the way in. add_one: a gain that the checkpoint stores as its distance from one.
enum class PartOp : std::uint8_t { copy, add_one };
// How the ranks of a tensor-parallel group share it: by rows of the matrix (output features), by columns, by tokens.
enum class Split : std::uint8_t { replicated, rows, columns, vocabulary };

// One packed weight: the row-wise concatenation of checkpoint tensors ("parts"), e.g. q, k and v.
struct WeightSlot {
  std::string name;  // canonical: "embed", "layers.3.qkv", "layers.3.qkv.bias", "layers.3.norm1", "head"
  Role role = Role::matrix;
  Split split = Split::replicated;
  Shape shape;
  struct Part {
    std::string name;  // in our words, "layers.3.q.weight"; in the checkpoint's once named (names.cpp)
    std::int64_t rows = 0;
    PartOp op = PartOp::copy;
    Format source = {};       // in the checkpoint: the quantised format, or any plain one
    std::string scales = {};  // the tensor with the scales of a quantised part
  };
  std::vector<Part> parts;  // stacked along axis 0 in this order

  // Whether its parts are stored in this scaled format and can be stacked in it: all but the last are whole blocks.
  bool comes_as(const Format& format) const;
  // What it is stored as under a scheme: quantised if it comes so. A gain of one plus the tensor of the checkpoint
  // keeps fp32, since the sum of one and a bf16 is no bf16.
  Format format(const Scheme& scheme) const;
};

// Where quantised checkpoints of one kind keep what; quantised.cpp has THE TABLE of them.
struct QuantisedSource {
  std::string_view scheme;        // what it is run as
  Format format;                  // of quantised matrices, scales as the scheme has them
  std::string_view scale_suffix;  // behind the name of a quantised tensor
};

// Every weight that a spec needs, in the order in which it is packed, parts in our words: the one list that names,
// planner and shards share. (weights.cpp)
std::vector<WeightSlot> weight_slots(const ModelSpec& spec);

// A part's name in our words and in a checkpoint's; "*" is the number of the layer. What follows the name, ".weight" or
// ".bias", is the same in both.
struct NameRow {
  std::string_view ours, theirs;
  PartOp op = PartOp::copy;
};
std::span<const NameRow> llama_names();  // what most checkpoints follow

// The same slots, with parts named as the checkpoint does: by the family's rows, else by llama_names().
std::vector<WeightSlot> named(std::vector<WeightSlot> slots, std::span<const NameRow> family);

// --- Checkpoint files ------------------------------------------------------------------------------------------------

// One tensor inside a safetensors file, which stays open while its SafeTensors lives.
struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::int64_t offset = 0, bytes = 0;  // in the file
  const FileReader* file = nullptr;
};

// A *.safetensors file or a set of shards. Every offset, size, shape and name is checked before it is used; throws
// corrupt with file, tensor and reason, or io.
class SafeTensors {
 public:
  // A directory with model.safetensors, or model.safetensors.index.json and its shards. A shard's name must be a plain
  // file name, every name of the index must be in its shard, and no tensor may be in two shards.
  static SafeTensors open(const std::filesystem::path& directory);
  // One file.
  static SafeTensors open_file(const std::filesystem::path& file);

  // By the name in a model with a head. Files of the model below it leave the prefix "model." out; both are found.
  const TensorEntry* find(std::string_view name) const;
  const std::map<std::string, TensorEntry, std::less<>>& tensors() const { return tensors_; }
  std::int64_t bytes() const;

 private:
  void add_file(const std::filesystem::path& file);

  std::vector<std::unique_ptr<FileReader>> files_;
  std::map<std::string, TensorEntry, std::less<>> tensors_;
};

// Parses the header of a safetensors file of `file_bytes`, which is whole in `head`; the entries name no file. Exposed
// for fuzzing. Throws corrupt unless the tensors fill the data section exactly: no overlap, no gap, nothing behind the
// last.
std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> head, std::int64_t file_bytes,
                                           const std::string& source);

// --- config.json -----------------------------------------------------------------------------------------------------

enum class LayerKind : std::uint8_t { full_attention, sliding_attention };
constexpr auto names_of(LayerKind) {
  return std::to_array<std::string_view>({"full_attention", "sliding_attention"});
}

// A config.json (or an object in it) being read: what nobody took is reported, so that no key that changes the result
// can be overlooked. Both spellings (transformers 4 and 5) are understood by the accessors below.
class HfConfig {
 public:
  // Throws io or corrupt; refuses auto_map (code in a checkpoint is never run).
  // `overrides` is empty or a JSON object: its members replace those of the file, and a null drops one.
  static HfConfig load(const std::filesystem::path& directory, std::string_view overrides = {});
  static HfConfig from_json(Json config, std::string source);
  static HfConfig object(Json json, std::string source);  // any other object: no architecture, nothing refused

  // The first of `architectures`; without that key, the one of `model_type`.
  const std::string& architecture() const { return architecture_; }
  bool headless() const { return headless_; }  // `architectures` names the model below the head, such as Qwen3Model
  const std::string& source() const { return source_; }

  bool has(std::string_view key) const { return json_.find(key) != nullptr; }  // also when it is null

  // Typed values; throw corrupt "<file>: <key>: ..." on a wrong type or a value outside the limits. The _or forms take
  // an absent key and null as `fallback`; the others require the key.
  struct Limits {
    double low, high;
  };
  std::int64_t integer(std::string_view key, Limits limits);
  std::int64_t integer_or(std::string_view key, std::int64_t fallback, Limits limits);
  double real(std::string_view key, Limits limits);
  double real_or(std::string_view key, double fallback, Limits limits);
  bool flag_or(std::string_view key, bool fallback);
  std::string text_or(std::string_view key, std::string fallback);
  const Json* take(std::string_view key);  // raw; nullptr when absent or null

  // The rotary embedding, of full layers where kinds of layers differ (hf_rope.cpp). max_positions comes in as
  // max_position_embeddings and goes out as the context that the scaling makes of it. `theta` is the family's default.
  RopeSpec rope(int head_dim, int& max_positions, double theta);
  RopeSpec sliding_rope(double theta);
  // The kind of each layer, by layer_types or, without it, by every(i).
  std::vector<LayerKind> layer_kinds(std::size_t layers, const std::function<LayerKind(std::size_t)>& every);
  std::vector<std::int32_t> token_ids(std::string_view key);  // an id, a list or absent
  std::optional<DType> dtype();                               // dtype or torch_dtype
  // What quantization_config says, by quantised.cpp; throws unsupported naming a method that is not read.
  const std::optional<QuantisedSource>& quantised() const { return quantised_; }

  // A key that must have this value if present: anything else changes the result and is not supported.
  void expect_flag(std::string_view key, bool value);
  void expect_number(std::string_view key, double value);
  void expect_absent(std::string_view key);
  // The last call of a family. Throws unsupported listing every key that was neither taken nor known to leave the
  // result alone.
  void finish(const ModelSpec& spec);

 private:
  HfConfig() = default;
  void read_quantisation();  // quantised.cpp
  void read_architecture();
  bool taken(std::string_view key) const;
  void expect_windows(const ModelSpec& spec);
  HfConfig section(std::string_view key);  // the object under `key`; empty when absent
  HfConfig rope_section(std::string_view key, LayerKind kind);
  void require_taken(std::span<const std::string_view> harmless) const;

  Json json_;
  std::string source_;
  std::string architecture_;
  bool headless_ = false;
  std::optional<QuantisedSource> quantised_;
  std::vector<std::string> taken_;
};

// generation_config.json: sampling defaults for Python and the end tokens for the engine. Absent file: defaults.
struct GenerationConfig {
  std::vector<std::int32_t> eos_token_ids;
  std::optional<std::int32_t> bos_token_id;
};
GenerationConfig load_generation_config(const std::filesystem::path& directory);

// --- Families --------------------------------------------------------------------------------------------------------

// One row a supported architecture: how to read its config and where its weights are.
struct Family {
  std::string_view architecture;
  std::string_view model_type;
  ModelSpec (*spec)(HfConfig& config);
  std::span<const NameRow> names = {};  // where they differ from llama_names()

  std::vector<WeightSlot> slots(const ModelSpec& of) const { return named(weight_slots(of), names); }
};

std::span<const Family* const> families();                 // THE TABLE, families.cpp
const Family& find_family(std::string_view architecture);  // throws unsupported listing the names

extern const Family kLlama, kMistral;  // families/llama.cpp
extern const Family kQwen2, kQwen3;    // families/qwen.cpp
extern const Family kGemma3;           // families/gemma.cpp

// What a family's configuration class in transformers assumes of absent keys.
struct DecoderDefaults {
  int max_positions = 2048;
  int num_kv_heads = 0;  // 0 is as many as query heads
  int head_dim = 0;      // 0 is hidden_size / num_attention_heads
  std::int32_t bos_token_id = -1;
  std::vector<std::int32_t> eos_token_ids;
  bool tied_head = false;
  std::string activation = "silu";
  double rope_theta = 10000;
};

// What Llama-like models share (families/decoder.cpp): every key but biases, windows and norms of heads. The layers are
// alike; their rope is ropes[0].
ModelSpec decoder_spec(HfConfig& config, const DecoderDefaults& defaults);

// --- A checkpoint, opened --------------------------------------------------------------------------------------------

// Spec, slots and tensors of a Hugging Face directory, checked against each other: every part exists with the right
// shape and type, and no tensor is left over (rotary buffers and a tied head's copy excepted).
struct Checkpoint {
  ModelSpec spec;
  DType dtype = DType::f32;      // what config.json says, else the embedding's
  std::string_view scheme = {};  // that keeps the weights as they are
  std::vector<WeightSlot> slots;
  SafeTensors tensors;

  // `overrides`: see HfConfig::load().
  static Checkpoint open(const std::filesystem::path& directory, std::string_view overrides = {});
  // From config.json alone: slots without tensors, for weights that are made up.
  static Checkpoint without_weights(const std::filesystem::path& directory, std::string_view overrides = {});
};

// Throws unsupported when a scheme's matrices are quantised and the checkpoint's are not, or otherwise.
void require_source(const Checkpoint& checkpoint, const Scheme& scheme);

// One slot's parts, stacked and stored as `format`, in pieces of at most kCopyPiece bytes that `sink` receives in
// order: codes, then what aligns the scales, then the scales. Quantised parts are decoded for a plain format, and
// copied for their own.
constexpr std::int64_t kCopyPiece = 8ll << 20;
using PieceSink = std::function<void(std::span<const std::byte>)>;
void read_slot(const WeightSlot& slot, const SafeTensors& tensors, const Format& format, const PieceSink& sink);

}  // namespace warpjet
