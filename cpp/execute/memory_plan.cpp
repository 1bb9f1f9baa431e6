#include "execute/memory_plan.h"

#include <algorithm>
#include <cstdio>

#include "execute/device_state.h"

namespace warpjet {
namespace {

constexpr std::int64_t kGpuReserve = 512ll << 20;
constexpr std::int64_t kMostNullBlocks = 1 << 16;  // of a KV cache that is not there

std::string gib(std::int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (1ll << 30));
  return text;
}

// A GPU's memory is the engine's up to the share that was asked for, if nobody else has it; the CPU's KV cache takes a
// part of the machine's memory that leaves room for everybody.
std::int64_t kv_bytes(const EngineConfig& config, const MemoryPlan& plan, const DeviceInfo& device) {
  if (config.kv_cache_memory_bytes > 0) return config.kv_cache_memory_bytes;
  if (config.device == "null") return kMostNullBlocks * plan.block_bytes;
  if (device.sm == 0) return std::min(device.memory_bytes / 4, std::int64_t{4} << 30);
  return plan.budget - plan.others() - plan.block_bytes;  // the null block
}

void resolve_length(EngineConfig& config, const ModelFacts& model) {
  WJ_REQUIRE(config.max_model_len <= model.max_positions, invalid_argument, "max_model_len: ", config.max_model_len,
             " is more than the ", model.max_positions, " positions of the model");
  if (config.max_model_len == 0) config.max_model_len = model.max_positions;
}

// The longest text, of up to max_model_len tokens, that so many blocks hold.
int longest_text(const EngineConfig& config, std::span<const int> windows, std::int64_t blocks) {
  int low = 0, high = config.max_model_len;
  while (low < high) {
    const int length = low + (high - low + 1) / 2;
    if (resident_blocks(windows, length, config.max_num_batched_tokens, config.block_size) <= blocks)
      low = length;
    else
      high = length - 1;
  }
  return low;
}

}  // namespace

KvLayout layout_of(const Plan& plan, const EngineConfig& config) {
  std::vector<KvShape> layers;
  for (const CacheSpec& cache : plan.caches) {
    layers.push_back(
        {.kv_heads = cache.kv_heads, .head_dim = cache.head_dim, .window = cache.window, .format = cache.format});
  }
  return make_layout(layers, config.max_model_len > 0 ? config.max_model_len : plan.model.max_positions);
}

int most_logprobs(const EngineConfig& config, const ModelFacts& model, const DeviceInfo& device) {
  constexpr int kGpuLimit = 1024;
  const bool all = config.max_logprobs == -1 || config.max_logprobs > model.vocab_size;
  const int most = all ? model.vocab_size : config.max_logprobs;
  WJ_REQUIRE(device.sm == 0 || most <= kGpuLimit, unsupported, "max_logprobs: ", most,
             " most likely tokens, but a GPU reports at most ", kGpuLimit, "; set max_logprobs to that or less");
  return most;
}

std::string to_string(const MemoryPlan& plan) {
  return cat("weights ", gib(plan.weights), ", activations ", gib(plan.activations), ", slots ", gib(plan.slots),
             ", KV cache ", gib(plan.kv()), " (", plan.num_blocks - 1, " blocks of ", plan.block_bytes, " bytes)");
}

MemoryPlan plan_memory(EngineConfig& config, const Plan& plan, const KvCache::Config& kv, const Catalogs& catalogs,
                       const DeviceInfo& device) {
  const bool length_given = config.max_model_len > 0;
  resolve_length(config, plan.model);
  const auto share =
      static_cast<std::int64_t>(config.gpu_memory_utilization * static_cast<double>(device.memory_bytes));
  const bool computes = config.device != "null";
  const std::int64_t slots = num_slots(config.max_num_seqs, config.max_steps_in_flight);
  MemoryPlan memory = {
      .budget = device.sm == 0 ? device.memory_bytes : std::min(share, device.free_bytes),
      .weights = computes ? plan.weight_bytes() : 0,
      .activations = computes ? Runner::memory_bytes(plan, catalogs, device, config.max_num_batched_tokens,
                                                     config.max_num_seqs, config.block_size)
                              : 0,
      .slots = DeviceState::bytes({.num_slots = static_cast<int>(slots),
                                   .max_text = config.max_model_len + 1,
                                   .block_size = config.block_size,
                                   .num_groups = static_cast<int>(kv.layout.groups.size())}) +
               Sampler::bytes({.slots = slots,
                               .rows = config.max_num_seqs,
                               .vocab = plan.model.vocab_size,
                               .max_top = most_logprobs(config, plan.model, device)}),
      .reserve = device.sm == 0 ? 0 : kGpuReserve,
      .block_bytes = KvCache::bytes_per_block(kv),
  };
  const std::int64_t others = memory.others();
  WJ_REQUIRE(device.sm == 0 || others < memory.budget, invalid_argument, "the model does not fit ", device.name, ": ",
             gib(memory.weights), " of weights, ", gib(memory.activations), " of activations and ", gib(memory.slots),
             " for ", config.max_num_seqs, " sequences, but ", gib(memory.budget), " may be used (",
             gib(device.free_bytes), " free of ", gib(device.memory_bytes), ", gpu_memory_utilization ",
             config.gpu_memory_utilization,
             "); lower max_num_batched_tokens or max_num_seqs, or take a smaller precision");
  const std::vector<int> windows = kv.layout.windows();
  const std::int64_t useful =
      std::ssize(windows) * config.max_num_seqs * ceil_div(config.max_model_len, config.block_size);
  const std::int64_t available = kv_bytes(config, memory, device);
  std::int64_t blocks = config.num_gpu_blocks_override;
  if (blocks == 0) blocks = std::min(useful, std::max<std::int64_t>(available, 0) / memory.block_bytes);
  blocks = std::min<std::int64_t>(blocks, INT32_MAX - 1);
  memory.num_blocks = blocks + 1;
  WJ_REQUIRE(device.sm == 0 || others + memory.kv() <= memory.budget, invalid_argument, "a KV cache of ",
             gib(memory.kv()), " does not fit ", device.name, " beside ", gib(others),
             "; lower kv_cache_memory_bytes to ", memory.budget - others - memory.block_bytes, " or less");

  const std::int64_t needed =
      resident_blocks(windows, config.max_model_len, config.max_num_batched_tokens, config.block_size);
  const std::int64_t capacity = needed <= blocks ? config.max_model_len : longest_text(config, windows, blocks);
  const std::int64_t wanted = needed * memory.block_bytes;
  WJ_REQUIRE(blocks > 0 && (needed <= blocks || capacity > 1), invalid_argument,
             "kv_cache_memory_bytes: ", std::max<std::int64_t>(available, 0), " holds no KV block of ",
             memory.block_bytes, " bytes");
  WJ_REQUIRE(!length_given || config.max_model_len <= capacity, invalid_argument,
             "max_model_len: ", config.max_model_len, " tokens do not fit the KV cache of ", capacity,
             "; lower max_model_len or raise kv_cache_memory_bytes to ", wanted);
  if (config.max_model_len > capacity) {
    WJ_LOG(warn, "the KV cache holds ", capacity, " tokens: max_model_len lowered from ", config.max_model_len);
    config.max_model_len = static_cast<int>(capacity);
  }
  WJ_REQUIRE(config.enable_chunked_prefill || config.max_num_batched_tokens >= config.max_model_len, invalid_argument,
             "max_num_batched_tokens: ", config.max_num_batched_tokens, " cannot hold a prompt of max_model_len ",
             config.max_model_len, " in one step; raise it, lower max_model_len or enable chunked prefill");
  config.num_gpu_blocks_override = static_cast<int>(blocks);
  config.kv_cache_memory_bytes = memory.kv();
  return memory;
}

}  // namespace warpjet
