// One token a row, by its slot's wishes.
//   logits [rows, vocab]    f32        slots, tokens, scored [rows]    i32; SlotViews as in ops/sampling.h
// Bound: bytes / HBM bandwidth; the second and third reading come from L2 as far as it reaches. Three grids, one block
// a piece of a row: the largest logit of each piece; then greedy rows are done, rows without top-k and top-p draw, and
// the others weigh their tokens; then these gather candidates, and the last piece of a row cuts and draws.
//
// Every token that can win gets the reference's score, bit for bit (cuda/number.cuh), and a maximum has no order: the
// token is the reference's, whatever the pieces and the neighbours.
#include "cuda/sm80/row_cut.cuh"
#include "cuda/sm80/sampling.h"

namespace warpjet::sm80 {
namespace {

constexpr float kLog2E = 0x1.715476p0f;

struct SlotHasWork {
  Slots slots;
  WJ_DEVICE bool operator()(int row) const { return slots.at_work(row) >= 0; }
};

struct SelectSmem {
  CutSmem cut;
  float max, bound;
  std::int32_t place;
};

// Where tokens go.
struct Drawn {
  std::int32_t *tokens, *scored;
  WJ_DEVICE void store(int row, std::int32_t token, bool wants_logprobs) const {
    ptx::store(tokens + row, token);
    ptx::store(scored + row, token >= 0 && wants_logprobs ? token : -1);
  }
};

// How a row is drawn. Tokens see x = (logit - max) / temperature, and those below `lowest` are out.
struct Drawing {
  float temperature, top_p, max, lowest;
  int top_k;  // 0: off
  std::uint32_t position;
  std::uint64_t noise_key;
  bool wants_logprobs;

  WJ_DEVICE Drawing(const Slots& slots, int slot, int vocab) {
    const SlotSampling* s = slots.sampling(slot);
    temperature = ptx::load(&s->temperature);
    top_p = ptx::load(&s->top_p);
    top_k = ptx::load(&s->top_k);
    top_k = top_k < vocab ? top_k : 0;
    const float min_p = ptx::load(&s->min_p);
    lowest = min_p > 0.0f ? log_f32(fmaxf(min_p, kSmallest)) : -kLargest;
    noise_key = ptx::load(&s->key);
    position = static_cast<std::uint32_t>(ptx::load(slots.lengths + slot));
    wants_logprobs = ptx::load(&s->logprobs) >= 0;
    max = kNever;
  }

  WJ_DEVICE bool cuts() const { return top_k > 0 || top_p < 1.0f; }
  WJ_DEVICE float x(float logit) const { return ptx::add(logit, -max) / temperature; }

  // For WholeRow: x <= 0, so the bits of -x order tokens from the most likely on.
  WJ_DEVICE bool wanted(float logit) const { return x(logit) >= lowest; }
  WJ_DEVICE std::uint32_t key_of(float scaled) const { return bit_cast<std::uint32_t>(ptx::add(0.0f, -scaled)); }
  WJ_DEVICE std::uint32_t key(float logit) const { return key_of(x(logit)); }
};

WJ_DEVICE float x_of_key(std::uint32_t key) {
  return -bit_cast<float>(key);
}

WJ_DEVICE std::uint32_t word_of(std::int32_t token, const Drawing& d) {
  const auto words = philox(static_cast<std::uint32_t>(token) / 4, d.position, d.noise_key);
  const std::uint32_t even = token % 4 < 2 ? words[0] : words[2], odd = token % 4 < 2 ? words[1] : words[3];
  return token % 2 == 0 ? even : odd;
}

// --- Rows that are not cut ------------------------------------------------------------------------------------------

// Four tokens. Most of them cannot win, which their words tell without a logarithm: x + noise(word) beats `best` only
// if (word + 0.5) / 2^32 < e^(x - best), but for rounding, which the margin covers many times.
WJ_DEVICE void draw_group(const Drawing& d, const Group& group, int first, Best& best) {
  constexpr float kMargin = 0.01f;
  const float scale = fminf(1.0f / d.temperature, kLargest);
  const auto words = philox(static_cast<std::uint32_t>(first) / 4, d.position, d.noise_key);
  unsigned promising = 0;
  WJ_UNROLL
  for (int i = 0; i < kGroup; ++i) {
    const float below = (finite_or_never(group[i]) - d.max) * scale;
    const float chance = ptx::exp2((below - (best.value - kMargin)) * kLog2E);
    if (static_cast<float>(words[i]) * 0x1p-32f < chance) promising |= 1u << i;
  }
  while (promising != 0) {
    int i = 0;
    while ((promising >> i & 1u) == 0) ++i;
    promising &= promising - 1;
    const float logit = i < 2 ? (i == 0 ? group[0] : group[1]) : (i == 2 ? group[2] : group[3]);
    const std::uint32_t word = i < 2 ? (i == 0 ? words[0] : words[1]) : (i == 2 ? words[2] : words[3]);
    const float x = d.x(logit);
    if (x >= d.lowest) best.take(ptx::add(x, noise_of(word)), first + i);
  }
}

WJ_DEVICE void draw_piece(const Drawing& d, const Group (&groups)[kGroups], Best best, const Drawn& out,
                          RowSpace& space, CutSmem& shared) {
  WJ_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    draw_group(d, groups[g], group_start(g), best);
    best = warp_best(best);  // a better bound for all
  }
  best = block_best(best, shared);
  const int piece = ptx::block_idx().x, row = ptx::block_idx().y;
  if (ptx::thread_idx().x == 0) {
    ptx::store(&space.values[piece], best.value);
    ptx::store(&space.tokens[piece], best.id);
  }
  if (!is_last_piece(space, shared) || ptx::warp_id() > 0) return;
  best = best_of_pieces(space.values, space.tokens, ptx::grid_dim().x);
  if (ptx::lane_id() == 0) out.store(row, best.id, d.wants_logprobs);
}

// --- Rows that are cut ----------------------------------------------------------------------------------------------

constexpr int kBinShift = 20;  // keys have no sign bit

WJ_DEVICE std::uint64_t share_of(float top_p, std::uint64_t total) {
  const double share = ceil(static_cast<double>(top_p) * static_cast<double>(total));
  return share < 1.0 ? 1 : static_cast<std::uint64_t>(share);
}

// The row's tokens by the upper bits of their keys; the last piece says what a cut must keep, and in which bin it ends.
WJ_DEVICE void weigh_piece(const Drawing& d, const Group (&groups)[kGroups], RowSpace& space, CutSmem& shared) {
  clear_bins(shared);
  WJ_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    for (int i = 0; i < kGroup; ++i) {
      const float x = d.x(finite_or_never(groups[g][i]));
      if (x >= d.lowest) add_weight(shared, d.key_of(x) >> kBinShift, d.top_k > 0 ? 1u : mass_of(x));
    }
  }
  ptx::sync_threads();
  give_bins(shared, space);
  if (!is_last_piece(space, shared)) return;
  const OwnBins own = take_bins(space);
  const Sums sums = block_sums(sum_of(own), shared);
  const auto k = static_cast<std::uint64_t>(d.top_k);
  const std::uint64_t target = d.top_k == 0 ? share_of(d.top_p, sums.total) : k < sums.total ? k : sums.total;
  const Found found = find_bin(own, sums.before, target, shared);
  if (ptx::thread_idx().x > 0) return;
  ptx::store(&space.target, target);
  ptx::store(&space.last_bin, found.bin);
}

template <class Source>
WJ_DEVICE Best cut_and_draw(const Drawing& d, const Source& source, std::uint64_t target, CutSmem& shared) {
  const auto mass = [](std::uint32_t key) { return mass_of(x_of_key(key)); };
  Cut cut;
  if (d.top_k > 0) cut = cut_at(shared, source, cut, target, [](std::uint32_t) { return 1u; });
  if (d.top_k > 0 && d.top_p < 1.0f) {
    std::uint64_t own = 0;
    source.for_each([&](std::uint32_t key, std::int32_t id) { own += cut.keeps(key, id) ? mass(key) : 0; });
    target = share_of(d.top_p, block_sums(own, shared).total);
  }
  if (d.top_p < 1.0f) cut = cut_at(shared, source, cut, target, mass);
  Best best;
  source.for_each([&](std::uint32_t key, std::int32_t id) {
    if (cut.keeps(key, id)) best.take(ptx::add(x_of_key(key), noise_of(word_of(id, d))), id);
  });
  return block_best(best, shared);
}

// --- Kernels --------------------------------------------------------------------------------------------------------

// The largest logit, and with it what the draw must beat: the noise of the most likely token.
WJ_DEVICE Best share_largest(const RowSpace& space, const Drawing& d, SelectSmem& shared) {
  if (ptx::warp_id() == 0) {
    const Best largest = best_of_pieces(space.maxima, space.places, ptx::grid_dim().x);
    if (ptx::lane_id() == 0) {
      ptx::store_shared(&shared.max, largest.value);
      ptx::store_shared(&shared.place, largest.id);
      ptx::store_shared(&shared.bound, noise_of(word_of(largest.id, d)));
    }
  }
  ptx::sync_threads();
  return {ptx::load_shared(&shared.max), ptx::load_shared(&shared.place)};
}

__global__ void __launch_bounds__(kThreads)
    draw_or_weigh(Rows<const float> logits, Slots slots, RowSpace* spaces, Drawn out, int vocab) {
  auto& shared = ptx::smem<SelectSmem>();
  ptx::grid_wait();
  ptx::grid_launch_dependents();
  const int row = ptx::block_idx().y, slot = slots.at_work(row);
  const bool first = ptx::block_idx().x == 0 && ptx::thread_idx().x == 0;
  if (slot < 0) {
    if (first) out.store(row, kSurplusToken, false);
    return;
  }
  Drawing d(slots, slot, vocab);
  RowSpace& space = spaces[row];
  Group groups[kGroups];
  WJ_UNROLL
  for (int g = 0; g < kGroups; ++g) groups[g] = load_group(logits[row], group_start(g), vocab, kNever);
  const Best largest = share_largest(space, d, shared);
  d.max = largest.value;
  if (d.max == kNever || d.temperature == 0.0f) {
    if (first) out.store(row, d.max == kNever ? kBrokenToken : largest.id, d.wants_logprobs);
  } else if (d.cuts()) {
    weigh_piece(d, groups, space, shared.cut);
  } else {
    draw_piece(d, groups, {ptx::load_shared(&shared.bound), largest.id}, out, space, shared.cut);
  }
}

// Without the second bound the compiler aims at 64 registers, and spills.
__global__ void __launch_bounds__(kThreads, 2)
    cut_rows(Rows<const float> logits, Slots slots, RowSpace* spaces, Drawn out, int vocab) {
  auto& shared = ptx::smem<SelectSmem>();
  ptx::grid_wait();
  ptx::grid_launch_dependents();
  const int row = ptx::block_idx().y, slot = slots.at_work(row);
  if (slot < 0) return;
  Drawing d(slots, slot, vocab);
  if (d.temperature == 0.0f || !d.cuts()) return;
  RowSpace& space = spaces[row];
  d.max = share_largest(space, d, shared).value;
  if (d.max == kNever) return;

  const auto last_bin = static_cast<std::uint32_t>(ptx::load(&space.last_bin));
  for (int g = 0; g < kGroups; ++g) {
    const Group group = load_group(logits[row], group_start(g), vocab, kNever);
    for (int i = 0; i < kGroup; ++i) {
      const float x = d.x(finite_or_never(group[i]));
      const std::uint32_t key = d.key_of(x);
      gather(space, x >= d.lowest && key >> kBinShift <= last_bin, key, group_start(g) + i);
    }
  }
  if (!is_last_piece(space, shared.cut)) return;
  const int count = ptx::load(&space.num_candidates);
  const std::uint64_t target = ptx::load(&space.target);
  const Best best = count <= kMaxCandidates
                        ? cut_and_draw(d, Gathered{space.candidates, count}, target, shared.cut)
                        : cut_and_draw(d, WholeRow<Drawing>{logits[row], vocab, d}, target, shared.cut);
  if (ptx::thread_idx().x > 0) return;
  out.store(row, best.id, d.wants_logprobs);
  ptx::store(&space.num_candidates, 0);
}

}  // namespace

bool supports(const Select::Problem& p) {
  return fits(p.rows, p.vocab);
}

std::int64_t workspace(const Select::Problem& p, const DeviceInfo&) {
  return row_spaces(p.rows);
}

void launch(const Select::Args& args, Stream& stream) {
  const Select::Problem& p = args.problem;
  const auto logits = rows_of<const float>(args.logits);
  const Slots slots = slots_of(args.slots, args.views);
  const Drawn out = {args.tokens.as<std::int32_t>(), args.scored.as<std::int32_t>()};
  auto* spaces = args.workspace.as<RowSpace>();
  const int vocab = static_cast<int>(p.vocab);
  warpjet::launch(find_largest<SlotHasWork>, one_block_a_piece(p.rows, p.vocab, sizeof(CutSmem)), stream, logits,
                  SlotHasWork{slots}, spaces, vocab);
  const LaunchConfig config = one_block_a_piece(p.rows, p.vocab, sizeof(SelectSmem));
  warpjet::launch(draw_or_weigh, config, stream, logits, slots, spaces, out, vocab);
  warpjet::launch(cut_rows, config, stream, logits, slots, spaces, out, vocab);
}

}  // namespace warpjet::sm80
