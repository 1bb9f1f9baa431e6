// The seam between the engine and its CUDA backend, which no other header of cpp/ knows. cuda/ defines these functions
// where the build has it, without_cuda.cpp elsewhere; CMake compiles one of the two.
#pragma once

#include <warpjet/backend.h>

#include "device/device.h"
#include "ops/catalog.h"

#include <memory>

namespace warpjet {

// Opens a GPU; index as in CudaStatus::gpus. Throws unsupported or device with the reason when it cannot be used, and
// invalid_argument when there is no such index.
std::unique_ptr<Device> make_cuda_device(int index);

// By name, as in EngineConfig::device: "auto" is the first GPU if one can be used, else the CPU. num_threads is the
// CPU's.
std::unique_ptr<Device> open_device(const std::string& name, int num_threads);

// Adds the rows of every GPU kernel in this build: none without the backend. To be called before register_reference.
void register_cuda_backend(Catalogs& catalogs);

}  // namespace warpjet
