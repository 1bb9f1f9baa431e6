// The arithmetic of paged attention on 16-bit types, a warp at a time.
//
// THE CONTRACT: a query's result depends on its own row and on the keys that it sees, to the bit; never on the batch,
// on the chunk that it arrives in, nor on how work is spread over warps and blocks.
//  - Keys are walked in tiles of kTileKeys at absolute multiples of kTileKeys. In a tile, scores are one chain of mma
//    along the head, values one chain along the keys, and softmax (online, in fp32 and log2 space) takes maxima, which
//    have no order, and sums in the order of attend_tile().
//  - Tiles belong to splits of kSplitKeys at absolute multiples of kSplitKeys. Every split starts from nothing and
//    yields the largest score, the sum of exponentials and the values weighted by them.
//  - Splits are joined strictly from left to right by join() and combine(), which no compiler may contract.
// So it does not matter who computes a split, nor where it waits until it is joined. Tiles and splits of which a row
// sees nothing leave its state as it is, bit for bit, so nor does it matter whether they are skipped.
//
// Probabilities are rounded to the type of the values before they meet them; their sum is not.
#pragma once

#include "cuda/ptx/math.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/sync.cuh"

namespace warpjet::sm80 {

constexpr int kTileKeys = 64;
constexpr int kSplitKeys = 256;
constexpr int kWarpRows = 16;   // an mma's: (query, head of the group) pairs of one kv head, queries outermost
constexpr int kChunkKeys = 16;  // an mma's k: what a page holds at least
constexpr int kChunks = kTileKeys / kChunkKeys;
constexpr int kUnit = 8;  // elements: 16 bytes, what copies and matrix loads move
constexpr float kLog2E = 1.44269504f;
constexpr float kHidden = -__builtin_huge_valf();  // the score of a key that is not seen

// How blocks of rows of kDim elements lie in shared memory: units are exchanged within lines of kPeriod pairs, so that
// the same unit of eight rows lies in eight different groups of four banks, and matrix loads do not conflict.
template <int kDim>
struct Swizzle {
  static constexpr int kUnits = kDim / kUnit;
  static_assert(kUnits % 4 == 0, "whole lines");
  static constexpr int kPeriod = kUnits % 8 == 0 ? 4 : 2;

  // The place of a unit in its row.
  static WJ_DEVICE int unit(int row, int unit) { return unit ^ (kPeriod == 4 ? row & 7 : row >> 1 & 3); }
  // Where a unit of a row starts, in elements.
  static WJ_DEVICE int offset(int row, int unit) { return row * kDim + Swizzle::unit(row, unit) * kUnit; }
  // Where the unit 2k to the right of one of the first two starts. The blocks' own start may be part of `offset`: it is
  // a multiple of a line. This is one instruction for what would otherwise be a register for every k.
  static WJ_DEVICE int step(int offset, int k) {
    return (offset ^ (2 * kUnit * (k % kPeriod))) + k / kPeriod * kPeriod * 2 * kUnit;
  }
};

// Registers are short: no loop shall keep what follows from the lane's number.
WJ_DEVICE int own_lane() {
  return ptx::recomputed(ptx::lane_id());
}

// A field of what is kept in shared memory for that reason.
template <class Field>
WJ_DEVICE Field at(const Field& field) {
  return ptx::load_shared(&field);
}

// --- What a warp knows of its rows ----------------------------------------------------------------------------------
// Lane l has part in rows l / 4 and l / 4 + 8, and there in columns 2 (l % 4) and the next of every eight: mma's d.

struct Stat {
  float max = kHidden, sum = 0.0f;
};

template <int kDim>
struct State {
  Stat rows[2];
  float values[kDim / 8][4];  // [0..1] of the first row, [2..3] of the second
};

template <int kDim>
WJ_DEVICE void clear(State<kDim>& state) {
  WJ_UNROLL for (Stat& row : state.rows) row = {};
  WJ_UNROLL for (auto& column : state.values) {
    WJ_UNROLL for (float& value : column) value = 0.0f;
  }
}

// What each side's sums and values are multiplied by when two splits become one.
struct Shares {
  float left, right;
};

// 2^x never sees -inf - -inf.
WJ_DEVICE float finite(float max) {
  return max == kHidden ? 0.0f : max;
}

WJ_DEVICE float combine(float left, float right, const Shares& shares) {
  return ptx::fma(right, shares.right, ptx::mul(left, shares.left));
}

// A side that saw nothing has no share, and the other keeps its bits.
WJ_DEVICE Shares join(Stat& left, const Stat& right) {
  const float max = fmaxf(left.max, right.max);
  const Shares shares = {ptx::exp2(left.max - finite(max)), ptx::exp2(right.max - finite(max))};
  left = {max, combine(left.sum, right.sum, shares)};
  return shares;
}

template <int kDim>
WJ_DEVICE void join(State<kDim>& left, const State<kDim>& right) {
  const Shares shares[2] = {join(left.rows[0], right.rows[0]), join(left.rows[1], right.rows[1])};
  WJ_UNROLL for (int n = 0; n < kDim / 8; ++n) {
    WJ_UNROLL for (int i = 0; i < 4; ++i) left.values[n][i] =
        combine(left.values[n][i], right.values[n][i], shares[i / 2]);
  }
}

// What the outputs of a row are, as a multiple of its values: one over the sum, to which a sink adds. 0 for a row
// that saw nothing.
WJ_DEVICE float normaliser(Stat row, const float* sink) {
  if (sink) {
    const Shares shares = join(row, {ptx::mul(ptx::load(sink), kLog2E), 1.0f});
    return ptx::mul(shares.left, ptx::reciprocal(row.sum));
  }
  return row.sum == 0.0f ? 0.0f : ptx::reciprocal(row.sum);
}

// --- One tile -------------------------------------------------------------------------------------------------------

// How products become scores in log2 space.
struct Scoring {
  float scale;    // times log2(e), if there is no cap
  float softcap;  // 0, or scores become softcap * tanh(scale * product); times log2(e) too
};

// Which keys a lane's two rows see: the window up to their position.
struct Visible {
  static constexpr int kBehindAll = 0x7ffffffe;
  int positions[2];
  int window;  // 0: all before
  WJ_DEVICE int begin(int r) const { return window > 0 ? positions[r] - window + 1 : 0; }
  WJ_DEVICE int end(int r) const { return positions[r] + 1; }
};

// Blocks 0 and 1 of eight keys: products of the queries with 16 keys, element after element.
template <class T, int kDim, class Queries>
WJ_DEVICE void multiply_keys(const Queries& queries, const T* memory, int keys, float (&first)[4], float (&second)[4]) {
  const int lane = own_lane(), offset = keys + Swizzle<kDim>::offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  WJ_UNROLL for (int k = 0; k < kDim / 16; ++k) {
    std::uint32_t b[4], a[4];
    ptx::load_matrix(b, memory + Swizzle<kDim>::step(offset, k));
    queries.fragment(k, a);
    const std::uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    ptx::mma<T>(first, a, low);
    ptx::mma<T>(second, a, high);
  }
}

// values += probabilities of 16 keys * their values.
template <class T, int kDim>
WJ_DEVICE void add_values(const std::uint32_t (&probabilities)[4], const T* memory, int values,
                          float (&sums)[kDim / 8][4]) {
  const int lane = own_lane(), offset = values + Swizzle<kDim>::offset(lane % 16, lane / 16);
  WJ_UNROLL for (int n = 0; n < kDim / 16; ++n) {
    std::uint32_t b[4];
    ptx::load_matrix<ptx::Matrix::transposed>(b, memory + Swizzle<kDim>::step(offset, n));
    const std::uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    ptx::mma<T>(sums[2 * n], probabilities, low);
    ptx::mma<T>(sums[2 * n + 1], probabilities, high);
  }
}

// tanh to fp32's accuracy near 1, and to 2^-24 near 0: what matters is the absolute error of a score.
WJ_DEVICE float capped(float product, const Scoring& scoring) {
  const float power = ptx::exp2(ptx::mul(ptx::mul(product, scoring.scale), 2 * kLog2E));
  return ptx::mul(scoring.softcap, ptx::fma(-2.0f, ptx::reciprocal(ptx::add(power, 1.0f)), 1.0f));
}

WJ_DEVICE float quad_max(float value) {
  value = fmaxf(value, ptx::shuffle_xor(value, 1));
  return fmaxf(value, ptx::shuffle_xor(value, 2));
}

// Over the four lanes of a row; all get the same bits.
WJ_DEVICE float quad_sum(float value) {
  value = ptx::add(value, ptx::shuffle_xor(value, 1));
  return ptx::add(value, ptx::shuffle_xor(value, 2));
}

// Scores of a tile become exponentials relative to the new maximum. Sums are a lane's own until the split ends.
template <int kDim>
WJ_DEVICE void soften(float (&scores)[kTileKeys / 8][4], float scale, State<kDim>& state) {
  WJ_UNROLL for (int r = 0; r < 2; ++r) {
    Stat& row = state.rows[r];
    float largest = kHidden;
    WJ_UNROLL for (int n = 0; n < kTileKeys / 8; ++n) largest =
        fmaxf(largest, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
    const float max = fmaxf(row.max, ptx::mul(quad_max(largest), scale)), shift = -finite(max);
    const float shrink = ptx::exp2(ptx::add(row.max, shift));
    float sum = 0.0f;
    WJ_UNROLL for (int n = 0; n < kTileKeys / 8; ++n) {
      WJ_UNROLL for (int i = 2 * r; i < 2 * r + 2; ++i) {
        scores[n][i] = ptx::exp2(ptx::fma(scores[n][i], scale, shift));
        sum = ptx::add(sum, scores[n][i]);
      }
    }
    row = {max, ptx::fma(row.sum, shrink, sum)};
    WJ_UNROLL for (int n = 0; n < kDim / 8; ++n) {
      WJ_UNROLL for (int i = 2 * r; i < 2 * r + 2; ++i) state.values[n][i] = ptx::mul(state.values[n][i], shrink);
    }
  }
}

// The tile of keys from `tile` on. feed.take(c) says where in its memory the keys' chunk c
// is, and when they are through the values'.
template <class T, int kDim, class Queries, class Feed>
WJ_DEVICE void attend_tile(const Queries& queries, Feed& feed, int tile, const Visible& visible, const Scoring& scoring,
                           State<kDim>& state) {
  float scores[kTileKeys / 8][4] = {};
  WJ_UNROLL for (int c = 0; c < kChunks; ++c)
      multiply_keys<T, kDim>(queries, feed.memory(), feed.take(c), scores[2 * c], scores[2 * c + 1]);
  if (scoring.softcap != 0.0f) {
    WJ_UNROLL for (auto& block : scores) {
      WJ_UNROLL for (float& score : block) score = capped(score, scoring);
    }
  }
  WJ_UNROLL for (int r = 0; r < 2; ++r) {
    if (tile >= visible.begin(r) && tile + kTileKeys <= visible.end(r)) continue;
    const int first = tile + own_lane() % 4 * 2;
    WJ_UNROLL for (int n = 0; n < kTileKeys / 8; ++n) {
      WJ_UNROLL for (int i = 0; i < 2; ++i) {
        const int key = first + 8 * n + i;
        if (key < visible.begin(r) || key >= visible.end(r)) scores[n][2 * r + i] = kHidden;
      }
    }
  }
  soften<kDim>(scores, scoring.softcap != 0.0f ? 1.0f : scoring.scale, state);
  std::uint32_t probabilities[kChunks][4];
  WJ_UNROLL for (int c = 0; c < kChunks; ++c) {
    WJ_UNROLL for (int i = 0; i < 4; ++i) {
      const auto& block = scores[2 * c + i / 2];
      probabilities[c][i] = ptx::pack<T>(block[2 * (i % 2)], block[2 * (i % 2) + 1]);
    }
  }
  WJ_UNROLL for (int c = 0; c < kChunks; ++c)
      add_values<T, kDim>(probabilities[c], feed.memory(), feed.take(c), state.values);
}

}  // namespace warpjet::sm80
