// The seam between the engine and its GPU kernels.
#pragma once

#include "ops/catalog.h"

namespace warpjet {

// Adds every kernel row that this build has. To be called before register_reference.
void register_cuda_backend(Catalogs& catalogs);

}  // namespace warpjet
