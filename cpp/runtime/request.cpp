// What a request must satisfy before it is accepted: everything a user can get wrong is found here, in the caller's
// thread, and named.
#include <algorithm>

#include "runtime/runtime.h"

namespace warpjet {

namespace {

constexpr std::size_t kMaxTenantBytes = 256;

// What a device that makes tokens up would have to lie about.
void validate_for_null_device(const Request& request) {
  const SamplingParams& p = request.sampling;
  const auto refuse = [](bool asked, std::string_view field) {
    WJ_REQUIRE(!asked, unsupported, field, " needs a device that computes; device null makes tokens up");
  };
  refuse(p.logprobs.has_value(), "logprobs");
  refuse(p.prompt_logprobs.has_value(), "prompt_logprobs");
  refuse(p.beam_width > 1, "beam_width");
  refuse(p.allowed_token_ids.has_value(), "allowed_token_ids");
  refuse(!p.bad_words_token_ids.empty(), "bad_words_token_ids");
  refuse(!p.logit_bias.empty(), "logit_bias");
  refuse(request.pooling.has_value(), "an embedding");
  refuse(!request.mask.empty(), "a guided request");
}

void validate_pooling(const Request& request, const ModelInfo& model) {
  validate(*request.pooling);
  WJ_REQUIRE(request.sampling == SamplingParams{}, invalid_argument,
             "an embedding draws no tokens: its sampling parameters must be left as they are");
  WJ_REQUIRE(request.mask.empty(), invalid_argument, "an embedding draws no tokens, so nothing guides it");
  WJ_REQUIRE(request.pooling->dimensions.value_or(1) <= model.hidden_size, invalid_argument,
             "dimensions: ", *request.pooling->dimensions, " asked for, but the model's embeddings have ",
             model.hidden_size);
}

}  // namespace

void validate_mask(std::span<const std::int32_t> mask, const ModelInfo& model) {
  const int words = ceil_div(model.vocab_size, 32);
  WJ_REQUIRE(std::cmp_equal(mask.size(), words), invalid_argument, "mask: ", mask.size(),
             " words, but the vocabulary of ", model.vocab_size, " needs ", words);
}

bool allows_any(std::span<const std::int32_t> mask, const ModelInfo& model) {
  const int rest = model.vocab_size % 32;
  const std::uint32_t of_last = rest == 0 ? ~0u : (1u << rest) - 1;
  return std::ranges::any_of(mask.first(mask.size() - 1), [](std::int32_t word) { return word != 0; }) ||
         (static_cast<std::uint32_t>(mask.back()) & of_last) != 0;
}

void validate_request(const Request& request, const EngineConfig& engine, const ModelInfo& model) {
  const SamplingParams& p = request.sampling;
  validate(p);
  if (engine.device == "null") validate_for_null_device(request);
  if (request.pooling) validate_pooling(request, model);
  WJ_REQUIRE(request.pooling || model.generates, invalid_argument,
             "this checkpoint has no output head (lm_head.weight): it embeds text, and generates none");
  const int vocab = model.vocab_size, limit = model.max_model_len;
  const int length = static_cast<int>(std::min<std::size_t>(request.prompt.size(), INT32_MAX));
  WJ_REQUIRE(length > 0, invalid_argument, "prompt: empty; give at least one token");
  WJ_REQUIRE(length <= limit, invalid_argument, "prompt: ", length, " tokens, but the context holds ", limit,
             " (max_model_len)");
  WJ_REQUIRE(length < limit || request.pooling, invalid_argument, "prompt: ", length, " tokens, but the context holds ",
             limit, " including at least one new token (max_model_len)");
  const auto check_token = [&](const char* what, std::int64_t token) {
    WJ_REQUIRE(token >= 0 && token < vocab, invalid_argument, what, ": token id ", token,
               " is outside the vocabulary of ", vocab);
  };
  for (std::int32_t token : request.prompt) check_token("prompt", token);
  for (std::int32_t token : p.stop_token_ids) check_token("stop_token_ids", token);
  for (const auto& [token, bias] : p.logit_bias) check_token("logit_bias", token);
  if (p.allowed_token_ids) {
    for (std::int32_t token : *p.allowed_token_ids) check_token("allowed_token_ids", token);
  }
  for (const auto& word : p.bad_words_token_ids) {
    for (std::int32_t token : word) check_token("bad_words_token_ids", token);
  }
  WJ_REQUIRE(p.stop.empty() && p.bad_words.empty(), unsupported,
             "stop and bad_words are text, and the engine sees tokens: check the text and cancel(), or use "
             "stop_token_ids and bad_words_token_ids");
  WJ_REQUIRE(p.structured_outputs.text.empty(), unsupported,
             "structured_outputs is about text, and the engine sees tokens: give the request a mask and a guide");
  if (!request.mask.empty()) {
    validate_mask(request.mask, model);
    WJ_REQUIRE(allows_any(request.mask, model), invalid_argument, "mask: it allows no token");
    WJ_REQUIRE(p.beam_width == 1, invalid_argument, "mask: guides do not go with beam_width above 1");
  }
  WJ_REQUIRE(p.top_k <= vocab, invalid_argument, "top_k: ", p.top_k, " is more than the vocabulary of ", vocab);
  WJ_REQUIRE(!p.max_tokens || *p.max_tokens <= limit, invalid_argument, "max_tokens: ", *p.max_tokens,
             " is more than the context of ", limit, " (max_model_len)");
  const int cap = engine.max_logprobs;
  const auto check_logprobs = [&](const char* what, const std::optional<int>& count) {
    WJ_REQUIRE(!count || cap == -1 || (*count >= 0 && *count <= cap), invalid_argument, what, ": ", *count,
               " asked for, but max_logprobs of this engine is ", cap);
  };
  check_logprobs("logprobs", p.logprobs);
  check_logprobs("prompt_logprobs", p.prompt_logprobs);
  WJ_REQUIRE(request.priority == 0 || engine.scheduling_policy != "fcfs", invalid_argument,
             "priority: ", request.priority, " needs scheduling_policy = priority or fair");
  WJ_REQUIRE(request.cache_priority >= 0 && request.cache_priority < kNumCacheClasses, invalid_argument,
             "cache_priority must be from 0 to ", kNumCacheClasses - 1, ", got ", request.cache_priority);
  WJ_REQUIRE(request.tenant.size() <= kMaxTenantBytes, invalid_argument, "tenant takes at most ", kMaxTenantBytes,
             " bytes, got ", request.tenant.size());
  const int most_beams = std::min(engine.max_num_seqs, engine.max_num_batched_tokens);
  WJ_REQUIRE(p.beam_width == 1 || p.beam_width <= most_beams, invalid_argument, "beam_width: ", p.beam_width,
             " is more than the ", most_beams, " sequences of a step (max_num_seqs, max_num_batched_tokens)");
}

}  // namespace warpjet
