// From logits to tokens.
//
// Cuts (top-k, top-p) are found by descending through the bits of the logits with histograms, not by sorting: three
// passes over a row, no memory but the histogram, and the same code for counts (top-k) and probabilities (top-p).
#include "ops/sampling.h"
#include "ops/ref/number.h"
#include "ops/ref/slot.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace warpjet::ref {
namespace {

constexpr int kPiece = 256;  // logits handled at a time; a multiple of kLanes
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kLargestNoise = 22.9f;  // the noise of word 0 is 33 ln 2 = 22.87

WJ_INLINE float finite_or_never(float logit) {
  const bool finite = (logit <= kLargest) & (logit >= -kLargest);  // no branch
  return finite ? logit : kNever;
}

// The largest finite logit, or kNever.
WJ_CLONES float largest(const float* logits, std::int64_t count) {
  float lanes[kLanes];
  for (int l = 0; l < kLanes; ++l) lanes[l] = kNever;
  const std::int64_t whole = count / kLanes * kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
#pragma GCC unroll 1  // see kLanes
    for (int l = 0; l < kLanes; ++l) {
      const float x = finite_or_never(logits[i + l]);
      lanes[l] = x > lanes[l] ? x : lanes[l];
    }
  }
  float max = kNever;
  for (int l = 0; l < kLanes; ++l) max = std::max(max, lanes[l]);
  for (std::int64_t i = whole; i < count; ++i) max = std::max(max, finite_or_never(logits[i]));
  return max;
}

// --- Noise ----------------------------------------------------------------------------------------------------------

// Ten rounds of Philox4x32 (Salmon et al. 2011).
WJ_INLINE void philox_rounds(std::uint32_t (&counter)[4], std::uint64_t key) {
  std::uint32_t low = static_cast<std::uint32_t>(key), high = static_cast<std::uint32_t>(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xd2511f53u} * counter[0], b = std::uint64_t{0xcd9e8d57u} * counter[2];
    counter[0] = static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ low;
    counter[1] = static_cast<std::uint32_t>(b);
    counter[2] = static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ high;
    counter[3] = static_cast<std::uint32_t>(a);
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
}

// -log(-log1p(-w)). log1p(-w) = log(u) * w / (1 - u) with u = 1 - w undoes the rounding of u (Higham 2002, 1.14.1).
WJ_INLINE float noise_of(std::uint32_t word) {
  const float fraction = (static_cast<float>(word) + 0.5f) * 0x1p-32f;
  const float w = fraction < 0x1.fffffep-1f ? fraction : 0x1.fffffep-1f;
  const float u = 1.0f - w;
  const float lost = 1.0f - u;
  const float exponential = -log_f32(u) * (w / (lost > 0.0f ? lost : 1.0f));
  return -log_f32(lost > 0.0f ? exponential : w);
}

// The noise of kPiece tokens from `first`, which is a multiple of four.
WJ_CLONES void draw_noise(std::uint64_t key, std::uint32_t position, std::int64_t first, float* noise) {
  constexpr int kCounters = kPiece / 4;
  std::uint32_t words[4][kCounters];
  const std::uint32_t base = static_cast<std::uint32_t>(first / 4);
  for (int i = 0; i < kCounters; ++i) {
    std::uint32_t counter[4] = {base + static_cast<std::uint32_t>(i), position, 0, 0};
    philox_rounds(counter, key);
    for (int w = 0; w < 4; ++w) words[w][i] = counter[w];
  }
  for (int w = 0; w < 4; ++w) {
    for (int i = 0; i < kCounters; ++i) noise[4 * i + w] = noise_of(words[w][i]);
  }
}

WJ_CLONES float noise_of_word(std::uint32_t word) {
  return noise_of(word);
}

WJ_CLONES float log_of(float x) {
  return log_f32(x);
}

// --- Selection ------------------------------------------------------------------------------------------------------

// A row as the draw sees it: x = (logit - largest) / temperature, so the most likely token has x = 0.
struct Row {
  const float* logits = nullptr;
  std::int64_t vocab = 0;
  float max = 0, temperature = 1;
};

// What is left: x > lowest, and the first `ties` tokens with x == lowest.
struct Cut {
  float lowest = -kLargest;
  std::int64_t ties = std::numeric_limits<std::int64_t>::max();
};

WJ_CLONES void scale(const Row& row, float lowest, std::int64_t first, std::int64_t count, float* x) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float scaled = (finite_or_never(row.logits[first + i]) - row.max) / row.temperature;
    x[i] = scaled >= lowest ? scaled : kNever;
  }
}

// Masses are whole numbers, so that their sums have no order.
WJ_INLINE std::int32_t mass_of(float x) {
  return static_cast<std::int32_t>(exp_f32(x) * 0x1p30f + 0.5f);
}

WJ_CLONES void masses(const float* x, std::int32_t* mass) {
  for (int i = 0; i < kPiece; ++i) mass[i] = mass_of(x[i]);
}

WJ_CLONES std::int64_t mass_of_one(float x) {
  return mass_of(x);
}

// Calls visit(first id, x[kPiece]) over the row; what is cut off, and the padding of the last piece, is kNever.
template <class Visit>
void for_each_piece(const Row& row, Cut cut, Visit visit) {
  const bool limited = cut.ties < row.vocab;
  for (std::int64_t first = 0; first < row.vocab; first += kPiece) {
    const std::int64_t count = std::min<std::int64_t>(kPiece, row.vocab - first);
    float x[kPiece];
    scale(row, cut.lowest, first, count, x);
    std::fill(x + count, x + kPiece, kNever);
    for (std::int64_t i = 0; limited && i < count; ++i) {
      if (x[i] == cut.lowest && cut.ties-- <= 0) x[i] = kNever;
    }
    visit(first, x);
  }
}

enum class Weigh : std::uint8_t { tokens, masses };

// The sums of weights by the next bits of x, for tokens whose upper bits are `prefix`. x <= 0, so the bits of -x order
// the tokens from the most likely to the least.
constexpr int kBins = 2048;
void fill_bins(const Row& row, const Cut& cut, Weigh weigh, int shift, int bits, std::uint32_t prefix,
               std::int64_t* bins) {
  std::fill(bins, bins + kBins, 0);
  const std::uint32_t mask = (1u << bits) - 1;
  for_each_piece(row, cut, [&](std::int64_t, const float* x) {
    std::int32_t mass[kPiece];
    if (weigh == Weigh::masses) masses(x, mass);
    for (int i = 0; i < kPiece; ++i) {
      const std::uint32_t order = as_bits(0.0f - x[i]);
      if (x[i] == kNever || order >> (shift + bits) != prefix) continue;
      bins[order >> shift & mask] += weigh == Weigh::tokens ? 1 : mass[i];
    }
  });
}

// The smallest set of most likely tokens whose weight reaches `share` of the whole (masses) or `share` (tokens).
Cut cut_at(const Row& row, const Cut& cut, Weigh weigh, double share) {
  struct Level {
    int shift, bits;
  };
  constexpr Level kLevels[] = {{20, 11}, {10, 10}, {0, 10}};
  std::int64_t bins[kBins], above = 0, target = static_cast<std::int64_t>(share);
  std::uint32_t prefix = 0;
  for (const Level& level : kLevels) {
    fill_bins(row, cut, weigh, level.shift, level.bits, prefix, bins);
    if (level.shift == kLevels[0].shift) {
      const std::int64_t total = std::accumulate(bins, bins + kBins, std::int64_t{0});
      if (weigh == Weigh::tokens && total <= target) return cut;
      if (weigh == Weigh::masses) target = std::max<std::int64_t>(1, std::ceil(share * static_cast<double>(total)));
    }
    std::uint32_t bin = 0;  // some bin reaches the target, which is at most the sum of all
    while (above + bins[bin] < target) above += bins[bin++];
    prefix = prefix << level.bits | bin;
  }
  const float lowest = 0.0f - as_float(prefix);
  const std::int64_t each = weigh == Weigh::tokens ? 1 : mass_of_one(lowest);
  return {lowest, ceil_div(target - above, each)};
}

std::int32_t first_equal(const float* values, std::int64_t count, float value) {
  return static_cast<std::int32_t>(std::find(values, values + count, value) - values);
}

// argmax of x + noise; pieces that could not win with the largest noise draw none.
std::int32_t draw(const Row& row, const Cut& cut, std::uint64_t key, std::uint32_t position) {
  float best = kNever;
  std::int32_t token = -1;
  for_each_piece(row, cut, [&](std::int64_t first, const float* x) {
    if (largest(x, kPiece) + kLargestNoise <= best) return;
    float noisy[kPiece];
    draw_noise(key, position, first, noisy);
    for (int i = 0; i < kPiece; ++i) noisy[i] += x[i];
    const float top = largest(noisy, kPiece);
    if (top <= best) return;
    best = top;
    token = static_cast<std::int32_t>(first) + first_equal(noisy, kPiece, top);
  });
  return token;
}

std::int32_t select_row(const Select::Args& args, std::int64_t r, std::int32_t slot) {
  const SlotSampling& sampling = sampling_of(args.views, slot);
  const std::int64_t vocab = args.problem.vocab;
  const Row row = {.logits = args.logits.row<float>(r),
                   .vocab = vocab,
                   .max = largest(args.logits.row<float>(r), vocab),
                   .temperature = sampling.temperature};
  if (row.max == kNever) return kBrokenToken;
  if (row.temperature == 0.0f) return first_equal(row.logits, vocab, row.max);
  Cut cut;
  // p / p_max = e^x; subnormal floats have no logarithm here, and are no bound either.
  if (sampling.min_p > 0.0f) cut.lowest = log_of(std::max(sampling.min_p, std::numeric_limits<float>::min()));
  if (sampling.top_k > 0 && sampling.top_k < vocab) cut = cut_at(row, cut, Weigh::tokens, sampling.top_k);
  if (sampling.top_p < 1.0f) cut = cut_at(row, cut, Weigh::masses, sampling.top_p);
  return draw(row, cut, sampling.key, static_cast<std::uint32_t>(args.views.lengths.as<std::int32_t>()[slot]));
}

// --- Log-probabilities ----------------------------------------------------------------------------------------------

WJ_CLONES double sum_of_exponentials(const float* logits, std::int64_t count, float max) {
  double total = 0;
  for (std::int64_t first = 0; first < count; first += kPiece) {
    const std::int64_t piece = std::min<std::int64_t>(kPiece, count - first);
    float lanes[kLanes] = {};
    const std::int64_t whole = piece / kLanes * kLanes;
    for (std::int64_t i = 0; i < whole; i += kLanes) {
#pragma GCC unroll 1  // see kLanes
      for (int l = 0; l < kLanes; ++l) lanes[l] += exp_f32(finite_or_never(logits[first + i + l]) - max);
    }
    for (std::int64_t i = whole; i < piece; ++i) lanes[i - whole] += exp_f32(finite_or_never(logits[first + i]) - max);
    total += sum_lanes(lanes);
  }
  return total;
}

WJ_CLONES std::int64_t count_larger(const float* logits, std::int64_t count, float than) {
  std::int64_t larger = 0;
  for (std::int64_t i = 0; i < count; ++i) larger += finite_or_never(logits[i]) > than;
  return larger;
}

// The `count` > 0 most likely tokens in order. The output row itself is the heap, with the least likely token on top.
void most_likely(const float* logits, std::int64_t vocab, std::int32_t* tokens, std::int64_t count) {
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const float x = finite_or_never(logits[a]), y = finite_or_never(logits[b]);
    return x > y || (x == y && a < b);
  };
  for (std::int64_t i = 0; i < count; ++i) tokens[i] = static_cast<std::int32_t>(i);
  std::make_heap(tokens, tokens + count, before);
  for (std::int64_t first = count; first < vocab; first += kPiece) {
    const std::int64_t end = std::min<std::int64_t>(vocab, first + kPiece);
    if (largest(logits + first, end - first) <= finite_or_never(logits[tokens[0]]))
      continue;  // of equals, earlier ids stay
    for (std::int64_t i = first; i < end; ++i) {
      if (!before(static_cast<std::int32_t>(i), tokens[0])) continue;
      std::pop_heap(tokens, tokens + count, before);
      tokens[count - 1] = static_cast<std::int32_t>(i);
      std::push_heap(tokens, tokens + count, before);
    }
  }
  std::sort_heap(tokens, tokens + count, before);
}

void logprob_row(const Logprob::Args& args, std::int64_t r) {
  const Logprob::Problem& p = args.problem;
  const std::int32_t token = args.tokens.as<std::int32_t>()[r];
  if (token < 0) return;
  const float* logits = args.logits.row<float>(r);
  const float max = largest(logits, p.vocab);
  const float log_sum = static_cast<float>(std::log(sum_of_exponentials(logits, p.vocab, max)));
  const auto logprob = [&](std::int32_t id) {
    const float logit = finite_or_never(logits[id]);
    return logit == kNever ? kNever : logit - max - log_sum;
  };
  args.logprobs.as<float>()[r] = logprob(token);
  args.ranks.as<std::int32_t>()[r] =
      static_cast<std::int32_t>(1 + count_larger(logits, p.vocab, finite_or_never(logits[token])));
  if (p.top == 0) return;
  std::int32_t* top_tokens = args.top_tokens.row<std::int32_t>(r);
  most_likely(logits, p.vocab, top_tokens, p.top);
  for (std::int64_t i = 0; i < p.top; ++i) args.top_logprobs.row<float>(r)[i] = logprob(top_tokens[i]);
}

}  // namespace

bool supports(const Select::Problem& p) {
  return p.vocab > 0;
}
bool supports(const Logprob::Problem& p) {
  return p.vocab > 0 && p.top >= 0 && p.top <= p.vocab;
}

void launch(const Select::Args& args, Stream& stream) {
  for_each_row(stream, args.problem.rows, [&](std::int64_t r) {
    const std::int32_t slot = slot_at_work(args.slots, args.views, r);
    const std::int32_t token = slot < 0 ? kSurplusToken : select_row(args, r, slot);
    args.tokens.as<std::int32_t>()[r] = token;
    args.scored.as<std::int32_t>()[r] = token >= 0 && sampling_of(args.views, slot).logprobs >= 0 ? token : -1;
  });
}

void launch(const Logprob::Args& args, Stream& stream) {
  for_each_row(stream, args.problem.rows, [&](std::int64_t r) { logprob_row(args, r); });
}

}  // namespace warpjet::ref

namespace warpjet {

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint64_t key) {
  std::uint32_t words[4] = {counter[0], counter[1], counter[2], counter[3]};
  ref::philox_rounds(words, key);
  return {words[0], words[1], words[2], words[3]};
}

std::uint64_t random_key(std::uint64_t seed, std::uint32_t sample) {
  std::uint64_t z = seed + (sample + std::uint64_t{1}) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

float gumbel(std::uint64_t key, std::uint32_t position, std::uint32_t token) {
  return ref::noise_of_word(philox({token / 4, position, 0, 0}, key)[token % 4]);
}

Kernel<Select> Select::reference() {
  return {.name = "ref.select", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}
Kernel<Logprob> Logprob::reference() {
  return {.name = "ref.logprob", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}

}  // namespace warpjet
