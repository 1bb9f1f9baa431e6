// The memory of the KV cache, and copies between its blocks. Tensors are numbered k of lane 0, v of lane 0, k of lane
// 1,
// ...
#include "memory/kv_cache.h"

#include <utility>

namespace warpjet {

namespace {

void require_positive(std::string_view name, int value) {
  WJ_REQUIRE(value > 0, invalid_argument, "the KV cache needs ", name, " > 0, got ", value);
}

KvCache::Config validated(const KvCache::Config& config) {
  require_positive("layers", config.layout.num_layers());
  for (const KvGroup& group : config.layout.groups) {
    require_positive("kv_heads", group.shape.kv_heads);
    require_positive("head_dim", group.shape.head_dim);
    WJ_REQUIRE(is_float(group.shape.format), unsupported, "keys and values are kept as floats without scales, not as ",
               to_string(group.shape.format));
  }
  WJ_REQUIRE(config.layout.states.empty(), unsupported,
             "states of recurrent layers have no memory yet: ", config.layout.states.size(), " pools of them");
  require_positive("block_size", config.block_size);
  require_positive("num_blocks", config.num_blocks);
  WJ_REQUIRE(config.num_host_blocks >= 0, invalid_argument, "the KV cache needs num_host_blocks >= 0, got ",
             config.num_host_blocks);
  return config;
}

// Of one of k and v in one lane.
std::int64_t tensor_bytes_per_block(const KvCache::Config& c) {
  return checked_mul(c.block_size, c.layout.lane_bytes());
}

std::size_t total_bytes(const KvCache::Config& config, int num_blocks) {
  return static_cast<std::size_t>(checked_mul(KvCache::bytes_per_block(config), num_blocks));
}

CopyBlocks::Problem copy_problem(const KvCache::Config& config, std::int64_t count) {
  return {.count = count,
          .tensors = 2 * static_cast<std::int64_t>(config.layout.lanes()),
          .block_bytes = tensor_bytes_per_block(config),
          .blocks = config.num_blocks};
}

}  // namespace

KvCache::KvCache(const Config& config, const Catalogs& catalogs, Device& device)
    : config_(validated(config)),
      kernel_(catalogs.of<CopyBlocks>().select(copy_problem(config, 1), device.info())),
      memory_(device.allocate(total_bytes(config, config.num_blocks))) {
  if (config.num_host_blocks > 0) host_ = device.allocate_host(total_bytes(config, config.num_host_blocks));
  uses_[static_cast<int>(Tier::device)].resize(config.num_blocks);
  uses_[static_cast<int>(Tier::host)].resize(config.num_host_blocks);
}

std::int64_t KvCache::bytes_per_block(const Config& config) {
  return checked_mul(config.block_size, config.layout.bytes_per_token());
}

TensorView KvCache::view(int layer, int which) const {
  const auto [group, lane] = config_.layout.place(layer);
  const KvShape& shape = config_.layout.groups[group].shape;
  const std::int64_t bytes = tensor_bytes_per_block(config_) * config_.num_blocks;
  return {memory_.at((2 * static_cast<std::int64_t>(lane) + which) * bytes), shape.format.element,
          Shape{config_.num_blocks, shape.kv_heads, config_.block_size, shape.head_dim}};
}

KvCache::Use& KvCache::use(Tier tier, BlockId block) {
  std::vector<Use>& uses = uses_[static_cast<int>(tier)];
  WJ_CHECK(block >= 0 && std::cmp_less(block, uses.size()), "block ", block, " of ", uses.size());
  return uses[block];
}

void KvCache::copy(std::span<const Copy> copies, std::int32_t* list, Stream& stream) {
  std::int64_t count = 0;
  ++turn_;
  const auto launch = [&] {
    const CopyBlocks::Args args = {
        .problem = copy_problem(config_, count),
        .copies = TensorView(list, DType::i32, {count, kCopyWords}),
        .device = TensorView(memory_.data(), DType::u8, {static_cast<std::int64_t>(memory_.bytes())}),
        .host = TensorView(host_.data(), DType::u8, {static_cast<std::int64_t>(host_.bytes())})};
    kernel_.launch(args, stream);
    list += count * kCopyWords;
    count = 0;
    ++turn_;
  };
  for (const Copy& copy : copies) {
    Use &source = use(copy.from, copy.source), &target = use(copy.to, copy.target);
    if (source.written == turn_ || target.written == turn_ || target.read == turn_) launch();
    source.read = target.written = turn_;
    std::int32_t* entry = list + count++ * kCopyWords;
    entry[0] = copy.from == Tier::host;
    entry[1] = copy.source;
    entry[2] = copy.to == Tier::host;
    entry[3] = copy.target;
  }
  if (count > 0) launch();
}

}  // namespace warpjet
