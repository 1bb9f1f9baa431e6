// The reference kernels, one pair of overloads an op: plain loops with fp32 accumulation, rounded once. They are the
// spec that every other kernel is tested against. Catalogue rows point at them (ops/catalog.cpp).
#pragma once

#include "ops/catalog.h"

namespace warpjet::ref {

bool supports(const Embed::Problem& problem);  // token.cpp
bool supports(const Norm::Problem& problem);
bool supports(const Gather::Problem& problem);
bool supports(const Gemm::Problem& problem);       // linear.cpp
bool supports(const RopeTable::Problem& problem);  // attention.cpp
bool supports(const RopeAppendKv::Problem& problem);
bool supports(const Attention::Problem& problem);
bool supports(const Penalize::Problem& problem);  // penalize.cpp
bool supports(const AppendTokens::Problem& problem);
bool supports(const Select::Problem& problem);  // sampling.cpp
bool supports(const Logprob::Problem& problem);
bool supports(const Edit::Problem& problem);  // step.cpp
bool supports(const PrepareRows::Problem& problem);
bool supports(const CopyBlocks::Problem& problem);

std::int64_t workspace(const Penalize::Problem& problem, const DeviceInfo& device);

void launch(const Embed::Args& args, Stream& stream);
void launch(const Norm::Args& args, Stream& stream);
void launch(const Gather::Args& args, Stream& stream);
void launch(const Gemm::Args& args, Stream& stream);
void launch(const RopeTable::Args& args, Stream& stream);
void launch(const RopeAppendKv::Args& args, Stream& stream);
void launch(const Attention::Args& args, Stream& stream);
void launch(const Penalize::Args& args, Stream& stream);
void launch(const AppendTokens::Args& args, Stream& stream);
void launch(const Select::Args& args, Stream& stream);
void launch(const Logprob::Args& args, Stream& stream);
void launch(const Edit::Args& args, Stream& stream);
void launch(const PrepareRows::Args& args, Stream& stream);
void launch(const CopyBlocks::Args& args, Stream& stream);

}  // namespace warpjet::ref
