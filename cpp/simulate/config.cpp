// What a SimConfig takes beyond the ranges of its fields, and what all replicas of a simulation have in common.
#include <cmath>

#include "core/ranges.h"
#include "simulate/simulate.h"

namespace warpjet {

void validate(const SimConfig& config) {
  check_fields(config);
  sim::find_router(config.router);
  find_gpu(config.gpu);
  WJ_REQUIRE(config.preemption_mode != "swap" || config.kv_offloading_size > 0, invalid_argument,
             "preemption_mode=swap needs host memory: set kv_offloading_size (GiB)");
}

namespace sim {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr double kUsableMemory = 0.92;  // the rest is for activations and the driver

int blocks_of(std::string_view field, double bytes, const SimConfig& config) {
  const double blocks = std::floor(bytes / (config.kv_bytes_per_token * config.block_size));
  constexpr int kMost = 1 << 24;  // the tree keeps their tokens
  WJ_REQUIRE(blocks <= kMost, invalid_argument, field, " makes ", blocks, " KV blocks, at most ", kMost,
             " can be simulated");
  return static_cast<int>(blocks);
}

KvBlocks::Config kv_of(const SimConfig& config) {
  const double weights = config.params_b * 1e9 * config.weight_bytes_per_param;
  const double memory = find_gpu(config.gpu).memory_gib * kGiB * config.gpus_per_replica;
  const double bytes = config.kv_cache_gib > 0 ? config.kv_cache_gib * kGiB : kUsableMemory * memory - weights;
  const int blocks = bytes > 0 ? blocks_of("kv_cache_gib", bytes, config) : 0;
  WJ_REQUIRE(blocks >= 1, invalid_argument, "kv_cache_gib: weights of ", weights / kGiB, " GiB leave no KV cache on ",
             config.gpus_per_replica, " x ", config.gpu, "; raise gpus_per_replica");
  KvBlocks::Config kv;
  kv.num_blocks = blocks + 1;
  kv.num_host_blocks = blocks_of("kv_offloading_size", config.kv_offloading_size * kGiB, config);
  kv.block_size = config.block_size;
  kv.prefix_caching = config.enable_prefix_caching;
  return kv;
}

SchedulerConfig scheduler_of(const SimConfig& config) {
  const bool swap = config.preemption_mode != "recompute" && config.kv_offloading_size > 0;
  SchedulerConfig scheduler;
  scheduler.max_num_seqs = config.max_num_seqs;
  scheduler.max_batched_tokens = config.max_num_batched_tokens;
  scheduler.max_in_flight = config.max_steps_in_flight;
  scheduler.chunked_prefill = config.enable_chunked_prefill;
  scheduler.policy = find_policy(config.scheduling_policy).name;
  scheduler.admission_quantile = config.admission_quantile;
  scheduler.preemption = swap ? Preemption::swap : Preemption::recompute;
  scheduler.step_target = static_cast<Micros>(config.itl_target_ms * 1e3);
  return scheduler;
}

}  // namespace

Setup::Setup(const SimConfig& given)
    : config(given),
      workload(make_workload(given)),
      cost(given),
      scheduler(scheduler_of(given)),
      kv(kv_of(given)),
      host(std::llround(given.step_host_us)),
      ttft(std::llround(given.ttft_ms * 1e3)),
      itl(std::llround(given.itl_ms * 1e3)),
      point(ceil_div<Micros>(workload.duration, kPoints)) {}

std::int64_t Setup::misses_allowed() const {
  const auto requests = static_cast<double>(workload.arrivals.size());
  return static_cast<std::int64_t>(std::floor(requests * (1 - config.goodput_target) + 1e-9));
}

}  // namespace sim
}  // namespace warpjet
