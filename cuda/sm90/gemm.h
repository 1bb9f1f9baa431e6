// Launchers of gemm.cu. `type` is the type of a and b; a block makes tiles of 128 tokens x n weight rows.
#pragma once

#include "ops/linear.h"

namespace warpjet::sm90 {

template <DType type, int n>
bool supports_gemm(const Gemm::Problem& problem);
template <DType type, int n>
void launch_gemm(const Gemm::Args& args, Stream& stream);

}  // namespace warpjet::sm90
