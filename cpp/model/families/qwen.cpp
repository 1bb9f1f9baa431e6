// Qwen2 and 2.5 (biases on q, k and v) and Qwen3 (RMS norms of query and key heads instead).
#include "model/model.h"

namespace warpjet {
namespace {

// Which layers slide: layer_types says so by name; without it, those from max_window_layers on.
void read_windows(HfConfig& config, ModelSpec& spec) {
  const bool use = config.flag_or("use_sliding_window", false);
  const int fallback = config.has("sliding_window") ? 0 : 4096;  // null is full attention
  const auto size = static_cast<int>(config.integer_or("sliding_window", fallback, {1, 1 << 30}));
  const std::int64_t first = config.integer_or("max_window_layers", 28, {0, 1 << 30});
  const int window = use ? size : 0;
  const std::vector<LayerKind> kinds = config.layer_kinds(spec.layers.size(), [&](std::size_t i) {
    return window == 0 || std::cmp_less(i, first) ? LayerKind::full_attention : LayerKind::sliding_attention;
  });
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] == LayerKind::full_attention) continue;
    WJ_REQUIRE(window > 0, corrupt, config.source(),
               ": layer_types: asks for sliding_attention, but use_sliding_window or sliding_window turns it off");
    spec.layers[i].attention().window = window;
  }
}

ModelSpec qwen2_spec(HfConfig& config) {
  ModelSpec spec = decoder_spec(config, {.max_positions = 32768, .num_kv_heads = 32, .eos_token_ids = {}});
  config.take("attention_bias");  // whatever it says: the family has no such switch
  for (LayerSpec& layer : spec.layers) layer.attention().qkv_bias = true;
  config.expect_flag("mlp_bias", false);
  read_windows(config, spec);
  config.finish(spec);
  return spec;
}

ModelSpec qwen3_spec(HfConfig& config) {
  ModelSpec spec =
      decoder_spec(config, {.max_positions = 32768, .num_kv_heads = 32, .head_dim = 128, .eos_token_ids = {}});
  const bool bias = config.flag_or("attention_bias", false);
  for (LayerSpec& layer : spec.layers) {
    layer.attention().qk_norm = true;
    layer.attention().qkv_bias = layer.attention().out_bias = bias;
  }
  config.expect_flag("mlp_bias", false);
  read_windows(config, spec);
  config.finish(spec);
  return spec;
}

}  // namespace

const Family kQwen2{"Qwen2ForCausalLM", "qwen2", qwen2_spec};
const Family kQwen3{"Qwen3ForCausalLM", "qwen3", qwen3_spec};

}  // namespace warpjet
