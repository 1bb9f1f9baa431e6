// The work of a step, and the tokens that come of it. A batch is plain data without pointers, so it can be compared,
// sent as bytes and read by several devices at once. The scheduler writes it on the engine thread; from then on it does
// not change.
#pragma once

#include "memory/memory.h"

#include <cstdint>
#include <span>
#include <vector>

namespace warpjet {

using Slot = std::int32_t;  // where a running sequence's state lies on the device
constexpr Slot kNoSlot = -1;

// Slots that a device needs: those of sequences that ended while a step was in flight are not free yet.
constexpr int num_slots(int max_num_seqs, int max_in_flight) {
  return max_in_flight > 1 ? 2 * max_num_seqs : max_num_seqs;
}

// Part of a list.
struct Range {
  std::int32_t first = 0, count = 0;
};

// One change of the device's slots. The device applies them in order, before anything else in the step. The list of
// decoding slots, and each slot's text and block tables, live on the device: steady decoding changes nothing.
struct SlotChange {
  enum class Kind : std::int16_t {
    join,    // a sequence takes the slot, as joins[a] describes it
    block,   // its block table[a] = b, in the table of a group of layers
    token,   // its text's token a is b, and its last
    mask,    // its mask is words[a, a + b)
    decode,  // to the end of the list of decoding slots: from now on one token in every step
    pause,   // off that list; the last one takes its place
    leave,   // the slot is empty
  };
  Kind kind = Kind::join;
  std::int16_t group = 0;  // of a block
  Slot slot = kNoSlot;
  std::int32_t a = 0, b = 0;
};

// The text of a new slot: `prefix` tokens of another slot's, then `tokens`; and how it is sampled: a record, which
// decode/decode.h describes. Both are ranges of the batch's words.
struct Join {
  Slot source = kNoSlot;
  std::int32_t prefix = 0;
  Range tokens, record;
};

// tokens[start, start + count) of a slot's text. The last row's logits are sampled for the next `num_samples` of
// sample_slots: the slot itself, and siblings that start from the same prompt.
struct Chunk {
  Slot slot = kNoSlot;
  std::int32_t start = 0, count = 0, num_samples = 0;
};

// One step's work. Order: changes, copies, then one token for every decoding slot, then the chunks. Samples come in
// that order too. `num_decodes` repeats the length of the list of decoding slots.
struct Batch {
  std::uint64_t step = 0;
  std::int32_t num_decodes = 0, num_tokens = 0;
  std::vector<SlotChange> changes;
  std::vector<Join> joins;
  std::vector<std::int32_t> words;  // tokens, records and masks
  std::vector<Copy> copies;
  std::vector<Chunk> chunks;
  std::vector<Slot> sample_slots;  // of the chunks' samples

  static constexpr auto fields() {
    using B = Batch;
    return std::tuple{Field{"step", &B::step},
                      Field{"num_decodes", &B::num_decodes},
                      Field{"num_tokens", &B::num_tokens},
                      Field{"changes", &B::changes},
                      Field{"joins", &B::joins},
                      Field{"words", &B::words},
                      Field{"copies", &B::copies},
                      Field{"chunks", &B::chunks},
                      Field{"sample_slots", &B::sample_slots}};
  }

  int num_samples() const { return num_decodes + static_cast<int>(sample_slots.size()); }
  std::span<const std::int32_t> at(Range range) const;  // of the words; throws internal when it is not all there
  Range add(std::span<const std::int32_t> more);        // to the words
  void clear();                                         // all but the memory
};

// Of every byte of a batch: equal batches, equal digests. Ranks compare them.
std::uint64_t digest(const Batch& batch);

// A batch as bytes, and back. from_bytes() overwrites the batch, and throws invalid_argument when the bytes are not
// one.
void to_bytes(const Batch& batch, std::vector<std::byte>& out);
void from_bytes(std::span<const std::byte> bytes, Batch& batch);

// Tokens in ranges, such as those that were drawn for each sample of a batch: range i goes up to ends[i].
struct TokenRanges {
  std::vector<std::int32_t> tokens, ends;
  // Of each token, when any of them has some: its own log-probability first, then the most likely tokens'.
  std::vector<std::vector<TokenLogprob>> logprobs;

  int size() const { return static_cast<int>(ends.size()); }
  Range range(int i) const {
    const std::int32_t first = i == 0 ? 0 : ends[i - 1];
    return {first, ends[i] - first};
  }
  std::span<const std::int32_t> at(int i) const {
    const Range r = range(i);
    return std::span(tokens).subspan(r.first, r.count);
  }
  void end_range() { ends.push_back(static_cast<std::int32_t>(tokens.size())); }
  void clear();  // all but the memory
};

}  // namespace warpjet
