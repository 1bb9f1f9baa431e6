// Which GPUs there are, and whether the kernels of this build run on them.
#pragma once

#include <string>

namespace warpjet {

// Compute capability times ten.
int compute_capability(int index);

// Why this GPU cannot be used; "" when it can.
std::string gpu_complaint(int index);

}  // namespace warpjet
