// Which values a SimConfig takes, and what all replicas of a simulation have in common.
#include <cmath>

#include "simulate/simulate.h"

namespace warpjet {
namespace {

void require_range(std::string_view field, double value, double low, double high) {
  WJ_REQUIRE(value >= low && value <= high && std::isfinite(value), invalid_argument, field, " must be from ", low,
             " to ", high, ", got ", value);
}

void require_positive(std::string_view field, double value, double high) {
  WJ_REQUIRE(value > 0 && value <= high && std::isfinite(value), invalid_argument, field,
             " must be above 0 and at most ", high, ", got ", value);
}

void validate_load(const SimConfig& c) {
  require_range("rate", c.rate, 0, 1e6);
  require_range("duration_s", c.duration_s, 0, 1e7);
  require_range("max_tokens", c.max_tokens, 0, 1 << 24);
  require_range("tenants", c.tenants, 1, 65535);
  require_range("replicas", c.replicas, 0, 1 << 16);
  require_range("max_replicas", c.max_replicas, 1, 1 << 16);
  sim::find_router(c.router);
  require_range("router_epoch_ms", c.router_epoch_ms, 1, 1e6);
  require_positive("ttft_ms", c.ttft_ms, 1e9);
  require_positive("itl_ms", c.itl_ms, 1e9);
  require_positive("goodput_target", c.goodput_target, 1);
  require_range("threads", c.threads, 0, 1024);
}

void validate_hardware(const SimConfig& c) {
  find_gpu(c.gpu);
  require_range("gpus_per_replica", c.gpus_per_replica, 1, 1024);
  require_positive("params_b", c.params_b, 1e6);
  require_positive("weight_bytes_per_param", c.weight_bytes_per_param, 8);
  require_range("kv_bytes_per_token", c.kv_bytes_per_token, 1, 1e9);
  require_range("queries_per_kv", c.queries_per_kv, 0, 1024);
  require_range("kv_cache_gib", c.kv_cache_gib, 0, 1 << 20);
  require_range("kv_offloading_size", c.kv_offloading_size, 0, 1 << 20);
  require_positive("compute_efficiency", c.compute_efficiency, 1);
  require_positive("bandwidth_efficiency", c.bandwidth_efficiency, 1);
  require_range("step_overhead_us", c.step_overhead_us, 0, 1e9);
  require_range("step_host_us", c.step_host_us, 0, 1e9);
  require_positive("host_gb_per_s", c.host_gb_per_s, 1e6);
}

void validate_engine(const SimConfig& c) {
  require_range("max_num_seqs", c.max_num_seqs, 1, 1 << 16);
  require_range("max_num_batched_tokens", c.max_num_batched_tokens, 1, 1 << 20);
  WJ_REQUIRE(c.block_size == 16 || c.block_size == 32 || c.block_size == 64, invalid_argument,
             "block_size must be 16, 32 or 64, got ", c.block_size);
  require_range("max_num_queued_reqs", c.max_num_queued_reqs, 1, 1 << 24);
  find_policy(c.scheduling_policy);
  require_range("max_steps_in_flight", c.max_steps_in_flight, 1, 3);
  require_range("admission_quantile", c.admission_quantile, 0, 1);
  WJ_REQUIRE(c.preemption_mode == "auto" || c.preemption_mode == "swap" || c.preemption_mode == "recompute",
             invalid_argument, "preemption_mode must be one of auto, swap, recompute; got ", quote(c.preemption_mode));
  WJ_REQUIRE(c.preemption_mode != "swap" || c.kv_offloading_size > 0, invalid_argument,
             "preemption_mode=swap needs host memory: set kv_offloading_size (GiB)");
  require_range("itl_target_ms", c.itl_target_ms, 0, 1e6);
}

}  // namespace

void validate(const SimConfig& config) {
  validate_load(config);
  validate_hardware(config);
  validate_engine(config);
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
