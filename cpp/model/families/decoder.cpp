// What Llama-like decoders have in common: embedding; per layer RMS norm, attention, RMS norm, gated MLP; RMS norm;
// head.
#include "model/model.h"

#include <array>

namespace warpjet {
namespace {

// Far above every model there is, low enough that no product of two of them overflows 63 bits.
constexpr double kMaxWidth = 1 << 20, kMaxVocab = 1 << 24, kMaxLayers = 4096, kMaxHeadDim = 1024;
constexpr double kMaxPositions = 1 << 30;

std::string activation_of(HfConfig& config) {
  struct Row {
    std::string_view theirs, ours;
  };
  constexpr auto kActivations =
      std::to_array<Row>({{"silu", "silu"}, {"gelu", "gelu"}, {"gelu_pytorch_tanh", "gelu_tanh"}, {"relu", "relu"}});
  const std::string name = config.text_or("hidden_act", "silu");
  for (const Row& row : kActivations) {
    if (row.theirs == name) return std::string(row.ours);
  }
  WJ_FAIL(unsupported, config.source(), ": hidden_act: ", quote(name),
          " is not supported; there are silu, gelu, gelu_pytorch_tanh and relu");
}

int count(HfConfig& config, std::string_view key, double limit) {
  return static_cast<int>(config.integer(key, {1, limit}));
}

void read_heads(HfConfig& config, const DecoderDefaults& defaults, ModelSpec& spec) {
  spec.num_heads = count(config, "num_attention_heads", kMaxWidth);
  // An absent key and null differ: the former is the class's default, the latter means as many as query heads.
  const bool absent = !config.has("num_key_value_heads") && defaults.num_kv_heads > 0;
  const int kv_fallback = absent ? defaults.num_kv_heads : spec.num_heads;
  spec.num_kv_heads = static_cast<int>(config.integer_or("num_key_value_heads", kv_fallback, {1, kMaxWidth}));
  WJ_REQUIRE(spec.num_heads % spec.num_kv_heads == 0, corrupt, config.source(),
             ": num_attention_heads: ", spec.num_heads,
             " is not a multiple of num_key_value_heads=", spec.num_kv_heads);
  const int dim_fallback = defaults.head_dim > 0 ? defaults.head_dim : spec.hidden_size / spec.num_heads;
  spec.head_dim = static_cast<int>(config.integer_or("head_dim", dim_fallback, {1, kMaxHeadDim}));
  WJ_REQUIRE(spec.head_dim > 0 && spec.head_dim <= kMaxHeadDim && spec.head_dim % 2 == 0, corrupt, config.source(),
             ": head_dim: expected an even number up to ", kMaxHeadDim, ", got ", spec.head_dim);
  WJ_REQUIRE(spec.q_width() <= kMaxWidth, corrupt, config.source(), ": num_attention_heads: ", spec.num_heads,
             " heads of ", spec.head_dim, " are wider than ", kMaxWidth);
}

void read_tokens(HfConfig& config, const DecoderDefaults& defaults, ModelSpec& spec) {
  spec.eos_token_ids = config.has("eos_token_id") ? config.token_ids("eos_token_id") : defaults.eos_token_ids;
  spec.bos_token_id = defaults.bos_token_id;
  if (!config.has("bos_token_id")) return;
  const std::vector<std::int32_t> bos = config.token_ids("bos_token_id");
  spec.bos_token_id = bos.empty() ? -1 : bos.front();
}

// Collects the slots of a checkpoint whose names all start with "model.".
struct SlotList {
  std::vector<WeightSlot> slots;

  void vector(std::string name, const std::string& part, std::int64_t width) {
    slots.push_back({std::move(name), {width}, {part}, {width}});
  }

  struct Part {
    std::string name;
    std::int64_t rows;
  };
  // A projection made of parts stacked row-wise, then its bias if it has one.
  void linear(const std::string& name, const std::vector<Part>& parts, std::int64_t columns, bool bias) {
    WeightSlot weight{.name = name, .shape = {}, .parts = {}, .part_rows = {}};
    WeightSlot biases{.name = name + ".bias", .shape = {}, .parts = {}, .part_rows = {}};
    std::int64_t rows = 0;
    for (const Part& part : parts) {
      rows += part.rows;
      weight.parts.push_back(part.name + ".weight");
      biases.parts.push_back(part.name + ".bias");
      weight.part_rows.push_back(part.rows);
      biases.part_rows.push_back(part.rows);
    }
    weight.shape = {rows, columns};
    biases.shape = {rows};
    slots.push_back(std::move(weight));
    if (bias) slots.push_back(std::move(biases));
  }
};

}  // namespace

ModelSpec decoder_spec(HfConfig& config, const DecoderDefaults& defaults) {
  ModelSpec spec;
  spec.architecture = config.architecture();
  spec.vocab_size = count(config, "vocab_size", kMaxVocab);
  spec.hidden_size = count(config, "hidden_size", kMaxWidth);
  spec.intermediate_size = count(config, "intermediate_size", kMaxWidth);
  spec.layers.resize(static_cast<std::size_t>(count(config, "num_hidden_layers", kMaxLayers)));
  read_heads(config, defaults, spec);
  spec.norm_eps = config.real_or("rms_norm_eps", 1e-6, {0, 1});
  spec.activation = activation_of(config);
  spec.tied_head = config.flag_or("tie_word_embeddings", false);
  spec.max_positions =
      static_cast<int>(config.integer_or("max_position_embeddings", defaults.max_positions, {1, kMaxPositions}));
  spec.rope = config.rope(spec.head_dim, spec.max_positions);
  read_tokens(config, defaults, spec);
  return spec;
}

std::vector<WeightSlot> decoder_slots(const ModelSpec& spec) {
  const std::int64_t hidden = spec.hidden_size, inter = spec.intermediate_size;
  SlotList list;
  list.slots.push_back({"embed", {spec.vocab_size, hidden}, {"model.embed_tokens.weight"}, {spec.vocab_size}});
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const std::string ours = cat("layers.", i, "."), theirs = cat("model.layers.", i, ".");
    const std::string attention = theirs + "self_attn.", mlp = theirs + "mlp.";
    list.vector(ours + "norm1", theirs + "input_layernorm.weight", hidden);
    list.linear(ours + "qkv",
                {{attention + "q_proj", spec.q_width()},
                 {attention + "k_proj", spec.kv_width()},
                 {attention + "v_proj", spec.kv_width()}},
                hidden, spec.qkv_bias);
    if (spec.qk_norm) {
      list.vector(ours + "q_norm", attention + "q_norm.weight", spec.head_dim);
      list.vector(ours + "k_norm", attention + "k_norm.weight", spec.head_dim);
    }
    list.linear(ours + "out", {{attention + "o_proj", hidden}}, spec.q_width(), spec.out_bias);
    list.vector(ours + "norm2", theirs + "post_attention_layernorm.weight", hidden);
    list.linear(ours + "gate_up", {{mlp + "gate_proj", inter}, {mlp + "up_proj", inter}}, hidden, spec.mlp_bias);
    list.linear(ours + "down", {{mlp + "down_proj", hidden}}, inter, spec.mlp_bias);
  }
  list.vector("norm", "model.norm.weight", hidden);
  if (!spec.tied_head) list.slots.push_back({"head", {spec.vocab_size, hidden}, {"lm_head.weight"}, {spec.vocab_size}});
  return std::move(list.slots);
}

}  // namespace warpjet
