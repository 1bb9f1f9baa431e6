// What Llama-like decoders have in common: embedding; per layer RMS norm, attention, RMS norm, gated MLP; RMS norm;
// head.
#include "model/model.h"

#include <array>
#include <cmath>

namespace warpjet {
namespace {

// Far above every model there is, low enough that no product of two of them overflows 63 bits.
constexpr double kMaxWidth = 1 << 20, kMaxVocab = 1 << 24, kMaxLayers = 4096, kMaxHeadDim = 1024;
constexpr double kMaxPositions = 1 << 30;

// Gemma's hidden_activation wins over hidden_act.
std::string activation_of(HfConfig& config, const std::string& fallback) {
  struct Row {
    std::string_view theirs, ours;
  };
  constexpr auto kActivations =
      std::to_array<Row>({{"silu", "silu"}, {"gelu", "gelu"}, {"gelu_pytorch_tanh", "gelu_tanh"}, {"relu", "relu"}});
  const std::string name = config.text_or("hidden_activation", config.text_or("hidden_act", fallback));
  for (const Row& row : kActivations) {
    if (row.theirs == name) return std::string(row.ours);
  }
  WJ_FAIL(unsupported, config.source(), ": hidden_act: ", quote(name),
          " is not supported; there are silu, gelu, gelu_pytorch_tanh and relu");
}

int count(HfConfig& config, std::string_view key, double limit) {
  return static_cast<int>(config.integer(key, {1, limit}));
}

AttentionSpec read_heads(HfConfig& config, const DecoderDefaults& defaults, int hidden_size) {
  AttentionSpec spec{.heads = count(config, "num_attention_heads", kMaxWidth)};
  // An absent key and null differ: the former is the class's default, the latter means as many as query heads.
  const bool absent = !config.has("num_key_value_heads") && defaults.num_kv_heads > 0;
  const int kv_fallback = absent ? defaults.num_kv_heads : spec.heads;
  spec.kv_heads = static_cast<int>(config.integer_or("num_key_value_heads", kv_fallback, {1, kMaxWidth}));
  WJ_REQUIRE(spec.heads % spec.kv_heads == 0, corrupt, config.source(), ": num_attention_heads: ", spec.heads,
             " is not a multiple of num_key_value_heads=", spec.kv_heads);
  const int dim_fallback = defaults.head_dim > 0 ? defaults.head_dim : hidden_size / spec.heads;
  spec.head_dim = static_cast<int>(config.integer_or("head_dim", dim_fallback, {1, kMaxHeadDim}));
  WJ_REQUIRE(spec.head_dim > 0 && spec.head_dim <= kMaxHeadDim && spec.head_dim % 2 == 0, corrupt, config.source(),
             ": head_dim: expected an even number up to ", kMaxHeadDim, ", got ", spec.head_dim);
  WJ_REQUIRE(spec.q_width() <= kMaxWidth, corrupt, config.source(), ": num_attention_heads: ", spec.heads, " heads of ",
             spec.head_dim, " are wider than ", kMaxWidth);
  spec.scale = 1 / std::sqrt(static_cast<double>(spec.head_dim));
  return spec;
}

void read_tokens(HfConfig& config, const DecoderDefaults& defaults, ModelSpec& spec) {
  spec.eos_token_ids = config.has("eos_token_id") ? config.token_ids("eos_token_id") : defaults.eos_token_ids;
  spec.bos_token_id = defaults.bos_token_id;
  if (!config.has("bos_token_id")) return;
  const std::vector<std::int32_t> bos = config.token_ids("bos_token_id");
  spec.bos_token_id = bos.empty() ? -1 : bos.front();
}

}  // namespace

ModelSpec decoder_spec(HfConfig& config, const DecoderDefaults& defaults) {
  ModelSpec spec;
  spec.architecture = config.architecture();
  spec.vocab_size = count(config, "vocab_size", kMaxVocab);
  spec.hidden_size = count(config, "hidden_size", kMaxWidth);
  LayerSpec layer;
  layer.dense().width = count(config, "intermediate_size", kMaxWidth);
  const auto layers = static_cast<std::size_t>(count(config, "num_hidden_layers", kMaxLayers));
  layer.attention() = read_heads(config, defaults, spec.hidden_size);
  spec.norm_eps = config.real_or("rms_norm_eps", 1e-6, {0, 1});
  layer.dense().activation = activation_of(config, defaults.activation);
  spec.tied_head = config.flag_or("tie_word_embeddings", defaults.tied_head);
  spec.max_positions =
      static_cast<int>(config.integer_or("max_position_embeddings", defaults.max_positions, {1, kMaxPositions}));
  spec.ropes = {config.rope(layer.attention().head_dim, spec.max_positions, defaults.rope_theta)};
  read_tokens(config, defaults, spec);
  spec.layers.assign(layers, layer);
  return spec;
}

}  // namespace warpjet
