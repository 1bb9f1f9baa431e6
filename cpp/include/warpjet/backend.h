// What this build and this machine can run on, besides the CPU.
#pragma once

#include <warpjet/error.h>

#include <string>
#include <vector>

namespace warpjet {

// What this build holds GPU kernels for: "80 90a"; "" when it has no CUDA backend.
WJ_API std::string cuda_architectures();

struct CudaStatus {
  std::string driver;  // the newest CUDA that the NVIDIA driver knows, "13.0"; "" without one and without the backend
  std::vector<std::string> gpus;   // one text each, in the order of device "cuda:0", "cuda:1", ...
  int usable = -1;                 // the index of the first that can be used
  std::string unavailable_reason;  // why none of them can be used, and what to do; "" when one can
};

// Looks at the machine anew; takes no memory of a GPU. Never throws device: what is wrong is in unavailable_reason.
WJ_API CudaStatus cuda_status();

}  // namespace warpjet
