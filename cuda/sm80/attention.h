// Launchers of attention_*.cu. `type` is that of queries, keys, values and outputs; `head_dim` what the kernel is made
// for: the longest head that it takes. Without either: all in fp32. Tensors start at multiples of 16 bytes, and so do
// their rows.
#pragma once

#include "ops/attention.h"

namespace warpjet::sm80 {

template <DType type, int head_dim>
bool supports(const Attention::Problem& problem);
template <DType type, int head_dim>
std::int64_t workspace(const Attention::Problem& problem, const DeviceInfo& device);
template <DType type, int head_dim>
void launch(const Attention::Args& args, Stream& stream);

bool supports(const Attention::Problem& problem);
void launch(const Attention::Args& args, Stream& stream);

}  // namespace warpjet::sm80
