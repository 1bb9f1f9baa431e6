// The one place that says which values a config struct takes. Every message begins with the field's name.
#include <warpjet/config.h>

#include "core/core.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace warpjet {
namespace {

constexpr std::size_t kMaxStops = 16, kMaxStopBytes = 1024, kMaxStopTokens = 256;
constexpr std::size_t kMaxBadWords = 128, kMaxBadWordBytes = 1024, kMaxBadSequences = 1024, kMaxBadTokens = 1024;
constexpr std::size_t kMaxAllBadTokens = 4096;
constexpr std::size_t kMaxLogitBias = 4096;
constexpr int kMaxThreads = 1024;

// NaN fails every comparison, so it is refused by every range.
void require_range(std::string_view field, double value, double low, double high) {
  WJ_REQUIRE(value >= low && value <= high && std::isfinite(value), invalid_argument, field, " must be from ", low,
             " to ", high, ", got ", value);
}

void require_at_least(std::string_view field, std::int64_t value, std::int64_t low) {
  WJ_REQUIRE(value >= low, invalid_argument, field, " must be at least ", low, ", got ", value);
}

void require_count(std::string_view field, std::size_t count, std::size_t limit) {
  WJ_REQUIRE(count <= limit, invalid_argument, field, " takes at most ", limit, " entries, got ", count);
}

void require_texts(std::string_view field, const std::vector<std::string>& texts, std::size_t max_count,
                   std::size_t max_bytes) {
  require_count(field, texts.size(), max_count);
  for (const std::string& text : texts) {
    WJ_REQUIRE(!text.empty() && text.size() <= max_bytes, invalid_argument, field, " takes strings of 1 to ", max_bytes,
               " bytes, got one of ", text.size());
    WJ_REQUIRE(is_utf8(text), invalid_argument, field, " takes UTF-8, got ", quote(text));
  }
}

// The upper end is the vocabulary, which is known when the request is submitted.
void require_token_ids(std::string_view field, const std::vector<std::int32_t>& ids) {
  for (const std::int32_t id : ids) {
    WJ_REQUIRE(id >= 0, invalid_argument, field, " takes token ids from 0, got ", id);
  }
}

void require_one_of(std::string_view field, std::string_view value, std::span<const std::string_view> names) {
  if (std::find(names.begin(), names.end(), value) != names.end()) return;
  std::string list;
  for (const std::string_view name : names) list += cat(list.empty() ? "" : ", ", name);
  WJ_FAIL(invalid_argument, field, " must be one of ", list, "; got ", quote(value));
}

// One set of names wherever a precision is named.
void require_precision(std::string_view field, std::string_view name) {
  const std::optional<DType> dtype = dtype_from_string(name);
  const bool known = name == "auto" || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f32;
  WJ_REQUIRE(known, invalid_argument, field,
             " must be one of auto, bfloat16 (bf16), float16 (fp16, half), float32 (fp32, float); got ", quote(name));
}

// The same, and the names of quantised schemes.
void require_scheme(std::string_view field, std::string_view name) {
  const bool listed = std::ranges::find(choices::kScheme, name) != std::end(choices::kScheme);
  const bool plain = std::ranges::find(choices::kPlainScheme, name) != std::end(choices::kPlainScheme);
  if (!listed || plain) require_precision(field, name);
}

void validate_numbers(const SamplingParams& p) {
  require_range("n", p.n, 1, 128);
  require_range("presence_penalty", p.presence_penalty, -2, 2);
  require_range("frequency_penalty", p.frequency_penalty, -2, 2);
  WJ_REQUIRE(p.repetition_penalty > 0 && std::isfinite(p.repetition_penalty), invalid_argument,
             "repetition_penalty must be a finite number above 0, got ", p.repetition_penalty);
  WJ_REQUIRE(p.temperature >= 0 && std::isfinite(p.temperature), invalid_argument,
             "temperature must be a finite number from 0, got ", p.temperature);
  WJ_REQUIRE(p.top_p > 0 && p.top_p <= 1, invalid_argument, "top_p must be above 0 and at most 1, got ", p.top_p);
  require_at_least("top_k", p.top_k, -1);
  require_range("min_p", p.min_p, 0, 1);
  // No token at all makes sense only for whoever wants the prompt's log-probabilities.
  if (p.max_tokens) require_at_least("max_tokens", *p.max_tokens, p.prompt_logprobs ? 0 : 1);
  require_at_least("min_tokens", p.min_tokens, 0);
  require_range("length_penalty", p.length_penalty, -100, 100);
  require_range("beam_width", p.beam_width, 1, 16);
  WJ_REQUIRE(!p.max_tokens || p.min_tokens <= *p.max_tokens, invalid_argument,
             "min_tokens must be at most max_tokens=", *p.max_tokens, ", got ", p.min_tokens);
  if (p.logprobs) require_at_least("logprobs", *p.logprobs, -1);
  if (p.prompt_logprobs) require_at_least("prompt_logprobs", *p.prompt_logprobs, -1);
}

void validate_tokens(const SamplingParams& p) {
  require_texts("stop", p.stop, kMaxStops, kMaxStopBytes);
  require_count("stop_token_ids", p.stop_token_ids.size(), kMaxStopTokens);
  require_token_ids("stop_token_ids", p.stop_token_ids);
  require_count("logit_bias", p.logit_bias.size(), kMaxLogitBias);
  for (const auto& [id, bias] : p.logit_bias) {
    WJ_REQUIRE(id >= 0, invalid_argument, "logit_bias takes token ids from 0, got ", id);
    require_range(cat("logit_bias of token ", id), bias, -100, 100);
  }
  if (p.allowed_token_ids) {
    WJ_REQUIRE(!p.allowed_token_ids->empty(), invalid_argument,
               "allowed_token_ids must not be empty: nothing could be drawn; use None to allow every token");
    require_token_ids("allowed_token_ids", *p.allowed_token_ids);
  }
  require_texts("bad_words", p.bad_words, kMaxBadWords, kMaxBadWordBytes);
  require_count("bad_words_token_ids", p.bad_words_token_ids.size(), kMaxBadSequences);
  std::size_t bad_tokens = 0;
  for (const std::vector<std::int32_t>& sequence : p.bad_words_token_ids) {
    WJ_REQUIRE(!sequence.empty() && sequence.size() <= kMaxBadTokens, invalid_argument,
               "bad_words_token_ids takes sequences of 1 to ", kMaxBadTokens, " tokens, got one of ", sequence.size());
    require_token_ids("bad_words_token_ids", sequence);
    bad_tokens += sequence.size();
  }
  WJ_REQUIRE(bad_tokens <= kMaxAllBadTokens, invalid_argument, "bad_words_token_ids takes at most ", kMaxAllBadTokens,
             " tokens in all its sequences together, got ", bad_tokens);
}

// Beams are ranked by the model's own log-probabilities, so whatever would draw or change them says something else.
void validate_beams(const SamplingParams& p) {
  if (p.beam_width == 1) return;
  const auto require_off = [](bool off, std::string_view field) {
    WJ_REQUIRE(off, invalid_argument, field, " does not go with beam_width above 1: beam search draws nothing");
  };
  require_off(p.n == 1, "n");
  require_off(p.temperature == 0 || p.temperature == 1, "temperature");
  require_off(p.top_p == 1 && p.top_k <= 0 && p.min_p == 0, "top_p, top_k or min_p");
  require_off(p.presence_penalty == 0 && p.frequency_penalty == 0 && p.repetition_penalty == 1, "a penalty");
  require_off(p.logit_bias.empty() && !p.allowed_token_ids, "logit_bias or allowed_token_ids");
  require_off(p.bad_words.empty() && p.bad_words_token_ids.empty(), "bad_words");
  require_off(p.min_tokens == 0, "min_tokens");
  require_off(!p.logprobs && !p.prompt_logprobs, "logprobs or prompt_logprobs");
  require_off(p.stop.empty(), "stop");
}

void validate_device(const std::string& device, std::string_view also = "") {
  constexpr std::string_view kIndexed = "cuda:";
  const std::string_view index = std::string_view(device).substr(0, kIndexed.size()) == kIndexed
                                     ? std::string_view(device).substr(kIndexed.size())
                                     : std::string_view();
  const bool is_index = !index.empty() && index.size() <= 3 && index.find_first_not_of("0123456789") == index.npos;
  WJ_REQUIRE(device == "auto" || device == "cpu" || device == "cuda" || is_index, invalid_argument,
             "device must be auto, cpu, cuda", also, " or cuda:N, got ", quote(device));
}

void validate_null_device(const EngineConfig& config) {
  WJ_REQUIRE(config.load_format != "safetensors", invalid_argument,
             "load_format: safetensors does not go with device null, which reads no weights; leave it at auto");
}

}  // namespace

void validate(const BuildConfig& config) {
  validate_device(config.device);
  require_scheme("scheme", config.scheme);
  require_precision("kv_cache_dtype", config.kv_cache_dtype);
}

void validate(const SamplingParams& params) {
  validate_numbers(params);
  validate_tokens(params);
  validate_beams(params);
  require_one_of("output_kind", params.output_kind, choices::kOutputKind);
  WJ_REQUIRE(params.spaces_between_special_tokens, unsupported,
             "spaces_between_special_tokens supports only True, got False");
}

void validate(const PoolingParams& params) {
  require_one_of("pooling", params.pooling, choices::kPooling);
  if (params.dimensions) require_at_least("dimensions", *params.dimensions, 1);
}

void validate(const EngineConfig& config) {
  require_scheme("dtype", config.dtype);
  require_one_of("load_format", config.load_format, choices::kLoadFormat);
  require_at_least("max_model_len", config.max_model_len, 0);
  require_range("max_num_seqs", config.max_num_seqs, 1, 1 << 16);
  require_range("max_num_batched_tokens", config.max_num_batched_tokens, 1, 1 << 20);
  WJ_REQUIRE(config.block_size == 16 || config.block_size == 32 || config.block_size == 64, invalid_argument,
             "block_size must be 16, 32 or 64, got ", config.block_size);
  config.device == "null" ? validate_null_device(config) : validate_device(config.device, ", null");
  WJ_REQUIRE(config.gpu_memory_utilization > 0 && config.gpu_memory_utilization <= 1, invalid_argument,
             "gpu_memory_utilization must be above 0 and at most 1, got ", config.gpu_memory_utilization);
  require_at_least("kv_cache_memory_bytes", config.kv_cache_memory_bytes, 0);
  require_at_least("num_gpu_blocks_override", config.num_gpu_blocks_override, 0);
  WJ_REQUIRE(config.num_gpu_blocks_override == 0 || config.kv_cache_memory_bytes == 0, invalid_argument,
             "num_gpu_blocks_override and kv_cache_memory_bytes both size the KV cache; set one of them");
  require_at_least("max_num_queued_reqs", config.max_num_queued_reqs, 1);
  require_at_least("max_num_queued_tokens", config.max_num_queued_tokens, 1);
  require_at_least("max_logprobs", config.max_logprobs, -1);
  require_one_of("scheduling_policy", config.scheduling_policy, choices::kSchedulingPolicy);
  require_range("max_steps_in_flight", config.max_steps_in_flight, 1, 3);
  require_range("admission_quantile", config.admission_quantile, 0, 1);
  require_one_of("preemption_mode", config.preemption_mode, choices::kPreemptionMode);
  require_range("kv_offloading_size", config.kv_offloading_size, 0, 1 << 20);
  WJ_REQUIRE(config.preemption_mode != "swap" || config.kv_offloading_size > 0, invalid_argument,
             "preemption_mode=swap needs host memory: set kv_offloading_size (GiB)");
  require_range("itl_target_ms", config.itl_target_ms, 0, 1e6);
  require_at_least("max_num_queued_reqs_per_tenant", config.max_num_queued_reqs_per_tenant, 0);
  require_at_least("max_unread_tokens", config.max_unread_tokens, 1);
  require_range("kv_events", config.kv_events, 0, 1 << 24);
  WJ_REQUIRE(config.guide_timeout > 0 && config.guide_timeout <= 1e6, invalid_argument,
             "guide_timeout must be above 0 and at most 1e6 (seconds), got ", config.guide_timeout);
  WJ_REQUIRE(config.watchdog_timeout > 0 && std::isfinite(config.watchdog_timeout), invalid_argument,
             "watchdog_timeout must be a finite number above 0 (seconds), got ", config.watchdog_timeout);
  require_range("num_threads", config.num_threads, 0, kMaxThreads);
}

}  // namespace warpjet
