// Hopper's warpgroup products: 128 threads, d [64, n] += a [64, k] · b [n, k]^T with k of 32 bytes, asynchronous.
//
// Accumulators: with w = warp % 4, g = lane / 4, t = lane % 4, d[i] is (row 16w + g + 8 (i / 2 % 2), column 8 (i / 4) +
// 2t + i % 2). An a in registers is mma's a, rows 16w and on.
//
// Order: wgmma_fence() before the first product and after touching accumulators or a's registers; products;
// wgmma_commit(); wgmma_wait<0>() before anything reads d or overwrites the tiles.
#pragma once

#include "cuda/ptx/convert.cuh"
#include "cuda/ptx/tma.cuh"

#if defined(__CUDACC__)
#include "cuda/ptx/wgmma_table.cuh"
#endif

namespace warpjet::ptx {

// Which index runs along the rows of a tile in shared memory.
enum class Major : std::uint8_t { k, mn };

// A tile as wgmma sees it (matrix descriptor). K-major: `stride` bytes from eight rows to the next eight; `leading`
// only without swizzle, where it separates 16-byte columns of eight rows. MN-major with b128: `leading` from 64 columns
// to the next 64, `stride` from eight k to the next eight.
struct Operand {
  std::uint64_t bits;

  // Another place of the same tile, for example the next 32 bytes along k within a swizzled row.
  WJ_DEVICE Operand advance(int bytes) const { return {bits + static_cast<std::uint64_t>(bytes >> 4)}; }
};

// Tiles with b128 start at multiples of 1024 bytes.
WJ_DEVICE Operand make_operand(const void* tile, Swizzle swizzle, int leading, int stride) {
#if defined(__CUDACC__)
  const std::uint32_t start = shared_address(tile);
#else
  const std::uint32_t start = emu::shared_offset(tile);
#endif
  const std::uint64_t mode = swizzle == Swizzle::b128  ? 1
                             : swizzle == Swizzle::b64 ? 2
                             : swizzle == Swizzle::b32 ? 3
                                                       : 0;
  return {(start & 0x3ffff) >> 4 | static_cast<std::uint64_t>((leading & 0x3ffff) >> 4) << 16 |
          static_cast<std::uint64_t>((stride & 0x3ffff) >> 4) << 32 | mode << 62};
}

// Every warp of a warpgroup gives registers away, or waits until it has as many; how many, a multiple of 8, its threads
// then use. The kernel's launch bounds name one block a multiprocessor. (setmaxnreg.dec and setmaxnreg.inc)
template <int registers>
WJ_DEVICE void release_registers() {
  static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "24 to 256 in steps of 8");
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
#endif
}
template <int registers>
WJ_DEVICE void claim_registers() {
  static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "24 to 256 in steps of 8");
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
#endif
}

// (wgmma.fence)
WJ_DEVICE void wgmma_fence() {
#if defined(__CUDACC__)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  emu::wgmma_fence();
#endif
}

// (wgmma.commit_group)
WJ_DEVICE void wgmma_commit() {
#if defined(__CUDACC__)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  emu::wgmma_commit();
#endif
}

// Returns when at most `pending` groups are under way. (wgmma.wait_group)
template <int pending>
WJ_DEVICE void wgmma_wait() {
#if defined(__CUDACC__)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#else
  emu::wgmma_wait(pending);
#endif
}

// d = a · b^T, plus d if accumulate is not 0; both tiles in shared memory, a K-major. (wgmma.mma_async)
template <class T, int n, Major b_major = Major::k>
WJ_DEVICE void wgmma(float (&d)[n / 2], Operand a_tile, Operand b_tile, int accumulate, Site site = Site::here()) {
  static_assert(n % 8 == 0 && n >= 8 && n <= 256, "m64 n8 to n256 in steps of 8");
  static_assert(std::is_same_v<T, Bfloat> || std::is_same_v<T, Half>, "16-bit floats");
#if defined(__CUDACC__)
  const std::uint64_t a = a_tile.bits, b = b_tile.bits;
  if constexpr (std::is_same_v<T, Bfloat> && b_major == Major::k) {
    WJ_WGMMA_SS(n, "k16.f32.bf16.bf16", ", 0, 0")
  } else if constexpr (std::is_same_v<T, Bfloat>) {
    WJ_WGMMA_SS(n, "k16.f32.bf16.bf16", ", 0, 1")
  } else if constexpr (b_major == Major::k) {
    WJ_WGMMA_SS(n, "k16.f32.f16.f16", ", 0, 0")
  } else {
    WJ_WGMMA_SS(n, "k16.f32.f16.f16", ", 0, 1")
  }
#else
  emu::wgmma(std::is_same_v<T, Bfloat> ? emu::bf16_to_f32 : emu::f16_to_f32, n, d, a_tile.bits, nullptr, b_tile.bits,
             b_major == Major::mn, accumulate != 0, site);
#endif
}

// The same with a from registers. (wgmma.mma_async)
template <class T, int n, Major b_major = Major::k>
WJ_DEVICE void wgmma(float (&d)[n / 2], const std::uint32_t (&a)[4], Operand b_tile, int accumulate,
                     Site site = Site::here()) {
  static_assert(n % 8 == 0 && n >= 8 && n <= 256, "m64 n8 to n256 in steps of 8");
  static_assert(std::is_same_v<T, Bfloat> || std::is_same_v<T, Half>, "16-bit floats");
#if defined(__CUDACC__)
  const std::uint64_t b = b_tile.bits;
  if constexpr (std::is_same_v<T, Bfloat> && b_major == Major::k) {
    WJ_WGMMA_RS(n, "k16.f32.bf16.bf16", ", 0")
  } else if constexpr (std::is_same_v<T, Bfloat>) {
    WJ_WGMMA_RS(n, "k16.f32.bf16.bf16", ", 1")
  } else if constexpr (b_major == Major::k) {
    WJ_WGMMA_RS(n, "k16.f32.f16.f16", ", 0")
  } else {
    WJ_WGMMA_RS(n, "k16.f32.f16.f16", ", 1")
  }
#else
  emu::wgmma(std::is_same_v<T, Bfloat> ? emu::bf16_to_f32 : emu::f16_to_f32, n, d, 0, a, b_tile.bits,
             b_major == Major::mn, accumulate != 0, site);
#endif
}

}  // namespace warpjet::ptx
