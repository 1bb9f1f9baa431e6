// Launchers of step.cu.
#pragma once

#include "ops/step.h"

namespace warpjet::sm80 {

bool supports(const Edit::Problem& problem);
bool supports(const PrepareRows::Problem& problem);
bool supports(const CopyBlocks::Problem& problem);

void launch(const Edit::Args& args, Stream& stream);
void launch(const PrepareRows::Args& args, Stream& stream);
void launch(const CopyBlocks::Args& args, Stream& stream);

}  // namespace warpjet::sm80
