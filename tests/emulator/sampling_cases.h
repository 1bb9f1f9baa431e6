// What the tests of sampling's kernels run on: slots in guarded memory, and random batches of them with their logits.
#pragma once

#include "emulator/cases.h"
#include "slot_kit.h"

#include <numeric>

namespace warpjet {
namespace {

using kit::SlotCase;

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

// kit::Slots in guarded memory.
class GuardedSlots {
 public:
  GuardedSlots(const std::vector<SlotCase>& cases, std::int64_t vocab) {
    kit::Slots slots(cases, vocab);
    views_ = slots.views();
    for (TensorView* view :
         {&views_.params, &views_.texts, &views_.lengths, &views_.alive, &views_.lists, &views_.masks}) {
      const auto bytes = static_cast<std::size_t>(view->bytes());
      std::memcpy(arrays_.emplace_back(std::make_unique<emu::GlobalBuffer>(bytes))->as<>(), view->data, bytes);
      view->data = arrays_.back()->as<>();
    }
  }

  const SlotViews& views() const { return views_; }
  std::string bytes() const {
    std::string all;
    for (const auto& array : arrays_) all.append(array->as<char>(), array->bytes());
    return all;
  }

 private:
  SlotViews views_;
  std::vector<std::unique_ptr<emu::GlobalBuffer>> arrays_;
};

template <class T>
T any_of(Random& random, std::initializer_list<T> values) {
  return values.begin()[random.below(std::ssize(values))];
}

std::vector<std::int32_t> random_tokens(Random& random, std::int64_t count, std::int64_t vocab) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i) tokens.push_back(random.below(vocab));
  return tokens;
}

// --- Wishes ---------------------------------------------------------------------------------------------------------

SlotSampling random_sampling(Random& random, std::int64_t vocab) {
  SlotSampling s;
  s.logprobs = random.below(3) - 1;
  s.min_tokens = random.below(2) * random.below(20);
  s.key = random_key(static_cast<std::uint64_t>(random.below(1 << 30)), 0);
  s.temperature = any_of(random, {0.0f, 1e-30f, 0.3f, 1.0f, 1.7f, 100.0f});
  if (random.below(3) == 0) return s;  // not cut
  const auto size = static_cast<std::int32_t>(vocab);
  s.top_k = any_of(random, {0, 0, 1, 2, 7, 50, size - 1, size, size + 3});
  s.top_p = any_of(random, {1.0f, 1.0f, 1e-6f, 0.5f, 0.9f, 0.999f});
  s.min_p = any_of(random, {0.0f, 0.0f, 1e-40f, 0.02f, 0.5f, 1.0f});
  return s;
}

void add_penalties(Random& random, SlotSampling& s) {
  if (random.below(2)) s.repetition = static_cast<float>(random.uniform(0.5, 2));
  if (random.below(2)) s.presence = static_cast<float>(random.uniform(-2, 2));
  if (random.below(2)) s.frequency = static_cast<float>(random.uniform(-2, 2));
}

// Some that the text does not end with, and some that it is about to complete.
std::vector<std::vector<std::int32_t>> random_bad_words(Random& random, const std::vector<std::int32_t>& text,
                                                        std::int64_t vocab) {
  std::vector<std::vector<std::int32_t>> words;
  for (int i = random.below(5); i > 0; --i) words.push_back(random_tokens(random, 1 + random.below(4), vocab));
  for (const std::size_t tail : {1, 2, 3}) {
    if (tail > text.size() || random.below(2)) continue;
    words.emplace_back(text.end() - static_cast<std::ptrdiff_t>(tail), text.end());
    words.back().push_back(random.below(vocab));
  }
  return words;
}

SlotCase random_case(Random& random, std::int64_t vocab) {
  SlotCase c;
  c.sampling = random_sampling(random, vocab);
  c.alive = random.below(8) > 0;
  const std::int64_t words = any_of<std::int64_t>(random, {1, 20, vocab});  // few words repeat themselves
  c.prompt_length = random.below(any_of(random, {1, 20, 700}));
  c.text = random_tokens(random, c.prompt_length + random.below(20), std::min(words, vocab));
  c.stops = random_tokens(random, random.below(4), vocab);
  if (random.below(4) == 0) return c;  // wants no edits but, at most, bans of stops
  add_penalties(random, c.sampling);
  for (int i = random.below(5); i > 0; --i)
    c.biases[random.below(vocab)] = random.below(4) ? static_cast<float>(random.uniform(-9, 9)) : -kInfinity;
  c.bad_words = random_bad_words(random, c.text, vocab);
  if (random.below(2)) c.allowed = random_tokens(random, 1 + random.below(2 * vocab), vocab);
  return c;
}

// --- Logits ---------------------------------------------------------------------------------------------------------

enum class Kind : std::uint8_t { normal, ties, equal, zeros, peaked, flat, huge, broken, hopeless };
constexpr int kKinds = 9;

float random_logit(Random& random, Kind kind) {
  const auto x = static_cast<float>(3 * random.normal());
  switch (kind) {
    case Kind::normal:
      return x;
    case Kind::ties:
      return std::round(x);
    case Kind::equal:
      return -0.25f;
    case Kind::zeros:
      return random.below(2) ? 0.0f : -0.0f;
    case Kind::peaked:
      return random.below(20) ? x : 30 + x;
    case Kind::flat:  // all in one bin of the first histogram
      return 5 + x * 1e-6f;
    case Kind::huge:
      return x * 5e37f;  // at times infinite
    case Kind::broken:
      return random.below(3) ? x : any_of(random, {kNan, -kNan, kInfinity, -kInfinity});
    case Kind::hopeless:
      return any_of(random, {kNan, kInfinity, -kInfinity});
  }
  return kNan;
}

void fill_row(Random& random, const Guarded& logits, std::int64_t row, std::int64_t vocab) {
  const auto kind = static_cast<Kind>(random.below(kKinds));
  for (std::int64_t i = 0; i < vocab; ++i) logits.view().row<float>(row)[i] = random_logit(random, kind);
}

// --- Batches --------------------------------------------------------------------------------------------------------

// Rows of logits and the slots that they work for; two slots have no row.
struct Batch {
  Batch(Random& random, std::int64_t rows, std::int64_t vocab)
      : rows(rows),
        vocab(vocab),
        padding(random.below(2) * random.below(9)),
        offset(random.below(2) * random.below(4)),
        slots(DType::i32, rows),
        logits(DType::f32, rows, vocab, padding, offset) {
    for (std::int64_t i = 0; i < rows + 2; ++i) cases.push_back(random_case(random, vocab));
    std::vector<std::int32_t> order(cases.size());
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    for (std::int64_t r = 0; r < rows; ++r) {
      slots[r] = random.below(8) ? order[r] : -1 - random.below(2);
      fill_row(random, logits, r, vocab);
    }
  }

  std::string trace() const { return cat("rows=", rows, " vocab=", vocab, " padding=", padding, " offset=", offset); }

  std::int64_t rows, vocab, padding, offset;
  std::vector<SlotCase> cases;
  Ints slots;
  Guarded logits;
};

// Rows first .. first + count of a matrix or a list.
TensorView rows_of(const TensorView& all, std::int64_t first, std::int64_t count) {
  TensorView part = all;
  part.shape[0] = count;
  part.data = all.as<std::byte>() + first * all.row_stride * dtype_bytes(all.dtype);
  return part;
}

template <class Check>
void for_each_batch(std::uint64_t seed, Check check) {
  Random random(seed);
  SCOPED_TRACE(random.trace());
  const auto run = [&](std::int64_t rows, std::int64_t vocab) {
    const Batch batch(random, rows, vocab);
    SCOPED_TRACE(batch.trace());
    check(random, batch);
  };
  for (const std::int64_t vocab : {1, 5, 31, 32, 33, 1000, 5001}) {
    for (const std::int64_t rows : {0, 1, 3, 9, 9, 9}) {
      run(rows, vocab);
      if (testing::Test::HasFailure()) return;
    }
  }
  run(9, 40011);
}

}  // namespace
}  // namespace warpjet
