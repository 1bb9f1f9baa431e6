// Models: what a checkpoint is. Reads safetensors and config.json, and turns them into a ModelSpec (the architecture as
// data) and a list of WeightSlots (where each packed weight comes from). Used at build time only.
#pragma once

#include "core/core.h"
#include "quant/quant.h"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace warpjet {

// --- The architecture as data ----------------------------------------------------------------------------------------

// Rotary embedding (Su et al. 2021) and how its frequencies are stretched beyond the trained context.
struct RopeSpec {
  std::string scaling = "none";  // none linear dynamic yarn llama3
  double theta = 10000.0;
  double factor = 1.0;
  int original_max_positions = 0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;
  double beta_fast = 32.0, beta_slow = 1.0;
  double attention_factor = 1.0;  // resolved: yarn's default and mscale are already applied
  bool truncate = true;

  static constexpr auto fields() {
    using C = RopeSpec;
    return std::tuple{Field{"scaling", &C::scaling, "none, linear, dynamic, yarn or llama3"},
                      Field{"theta", &C::theta, "base of the frequencies"},
                      Field{"factor", &C::factor, "stretch of the context"},
                      Field{"original_max_positions", &C::original_max_positions, "context before stretching"},
                      Field{"low_freq_factor", &C::low_freq_factor, "llama3"},
                      Field{"high_freq_factor", &C::high_freq_factor, "llama3"},
                      Field{"beta_fast", &C::beta_fast, "yarn"},
                      Field{"beta_slow", &C::beta_slow, "yarn"},
                      Field{"attention_factor", &C::attention_factor, "multiplies cos and sin"},
                      Field{"truncate", &C::truncate, "yarn: whole-number correction range"}};
  }
  bool operator==(const RopeSpec&) const = default;
};

// The rotary frequencies, [head_dim / 2] in fp32, as transformers computes them (rope.cpp). For "dynamic" these are the
// frequencies of text within original_max_positions; longer text is adjusted when it runs (ops RopeTable).
std::vector<float> rope_frequencies(const RopeSpec& rope, int head_dim);

struct LayerSpec {
  int window = 0;  // sliding window in tokens; 0 is full attention

  static constexpr auto fields() {
    using C = LayerSpec;
    return std::tuple{Field{"window", &C::window, "sliding window in tokens, 0 is full attention"}};
  }
  bool operator==(const LayerSpec&) const = default;
};

struct ModelSpec {
  std::string architecture;  // "LlamaForCausalLM"
  int vocab_size = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int max_positions = 0;  // longest text, scaling included
  double norm_eps = 1e-6;
  std::string activation = "silu";  // gate of the MLP: silu gelu gelu_tanh relu
  bool qkv_bias = false;
  bool out_bias = false;  // attention output projection
  bool mlp_bias = false;
  bool qk_norm = false;
  bool tied_head = false;
  bool generates = true;  // false: the checkpoint has no output head, so it embeds only
  RopeSpec rope;
  std::vector<LayerSpec> layers;
  std::vector<std::int32_t> eos_token_ids;
  std::int32_t bos_token_id = -1;

  static constexpr auto fields() {
    using C = ModelSpec;
    return std::tuple{Field{"architecture", &C::architecture, "name in config.json"},
                      Field{"vocab_size", &C::vocab_size, "rows of the embedding"},
                      Field{"hidden_size", &C::hidden_size, "model width"},
                      Field{"intermediate_size", &C::intermediate_size, "MLP width"},
                      Field{"num_heads", &C::num_heads, "query heads"},
                      Field{"num_kv_heads", &C::num_kv_heads, "key and value heads"},
                      Field{"head_dim", &C::head_dim, "width of a head"},
                      Field{"max_positions", &C::max_positions, "longest text in tokens"},
                      Field{"norm_eps", &C::norm_eps, "RMS norm epsilon"},
                      Field{"activation", &C::activation, "gate of the MLP"},
                      Field{"qkv_bias", &C::qkv_bias, "q, k and v have biases"},
                      Field{"out_bias", &C::out_bias, "the attention output projection has a bias"},
                      Field{"mlp_bias", &C::mlp_bias, "the MLP projections have biases"},
                      Field{"qk_norm", &C::qk_norm, "RMS norm of each query and key head"},
                      Field{"tied_head", &C::tied_head, "the output head is the embedding"},
                      Field{"generates", &C::generates, "there is an output head"},
                      Field{"rope", &C::rope, "rotary embedding"},
                      Field{"layers", &C::layers, "per layer"},
                      Field{"eos_token_ids", &C::eos_token_ids, "tokens that end a text"},
                      Field{"bos_token_id", &C::bos_token_id, "token that begins a text, -1 is none"}};
  }
  bool operator==(const ModelSpec&) const = default;

  std::int64_t kv_width() const { return static_cast<std::int64_t>(num_kv_heads) * head_dim; }
  std::int64_t q_width() const { return static_cast<std::int64_t>(num_heads) * head_dim; }
};

// One packed weight: the row-wise concatenation of checkpoint tensors ("parts"), e.g. q, k and v.
struct WeightSlot {
  std::string name;  // canonical: "embed", "layers.3.qkv", "layers.3.qkv.bias", "layers.3.norm1", "head"
  Shape shape;
  std::vector<std::string> parts;  // checkpoint names, stacked along axis 0 in this order
  std::vector<std::int64_t> part_rows;
};

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

// A config.json (or an object in it) being read: what nobody took is reported, so that no key that changes the result
// can be overlooked. Both spellings (transformers 4 and 5) are understood by the accessors below.
class HfConfig {
 public:
  // Throws io or corrupt; refuses auto_map (code in a checkpoint is never run) and quantization_config (unsupported).
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

  // The rotary embedding (hf_rope.cpp). max_positions comes in as max_position_embeddings and goes out as the context
  // that the scaling makes of it.
  RopeSpec rope(int head_dim, int& max_positions);
  std::vector<std::int32_t> token_ids(std::string_view key);  // an id, a list or absent
  std::optional<DType> dtype();                               // dtype or torch_dtype

  // A key that must have this value if present: anything else changes the result and is not supported.
  void expect_flag(std::string_view key, bool value);
  void expect_number(std::string_view key, double value);
  // The last call of a family. Throws unsupported listing every key that was neither taken nor known to leave the
  // result alone.
  void finish(const ModelSpec& spec);

 private:
  HfConfig() = default;
  void read_architecture();
  bool taken(std::string_view key) const;
  void expect_windows(const ModelSpec& spec);
  HfConfig section(std::string_view key);  // the object under `key`; empty when absent
  void require_taken(std::span<const std::string_view> harmless) const;

  Json json_;
  std::string source_;
  std::string architecture_;
  bool headless_ = false;
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
  std::vector<WeightSlot> (*slots)(const ModelSpec& spec);
};

std::span<const Family> families();                        // THE TABLE, families.cpp
const Family& find_family(std::string_view architecture);  // throws unsupported listing the names

ModelSpec llama_spec(HfConfig& config);  // families/llama.cpp
ModelSpec mistral_spec(HfConfig& config);
ModelSpec qwen2_spec(HfConfig& config);  // families/qwen.cpp
ModelSpec qwen3_spec(HfConfig& config);

// What a family's configuration class in transformers assumes of absent keys.
struct DecoderDefaults {
  int max_positions = 2048;
  int num_kv_heads = 0;  // 0 is as many as query heads
  int head_dim = 0;      // 0 is hidden_size / num_attention_heads
  std::int32_t bos_token_id = -1;
  std::vector<std::int32_t> eos_token_ids;
};

// What Llama-like models share (families/decoder.cpp): every key but biases, windows and norms of heads; and the
// weights.
ModelSpec decoder_spec(HfConfig& config, const DecoderDefaults& defaults);
std::vector<WeightSlot> decoder_slots(const ModelSpec& spec);

// --- A checkpoint, opened --------------------------------------------------------------------------------------------

// Spec, slots and tensors of a Hugging Face directory, checked against each other: every part exists with the right
// shape and type, and no tensor is left over (rotary buffers and a tied head's copy excepted).
struct Checkpoint {
  ModelSpec spec;
  DType dtype = DType::f32;  // what config.json says, else the embedding's
  std::vector<WeightSlot> slots;
  SafeTensors tensors;

  // `overrides`: see HfConfig::load().
  static Checkpoint open(const std::filesystem::path& directory, std::string_view overrides = {});
  // From config.json alone: slots without tensors, for weights that are made up.
  static Checkpoint without_weights(const std::filesystem::path& directory, std::string_view overrides = {});
};

// Reads only the config: what `info` needs when the weights are not there.
ModelSpec load_spec(const std::filesystem::path& directory);

// Copies one slot's parts into `to` (dense, slot.shape, `dtype`), converting where needed, in pieces of at most
// kCopyPiece bytes. `sink` receives each converted piece in order.
constexpr std::int64_t kCopyPiece = 8ll << 20;
using PieceSink = std::function<void(std::span<const std::byte>)>;
void read_slot(const WeightSlot& slot, const SafeTensors& tensors, DType dtype, const PieceSink& sink);

}  // namespace warpjet
