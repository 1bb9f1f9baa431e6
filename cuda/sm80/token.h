// Launchers of token.cu. `type` is the type that is read: the table's, or x's.
#pragma once

#include "ops/token.h"

namespace warpjet::sm80 {

template <DType type>
bool supports(const Embed::Problem& problem);
template <DType type>
bool supports(const Norm::Problem& problem);
template <DType type>
bool supports(const Gather::Problem& problem);

template <DType type>
void launch(const Embed::Args& args, Stream& stream);
template <DType type>
void launch(const Norm::Args& args, Stream& stream);
template <DType type>
void launch(const Gather::Args& args, Stream& stream);

}  // namespace warpjet::sm80
