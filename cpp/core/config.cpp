// What config structs take beyond the ranges of single fields. Every message begins with a field's name.
#include <warpjet/config.h>

#include "core/core.h"
#include "core/ranges.h"

#include <algorithm>

namespace warpjet {
namespace {

constexpr std::size_t kMaxBadTokens = 1024, kMaxAllBadTokens = 4096;

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

void validate_tokens(const SamplingParams& p) {
  // No token at all makes sense only for whoever wants the prompt's log-probabilities.
  WJ_REQUIRE(p.max_tokens != 0 || p.prompt_logprobs, invalid_argument,
             "max_tokens must be at least 1, or 0 together with prompt_logprobs, got 0");
  WJ_REQUIRE(!p.max_tokens || p.min_tokens <= *p.max_tokens, invalid_argument,
             "min_tokens must be at most max_tokens=", *p.max_tokens, ", got ", p.min_tokens);
  WJ_REQUIRE(!p.allowed_token_ids || !p.allowed_token_ids->empty(), invalid_argument,
             "allowed_token_ids must not be empty: nothing could be drawn; use None to allow every token");
  std::size_t bad_tokens = 0;
  for (const std::vector<std::int32_t>& sequence : p.bad_words_token_ids) {
    WJ_REQUIRE(!sequence.empty() && sequence.size() <= kMaxBadTokens, invalid_argument,
               "bad_words_token_ids takes sequences of 1 to ", kMaxBadTokens, " tokens, got one of ", sequence.size());
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
  check_fields(config);
  validate_device(config.device);
  require_scheme("scheme", config.scheme);
  require_precision("kv_cache_dtype", config.kv_cache_dtype);
}

void validate(const SamplingParams& params) {
  check_fields(params);
  validate_tokens(params);
  validate_beams(params);
  WJ_REQUIRE(params.spaces_between_special_tokens, unsupported,
             "spaces_between_special_tokens supports only True, got False");
}

void validate(const PoolingParams& params) {
  check_fields(params);
}

void validate(const EngineConfig& config) {
  check_fields(config);
  require_scheme("dtype", config.dtype);
  config.device == "null" ? validate_null_device(config) : validate_device(config.device, ", null");
  WJ_REQUIRE(config.num_gpu_blocks_override == 0 || config.kv_cache_memory_bytes == 0, invalid_argument,
             "num_gpu_blocks_override and kv_cache_memory_bytes both size the KV cache; set one of them");
  WJ_REQUIRE(config.preemption_mode != "swap" || config.kv_offloading_size > 0, invalid_argument,
             "preemption_mode=swap needs host memory: set kv_offloading_size (GiB)");
}

}  // namespace warpjet
