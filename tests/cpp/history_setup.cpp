// From a script's numbers to configurations and requests.
#include "history.h"

namespace warpjet::history {
namespace {

constexpr std::array<const char*, 3> kPolicies = {"fcfs", "priority", "fair"};
constexpr std::array<const char*, 3> kPreemptions = {"auto", "swap", "recompute"};

}  // namespace

StepLoop::Config loop_config(const Settings& s) {
  StepLoop::Config config;
  EngineConfig& e = config.engine;
  e.max_model_len = s.model_len;
  e.max_num_seqs = s.seqs;
  e.max_num_batched_tokens = s.batch;
  e.block_size = s.block_size;
  e.enable_prefix_caching = s.caching != 0;
  e.enable_chunked_prefill = s.chunked != 0;
  e.max_num_queued_reqs = s.queued;
  e.max_num_queued_tokens = s.queued_tokens;
  e.max_num_queued_reqs_per_tenant = s.queued_tenant;
  e.scheduling_policy = kPolicies.at(s.policy);
  e.preemption_mode = kPreemptions.at(s.preemption);
  e.max_steps_in_flight = s.depth;
  e.admission_quantile = s.quantile / 100.0;
  e.itl_target_ms = s.itl_target;
  e.max_unread_tokens = s.unread;
  e.kv_events = s.events;
  e.guide_timeout = 1e6;
  config.model = {.vocab_size = kVocab, .max_model_len = s.model_len, .eos_token_ids = {kEos}};
  config.num_blocks = s.blocks + 1;
  config.num_host_blocks = s.host_blocks;
  config.windows = s.windows();
  config.rope_original = s.rope_original;
  config.manual = true;
  return config;
}

ToyDevice::Config device_config(const Settings& s) {
  return {.block_size = s.block_size,
          .num_blocks = s.blocks + 1,
          .num_host_blocks = s.host_blocks + 1,
          .windows = s.windows(),
          .max_tokens = s.batch,
          .max_seqs = s.seqs,
          .num_slots = num_slots(s.seqs, s.depth),
          .rules = {s.model_len, s.rope_original}};
}

Ledger::Config ledger_config(const Settings& s, bool faults) {
  return {.rules = {s.model_len, s.rope_original},
          .capacity = s.capacity(),
          .max_unread = s.unread,
          .depth = s.depth,
          .caching = s.caching != 0,
          .faults = faults};
}

Request make_request(const Submission& s, const Rules& rules, Micros now) {
  Request request;
  request.prompt.assign(s.prompt.begin(), s.prompt.end());
  request.priority = s.priority;
  request.tenant = s.tenant == 0 ? "" : cat("tenant ", s.tenant);
  request.cache_salt = salt_text(s.salt);
  request.cache_priority = s.cache_priority;
  if (s.deadline >= 0) request.deadline = Clock::time_point(std::chrono::microseconds(now + s.deadline));
  SamplingParams& p = request.sampling;
  p.n = s.n;
  p.beam_width = s.beams;
  p.length_penalty = s.length_penalty;
  if (s.seed > 0) p.seed = make_seed(s.seed, s.salt);
  p.max_tokens = s.max_tokens < 0 ? std::nullopt : std::optional(s.max_tokens);
  p.min_tokens = s.min_tokens;
  p.ignore_eos = s.ignore_eos != 0;
  p.stop_token_ids.assign(s.stop.begin(), s.stop.end());
  if (s.logprobs >= 0) p.logprobs = s.logprobs;
  if (s.prompt_logprobs >= 0) p.prompt_logprobs = s.prompt_logprobs;
  p.skip_reading_prefix_cache = s.skip_cache != 0;
  if (s.guided != 0) {
    KvState state = prompt_state(request, rules);
    for (const std::int32_t token : request.prompt) state = next_state(state, token);
    request.mask = {guidance_of(state).mask};
  }
  return request;
}

}  // namespace warpjet::history
