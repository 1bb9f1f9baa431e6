// How the most likely tokens of a row are found: the largest logit, piece by piece; a histogram over the row that says
// below which bin nobody can be among them; the candidates above it; and the exact cut among those, by a descent
// through the bits of their keys. Weights are whole numbers, so that no sum depends on who adds first.
#pragma once

#include "cuda/number.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/sm80/slots.cuh"

namespace warpjet::sm80 {

constexpr int kBins = 2048;           // of 11 bits
constexpr int kMaxCandidates = 4096;  // more: the cut reads the whole row instead
constexpr int kBinsOfAThread = kBins / kThreads;

// What the pieces of one row tell each other, in the workspace.
struct RowSpace {
  alignas(kVectorBytes) std::uint64_t weights[kBins];  // zero between ops, as the two counters
  int arrived, num_candidates;
  int last_bin;          // that holds candidates
  float log_sum;         // Logprob's
  std::uint64_t target;  // Select's: the weight that the first cut keeps
  // Of the pieces: their largest logits and whose they are; then what the op makes of them.
  float maxima[kMaxPieces], values[kMaxPieces];
  std::int32_t places[kMaxPieces], tokens[kMaxPieces];
  Vec<std::uint32_t, 2> candidates[kMaxCandidates];  // key, id: lower keys are more likely, of equals lower ids
};

inline std::int64_t row_spaces(std::int64_t rows) {
  return rows * std::int64_t{sizeof(RowSpace)};
}

struct CutSmem {
  alignas(kVectorBytes) std::uint32_t low[kBins], high[kBins];  // of weights
  std::uint64_t warp_totals[kThreads / kWarpSize];
  std::uint64_t above, weight;
  int bin, last;
  float values[kThreads / kWarpSize];
  std::int32_t ids[kThreads / kWarpSize];
};

// --- The best of many -----------------------------------------------------------------------------------------------

struct Best {
  float value = kNever;
  std::int32_t id = 0x7fffffff;

  WJ_DEVICE void take(float other, std::int32_t other_id) {
    const bool better = other > value || (other == value && other_id < id);
    value = better ? other : value;
    id = better ? other_id : id;
  }
};

WJ_DEVICE Best warp_best(Best best) {
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2)
    best.take(ptx::shuffle_xor(best.value, bits), ptx::shuffle_xor(best.id, bits));
  return best;
}

// Of the block, for warp 0. The scratch is free again after the next barrier.
WJ_DEVICE Best block_best(Best best, CutSmem& shared) {
  best = warp_best(best);
  if (ptx::lane_id() == 0) {
    ptx::store_shared(&shared.values[ptx::warp_id()], best.value);
    ptx::store_shared(&shared.ids[ptx::warp_id()], best.id);
  }
  ptx::sync_threads();
  best = Best();
  if (ptx::thread_idx().x < kThreads / kWarpSize) {
    best.value = ptx::load_shared(&shared.values[ptx::lane_id()]);
    best.id = ptx::load_shared(&shared.ids[ptx::lane_id()]);
  }
  return warp_best(best);
}

// Of what all pieces of a row reported, in every lane of the warp that calls.
WJ_DEVICE Best best_of_pieces(const float* values, const std::int32_t* ids, int pieces) {
  Best best;
  for (int i = ptx::lane_id(); i < pieces; i += kWarpSize) best.take(ptx::load(values + i), ptx::load(ids + i));
  return warp_best(best);
}

// Whether this block is the last of its row's to come here; it sees what the others wrote before.
WJ_DEVICE bool is_last_piece(RowSpace& space, CutSmem& shared) {
  ptx::sync_threads();
  if (ptx::thread_idx().x == 0) {
    const bool last = ptx::atomic_add(&space.arrived, 1) == ptx::grid_dim().x - 1;
    if (last) ptx::store(&space.arrived, 0);
    ptx::store_shared(&shared.last, last ? 1 : 0);
  }
  ptx::sync_threads();
  return ptx::load_shared(&shared.last) != 0;
}

// The largest finite logit of each piece, lowest id first. HasWork: whether row r needs it.
template <class HasWork>
__global__ void __launch_bounds__(kThreads)
    find_largest(Rows<const float> logits, HasWork has_work, RowSpace* spaces, int vocab) {
  auto& shared = ptx::smem<CutSmem>();
  ptx::grid_wait();
  ptx::grid_launch_dependents();
  const int row = ptx::block_idx().y;
  if (!has_work(row)) return;
  Group groups[kGroups];
  WJ_UNROLL
  for (int g = 0; g < kGroups; ++g) groups[g] = load_group(logits[row], group_start(g), vocab, kNever);
  Best best;
  WJ_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    for (int i = 0; i < kGroup; ++i) best.take(finite_or_never(groups[g][i]), group_start(g) + i);
  }
  best = block_best(best, shared);
  if (ptx::thread_idx().x > 0) return;
  ptx::store(&spaces[row].maxima[ptx::block_idx().x], best.value);
  ptx::store(&spaces[row].places[ptx::block_idx().x], best.id);
}

// --- Histograms -----------------------------------------------------------------------------------------------------

WJ_DEVICE void clear_bins(CutSmem& shared) {
  for (int i = ptx::thread_idx().x; i < kBins; i += kThreads) {
    ptx::store_shared(&shared.low[i], 0u);
    ptx::store_shared(&shared.high[i], 0u);
  }
  ptx::sync_threads();
}

WJ_DEVICE void add_weight(CutSmem& shared, std::uint32_t bin, std::uint32_t weight) {
  if (weight == 0) return;
  const std::uint32_t old = ptx::atomic_add_shared(&shared.low[bin], weight);
  if (old + weight < old) ptx::atomic_add_shared(&shared.high[bin], 1u);
}

// Every thread's own bins, neighbours. After a barrier.
struct OwnBins {
  std::uint64_t weight[kBinsOfAThread];
};

WJ_DEVICE OwnBins own_bins(const CutSmem& shared) {
  using Words = Vec<std::uint32_t, 4>;
  OwnBins own;
  const int first = ptx::thread_idx().x * kBinsOfAThread;
  WJ_UNROLL
  for (int i = 0; i < kBinsOfAThread; i += 4) {
    const auto low = ptx::load_shared(reinterpret_cast<const Words*>(&shared.low[first + i]));
    const auto high = ptx::load_shared(reinterpret_cast<const Words*>(&shared.high[first + i]));
    for (int j = 0; j < 4; ++j) own.weight[i + j] = std::uint64_t{high[j]} << 32 | low[j];
  }
  return own;
}

// A row's bins, which become zero again.
WJ_DEVICE OwnBins take_bins(RowSpace& space) {
  using Pair = Vec<std::uint64_t, 2>;
  OwnBins own;
  auto* pairs = reinterpret_cast<Pair*>(space.weights + ptx::thread_idx().x * kBinsOfAThread);
  WJ_UNROLL
  for (int i = 0; i < kBinsOfAThread; i += 2) {
    const Pair pair = ptx::load(pairs + i / 2);
    own.weight[i] = pair[0];
    own.weight[i + 1] = pair[1];
    ptx::store(pairs + i / 2, Pair{0, 0});
  }
  return own;
}

// Adds the block's bins to its row's.
WJ_DEVICE void give_bins(const CutSmem& shared, RowSpace& space) {
  for (int i = ptx::thread_idx().x; i < kBins; i += kThreads) {
    const std::uint64_t high = ptx::load_shared(&shared.high[i]);
    const std::uint64_t weight = high << 32 | ptx::load_shared(&shared.low[i]);
    if (weight > 0) ptx::atomic_add(&space.weights[i], weight);
  }
}

WJ_DEVICE std::uint64_t shuffle_up(std::uint64_t value, int delta) {
  const std::uint32_t low = ptx::shuffle_up(static_cast<std::uint32_t>(value), delta);
  const std::uint32_t high = ptx::shuffle_up(static_cast<std::uint32_t>(value >> 32), delta);
  return std::uint64_t{high} << 32 | low;
}

// Sums over the block's threads: of those before this one, and of all.
struct Sums {
  std::uint64_t before, total;
};
WJ_DEVICE Sums block_sums(std::uint64_t value, CutSmem& shared) {
  std::uint64_t sum = value;
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const std::uint64_t other = shuffle_up(sum, delta);
    if (ptx::lane_id() >= delta) sum += other;
  }
  ptx::sync_threads();  // the scratch may be in use
  if (ptx::lane_id() == kWarpSize - 1) ptx::store_shared(&shared.warp_totals[ptx::warp_id()], sum);
  ptx::sync_threads();
  Sums sums = {sum - value, 0};
  for (int w = 0; w < kThreads / kWarpSize; ++w) {
    const std::uint64_t warp = ptx::load_shared(&shared.warp_totals[w]);
    if (w < ptx::warp_id()) sums.before += warp;
    sums.total += warp;
  }
  return sums;
}

WJ_DEVICE std::uint64_t sum_of(const OwnBins& own) {
  std::uint64_t sum = 0;
  for (int i = 0; i < kBinsOfAThread; ++i) sum += own.weight[i];
  return sum;
}

// The bin in which the weights, added from the first on, reach the target, which is from 1 to their sum.
struct Found {
  int bin;
  std::uint64_t above, weight;  // of the bins before, and of this one
};
WJ_DEVICE Found find_bin(const OwnBins& own, std::uint64_t before, std::uint64_t target, CutSmem& shared) {
  for (int i = 0; i < kBinsOfAThread; ++i) {
    if (before < target && before + own.weight[i] >= target) {
      ptx::store_shared(&shared.bin, ptx::thread_idx().x * kBinsOfAThread + i);
      ptx::store_shared(&shared.above, before);
      ptx::store_shared(&shared.weight, own.weight[i]);
    }
    before += own.weight[i];
  }
  ptx::sync_threads();
  return {ptx::load_shared(&shared.bin), ptx::load_shared(&shared.above), ptx::load_shared(&shared.weight)};
}

// --- Candidates -----------------------------------------------------------------------------------------------------

// For whole warps.
WJ_DEVICE void gather(RowSpace& space, bool wanted, std::uint32_t key, std::int32_t id) {
  const std::uint32_t lanes = ptx::ballot(wanted);
  if (lanes == 0) return;
  int first = 0;
  if (ptx::lane_id() == 0) first = ptx::atomic_add(&space.num_candidates, ptx::count_bits(lanes));
  const int place = ptx::shuffle(first, 0) + ptx::count_bits(lanes & ((1u << ptx::lane_id()) - 1));
  if (wanted && place < kMaxCandidates)
    ptx::store(&space.candidates[place], Vec<std::uint32_t, 2>{key, static_cast<std::uint32_t>(id)});
}

// Calls visit(key, id) for the candidates that were gathered.
struct Gathered {
  const Vec<std::uint32_t, 2>* candidates;
  int count;

  template <class Visit>
  WJ_DEVICE void for_each(Visit visit) const {
    for (int i = ptx::thread_idx().x; i < count; i += kThreads) {
      const auto candidate = ptx::load(candidates + i);
      visit(candidate[0], static_cast<std::int32_t>(candidate[1]));
    }
  }
};

// Calls visit(key, id) for all tokens of a row. Keyed: wanted(logit), key(logit).
template <class Keyed>
struct WholeRow {
  const float* logits;
  int vocab;
  Keyed keyed;

  template <class Visit>
  WJ_DEVICE void for_each(Visit visit) const {
    for (int first = ptx::thread_idx().x * kGroup; first < vocab; first += kThreads * kGroup) {
      const Group group = load_group(logits, first, vocab, kNever);
      for (int i = 0; i < kGroup; ++i) {
        const float logit = finite_or_never(group[i]);
        if (first + i < vocab && keyed.wanted(logit)) visit(keyed.key(logit), first + i);
      }
    }
  }
};

// --- Cuts -----------------------------------------------------------------------------------------------------------

// What is left: lower keys than this one's, and of equal keys the ids up to this.
struct Cut {
  std::uint32_t key = 0xffffffffu;
  std::int32_t id = 0x7fffffff;
  WJ_DEVICE bool keeps(std::uint32_t other, std::int32_t other_id) const {
    return other < key || (other == key && other_id <= id);
  }
};

// One level of a descent: the bin in which the weights reach the target. weigh(key, id, bin) returns a token's weight
// and sets its bin, if it has one.
template <class Source, class Weigh>
WJ_DEVICE Found descend(CutSmem& shared, const Source& source, std::uint64_t target, Weigh weigh) {
  clear_bins(shared);
  source.for_each([&](std::uint32_t key, std::int32_t id) {
    std::uint32_t bin = 0;
    const std::uint32_t weight = weigh(key, id, bin);
    add_weight(shared, bin, weight);
  });
  ptx::sync_threads();
  const OwnBins own = own_bins(shared);
  return find_bin(own, block_sums(sum_of(own), shared).before, target, shared);
}

// The first of those that `limit` keeps, in order, whose weights reach the target; these must suffice.
template <class Source, class Weight>
WJ_DEVICE Cut cut_at(CutSmem& shared, const Source& source, const Cut& limit, std::uint64_t target, Weight weight) {
  std::uint32_t prefix = 0;
  std::uint64_t tied = 0;
  for (int shift = 32; shift > 0;) {  // 11, 11 and 10 bits
    const int bits = shift > 10 ? 11 : 10, next = shift - bits;
    const Found found =
        descend(shared, source, target, [&](std::uint32_t key, std::int32_t id, std::uint32_t& bin) -> std::uint32_t {
          if (!limit.keeps(key, id) || static_cast<std::uint32_t>(std::uint64_t{key} >> shift) != prefix) return 0;
          bin = key >> next & ((1u << bits) - 1);
          return weight(key);
        });
    prefix = prefix << bits | static_cast<std::uint32_t>(found.bin);
    target -= found.above;
    tied = found.weight;
    shift = next;
  }
  const std::uint64_t each = weight(prefix), needed = (target + each - 1) / each;
  if (needed * each >= tied) return {prefix, prefix == limit.key ? limit.id : Cut().id};

  int id_prefix = 0;
  target = needed;
  for (int shift = 20; shift > 0; shift -= 10) {  // ids have no more bits
    const Found found =
        descend(shared, source, target, [&](std::uint32_t key, std::int32_t id, std::uint32_t& bin) -> std::uint32_t {
          if (key != prefix || !limit.keeps(key, id) || id >> shift != id_prefix) return 0;
          bin = static_cast<std::uint32_t>(id >> (shift - 10) & 1023);
          return 1;
        });
    id_prefix = id_prefix << 10 | found.bin;
    target -= found.above;
  }
  return {prefix, id_prefix};
}
static_assert(kMaxPieces * kPiece <= 1 << 20, "an id has 20 bits");

}  // namespace warpjet::sm80
