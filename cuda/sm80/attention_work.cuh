// The work of a paged attention launch: how sequences are cut into row tiles and items. Every block works it out for
// itself from the lengths in device memory, so a graph that was captured once serves any batch.
//
// A sequence's rows are (query, head of the group) pairs. Few of them are a narrow sequence: tiles of 16 rows, a warp
// an item. Many are a wide one: tiles of 64 rows, a block an item. An item has all splits of its tile and kv head, or,
// where that is more than an average warp has to do and the workspace has room, a single one: then the tile's state is
// put together by whoever finishes its last split.
#pragma once

#include "cuda/sm80/attention_tile.cuh"
#include "ops/attention.h"

namespace warpjet::sm80 {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kWideRows = kWarps * kWarpRows;

struct Lengths {
  const std::int32_t *query_starts, *context_lengths;
  int seqs;
  int group, kv_heads;
  int window;
};

inline Lengths lengths_of(const Attention::Args& args) {
  const Attention::Problem& p = args.problem;
  return {.query_starts = args.query_starts.as<std::int32_t>(),
          .context_lengths = args.context_lengths.as<std::int32_t>(),
          .seqs = static_cast<int>(p.seqs),
          .group = static_cast<int>(p.heads / p.kv_heads),
          .kv_heads = static_cast<int>(p.kv_heads),
          .window = static_cast<int>(p.window)};
}

inline Scoring scoring_of(const Attention::Problem& p) {
  if (p.softcap == 0.0f) return {p.scale * kLog2E, 0.0f};
  return {p.scale / p.softcap, p.softcap * kLog2E};
}

WJ_DEVICE int divide_up(int a, int b) {
  return (a + b - 1) / b;
}

// Splits [begin, end) that a range of queries has something to see in; at least one, which may turn out empty.
struct Splits {
  int begin, end;
  WJ_DEVICE int count() const { return end - begin; }
};

// The keys that the queries at positions [first, last] see.
struct Keys {
  int begin, end;
  WJ_DEVICE Splits splits() const {
    const int first = begin / kSplitKeys, last = divide_up(end, kSplitKeys);
    return {first, last > first ? last : first + 1};
  }
};
WJ_DEVICE Keys seen_by(int first, int last, int window) {
  const int begin = window > 0 && first - window + 1 > 0 ? first - window + 1 : 0;
  return {begin, last + 1 > begin ? last + 1 : begin};
}

struct Sequence {
  int first_token, first_position;
  int rows;    // of a kv head
  Splits all;  // of all its queries

  WJ_DEVICE bool is_wide() const { return rows > kWarpRows; }
  WJ_DEVICE int tile_rows() const { return is_wide() ? kWideRows : kWarpRows; }
  WJ_DEVICE int tiles() const { return divide_up(rows, tile_rows()); }
  // Rows of the workspace that a warp's part of one split takes.
  WJ_DEVICE int part_rows() const { return rows < kWarpRows ? rows : kWarpRows; }
};

WJ_DEVICE Sequence sequence(const Lengths& lengths, int seq) {
  const int start = ptx::load(lengths.query_starts + seq), stop = ptx::load(lengths.query_starts + seq + 1);
  const int context = ptx::load(lengths.context_lengths + seq), first = context - (stop - start);
  return {.first_token = start,
          .first_position = first,
          .rows = (stop - start) * lengths.group,
          .all = seen_by(first, context - 1, lengths.window).splits()};
}

// --- The plan -------------------------------------------------------------------------------------------------------

struct Plan {
  int blocks;  // of the grid
  int run;     // sequences of a thread
  int narrow, wide;
  int most_splits;  // of an item: more are cut
  int capacity;     // rows of partial states in the workspace
};

struct alignas(16) Item {
  int number;
  int seq, kv_head;
  int first_row;   // of its tile
  int split;       // its only one; -1 if it has all of the tile's
  int part;        // if cut, the row of the workspace where the warp's first row tile keeps the sequence's first split
  Splits of_tile;  // if cut, the item's may not be among them
  Keys keys;       // that its rows see
  Sequence shape;
};

// In shared memory, because registers are short: the plan, and the item of each warp. `before` are totals up to the
// first sequence of each thread's run of neighbours.
struct Work {
  Plan plan;
  Item items[kWarps];
  int narrow_before[kThreads], wide_before[kThreads], rows_before[kThreads];
  int sums[3][kWarps];
  float loads[kWarps];
};

// Rows of the workspace that a sequence wants: none if its items are not worth cutting or could never fit.
WJ_DEVICE int wanted_rows(const Lengths& lengths, const Sequence& seq, const Plan& plan) {
  if (seq.all.count() <= plan.most_splits) return 0;
  const std::int64_t rows =
      std::int64_t{divide_up(seq.rows, kWarpRows)} * seq.part_rows() * lengths.kv_heads * seq.all.count();
  return rows <= plan.capacity ? static_cast<int>(rows) : 0;
}

WJ_DEVICE int items_of(const Lengths& lengths, const Sequence& seq, bool cut) {
  return seq.tiles() * lengths.kv_heads * (cut ? seq.all.count() : 1);
}

// The sum over the threads before this one; `total` is that of all. One use of `sums` between barriers.
WJ_DEVICE int sum_before(int value, int (&sums)[kWarps], int& total) {
  int inclusive = value;
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const int below = ptx::shuffle_up(inclusive, delta);
    if (ptx::lane_id() >= delta) inclusive += below;
  }
  if (ptx::lane_id() == kWarpSize - 1) ptx::store_shared(&sums[ptx::warp_id()], inclusive);
  ptx::sync_threads();
  int before = inclusive - value;
  total = 0;
  for (int warp = 0; warp < kWarps; ++warp) {
    const int sum = ptx::load_shared(&sums[warp]);
    if (warp < ptx::warp_id()) before += sum;
    total += sum;
  }
  return before;
}

// Calls function(sequence) for each of this thread's run that has rows.
template <class Function>
WJ_DEVICE void for_each_of_run(const Lengths& lengths, int run, Function function) {
  const int first = ptx::thread_idx().x * run;
  for (int seq = first; seq < first + run && seq < lengths.seqs; ++seq) {
    const Sequence s = sequence(lengths, seq);
    if (s.rows > 0) function(s);
  }
}

// All threads of the block call; the plan is then there for all.
WJ_DEVICE void make_plan(const Lengths& lengths, int capacity, Work& work) {
  Plan plan = {.blocks = ptx::grid_dim().x, .run = divide_up(lengths.seqs, kThreads), .capacity = capacity};
  float load = 0.0f;  // splits, as warps see them
  for_each_of_run(lengths, plan.run, [&](const Sequence& seq) {
    const float items = static_cast<float>(items_of(lengths, seq, false)) * (seq.is_wide() ? kWarps : 1);
    load += items * static_cast<float>(seq.all.count());
  });
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) load += ptx::shuffle_xor(load, bits);
  if (ptx::lane_id() == 0) ptx::store_shared(&work.loads[ptx::warp_id()], load);
  ptx::sync_threads();
  load = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) load += ptx::load_shared(&work.loads[warp]);
  const float average = load / static_cast<float>(kWarps * plan.blocks);
  plan.most_splits = average > 1.0f ? static_cast<int>(fminf(average, 1e9f)) : 1;

  int wanted = 0, total;
  for_each_of_run(lengths, plan.run, [&](const Sequence& seq) { wanted += wanted_rows(lengths, seq, plan); });
  const int rows_before = sum_before(wanted, work.sums[0], total);
  int rows = rows_before, narrow = 0, wide = 0;
  for_each_of_run(lengths, plan.run, [&](const Sequence& seq) {
    const int want = wanted_rows(lengths, seq, plan);
    const int items = items_of(lengths, seq, want > 0 && rows + want <= capacity);
    (seq.is_wide() ? wide : narrow) += items;
    rows += want;
  });
  const int thread = ptx::thread_idx().x;
  ptx::store_shared(&work.rows_before[thread], rows_before);
  ptx::store_shared(&work.narrow_before[thread], sum_before(narrow, work.sums[1], plan.narrow));
  ptx::store_shared(&work.wide_before[thread], sum_before(wide, work.sums[2], plan.wide));
  if (thread == 0) {
    ptx::store_shared(&work.plan.blocks, plan.blocks);
    ptx::store_shared(&work.plan.run, plan.run);
    ptx::store_shared(&work.plan.narrow, plan.narrow);
    ptx::store_shared(&work.plan.wide, plan.wide);
    ptx::store_shared(&work.plan.most_splits, plan.most_splits);
    ptx::store_shared(&work.plan.capacity, plan.capacity);
  }
  ptx::sync_threads();
}

// --- Items ----------------------------------------------------------------------------------------------------------

// The item of this number, of the wide ones or of the narrow ones. All lanes of a warp call.
WJ_DEVICE Item look_up(const Lengths& lengths, const Work& work, bool wide, int number) {
  Plan plan;
  plan.run = ptx::load_shared(&work.plan.run);
  plan.most_splits = ptx::load_shared(&work.plan.most_splits);
  plan.capacity = ptx::load_shared(&work.plan.capacity);
  const int(&before)[kThreads] = wide ? work.wide_before : work.narrow_before;
  int up_to = 0;
  for (int i = 0; i < kThreads; i += kWarpSize) up_to += ptx::load_shared(&before[i + own_lane()]) <= number;
  const int run = ptx::reduce_add(up_to) - 1;
  int left = number - ptx::load_shared(&before[run]), rows = ptx::load_shared(&work.rows_before[run]);
  for (int seq = run * plan.run;; ++seq) {
    const Sequence s = sequence(lengths, seq);
    if (s.rows == 0) continue;
    const int want = wanted_rows(lengths, s, plan);
    const bool cut = want > 0 && rows + want <= plan.capacity;
    const int items = s.is_wide() == wide ? items_of(lengths, s, cut) : 0;
    if (left < items) {
      const int splits = cut ? s.all.count() : 1, split = s.all.begin + left % splits;
      const int tile = left / splits / lengths.kv_heads, kv_head = left / splits % lengths.kv_heads;
      const int first_row = tile * s.tile_rows(), end_row = first_row + s.tile_rows();
      Keys keys =
          seen_by(s.first_position + first_row / lengths.group,
                  s.first_position + ((end_row < s.rows ? end_row : s.rows) - 1) / lengths.group, lengths.window);
      const Splits of_tile = keys.splits();
      if (cut) {
        if (keys.begin < split * kSplitKeys) keys.begin = split * kSplitKeys;
        if (keys.end > (split + 1) * kSplitKeys) keys.end = (split + 1) * kSplitKeys;
      }
      return {.number = number,
              .seq = seq,
              .kv_head = kv_head,
              .first_row = first_row,
              .split = cut ? split : -1,
              .part = rows + (first_row / kWarpRows * lengths.kv_heads + kv_head) * s.all.count() * s.part_rows(),
              .of_tile = of_tile,
              .keys = keys,
              .shape = s};
    }
    left -= items;
    rows += want;
  }
}

// The same, in shared memory: the warp's own until it asks for the next.
WJ_DEVICE const Item& find_item(const Lengths& lengths, Work& work, bool wide, int number) {
  constexpr int kPieces = sizeof(Item) / kVectorBytes;
  struct Pieces {
    Vec<int, 4> v[kPieces];
  };
  const auto pieces = bit_cast<Pieces>(look_up(lengths, work, wide, number));
  Item& item = work.items[ptx::recomputed(ptx::warp_id())];
  ptx::sync_warp();
  if (ptx::lane_id() == 0) {
    WJ_UNROLL for (int i = 0; i < kPieces; ++i)
        ptx::store_shared(reinterpret_cast<Vec<int, 4>*>(&item) + i, pieces.v[i]);
  }
  ptx::sync_warp();
  return item;
}

}  // namespace warpjet::sm80
