// Sums and maxima over a warp or a block, in an order that depends on nothing but the number of threads: results do not
// change from run to run nor with the batch.
#pragma once

#include "cuda/ptx/math.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"

namespace warpjet {

// By butterflies: both partners of an exchange add the same two numbers, so all lanes end with the same bits.
WJ_DEVICE float warp_sum(float value) {
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) value += ptx::shuffle_xor(value, bits);
  return value;
}

// NaN only if every lane has one.
WJ_DEVICE float warp_max(float value) {
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) value = fmaxf(value, ptx::shuffle_xor(value, bits));
  return value;
}

// Scratch of a block-wide reduction; a second use needs a sync_threads() after the first.
template <int kThreads>
struct BlockScratch {
  static_assert(kThreads % kWarpSize == 0 && kThreads <= kWarpSize * kWarpSize,
                "one partial result a warp, one warp's worth");
  float partial[kThreads / kWarpSize];
};

// All threads of the block call and get the same bits.
template <int kThreads>
WJ_DEVICE float block_sum(float value, BlockScratch<kThreads>& scratch) {
  constexpr int kWarps = kThreads / kWarpSize;
  value = warp_sum(value);
  if constexpr (kWarps == 1) return value;
  if (ptx::lane_id() == 0) ptx::store_shared(&scratch.partial[ptx::warp_id()], value);
  ptx::sync_threads();
  return warp_sum(ptx::lane_id() < kWarps ? ptx::load_shared(&scratch.partial[ptx::lane_id()]) : 0.0f);
}

}  // namespace warpjet
