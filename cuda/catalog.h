// The table of every GPU kernel, as the emulated build and the CUDA backend use it.
#pragma once

#include "ops/catalog.h"

namespace warpjet {

// Adds every kernel row that this build has.
void register_cuda_kernels(Catalogs& catalogs);

}  // namespace warpjet
