// Slots of the sampling ops on the host, for tests.
#pragma once

#include "kit.h"

#include <algorithm>
#include <map>
#include <vector>

namespace warpjet::kit {

// What one slot holds, written as plainly as a test wants it.
struct SlotCase {
  SlotSampling sampling;           // counts, `masked` and prompt_length are filled in
  std::vector<std::int32_t> text;  // prompt, then output
  std::int32_t prompt_length = 0;
  std::vector<std::int32_t> stops;
  std::map<std::int32_t, float> biases;
  std::vector<std::vector<std::int32_t>> bad_words;
  std::vector<std::int32_t> allowed;  // empty: no mask
  bool alive = true;
};

// The arrays of SlotViews. One slot more than cases: a free one, whose contents are rubbish.
class Slots {
 public:
  Slots(const std::vector<SlotCase>& cases, std::int64_t vocab)
      : slots_(std::ssize(cases) + 1), mask_words_(ceil_div<std::int64_t>(vocab, 32)) {
    for (const SlotCase& c : cases) {
      max_text_ = std::max(max_text_, std::ssize(c.text) + 4);
      words_ = std::max(words_, std::ssize(lists_of(c)));
    }
    params_.resize(slots_);
    texts_.assign(slots_ * max_text_, kRubbish);
    lists_.assign(slots_ * words_, kRubbish);
    masks_.assign(slots_ * mask_words_, kRubbish);
    lengths_.assign(slots_, kRubbish);
    alive_.assign(slots_, kRubbish);
    for (std::size_t i = 0; i < cases.size(); ++i) set(i, cases[i]);
  }

  SlotViews views() {
    return {.params = TensorView(params_.data(), DType::u8, {slots_, 64}),
            .texts = view_of(texts_, slots_),
            .lengths = view_of(lengths_),
            .alive = view_of(alive_),
            .lists = view_of(lists_, slots_),
            .masks = view_of(masks_, slots_)};
  }

  std::vector<std::int32_t> text(std::int64_t slot) const {
    const auto begin = texts_.begin() + slot * max_text_;
    return {begin, begin + lengths_[slot]};
  }
  std::int32_t alive(std::int64_t slot) const { return alive_[slot]; }

 private:
  static constexpr std::int32_t kRubbish = 0x7eadbeef;

  static std::vector<std::int32_t> lists_of(const SlotCase& c) {
    std::vector<std::int32_t> words = c.stops;
    for (const auto& [token, value] : c.biases) words.push_back(token);
    for (const auto& [token, value] : c.biases) std::memcpy(&words.emplace_back(), &value, sizeof value);
    std::int32_t end = 0;
    for (const auto& word : c.bad_words) words.push_back(end += static_cast<std::int32_t>(word.size()));
    for (const auto& word : c.bad_words) words.insert(words.end(), word.begin(), word.end());
    return words;
  }

  void set(std::size_t i, const SlotCase& c) {
    SlotSampling& sampling = params_[i] = c.sampling;
    sampling.prompt_length = c.prompt_length;
    sampling.num_stops = static_cast<std::int32_t>(c.stops.size());
    sampling.num_biases = static_cast<std::int32_t>(c.biases.size());
    sampling.num_bad_words = static_cast<std::int32_t>(c.bad_words.size());
    sampling.masked = !c.allowed.empty();
    lengths_[i] = static_cast<std::int32_t>(c.text.size());
    alive_[i] = c.alive;
    std::copy(c.text.begin(), c.text.end(), texts_.begin() + static_cast<std::ptrdiff_t>(i) * max_text_);
    const std::vector<std::int32_t> words = lists_of(c);
    std::copy(words.begin(), words.end(), lists_.begin() + static_cast<std::ptrdiff_t>(i) * words_);
    if (c.allowed.empty()) return;
    std::int32_t* mask = &masks_[i * mask_words_];
    std::fill_n(mask, mask_words_, 0);
    for (const std::int32_t token : c.allowed) mask[token / 32] |= static_cast<std::int32_t>(1u << (token % 32));
  }

  std::int64_t slots_, mask_words_, max_text_ = 1, words_ = 1;
  std::vector<SlotSampling> params_;
  std::vector<std::int32_t> texts_, lengths_, alive_, lists_, masks_;
};

}  // namespace warpjet::kit
