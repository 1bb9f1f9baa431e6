// The seam in a build without the CUDA backend. CMake says why it was left out.
#include "ops/backend.h"

namespace warpjet {

std::string cuda_architectures() {
  return "";
}

CudaStatus cuda_status() {
  return {
      .driver = "",
      .gpus = {},
      .unavailable_reason = cat("this build of warpjet has no CUDA backend (", WARPJET_WITHOUT_CUDA,
                                "); to add it: CMAKE_ARGS=-DWARPJET_CUDA=ON pip install . (needs the CUDA toolkit), or "
                                "WARPJET_PYPI_NVCC=1 pip install . (downloads the compiler)")};
}

std::unique_ptr<Device> make_cuda_device(int) {
  WJ_FAIL(device, cuda_status().unavailable_reason);
}

void register_cuda_backend(Catalogs&) {}

}  // namespace warpjet
