// What paged attention knows of rows beyond a tile: where their queries and outputs are, their states in memory, and
// how the states of splits are joined.
#pragma once

#include "cuda/sm80/attention_feed.cuh"
#include "cuda/sm80/attention_work.cuh"

namespace warpjet::sm80 {

template <class T>
struct AttentionArgs {
  const T *q, *k_cache, *v_cache;
  const std::int32_t *block_tables, *table_rows;
  const float* sinks;  // null: none
  T* out;
  std::int64_t q_stride, table_stride, out_stride;  // elements
  Pages pages;
  Lengths lengths;
  Scoring scoring;
  int* counters;  // [capacity], zero between launches
  float* parts;   // [capacity, kDim + kStatColumns]
  float* totals;  // [warps of the grid, kWarpRows, kDim + kStatColumns], for heads that are too long for registers
  int capacity;
};

constexpr int kStatColumns = 8;  // max and sum behind a row's values; a sector, so that values stay aligned to sectors

// A warp's 16 rows of an item, which are looked up again when they are needed: registers are short.
struct Rows {
  int first, end;         // of the sequence's rows
  int first_token, head;  // of row 0
  int group;
  WJ_DEVICE int count() const { return end - first < kWarpRows ? end - first : kWarpRows; }
  WJ_DEVICE int token(int row) const { return first_token + row / group; }
  WJ_DEVICE int head_of(int row) const { return head + row % group; }
};
WJ_DEVICE Rows rows_of(const Item& item, int warp_tile, int group) {
  return {.first = at(item.first_row) + warp_tile * kWarpRows,
          .end = at(item.shape.rows),
          .first_token = at(item.shape.first_token),
          .head = at(item.kv_head) * group,
          .group = group};
}

// --- States in memory -----------------------------------------------------------------------------------------------

// A lane's place in the first or second of its rows of a state.
template <int kDim>
WJ_DEVICE float* lane_values(float* rows, int lane, int r) {
  return rows + (lane / 4 + 8 * r) * (kDim + kStatColumns) + lane % 4 * 2;
}

template <int kDim>
WJ_DEVICE void store_state(const State<kDim>& state, float* rows, int count) {
  const int lane = own_lane();
  WJ_UNROLL for (int r = 0; r < 2; ++r) {
    if (lane / 4 + 8 * r >= count) continue;
    float* to = lane_values<kDim>(rows, lane, r);
    WJ_UNROLL for (int n = 0; n < kDim / 8; ++n)
        ptx::store(reinterpret_cast<Vec<float, 2>*>(to + 8 * n),
                   Vec<float, 2>{state.values[n][2 * r], state.values[n][2 * r + 1]});
    if (lane % 4 == 0)
      ptx::store(reinterpret_cast<Vec<float, 2>*>(to + kDim), Vec<float, 2>{state.rows[r].max, state.rows[r].sum});
  }
}

// state = what is stored, joined by state on its right.
template <int kDim>
WJ_DEVICE void join_stored(float* rows, int count, State<kDim>& state) {
  const int lane = own_lane();
  WJ_UNROLL for (int r = 0; r < 2; ++r) {
    if (lane / 4 + 8 * r >= count) continue;
    const float* from = lane_values<kDim>(rows, lane, r);
    const auto stored = ptx::load(reinterpret_cast<const Vec<float, 2>*>(from - lane % 4 * 2 + kDim));
    Stat left = {stored[0], stored[1]};
    const Shares shares = join(left, state.rows[r]);
    state.rows[r] = left;
    WJ_UNROLL for (int n = 0; n < kDim / 8; ++n) {
      const auto pair = ptx::load<ptx::Cache::once>(reinterpret_cast<const Vec<float, 2>*>(from + 8 * n));
      WJ_UNROLL for (int i = 0; i < 2; ++i) state.values[n][2 * r + i] =
          combine(pair[i], state.values[n][2 * r + i], shares);
    }
  }
}

// The splits of a row tile so far, from left to right. It has its own registers, or where heads are too long for that,
// memory of the warp.
template <int kDim>
class Total {
 public:
  static constexpr bool kInRegisters = kDim <= 96;

  WJ_DEVICE Total() {
    if constexpr (kInRegisters) clear(state_);
  }

  // `state` is the next split; after the last one it is the whole, after others nothing.
  WJ_DEVICE void add(State<kDim>& state, float* totals, int count, bool first, bool last) {
    if constexpr (kInRegisters) {
      join(state_, state);
      if (last) {
        state = state_;
      } else {
        clear(state);
      }
    } else {
      const int warp = ptx::recomputed(ptx::block_idx().x * kWarps + ptx::warp_id());
      float* memory = totals + std::int64_t{warp} * kWarpRows * (kDim + kStatColumns);
      if (!first) join_stored<kDim>(memory, count, state);
      if (!last) {
        ptx::sync_warp();  // four lanes read a row's statistics, one writes them
        store_state<kDim>(state, memory, count);
        clear(state);
      }
    }
  }

 private:
  struct Nothing {};
  std::conditional_t<kInRegisters, State<kDim>, Nothing> state_;
};

// --- Queries in, outputs out ----------------------------------------------------------------------------------------

// Starts the copies; rows that are not there and columns beyond the head become zeros.
template <class T, int kDim>
WJ_DEVICE void fetch_queries(const AttentionArgs<T>& args, const Rows& rows, T* to) {
  constexpr int kUnits = kDim / kUnit;
  const int lane = own_lane();
  WJ_UNROLL for (int n = 0; n < kWarpRows * kUnits / kWarpSize; ++n) {
    const int i = n * kWarpSize + lane, row = i / kUnits, unit = i % kUnits;
    const bool there = rows.first + row < rows.end && unit * kUnit < args.pages.head_dim;
    const T* from = args.q;
    if (there)
      from += rows.token(rows.first + row) * args.q_stride +
              std::int64_t{rows.head_of(rows.first + row)} * args.pages.head_dim + unit * kUnit;
    ptx::copy_async<16>(to + Swizzle<kDim>::offset(row, unit), from, there ? 16 : 0);
  }
  ptx::copy_commit();
}

// Adding zero makes -0 the 0 that it would be had more tiles been looked at.
WJ_DEVICE float output(float value, float scale) {
  return ptx::add(ptx::mul(value, scale), 0.0f);
}

template <class T, int kDim>
WJ_DEVICE void write_output(const AttentionArgs<T>& args, const Rows& rows, const State<kDim>& state) {
  const int lane = own_lane();
  WJ_UNROLL for (int r = 0; r < 2; ++r) {
    const int row = rows.first + lane / 4 + 8 * r;
    if (row >= rows.end) continue;
    const int head = rows.head_of(row);
    const float scale = normaliser(state.rows[r], args.sinks ? args.sinks + head : nullptr);
    T* to = args.out + rows.token(row) * args.out_stride + std::int64_t{head} * args.pages.head_dim;
    WJ_UNROLL for (int n = 0; n < kDim / 8; ++n) {
      const int column = 8 * n + lane % 4 * 2;
      const auto out = [&](int i) { return output(state.values[n][2 * r + i], scale); };
      if (column < args.pages.head_dim)
        ptx::store(reinterpret_cast<std::uint32_t*>(to + column), ptx::pack<T>(out(0), out(1)));
    }
  }
}

// The splits [begin, end) of one row become its output: a warp's work. place(split) is where the split's state of the
// row is. Maxima have no order, so the shares of 32 splits are found at once; sums and values are then joined from left
// to right as ever, from loads that do not wait for each other.
template <class T, int kDim, class Place>
WJ_DEVICE void merge_row(const AttentionArgs<T>& args, const Rows& rows, int row, int begin, int end, Place place) {
  constexpr int kVector = kVectorBytes / sizeof(float), kTurn = kWarpSize * kVector;
  constexpr int kTurns = (kDim + kTurn - 1) / kTurn, kAtOnce = 8 / kTurns;
  const int lane = own_lane();
  Stat total;
  Vec<float, kVector> values[kTurns] = {};
  for (int first = begin; first < end; first += kWarpSize) {
    Vec<float, 2> stat = {kHidden, 0.0f};
    if (first + lane < end) stat = ptx::load(reinterpret_cast<const Vec<float, 2>*>(place(first + lane) + kDim));
    float max = fmaxf(total.max, stat[0]);
    for (int delta = 1; delta < kWarpSize; delta *= 2) {
      const float before = ptx::shuffle_up(max, delta);
      if (lane >= delta) max = fmaxf(max, before);
    }
    float before = ptx::shuffle_up(max, 1);
    if (lane == 0) before = total.max;
    const Shares shares = {ptx::exp2(before - finite(max)), ptx::exp2(stat[0] - finite(max))};
    const int count = end - first < kWarpSize ? end - first : kWarpSize;
    for (int s = 0; s < count; s += kAtOnce) {
      Vec<float, kVector> parts[kAtOnce][kTurns] = {};
      WJ_UNROLL for (int i = 0; i < kAtOnce; ++i) {
        WJ_UNROLL for (int n = 0; n < kTurns; ++n) {
          const int column = n * kTurn + lane * kVector;
          if (s + i < count && column < kDim)
            parts[i][n] = ptx::load(reinterpret_cast<const Vec<float, kVector>*>(place(first + s + i) + column));
        }
      }
      WJ_UNROLL for (int i = 0; i < kAtOnce; ++i) {
        const int from = s + i < kWarpSize ? s + i : 0;
        const Shares share = {ptx::shuffle(shares.left, from), ptx::shuffle(shares.right, from)};
        const float sum = ptx::shuffle(stat[1], from);
        if (s + i >= count) continue;
        total.sum = combine(total.sum, sum, share);
        WJ_UNROLL for (int n = 0; n < kTurns; ++n) {
          WJ_UNROLL for (int j = 0; j < kVector; ++j) values[n][j] = combine(values[n][j], parts[i][n][j], share);
        }
      }
    }
    total.max = ptx::shuffle(max, kWarpSize - 1);
  }
  const int head = rows.head_of(row);
  const float scale = normaliser(total, args.sinks ? args.sinks + head : nullptr);
  T* to = args.out + rows.token(row) * args.out_stride + std::int64_t{head} * args.pages.head_dim;
  WJ_UNROLL for (int n = 0; n < kTurns; ++n) {
    const int column = n * kTurn + lane * kVector;
    const auto out = [&](int i) { return output(values[n][i], scale); };
    if (column < args.pages.head_dim)
      ptx::store(reinterpret_cast<Vec<std::uint32_t, 2>*>(to + column),
                 Vec<std::uint32_t, 2>{ptx::pack<T>(out(0), out(1)), ptx::pack<T>(out(2), out(3))});
  }
}

}  // namespace warpjet::sm80
