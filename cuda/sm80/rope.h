// Launchers of rope.cu. `type` is qkv's.
#pragma once

#include "ops/attention.h"

namespace warpjet::sm80 {

bool supports(const RopeTable::Problem& problem);
void launch(const RopeTable::Args& args, Stream& stream);

template <DType type>
bool supports(const RopeAppendKv::Problem& problem);
template <DType type>
void launch(const RopeAppendKv::Args& args, Stream& stream);

}  // namespace warpjet::sm80
