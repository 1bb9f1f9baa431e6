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

  const Json* types = config.take("layer_types");
  if (types == nullptr) {
    for (std::size_t i = 0; i < spec.layers.size(); ++i) spec.layers[i].window = std::cmp_less(i, first) ? 0 : window;
    return;
  }
  WJ_REQUIRE(types->is_array() && types->as_array().size() == spec.layers.size(), corrupt, config.source(),
             ": layer_types: expected a list of num_hidden_layers=", spec.layers.size(), " names");
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    const Json& type = types->as_array()[i];
    const std::string name = type.is_string() ? type.as_string() : type.dump();
    if (name == "full_attention") continue;
    WJ_REQUIRE(name == "sliding_attention", unsupported, config.source(), ": layer_types: ", quote(name),
               " is not supported; there are full_attention and sliding_attention");
    WJ_REQUIRE(window > 0, corrupt, config.source(),
               ": layer_types: asks for sliding_attention, but use_sliding_window or sliding_window turns it off");
    spec.layers[i].window = window;
  }
}

}  // namespace

ModelSpec qwen2_spec(HfConfig& config) {
  ModelSpec spec = decoder_spec(config, {.max_positions = 32768, .num_kv_heads = 32, .eos_token_ids = {}});
  spec.qkv_bias = true;  // whatever attention_bias says: the family has no such switch
  config.take("attention_bias");
  config.expect_flag("mlp_bias", false);
  read_windows(config, spec);
  config.finish(spec);
  return spec;
}

ModelSpec qwen3_spec(HfConfig& config) {
  ModelSpec spec =
      decoder_spec(config, {.max_positions = 32768, .num_kv_heads = 32, .head_dim = 128, .eos_token_ids = {}});
  spec.qk_norm = true;
  spec.qkv_bias = spec.out_bias = config.flag_or("attention_bias", false);
  config.expect_flag("mlp_bias", false);
  read_windows(config, spec);
  config.finish(spec);
  return spec;
}

}  // namespace warpjet
