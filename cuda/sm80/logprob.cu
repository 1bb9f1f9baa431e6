// Log-probabilities of given tokens, their ranks, and the most likely tokens.
//   logits [rows, vocab]    f32        tokens, ranks [rows], top_tokens [rows, top]    i32
//   logprobs [rows], top_logprobs [rows, top]    f32
// Bound: bytes / HBM bandwidth; the second and third reading come from L2 as far as it reaches. Three grids, one block
// a piece of a row: the largest logit; sums, ranks and a histogram; and with `top`, the candidates, which the last
// piece of a row cuts and sorts. Sums run over a piece's threads and then over the pieces in one order, whatever the
// batch.
#include "cuda/reduce.cuh"
#include "cuda/sm80/row_cut.cuh"
#include "cuda/sm80/sampling.h"

namespace warpjet::sm80 {
namespace {

constexpr int kMaxTop = 1024;
constexpr float kLog2E = 0x1.715476p0f;
constexpr int kBinShift = 20;  // x <= 0, so -x has no sign bit

struct TokenHasWork {
  const std::int32_t* tokens;
  WJ_DEVICE bool operator()(int row) const { return ptx::load(tokens + row) >= 0; }
};

struct Reported {
  float* logprobs;
  std::int32_t* ranks;
  Rows<std::int32_t> top_tokens;
  Rows<float> top_logprobs;
};

struct LogprobSmem {
  CutSmem cut;
  BlockScratch<kThreads> sums;
  int counts[kThreads / kWarpSize];
  std::uint32_t num_sorted;
  float max, log_sum;
  alignas(8) std::uint64_t sorted[kMaxTop];  // key, then id
};

// --- Keys -----------------------------------------------------------------------------------------------------------

// Bits in the order of the floats, the largest first. Exact, unlike x = logit - max, of which the bins are made. Zeros
// are equal, whatever their sign: adding one makes -0 the other.
WJ_DEVICE std::uint32_t key_of(float logit) {
  const auto bits = bit_cast<std::uint32_t>(ptx::add(logit, 0.0f));
  return bits >> 31 != 0 ? bits : ~bits & 0x7fffffffu;
}
WJ_DEVICE float logit_of(std::uint32_t key) {
  return bit_cast<float>(key >> 31 != 0 ? key : ~key & 0x7fffffffu);
}
struct LogitKeys {  // for WholeRow
  WJ_DEVICE bool wanted(float) const { return true; }
  WJ_DEVICE std::uint32_t key(float logit) const { return key_of(logit); }
};

WJ_DEVICE std::uint32_t bin_of(float logit, float max) {
  const float below = logit == kNever ? -kNever : ptx::add(ptx::add(max, -logit), 0.0f);
  return bit_cast<std::uint32_t>(below) >> kBinShift;
}

WJ_DEVICE float logprob_of(float logit, float max, float log_sum) {
  return logit == kNever ? kNever : logit - max - log_sum;
}

// --- Sums -----------------------------------------------------------------------------------------------------------

WJ_DEVICE float share_largest(const RowSpace& space, LogprobSmem& shared) {
  if (ptx::warp_id() == 0) {
    const Best largest = best_of_pieces(space.maxima, space.places, ptx::grid_dim().x);
    if (ptx::lane_id() == 0) ptx::store_shared(&shared.max, largest.value);
  }
  ptx::sync_threads();
  return ptx::load_shared(&shared.max);
}

// Thread 0 gets the sum.
WJ_DEVICE int block_count(int value, LogprobSmem& shared) {
  value = ptx::reduce_add(value);
  if (ptx::lane_id() == 0) ptx::store_shared(&shared.counts[ptx::warp_id()], value);
  ptx::sync_threads();
  int sum = 0;
  for (int w = 0; w < kThreads / kWarpSize; ++w) sum += ptx::load_shared(&shared.counts[w]);
  return sum;
}

// The pieces' sums together, for warp 0 of the last piece.
WJ_DEVICE void report(const Reported& out, RowSpace& space, float logit, float max) {
  float sum = 0.0f;
  int larger = 0;
  for (int i = ptx::lane_id(); i < ptx::grid_dim().x; i += kWarpSize) {
    sum += ptx::load(&space.values[i]);
    larger += ptx::load(&space.tokens[i]);
  }
  sum = warp_sum(sum);
  larger = ptx::reduce_add(larger);
  if (ptx::lane_id() > 0) return;
  const int row = ptx::block_idx().y;
  const float log_sum = max == kNever ? 0.0f : log_f32(sum);
  ptx::store(&space.log_sum, log_sum);
  ptx::store(out.logprobs + row, logprob_of(logit, max, log_sum));
  ptx::store(out.ranks + row, 1 + larger);
}

__global__ void __launch_bounds__(kThreads) sum_pieces(Rows<const float> logits, const std::int32_t* tokens,
                                                       RowSpace* spaces, Reported out, int vocab, int top) {
  auto& shared = ptx::smem<LogprobSmem>();
  ptx::grid_wait();
  ptx::grid_launch_dependents();
  const int row = ptx::block_idx().y, piece = ptx::block_idx().x, token = ptx::load(tokens + row);
  if (token < 0) return;
  RowSpace& space = spaces[row];
  const float logit = finite_or_never(ptx::load(logits[row] + token)), max = share_largest(space, shared);
  clear_bins(shared.cut);
  float sum = 0.0f;
  int larger = 0;
  for (int g = 0; g < kGroups; ++g) {
    const Group group = load_group(logits[row], group_start(g), vocab, kNever);
    for (int i = 0; i < kGroup; ++i) {
      const float other = finite_or_never(group[i]);
      sum += other == kNever ? 0.0f : ptx::exp2((other - max) * kLog2E);
      larger += other > logit ? 1 : 0;
      if (top > 0 && group_start(g) + i < vocab) add_weight(shared.cut, bin_of(other, max), 1);
    }
  }
  sum = block_sum<kThreads>(sum, shared.sums);
  larger = block_count(larger, shared);
  if (ptx::thread_idx().x == 0) {
    ptx::store(&space.values[piece], sum);
    ptx::store(&space.tokens[piece], larger);
  }
  if (top > 0) give_bins(shared.cut, space);
  if (!is_last_piece(space, shared.cut)) return;
  if (ptx::warp_id() == 0) report(out, space, logit, max);
  if (top == 0) return;
  const OwnBins own = take_bins(space);
  const Sums sums = block_sums(sum_of(own), shared.cut);
  const Found found = find_bin(own, sums.before, static_cast<std::uint64_t>(top), shared.cut);
  if (ptx::thread_idx().x == 0) ptx::store(&space.last_bin, found.bin);
}

// --- The most likely ------------------------------------------------------------------------------------------------

// Bitonic, in place; `count` is a power of two.
WJ_DEVICE void sort(std::uint64_t* values, int count) {
  for (int run = 2; run <= count; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      for (int i = ptx::thread_idx().x; i < count / 2; i += kThreads) {
        const int low = i / distance * distance * 2 + i % distance, high = low + distance;
        const std::uint64_t a = ptx::load_shared(values + low), b = ptx::load_shared(values + high);
        if ((a > b) == ((low & run) == 0)) {
          ptx::store_shared(values + low, b);
          ptx::store_shared(values + high, a);
        }
      }
      ptx::sync_threads();
    }
  }
}

template <class Source>
WJ_DEVICE void list_top(const Source& source, int top, float max, float log_sum, const Reported& out,
                        LogprobSmem& shared) {
  const Cut cut = cut_at(shared.cut, source, Cut(), static_cast<std::uint64_t>(top), [](std::uint32_t) { return 1u; });
  int size = 1;
  while (size < top) size *= 2;
  for (int i = ptx::thread_idx().x; i < size; i += kThreads) ptx::store_shared(&shared.sorted[i], ~std::uint64_t{0});
  if (ptx::thread_idx().x == 0) ptx::store_shared(&shared.num_sorted, 0u);
  ptx::sync_threads();
  source.for_each([&](std::uint32_t key, std::int32_t id) {
    if (!cut.keeps(key, id)) return;
    const std::uint32_t place = ptx::atomic_add_shared(&shared.num_sorted, 1u);
    ptx::store_shared(&shared.sorted[place], std::uint64_t{key} << 32 | static_cast<std::uint32_t>(id));
  });
  ptx::sync_threads();
  sort(shared.sorted, size);
  const int row = ptx::block_idx().y;
  for (int i = ptx::thread_idx().x; i < top; i += kThreads) {
    const std::uint64_t entry = ptx::load_shared(&shared.sorted[i]);
    const float logit = logit_of(static_cast<std::uint32_t>(entry >> 32));
    ptx::store(out.top_tokens[row] + i, static_cast<std::int32_t>(static_cast<std::uint32_t>(entry)));
    ptx::store(out.top_logprobs[row] + i, logprob_of(logit, max, log_sum));
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    find_top(Rows<const float> logits, const std::int32_t* tokens, RowSpace* spaces, Reported out, int vocab, int top) {
  auto& shared = ptx::smem<LogprobSmem>();
  ptx::grid_wait();
  ptx::grid_launch_dependents();
  const int row = ptx::block_idx().y;
  if (ptx::load(tokens + row) < 0) return;
  RowSpace& space = spaces[row];
  const float max = share_largest(space, shared);
  const auto last_bin = static_cast<std::uint32_t>(ptx::load(&space.last_bin));
  for (int g = 0; g < kGroups; ++g) {
    const Group group = load_group(logits[row], group_start(g), vocab, kNever);
    for (int i = 0; i < kGroup; ++i) {
      const float logit = finite_or_never(group[i]);
      const int id = group_start(g) + i;
      gather(space, id < vocab && bin_of(logit, max) <= last_bin, key_of(logit), id);
    }
  }
  if (!is_last_piece(space, shared.cut)) return;
  const int count = ptx::load(&space.num_candidates);
  const float log_sum = ptx::load(&space.log_sum);
  if (count <= kMaxCandidates)
    list_top(Gathered{space.candidates, count}, top, max, log_sum, out, shared);
  else
    list_top(WholeRow<LogitKeys>{logits[row], vocab, {}}, top, max, log_sum, out, shared);
  if (ptx::thread_idx().x == 0) ptx::store(&space.num_candidates, 0);
}

}  // namespace

bool supports(const Logprob::Problem& p) {
  return fits(p.rows, p.vocab) && p.top >= 0 && p.top <= p.vocab && p.top <= kMaxTop;
}

std::int64_t workspace(const Logprob::Problem& p, const DeviceInfo&) {
  return row_spaces(p.rows);
}

void launch(const Logprob::Args& args, Stream& stream) {
  const Logprob::Problem& p = args.problem;
  const auto logits = rows_of<const float>(args.logits);
  const auto* tokens = args.tokens.as<const std::int32_t>();
  auto* spaces = args.workspace.as<RowSpace>();
  const Reported out = {.logprobs = args.logprobs.as<float>(),
                        .ranks = args.ranks.as<std::int32_t>(),
                        .top_tokens = rows_of<std::int32_t>(args.top_tokens),
                        .top_logprobs = rows_of<float>(args.top_logprobs)};
  const int vocab = static_cast<int>(p.vocab), top = static_cast<int>(p.top);
  warpjet::launch(find_largest<TokenHasWork>, one_block_a_piece(p.rows, p.vocab, sizeof(CutSmem)), stream, logits,
                  TokenHasWork{tokens}, spaces, vocab);
  const LaunchConfig config = one_block_a_piece(p.rows, p.vocab, sizeof(LogprobSmem));
  warpjet::launch(sum_pieces, config, stream, logits, tokens, spaces, out, vocab, top);
  if (top > 0) warpjet::launch(find_top, config, stream, logits, tokens, spaces, out, vocab, top);
}

}  // namespace warpjet::sm80
