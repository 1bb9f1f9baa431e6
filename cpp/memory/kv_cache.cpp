#include "memory/memory.h"

namespace warpjet {

namespace {

void require_positive(std::string_view name, int value) {
  WJ_REQUIRE(value > 0, invalid_argument, "the KV cache needs ", name, " > 0, got ", value);
}

KvCache::Config validated(const KvCache::Config& config) {
  require_positive("layers", config.layers);
  require_positive("kv_heads", config.kv_heads);
  require_positive("head_dim", config.head_dim);
  require_positive("block_size", config.block_size);
  require_positive("num_blocks", config.num_blocks);
  return config;
}

// Of one of k and v in one layer.
std::int64_t tensor_bytes_per_block(const KvCache::Config& c) {
  const std::int64_t row_bytes = checked_mul(c.head_dim, dtype_bytes(c.dtype));
  return checked_mul(checked_mul(c.kv_heads, c.block_size), row_bytes);
}

}  // namespace

KvCache::KvCache(const Config& config, Device& device)
    : config_(validated(config)), memory_(device.allocate(checked_mul(bytes_per_block(config), config.num_blocks))) {}

std::int64_t KvCache::bytes_per_block(const Config& config) {
  return checked_mul(2 * static_cast<std::int64_t>(config.layers), tensor_bytes_per_block(config));
}

TensorView KvCache::view(int layer, int which) const {
  WJ_CHECK(layer >= 0 && layer < config_.layers, "layer=", layer, " of ", config_.layers);
  const std::int64_t bytes = tensor_bytes_per_block(config_) * config_.num_blocks;
  return {memory_.at((2 * static_cast<std::int64_t>(layer) + which) * bytes), config_.dtype,
          Shape{config_.num_blocks, config_.kv_heads, config_.block_size, config_.head_dim}};
}

}  // namespace warpjet
