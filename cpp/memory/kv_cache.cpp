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
  WJ_REQUIRE(config.num_host_blocks >= 0, invalid_argument, "the KV cache needs num_host_blocks >= 0, got ",
             config.num_host_blocks);
  return config;
}

// Of one of k and v in one layer.
std::int64_t tensor_bytes_per_block(const KvCache::Config& c) {
  const std::int64_t row_bytes = checked_mul(c.head_dim, dtype_bytes(c.dtype));
  return checked_mul(checked_mul(c.kv_heads, c.block_size), row_bytes);
}

Buffer allocate(Device& device, const KvCache::Config& config, int num_blocks) {
  if (num_blocks == 0) return {};
  return device.allocate(checked_mul(KvCache::bytes_per_block(config), num_blocks));
}

}  // namespace

KvCache::KvCache(const Config& config, Device& device)
    : config_(validated(config)),
      memory_(allocate(device, config, config.num_blocks)),
      host_(allocate(device, config, config.num_host_blocks)) {}

std::int64_t KvCache::bytes_per_block(const Config& config) {
  return checked_mul(2 * static_cast<std::int64_t>(config.layers), tensor_bytes_per_block(config));
}

TensorView KvCache::view(int layer, int which) const {
  WJ_CHECK(layer >= 0 && layer < config_.layers, "layer=", layer, " of ", config_.layers);
  const std::int64_t bytes = tensor_bytes_per_block(config_) * config_.num_blocks;
  return {memory_.at((2 * static_cast<std::int64_t>(layer) + which) * bytes), config_.dtype,
          Shape{config_.num_blocks, config_.kv_heads, config_.block_size, config_.head_dim}};
}

// Tensors are numbered k of layer 0, v of layer 0, k of layer 1, ... On the device a tensor's blocks lie together, as
// kernels index them; on the host a block's tensors do, so that it moves as one piece where a device can gather.
std::byte* KvCache::address(Tier tier, BlockId block, int tensor) const {
  const std::int64_t bytes = tensor_bytes_per_block(config_), tensors = 2 * static_cast<std::int64_t>(config_.layers);
  if (tier == Tier::host) return host_.at((block * tensors + tensor) * bytes);
  return memory_.at((static_cast<std::int64_t>(tensor) * config_.num_blocks + block) * bytes);
}

void KvCache::copy(const Copy& copy, Stream& stream) {
  const auto inside = [this](Tier tier, BlockId block) {
    return block >= 0 && block < (tier == Tier::host ? config_.num_host_blocks : config_.num_blocks);
  };
  WJ_CHECK(inside(copy.from, copy.source) && inside(copy.to, copy.target), "source=", copy.source,
           " target=", copy.target);
  for (int tensor = 0; tensor < 2 * config_.layers; ++tensor) {
    stream.copy(address(copy.to, copy.target, tensor), address(copy.from, copy.source, tensor),
                tensor_bytes_per_block(config_));
  }
}

}  // namespace warpjet
