// Tensor cores of 8.0 and newer, one warp at a time, and the matrix loads and stores that feed them.
//
// Fragments of m16n8k16 (16-bit operands), with g = lane / 4 and t = lane % 4; a register holds two neighbours, the
// lower index in its low half:
//   a[0]: (row g,     k 2t..2t+1)      b[0]: (k 2t..2t+1,   column g)     d[0..1]: (row g,     columns 2t..2t+1)
//   a[1]: (row g + 8, k 2t..2t+1)      b[1]: (k 2t+8..2t+9, column g)     d[2..3]: (row g + 8, columns 2t..2t+1)
//   a[2]: (row g,     k 2t+8..2t+9)
//   a[3]: (row g + 8, k 2t+8..2t+9)
// Fragments of m16n8k32 (8-bit operands) are the same with four neighbours a register: 4t..4t+3 and 4t+16..4t+19.
#pragma once

#include "cuda/ptx/convert.cuh"
#include "cuda/ptx/memory.cuh"

namespace warpjet::ptx {

// --- Products -------------------------------------------------------------------------------------------------------

// d += a · b, rows of a and columns of b along k. (mma.sync.m16n8k16.row.col.f32)
template <class T>
WJ_DEVICE void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Site site = Site::here()) {
  static_assert(std::is_same_v<T, Bfloat> || std::is_same_v<T, Half>, "16-bit floats");
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, Bfloat>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emu::mma(std::is_same_v<T, Bfloat> ? emu::bf16_to_f32 : emu::f16_to_f32, d, a, b, site);
#endif
}

// d += a · b in 32-bit integers. (mma.sync.m16n8k32.row.col.s32.s8.s8.s32)
WJ_DEVICE void mma_s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                      Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emu::mma_s8(d, a, b, site);
#endif
}

// --- Matrix loads and stores ----------------------------------------------------------------------------------------
// `count` 8x8 matrices of 16-bit elements. Lane 8i + r gives the shared address of row r of matrix i, 16 bytes; lanes
// beyond 8 * count are not looked at. Register i of lane l then holds row l / 4, columns 2(l % 4) and the next, of
// matrix i; transposed: rows 2(l % 4) and the next of column l / 4. Four matrices (rows 0-7 k 0-7, rows 8-15 k 0-7,
// rows 0-7 k 8-15, rows 8-15 k 8-15) are mma's a.

enum class Matrix : std::uint8_t { straight, transposed };

// (ldmatrix.sync.m8n8.shared.b16)
template <Matrix matrix = Matrix::straight, int count>
WJ_DEVICE void load_matrix(std::uint32_t (&r)[count], const void* row, Site site = Site::here()) {
  static_assert(count == 1 || count == 2 || count == 4, "ldmatrix loads 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  const std::uint32_t at = shared_address(row);
  if constexpr (count == 1 && matrix == Matrix::straight)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
  if constexpr (count == 1 && matrix == Matrix::transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
  if constexpr (count == 2 && matrix == Matrix::straight)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
  if constexpr (count == 2 && matrix == Matrix::transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at)
                 : "memory");
  if constexpr (count == 4 && matrix == Matrix::straight)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  if constexpr (count == 4 && matrix == Matrix::transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#else
  emu::load_matrix(r, count, matrix == Matrix::transposed, row, site);
#endif
}

// The other way round; 9.0 and newer. (stmatrix.sync.m8n8.shared.b16)
template <Matrix matrix = Matrix::straight, int count>
WJ_DEVICE void store_matrix(void* row, const std::uint32_t (&r)[count], Site site = Site::here()) {
  static_assert(count == 1 || count == 2 || count == 4, "stmatrix stores 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  const std::uint32_t at = shared_address(row);
  if constexpr (count == 1 && matrix == Matrix::straight)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(at), "r"(r[0]) : "memory");
  if constexpr (count == 1 && matrix == Matrix::transposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(at), "r"(r[0]) : "memory");
  if constexpr (count == 2 && matrix == Matrix::straight)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(r[0]), "r"(r[1]) : "memory");
  if constexpr (count == 2 && matrix == Matrix::transposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(r[0]), "r"(r[1])
                 : "memory");
  if constexpr (count == 4 && matrix == Matrix::straight)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3])
                 : "memory");
  if constexpr (count == 4 && matrix == Matrix::transposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r[0]),
                 "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
#else
  emu::store_matrix(r, count, matrix == Matrix::transposed, row, site);
#endif
}

}  // namespace warpjet::ptx
