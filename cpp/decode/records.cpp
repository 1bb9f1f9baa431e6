// What a request says of sampling, as records for the device, and what comes back of its log-probabilities.
#include "decode/decode.h"

#include <algorithm>

namespace warpjet {

bool is_stop(const SampleState& state, std::int32_t token, int output_length) {
  if (output_length < state.params->min_tokens) return false;
  return std::find(state.stop_ids.begin(), state.stop_ids.end(), token) != state.stop_ids.end();
}

bool needs_edits(const SampleState& state) {
  const SamplingParams& p = *state.params;
  return p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0 ||
         !p.logit_bias.empty() || is_masked(state) || !p.bad_words_token_ids.empty() || p.min_tokens > 0;
}

SlotSampling pack(const SampleState& state, int prompt_length) {
  const SamplingParams& p = *state.params;
  return {.temperature = static_cast<float>(p.temperature),
          .top_p = static_cast<float>(p.top_p),
          .min_p = static_cast<float>(p.min_p),
          .top_k = std::max(p.top_k, 0),
          .repetition = static_cast<float>(p.repetition_penalty),
          .presence = static_cast<float>(p.presence_penalty),
          .frequency = static_cast<float>(p.frequency_penalty),
          .prompt_length = prompt_length,
          .min_tokens = p.min_tokens,
          .num_stops = static_cast<std::int32_t>(state.stop_ids.size()),
          .num_biases = static_cast<std::int32_t>(p.logit_bias.size()),
          .num_bad_words = static_cast<std::int32_t>(p.bad_words_token_ids.size()),
          .logprobs = state.logprobs,
          .masked = is_masked(state),
          .key = state.key};
}

int pack_lists(const SampleState& state, std::span<std::int32_t> out) {
  const SamplingParams& p = *state.params;
  std::size_t size = 0;
  const auto add = [&](std::int32_t word) {
    WJ_CHECK(size < out.size(), "the lists of a slot take more than ", out.size(), " words");
    out[size++] = word;
  };
  for (const std::int32_t token : state.stop_ids) add(token);
  for (const auto& [token, value] : p.logit_bias) add(token);
  for (const auto& [token, value] : p.logit_bias) {
    const float narrow = static_cast<float>(value);
    std::int32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    add(bits);
  }
  std::int32_t end = 0;
  for (const auto& word : p.bad_words_token_ids) add(end += static_cast<std::int32_t>(word.size()));
  for (const auto& word : p.bad_words_token_ids) {
    for (const std::int32_t token : word) add(token);
  }
  return static_cast<int>(size);
}

bool is_masked(const SampleState& state) {
  return state.params->allowed_token_ids.has_value() || state.guide_mask != nullptr;
}

void pack_mask(const SampleState& state, std::span<std::int32_t> out) {
  const std::int32_t* guide = state.guide_mask;
  if (!state.params->allowed_token_ids) {
    std::copy_n(guide, out.size(), out.begin());
    return;
  }
  std::fill(out.begin(), out.end(), 0);
  for (const std::int32_t token : *state.params->allowed_token_ids) {
    out[static_cast<std::size_t>(token / 32)] |= static_cast<std::int32_t>(1u << (token % 32));
  }
  for (std::size_t i = 0; guide && i < out.size(); ++i) out[i] &= guide[i];
}

std::vector<TokenLogprob> read_logprobs(const LogprobViews& views, std::int64_t row, int wanted) {
  std::vector<TokenLogprob> entries;
  const TokenLogprob own = {.token = views.tokens.as<std::int32_t>()[row],
                            .logprob = views.logprobs.as<float>()[row],
                            .rank = views.ranks.as<std::int32_t>()[row]};
  if (own.token < 0) return entries;
  const std::int64_t count = std::min<std::int64_t>(wanted, views.top_tokens.shape[1]);
  entries.reserve(static_cast<std::size_t>(count + 1));
  entries.push_back(own);
  for (std::int64_t i = 0; i < count; ++i) {
    TokenLogprob entry = {.token = views.top_tokens.row<std::int32_t>(row)[i],
                          .logprob = views.top_logprobs.row<float>(row)[i],
                          .rank = static_cast<std::int32_t>(i + 1)};
    const bool ties = i > 0 && entry.logprob == entries.back().logprob;  // equals share the best one's rank
    if (entry.token == own.token) {
      entry.rank = own.rank;
    } else if (ties) {
      entry.rank = entries.back().rank;
    }
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace warpjet
