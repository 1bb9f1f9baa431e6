// What would happen: arrivals of requests, many engines behind a router, and the real scheduler over the real KV
// blocks; only the device is replaced, by a formula for the time of a step. Answers how many GPUs a load needs.
#pragma once

#include <warpjet/config.h>
#include <warpjet/error.h>
#include <warpjet/fields.h>

#include <cstdint>
#include <functional>
#include <string>

namespace warpjet {

// A simulation. Fields named as in EngineConfig mean what they mean there. The defaults of the model are Llama 3.1
// 8B's.
//
// A trace file has a JSON object a line: {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids":
// [one for each 512 tokens of the prompt]}; equal ids are equal tokens. Without hash_ids nothing is shared. "priority"
// and "tenant" may be there too; other keys are not looked at.
//
// Engines run on their own between two looks of the router, router_epoch_ms of simulated time apart: it knows loads as
// of then, and what it has sent since. round_robin needs no looks, which makes it several times as fast to simulate.
// prefix_affinity sends a request where its longest prefix went last, but to the least loaded engine if that one has
// over 1.5 times the least load plus 4 requests.
//
// A step takes
//   step_overhead_us + max(weights / B, 2 * params * tokens / F)
//                    + sum over decodes of keys * max(kv_bytes_per_token / B, P / F)
//                    + max(sum over chunks of keys * kv_bytes_per_token / B, sum of (query, key) pairs * P / F)
//                    + bytes copied between device and host / host_gb_per_s
// with B and F the memory bandwidth and bf16 rate of `gpu` times gpus_per_replica and the efficiencies, and
// P = queries_per_kv * kv_bytes_per_token the work of a query for a key (16-bit KV). Or it takes what `cost_model`
// says: a JSON file {"step_us": [[tokens, context, us], ...]} of measured steps, context being the keys that the step
// reads. To these a + b * max(tokens, knee) + c * context is fitted, by least squares of the relative error.
// It begins step_host_us after it was planned, or when the step before it ends.
struct SimConfig {
  std::string trace = "azure-conv-23";
  double rate = 0;
  double duration_s = 0;
  int max_tokens = 2048;
  int tenants = 1;
  int replicas = 1;
  int max_replicas = 1024;
  std::string router = "round_robin";
  double router_epoch_ms = 100;
  double ttft_ms = 1000;
  double itl_ms = 50;
  double goodput_target = 0.99;
  std::string gpu = "H100";
  int gpus_per_replica = 1;
  double params_b = 8.03;
  double weight_bytes_per_param = 2;
  double kv_bytes_per_token = 131072;
  double queries_per_kv = 4;
  double kv_cache_gib = 0;
  double kv_offloading_size = 0;
  double compute_efficiency = 0.7;
  double bandwidth_efficiency = 0.85;
  double step_overhead_us = 500;
  double step_host_us = 20;
  double host_gb_per_s = 50;
  std::string cost_model;
  int max_num_seqs = 256;
  int max_num_batched_tokens = 2048;
  int block_size = 32;
  bool enable_prefix_caching = true;
  bool enable_chunked_prefill = true;
  int max_num_queued_reqs = 16384;
  std::string scheduling_policy = "fcfs";
  int max_steps_in_flight = 2;
  double admission_quantile = 0.9;
  std::string preemption_mode = "auto";
  double itl_target_ms = 0;
  std::int64_t seed = 0;
  int threads = 0;

  bool operator==(const SimConfig&) const = default;

  static constexpr auto fields() {
    using C = SimConfig;
    return std::tuple{
        Field{"trace", &C::trace,
              "azure-conv-23, azure-code-23, arxiv-sum, burst, tool-agent, or a .jsonl file in Mooncake's format"},
        Field{"rate", &C::rate, between(0, 1e6), "requests a second; 0 is the trace's own"},
        Field{"duration_s", &C::duration_s, between(0, 1e7), "seconds",
              "time in which requests arrive; 0 is 600, or all of a file; then what is there is finished"},
        Field{"max_tokens", &C::max_tokens, between(0, 1 << 24),
              "output tokens that a request asks for; it gets what the trace says. 0 asks for exactly that"},
        Field{"tenants", &C::tenants, between(1, 65535),
              "whose requests they are, by Zipf's law; a file says it itself"},
        Field{"replicas", &C::replicas, between(0, 1 << 16),
              "engines; 0 searches the smallest number that meets the target"},
        Field{"max_replicas", &C::max_replicas, between(1, 1 << 16), "where that search ends"},
        Field{"router", &C::router,
              "round_robin, least_loaded (unfinished requests) or prefix_affinity (where its prefix went last)"},
        Field{"router_epoch_ms", &C::router_epoch_ms, between(1, 1e6), "ms",
              "how old the loads that a router sees may be"},
        Field{"ttft_ms", &C::ttft_ms, above(0, 1e9), "ms", "objective: a request's first token comes within this"},
        Field{"itl_ms", &C::itl_ms, above(0, 1e9), "ms", "objective: and the others this far apart, in its mean"},
        Field{"goodput_target", &C::goodput_target, above(0, 1), "objective: for this share of requests"},
        Field{"gpu", &C::gpu, named(choices::kGpu), "whose memory and rates engines have; 4090 is RTX 4090"},
        Field{"gpus_per_replica", &C::gpus_per_replica, between(1, 1024),
              "GPUs of an engine; they add up, so what communication costs goes into the efficiencies"},
        Field{"params_b", &C::params_b, above(0, 1e6), "the model's parameters, in billions"},
        Field{"weight_bytes_per_param", &C::weight_bytes_per_param, above(0, 8), "bytes",
              "2 for bf16, 1 for fp8, 0.5 for 4 bits"},
        Field{"kv_bytes_per_token", &C::kv_bytes_per_token, between(1, 1e9), "bytes", "warpjet info tells it"},
        Field{"queries_per_kv", &C::queries_per_kv, between(0, 1024), "query heads for each KV head"},
        Field{"kv_cache_gib", &C::kv_cache_gib, between(0, 1 << 20), "GiB",
              "KV cache of an engine; 0 is what weights leave of 92 % of the memory"},
        Field{"kv_offloading_size", &C::kv_offloading_size, between(0, 1 << 20), "GiB",
              "host memory for KV blocks; 0 is off"},
        Field{"compute_efficiency", &C::compute_efficiency, above(0, 1),
              "share of the GPU's bf16 rate that is reached"},
        Field{"bandwidth_efficiency", &C::bandwidth_efficiency, above(0, 1),
              "share of the GPU's memory bandwidth that is reached"},
        Field{"step_overhead_us", &C::step_overhead_us, between(0, 1e9), "us", "time of a step beside all that"},
        Field{"step_host_us", &C::step_host_us, between(0, 1e9), "us",
              "host time from one step's results to the next step; hidden while another one runs"},
        Field{"host_gb_per_s", &C::host_gb_per_s, above(0, 1e6), "GB/s", "between device and host, for KV blocks"},
        Field{"cost_model", &C::cost_model,
              "JSON file of measured steps to use instead: {\"step_us\": [[tokens, "
              "context, us], ...]}"},
        Field{"max_num_seqs", &C::max_num_seqs, between(1, 1 << 16), "most sequences in one step"},
        Field{"max_num_batched_tokens", &C::max_num_batched_tokens, between(1, 1 << 20), "most tokens in one step"},
        Field{"block_size", &C::block_size, one_of(choices::kBlockSize), "tokens", "length of a KV block"},
        Field{"enable_prefix_caching", &C::enable_prefix_caching, "reuse the KV blocks of equal prefixes"},
        Field{"enable_chunked_prefill", &C::enable_chunked_prefill, "let a long prompt span several steps"},
        Field{"max_num_queued_reqs", &C::max_num_queued_reqs, at_least(1),
              "requests that an engine has accepted and not finished, at most; more are refused"},
        Field{"scheduling_policy", &C::scheduling_policy, one_of(choices::kSchedulingPolicy), "order of requests"},
        Field{"max_steps_in_flight", &C::max_steps_in_flight, between(1, 3), "steps planned ahead of their results"},
        Field{"admission_quantile", &C::admission_quantile, between(0, 1),
              "outputs are expected to be as long as this share of past ones"},
        Field{"preemption_mode", &C::preemption_mode, one_of(choices::kPreemptionMode),
              "what becomes of a preempted sequence's KV"},
        Field{"itl_target_ms", &C::itl_target_ms, between(0, 1e6), "ms",
              "prompts get only as many tokens as keep steps this short; 0 is off"},
        Field{"seed", &C::seed, "of the arrivals"},
        Field{"threads", &C::threads, between(0, 1024),
              "threads to simulate with; 0 is one per core. Results do not depend on it"},
    };
  }
};

// Throws invalid_argument naming the field.
WJ_API void validate(const SimConfig& config);

// Runs it. Returns JSON text: config, trace, replicas, gpus, search (with replicas = 0), summary, percentiles, cdf and
// series. The same config gives the same text, but for `threads` in it. `poll` is called by this thread every now and
// then; what it throws ends the simulation. Throws invalid_argument naming the field (and the line of a trace), and io.
WJ_API std::string simulate(const SimConfig& config, const std::function<void()>& poll = {});

// The requests that such a simulation would see, for a load on a real server. Looks at trace, rate, duration_s and
// seed. Returns JSON text: {"name", "duration_s", "requests": [[second, input tokens, output tokens, key, [[key,
// tokens] of a segment that others may begin with too, ...]], ...]}, by time. A request's own text follows its
// segments; with an equal key, it is the same text, as far as it goes. Throws like simulate().
WJ_API std::string arrivals(const SimConfig& config);

}  // namespace warpjet
