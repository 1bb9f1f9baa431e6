// How threads meet: block barriers, warp shuffles and votes, fences, dependent grids, counters.
#pragma once

#include "cuda/ptx/thread.cuh"

namespace warpjet::ptx {

constexpr std::uint32_t kFullMask = 0xffffffffu;

// --- Barriers -------------------------------------------------------------------------------------------------------

// All threads of the block. (bar.sync 0)
WJ_DEVICE void sync_threads(Site site = Site::here()) {
#if defined(__CUDACC__)
  __syncthreads();
#else
  emu::sync_threads(site);
#endif
}

// `threads` threads, whole warps, of whoever comes; ids 1..15, because 0 is sync_threads. (bar.sync)
WJ_DEVICE void barrier_sync(int id, int threads, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emu::barrier_sync(id, threads, site);
#endif
}

// Counts as one of barrier_sync's threads without waiting: the producer's half. (bar.arrive)
WJ_DEVICE void barrier_arrive(int id, int threads, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emu::barrier_arrive(id, threads, site);
#endif
}

// The lanes in mask; orders their memory accesses among each other. (bar.warp.sync)
WJ_DEVICE void sync_warp(std::uint32_t mask = kFullMask, Site site = Site::here()) {
#if defined(__CUDACC__)
  __syncwarp(mask);
#else
  emu::sync_warp(mask, site);
#endif
}

// --- Shuffles -------------------------------------------------------------------------------------------------------
// Every lane that the mask names must call, from the same place. A source outside the mask is undefined.

// value of lane `source`. (shfl.sync.idx)
template <class T>
WJ_DEVICE T shuffle(T value, int source, std::uint32_t mask = kFullMask, Site site = Site::here()) {
  static_assert(sizeof(T) == 4, "a shuffle moves 32 bits");
#if defined(__CUDACC__)
  return bit_cast<T>(__shfl_sync(mask, bit_cast<std::uint32_t>(value), source));
#else
  return bit_cast<T>(emu::shuffle(bit_cast<std::uint32_t>(value), source % kWarpSize, mask, site));
#endif
}

// value of lane (own ^ bits). (shfl.sync.bfly)
template <class T>
WJ_DEVICE T shuffle_xor(T value, int bits, std::uint32_t mask = kFullMask, Site site = Site::here()) {
  static_assert(sizeof(T) == 4, "a shuffle moves 32 bits");
#if defined(__CUDACC__)
  return bit_cast<T>(__shfl_xor_sync(mask, bit_cast<std::uint32_t>(value), bits));
#else
  return bit_cast<T>(emu::shuffle(bit_cast<std::uint32_t>(value), lane_id() ^ bits, mask, site));
#endif
}

// value of lane (own - delta); the first delta lanes keep their own. (shfl.sync.up)
template <class T>
WJ_DEVICE T shuffle_up(T value, int delta, std::uint32_t mask = kFullMask, Site site = Site::here()) {
  static_assert(sizeof(T) == 4, "a shuffle moves 32 bits");
#if defined(__CUDACC__)
  return bit_cast<T>(__shfl_up_sync(mask, bit_cast<std::uint32_t>(value), delta));
#else
  const int source = lane_id() < delta ? lane_id() : lane_id() - delta;
  return bit_cast<T>(emu::shuffle(bit_cast<std::uint32_t>(value), source, mask, site));
#endif
}

// value of lane (own + delta); the last delta lanes keep their own. (shfl.sync.down)
template <class T>
WJ_DEVICE T shuffle_down(T value, int delta, std::uint32_t mask = kFullMask, Site site = Site::here()) {
  static_assert(sizeof(T) == 4, "a shuffle moves 32 bits");
#if defined(__CUDACC__)
  return bit_cast<T>(__shfl_down_sync(mask, bit_cast<std::uint32_t>(value), delta));
#else
  const int source = lane_id() + delta >= kWarpSize ? lane_id() : lane_id() + delta;
  return bit_cast<T>(emu::shuffle(bit_cast<std::uint32_t>(value), source, mask, site));
#endif
}

// --- Votes and integer reductions -----------------------------------------------------------------------------------

// Bit i: lane i's predicate. (vote.sync.ballot)
WJ_DEVICE std::uint32_t ballot(bool predicate, std::uint32_t mask = kFullMask, Site site = Site::here()) {
#if defined(__CUDACC__)
  return __ballot_sync(mask, predicate);
#else
  return emu::ballot(predicate, mask, site);
#endif
}

// How many bits are set: the lanes of a ballot. (popc.b32)
WJ_DEVICE int count_bits(std::uint32_t bits) {
#if defined(__CUDACC__)
  return __popc(bits);
#else
  return __builtin_popcount(bits);
#endif
}

// Bit i: lane i's value equals mine. (match.any.sync)
WJ_DEVICE std::uint32_t match_any(std::uint32_t value, std::uint32_t mask = kFullMask, Site site = Site::here()) {
#if defined(__CUDACC__)
  return __match_any_sync(mask, value);
#else
  return emu::match_any(value, mask, site);
#endif
}

// Over the lanes in mask. (redux.sync.add/min/max.s32)
WJ_DEVICE int reduce_add(int value, std::uint32_t mask = kFullMask, Site site = Site::here()) {
#if defined(__CUDACC__)
  return __reduce_add_sync(mask, value);
#else
  return emu::reduce(emu::Reduction::add, value, mask, site);
#endif
}
WJ_DEVICE int reduce_min(int value, std::uint32_t mask = kFullMask, Site site = Site::here()) {
#if defined(__CUDACC__)
  return __reduce_min_sync(mask, value);
#else
  return emu::reduce(emu::Reduction::min, value, mask, site);
#endif
}
WJ_DEVICE int reduce_max(int value, std::uint32_t mask = kFullMask, Site site = Site::here()) {
#if defined(__CUDACC__)
  return __reduce_max_sync(mask, value);
#else
  return emu::reduce(emu::Reduction::max, value, mask, site);
#endif
}

// --- Fences ---------------------------------------------------------------------------------------------------------

// My accesses before, seen from the block / device / whole system, come before mine after. (fence.acq_rel)
WJ_DEVICE void fence_block() {
#if defined(__CUDACC__)
  asm volatile("fence.acq_rel.cta;" ::: "memory");
#endif
}
WJ_DEVICE void fence_device() {
#if defined(__CUDACC__)
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
#endif
}
WJ_DEVICE void fence_system() {
#if defined(__CUDACC__)
  asm volatile("fence.acq_rel.sys;" ::: "memory");
#endif
}

// --- Dependent grids ------------------------------------------------------------------------------------------------
// Nothing before 9.0, where launch() does not overlap grids either.

// Returns when the grid before has finished and its writes are visible. Every kernel that is launched with pdl calls it
// on every path, before it reads what that grid wrote and before its own first write. (griddepcontrol.wait)
WJ_DEVICE void grid_wait() {
#if defined(__CUDACC__)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
#else
  emu::grid_wait();
#endif
}

// The next grid may start its prologue once all blocks said so. (griddepcontrol.launch_dependents)
WJ_DEVICE void grid_launch_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- Counters -------------------------------------------------------------------------------------------------------

// Returns the old value. Orders this thread's accesses with those of whoever else adds: the "last block done" counter.
// Integers only: sums of floats in the order of arrival would differ from run to run. (atom.acq_rel.gpu.add)
WJ_DEVICE int atomic_add(int* counter, int value, Site site = Site::here()) {
#if defined(__CUDACC__)
  int old;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;" : "=r"(old) : "l"(counter), "r"(value) : "memory");
  return old;
#else
  return emu::atomic_add(counter, value, site);
#endif
}

// Adds to a sum that is read after a counter or a grid has said that all are in. (red.relaxed.gpu.add.u64)
WJ_DEVICE void atomic_add(std::uint64_t* sum, std::uint64_t value, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(sum), "l"(value) : "memory");
#else
  emu::atomic_add(sum, value, site);
#endif
}

}  // namespace warpjet::ptx
