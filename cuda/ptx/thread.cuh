// Who am I: thread, lane, warp, block; and the block's one piece of dynamic shared memory.
#pragma once

#include "cuda/ptx/platform.cuh"

#if !defined(__CUDACC__)
#include "emulator/emulator.h"
#endif

namespace warpjet::ptx {

// Special registers (%tid, %ctaid, %ntid, %nctaid).
WJ_DEVICE Dim3 thread_idx() {
#if defined(__CUDACC__)
  return {static_cast<int>(threadIdx.x), static_cast<int>(threadIdx.y), static_cast<int>(threadIdx.z)};
#else
  return emu::thread_idx();
#endif
}

WJ_DEVICE Dim3 block_idx() {
#if defined(__CUDACC__)
  return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
#else
  return emu::block_idx();
#endif
}

WJ_DEVICE Dim3 block_dim() {
#if defined(__CUDACC__)
  return {static_cast<int>(blockDim.x), static_cast<int>(blockDim.y), static_cast<int>(blockDim.z)};
#else
  return emu::block_dim();
#endif
}

WJ_DEVICE Dim3 grid_dim() {
#if defined(__CUDACC__)
  return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
#else
  return emu::grid_dim();
#endif
}

// Blocks of ours are one-dimensional, so a warp is 32 neighbours along x.
WJ_DEVICE int lane_id() {
  return thread_idx().x % kWarpSize;
}

// The same in all lanes of a warp, but the compiler cannot know: branches on it become uniform only after a shuffle.
WJ_DEVICE int warp_id() {
  return thread_idx().x / kWarpSize;
}

// The same value, of which the compiler knows nothing any more: what depends on it is computed where it is needed, and
// not before the loop, to be kept in registers.
WJ_DEVICE int recomputed(int value) {
#if defined(__CUDACC__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// The block's dynamic shared memory as a plain struct; LaunchConfig::smem_bytes must be sizeof(Smem). 1024 bytes of
// alignment is what a 128-byte-swizzled tile of the asynchronous copies needs.
constexpr int kSharedAlignment = 1024;

#if defined(__CUDACC__)
extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
#endif

template <class Smem>
WJ_DEVICE Smem& smem() {
  static_assert(std::is_trivially_default_constructible_v<Smem>, "nobody runs constructors in shared memory");
  static_assert(alignof(Smem) <= kSharedAlignment, "the block is aligned to 1024 bytes");
#if defined(__CUDACC__)
  return *reinterpret_cast<Smem*>(dynamic_shared_memory);
#else
  return *static_cast<Smem*>(emu::shared_memory(sizeof(Smem)));
#endif
}

}  // namespace warpjet::ptx
