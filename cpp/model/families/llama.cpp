// Llama 2 and 3.x, and Mistral, which is Llama with a sliding window.
#include "model/model.h"

namespace warpjet {
namespace {

ModelSpec llama_spec(HfConfig& config) {
  ModelSpec spec = decoder_spec(config, {.max_positions = 2048, .bos_token_id = 1, .eos_token_ids = {2}});
  const bool attention_bias = config.flag_or("attention_bias", false), mlp_bias = config.flag_or("mlp_bias", false);
  for (LayerSpec& layer : spec.layers) {
    layer.attention().qkv_bias = layer.attention().out_bias = attention_bias;
    layer.dense().bias = mlp_bias;
  }
  config.finish(spec);
  return spec;
}

ModelSpec mistral_spec(HfConfig& config) {
  ModelSpec spec =
      decoder_spec(config, {.max_positions = 131072, .num_kv_heads = 8, .bos_token_id = 1, .eos_token_ids = {2}});
  // Absent is the default of 4096; null is full attention.
  const int fallback = config.has("sliding_window") ? 0 : 4096;
  const auto window = static_cast<int>(config.integer_or("sliding_window", fallback, {1, 1 << 30}));
  for (LayerSpec& layer : spec.layers) layer.attention().window = window;
  config.expect_flag("attention_bias", false);
  config.expect_flag("mlp_bias", false);
  config.finish(spec);
  return spec;
}

}  // namespace

const Family kLlama{"LlamaForCausalLM", "llama", llama_spec};
const Family kMistral{"MistralForCausalLM", "mistral", mistral_spec};

}  // namespace warpjet
