// Streams, events and graphs of a GPU. Everything here belongs to the device that is current when it is made.
#pragma once

#include "cuda/common.cuh"

#include <memory>
#include <string>

namespace warpjet {

// sm as in DeviceInfo.
std::unique_ptr<CudaStream> make_cuda_stream(int sm);
std::unique_ptr<Event> make_cuda_event();

// "cudaErrorNotReady, device not ready"
std::string error_text(cudaError_t status);

// For destructors, which do not throw. The driver may already be gone when the process ends; that is no news.
void log_failure(cudaError_t status, const char* call);

}  // namespace warpjet
