// Gemma 3's text models: norms before and after each block whose gains are stored as their distance from one, scaled
// embeddings, norms of query and key heads, and five sliding layers with a rope of their own to each full one.
#include "model/model.h"

#include <array>
#include <cmath>

namespace warpjet {
namespace {

constexpr auto kNames = std::to_array<NameRow>({
    {"layers.*.norm1", "model.layers.*.input_layernorm", PartOp::add_one},
    {"layers.*.mixer_norm", "model.layers.*.post_attention_layernorm", PartOp::add_one},
    {"layers.*.norm2", "model.layers.*.pre_feedforward_layernorm", PartOp::add_one},
    {"layers.*.mlp_norm", "model.layers.*.post_feedforward_layernorm", PartOp::add_one},
    {"layers.*.q_norm", "model.layers.*.self_attn.q_norm", PartOp::add_one},
    {"layers.*.k_norm", "model.layers.*.self_attn.k_norm", PartOp::add_one},
    {"norm", "model.norm", PartOp::add_one},
});

ModelSpec gemma3_spec(HfConfig& config) {
  ModelSpec spec = decoder_spec(config, {.max_positions = 131072,
                                         .num_kv_heads = 4,
                                         .head_dim = 256,
                                         .bos_token_id = 2,
                                         .eos_token_ids = {1},
                                         .tied_head = true,
                                         .activation = "gelu_pytorch_tanh",
                                         .rope_theta = 1e6});
  // The context is the stretched one already.
  spec.max_positions = static_cast<int>(config.integer_or("max_position_embeddings", 131072, {1, 1 << 30}));
  spec.ropes.push_back(config.sliding_rope(1e4));
  spec.embed_scale = std::sqrt(static_cast<double>(spec.hidden_size));
  const double scalar = config.real_or("query_pre_attn_scalar", 256, {1e-3, 1e9});
  const auto window = static_cast<int>(config.integer_or("sliding_window", 4096, {1, 1 << 30}));
  const std::int64_t pattern = config.integer_or("sliding_window_pattern", 6, {1, 1 << 30});
  const std::vector<LayerKind> kinds = config.layer_kinds(spec.layers.size(), [&](std::size_t i) {
    return (static_cast<std::int64_t>(i) + 1) % pattern == 0 ? LayerKind::full_attention : LayerKind::sliding_attention;
  });
  const bool bias = config.flag_or("attention_bias", false);
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    const bool slides = kinds[i] == LayerKind::sliding_attention;
    layer.order = NormOrder::sandwich;
    layer.attention().qk_norm = true;
    layer.attention().scale = 1 / std::sqrt(scalar);
    layer.attention().window = slides ? window : 0;
    layer.attention().rope = slides ? 1 : 0;
    layer.attention().qkv_bias = layer.attention().out_bias = bias;
  }
  config.expect_absent("attn_logit_softcapping");
  config.expect_absent("final_logit_softcapping");
  config.expect_flag("use_bidirectional_attention", false);
  config.take("_sliding_window_pattern");
  config.finish(spec);
  return spec;
}

}  // namespace

const Family kGemma3{"Gemma3ForCausalLM", "gemma3_text", gemma3_spec, kNames};

}  // namespace warpjet
