// The device that computes nothing: for measuring what everything else costs.
#include <algorithm>
#include <numeric>

#include "execute/execute.h"

namespace warpjet {

// Special tokens lie at the ends of a vocabulary, and so does its padding.
NullExecutor::NullExecutor(int depth, int num_slots, const ModelInfo& model)
    : lengths_(num_slots), decode_indices_(num_slots), results_(depth + 1) {
  decoding_.reserve(num_slots);
  const int vocab = model.vocab_size;
  const auto ends = [&](std::int32_t token) { return std::ranges::count(model.eos_token_ids, token) > 0; };
  for (std::size_t i = 0; i < kTokens; ++i) {
    const std::uint64_t number = random_key(0, static_cast<std::uint32_t>(i));
    auto token = static_cast<std::int32_t>(vocab / 4 + number % (vocab / 2 + 1));
    for (int tries = 0; ends(token); ++tries) {
      WJ_REQUIRE(tries < vocab, invalid_argument, "every token of this model's vocabulary ends a text");
      token = (token + 1) % vocab;
    }
    tokens_[i] = token;
  }
}

void NullExecutor::launch(Batch& batch) {
  StepResult& result = results_[launched_++ % results_.size()];
  for (const SlotChange& change : batch.changes) apply(change);
  const int samples = batch.num_samples();
  result.sampled.tokens.resize(samples);
  result.sampled.ends.resize(samples);
  std::iota(result.sampled.ends.begin(), result.sampled.ends.end(), 1);
  result.scored.ends.assign(batch.chunks.size(), 0);
  auto token = result.sampled.tokens.begin();
  for (const Slot slot : decoding_) *token++ = draw(slot, lengths_[slot]);
  auto slot = batch.sample_slots.begin();
  for (const Chunk& chunk : batch.chunks) {
    for (int i = 0; i < chunk.num_samples; ++i) *token++ = draw(*slot++, chunk.start + chunk.count);
  }
}

// Of the slots only the list of those that decode matters; the last one takes the place of who leaves it.
void NullExecutor::apply(const SlotChange& change) {
  if (change.kind == SlotChange::Kind::decode) {
    decode_indices_[change.slot] = static_cast<int>(decoding_.size());
    decoding_.push_back(change.slot);
  } else if (change.kind == SlotChange::Kind::pause) {
    const Slot last = decoding_.back();
    decoding_[decode_indices_[change.slot]] = last;
    decode_indices_[last] = decode_indices_[change.slot];
    decoding_.pop_back();
  }
}

}  // namespace warpjet
