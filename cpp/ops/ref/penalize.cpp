// What a slot's text and lists do to its logits, and how a text grows.
#include "ops/ref/slot.h"
#include "ops/sampling.h"

#include <algorithm>
#include <span>
#include <utility>

namespace warpjet::ref {
namespace {

using Tokens = std::span<const std::int32_t>;

// One slot's text and its parts of SlotViews::lists.
struct Slot {
  const SlotSampling& sampling;
  Tokens text, stops, bias_tokens;
  const float* bias_values;
  Tokens bad_word_ends, bad_words;

  std::int64_t output_length() const { return std::ssize(text) - sampling.prompt_length; }
};

Slot slot_of(const SlotViews& views, std::int32_t slot) {
  const SlotSampling& sampling = sampling_of(views, slot);
  const std::int32_t* next = views.lists.row<std::int32_t>(slot);
  const auto take = [&](std::int32_t count) {
    next += count;
    return Tokens(next - count, static_cast<std::size_t>(count));
  };
  const Tokens stops = take(sampling.num_stops), bias_tokens = take(sampling.num_biases);
  const Tokens bias_values = take(sampling.num_biases), ends = take(sampling.num_bad_words);
  return {
      .sampling = sampling,
      .text = {views.texts.row<std::int32_t>(slot), static_cast<std::size_t>(views.lengths.as<std::int32_t>()[slot])},
      .stops = stops,
      .bias_tokens = bias_tokens,
      .bias_values = reinterpret_cast<const float*>(bias_values.data()),
      .bad_word_ends = ends,
      .bad_words = take(ends.empty() ? 0 : ends.back())};
}

// --- Penalize -------------------------------------------------------------------------------------------------------

// `counts` are zero before and after. They hold 1 + occurrences in the output, 0: not seen.
void penalize_history(const Slot& slot, float* logits, std::int32_t* counts) {
  const SlotSampling& s = slot.sampling;
  if (s.repetition == 1.0f && s.presence == 0.0f && s.frequency == 0.0f) return;
  for (std::size_t i = 0; i < slot.text.size(); ++i) {
    std::int32_t& count = counts[slot.text[i]];
    count = std::max(count, 1) + std::cmp_greater_equal(i, s.prompt_length);
  }
  for (const std::int32_t token : slot.text) {
    const std::int32_t occurrences = std::exchange(counts[token], 0) - 1;
    if (occurrences < 0) continue;  // done at its first place
    float& logit = logits[token];
    logit = logit > 0 ? logit / s.repetition : logit * s.repetition;
    if (occurrences > 0) logit -= s.presence + s.frequency * static_cast<float>(occurrences);
  }
}

// Whether the text ends with all but the last token of this bad word.
bool is_about_to_end(Tokens text, Tokens word) {
  const Tokens others = word.first(word.size() - 1);
  return others.size() <= text.size() && std::equal(others.rbegin(), others.rend(), text.rbegin());
}

void ban(const Slot& slot, float* logits) {
  std::int32_t begin = 0;
  for (const std::int32_t end : slot.bad_word_ends) {
    const Tokens word = slot.bad_words.subspan(begin, end - begin);
    if (is_about_to_end(slot.text, word)) logits[word.back()] = kNever;
    begin = end;
  }
  if (slot.output_length() >= slot.sampling.min_tokens) return;
  for (const std::int32_t token : slot.stops) logits[token] = kNever;
}

void penalize_row(const Penalize::Args& args, std::int64_t r) {
  const std::int32_t index = slot_at_work(args.slots, args.views, r);
  if (index < 0) return;
  const Slot slot = slot_of(args.views, index);
  float* logits = args.logits.row<float>(r);
  if (slot.sampling.logprobs >= 0) std::copy_n(logits, args.problem.vocab, args.raw.row<float>(r));
  penalize_history(slot, logits, args.workspace.as<std::int32_t>() + r * args.problem.vocab);
  for (std::size_t i = 0; i < slot.bias_tokens.size(); ++i) logits[slot.bias_tokens[i]] += slot.bias_values[i];
  ban(slot, logits);
  if (slot.sampling.masked == 0) return;
  const std::uint32_t* mask = args.views.masks.row<std::uint32_t>(index);
  for (std::int64_t i = 0; i < args.problem.vocab; ++i) {
    if ((mask[i / 32] >> (i % 32) & 1u) == 0) logits[i] = kNever;
  }
}

// --- AppendTokens ---------------------------------------------------------------------------------------------------

void append_row(const AppendTokens::Args& args, std::int64_t r) {
  const std::int32_t index = slot_at_work(args.slots, args.views, r);
  std::int32_t& result = args.results.as<std::int32_t>()[r];
  result = kSurplusToken;
  if (index < 0) return;
  result = args.tokens.as<std::int32_t>()[r];
  bool alive = result >= 0;
  if (alive) {
    std::int32_t& length = args.views.lengths.as<std::int32_t>()[index];
    args.views.texts.row<std::int32_t>(index)[length++] = result;
    const Slot slot = slot_of(args.views, index);
    alive = slot.output_length() < slot.sampling.min_tokens ||
            std::find(slot.stops.begin(), slot.stops.end(), result) == slot.stops.end();
  }
  args.views.alive.as<std::int32_t>()[index] = alive;
}

}  // namespace

bool supports(const Penalize::Problem& p) {
  return p.vocab > 0;
}
bool supports(const AppendTokens::Problem&) {
  return true;
}

std::int64_t workspace(const Penalize::Problem& p, const DeviceInfo&) {
  return p.rows * p.vocab * std::int64_t{sizeof(std::int32_t)};
}

void launch(const Penalize::Args& args, Stream& stream) {
  for_each_row(stream, args.problem.rows, [&](std::int64_t r) { penalize_row(args, r); });
}

void launch(const AppendTokens::Args& args, Stream&) {
  for (std::int64_t r = 0; r < args.problem.rows; ++r) append_row(args, r);
}

}  // namespace warpjet::ref

namespace warpjet {

Kernel<Penalize> Penalize::reference() {
  return {.name = "ref.penalize",
          .sm_max = 1,
          .supports = ref::supports,
          .workspace = ref::workspace,
          .launch = ref::launch};
}
Kernel<AppendTokens> AppendTokens::reference() {
  return {.name = "ref.append_tokens", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}

}  // namespace warpjet
