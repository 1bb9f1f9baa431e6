// Launchers of gemm_small.cu, gemm_large.cu and gemm_f32.cu. `type` is the type of a and b.
#pragma once

#include "ops/linear.h"

namespace warpjet::sm80 {

// A block makes `rows` weight rows for up to `tokens` rows of a: decoding.
template <DType type, int rows, int tokens>
bool supports_small_gemm(const Gemm::Problem& problem);
template <DType type, int rows, int tokens>
void launch_small_gemm(const Gemm::Args& args, Stream& stream);

// A block makes m tokens x n weight rows: prefill.
template <DType type, int m, int n>
bool supports_large_gemm(const Gemm::Problem& problem);
template <DType type, int m, int n>
void launch_large_gemm(const Gemm::Args& args, Stream& stream);

// Any k and any alignment, slowly; what the others turn to when rows do not start at multiples of 16 bytes.
template <DType type>
bool supports_unaligned_gemm(const Gemm::Problem& problem);
template <DType type>
void launch_unaligned_gemm(const Gemm::Args& args, Stream& stream);

// fp32 operands, for up to 8 tokens or for any number (64).
template <int tokens>
bool supports_f32_gemm(const Gemm::Problem& problem);
template <int tokens>
void launch_f32_gemm(const Gemm::Args& args, Stream& stream);

}  // namespace warpjet::sm80
