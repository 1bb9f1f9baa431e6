// Launchers of penalize.cu, select.cu and logprob.cu.
#pragma once

#include "ops/sampling.h"

namespace warpjet::sm80 {

bool supports(const Penalize::Problem& problem);
bool supports(const Select::Problem& problem);
bool supports(const Logprob::Problem& problem);
bool supports(const AppendTokens::Problem& problem);

// Select and Logprob may share theirs.
std::int64_t workspace(const Select::Problem& problem, const DeviceInfo& device);
std::int64_t workspace(const Logprob::Problem& problem, const DeviceInfo& device);

void launch(const Penalize::Args& args, Stream& stream);
void launch(const Select::Args& args, Stream& stream);
void launch(const Logprob::Args& args, Stream& stream);
void launch(const AppendTokens::Args& args, Stream& stream);

}  // namespace warpjet::sm80
