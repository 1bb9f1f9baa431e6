// How requests are sampled, as records for the device, and what comes back of their log-probabilities.
#include "decode/decode.h"

#include <algorithm>
#include <cstring>

namespace warpjet {

namespace {

static_assert(sizeof(SampleRecord) == kRecordWords * sizeof(std::int32_t) && std::is_trivially_copyable_v<SampleRecord>,
              "a record is copied as words");

bool is_edited(const SamplingParams& p, bool masked) {
  return masked || p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0 ||
         !p.logit_bias.empty() || !p.bad_words_token_ids.empty() || p.min_tokens > 0;
}

// The slot's row of SlotViews::lists, as far as it is used.
void add_lists(const SamplingParams& p, std::span<const std::int32_t> stop_ids, std::vector<std::int32_t>& out) {
  const std::size_t begin = out.size();
  out.insert(out.end(), stop_ids.begin(), stop_ids.end());
  for (const auto& [token, value] : p.logit_bias) out.push_back(token);
  for (const auto& [token, value] : p.logit_bias) out.push_back(std::bit_cast<std::int32_t>(static_cast<float>(value)));
  std::int32_t end = 0;
  for (const auto& word : p.bad_words_token_ids) out.push_back(end += static_cast<std::int32_t>(word.size()));
  for (const auto& word : p.bad_words_token_ids) out.insert(out.end(), word.begin(), word.end());
  WJ_CHECK(out.size() - begin <= kListWords, "the lists of a slot take more than ", kListWords, " words");
}

// What the request allows and, unless that is empty, the guide too.
void write_mask(const SamplingParams& p, std::span<const std::int32_t> guide_mask, std::span<std::int32_t> out) {
  if (!p.allowed_token_ids) {
    std::ranges::copy(guide_mask, out.begin());
    return;
  }
  std::ranges::fill(out, 0);
  for (const std::int32_t token : *p.allowed_token_ids) {
    out[static_cast<std::size_t>(token / 32)] |= static_cast<std::int32_t>(1u << (token % 32));
  }
  for (std::size_t i = 0; i < guide_mask.size(); ++i) out[i] &= guide_mask[i];
}

}  // namespace

std::vector<std::int32_t> pack_record(const SampleOptions& options, int vocab) {
  const SamplingParams& p = options.params;
  const bool masked = p.allowed_token_ids.has_value() || !options.guide_mask.empty();
  std::vector<std::int32_t> words(kRecordWords);
  add_lists(p, options.stop_ids, words);
  const std::size_t num_list_words = words.size() - kRecordWords;
  const auto num_mask_words = static_cast<std::size_t>(masked ? ceil_div(vocab, 32) : 0);
  words.resize(words.size() + num_mask_words);
  if (masked) write_mask(p, options.guide_mask, std::span(words).last(num_mask_words));
  const SampleRecord record = {.sampling = {.temperature = static_cast<float>(p.temperature),
                                            .top_p = static_cast<float>(p.top_p),
                                            .min_p = static_cast<float>(p.min_p),
                                            .top_k = std::max(p.top_k, 0),
                                            .repetition = static_cast<float>(p.repetition_penalty),
                                            .presence = static_cast<float>(p.presence_penalty),
                                            .frequency = static_cast<float>(p.frequency_penalty),
                                            .prompt_length = options.prompt_length,
                                            .min_tokens = p.min_tokens,
                                            .num_stops = static_cast<std::int32_t>(options.stop_ids.size()),
                                            .num_biases = static_cast<std::int32_t>(p.logit_bias.size()),
                                            .num_bad_words = static_cast<std::int32_t>(p.bad_words_token_ids.size()),
                                            .logprobs = options.logprobs,
                                            .masked = masked,
                                            .key = options.key},
                               .prompt_logprobs = options.prompt_logprobs,
                               .pooling = options.pooling,
                               .edits = is_edited(p, masked),
                               .num_list_words = static_cast<std::int32_t>(num_list_words),
                               .num_mask_words = static_cast<std::int32_t>(num_mask_words)};
  std::memcpy(words.data(), &record, sizeof record);
  return words;
}

std::span<const std::int32_t> pack_mask(const SamplingParams& params, std::span<const std::int32_t> guide_mask,
                                        std::span<std::int32_t> record) {
  const std::span<std::int32_t> mask = record.last(read_record(record).mask.size());
  WJ_CHECK(mask.size() == guide_mask.size(), "a mask of ", guide_mask.size(), " words for one of ", mask.size());
  write_mask(params, guide_mask, mask);
  return mask;
}

RecordView read_record(std::span<const std::int32_t> words) {
  WJ_CHECK(words.size() >= kRecordWords, "a record of ", words.size(), " words");
  RecordView record;
  std::memcpy(static_cast<void*>(static_cast<SampleRecord*>(&record)), words.data(), sizeof(SampleRecord));
  const auto lists = static_cast<std::size_t>(record.num_list_words);
  const auto mask = static_cast<std::size_t>(record.num_mask_words);
  WJ_CHECK(lists <= kListWords && words.size() == kRecordWords + lists + mask, "a record of ", words.size(),
           " words with ", lists, " words of lists and ", mask, " of a mask");
  record.lists = words.subspan(kRecordWords, lists);
  record.mask = words.last(mask);
  return record;
}

bool is_stop(const RecordView& record, std::int32_t token, int output_length) {
  return output_length >= record.sampling.min_tokens && std::ranges::count(record.stop_ids(), token) > 0;
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
