// WARPJET_ARCHITECTURES, from CMake, is the list that the kernels were compiled for: "80 90a".
#include "cuda/device/status.h"

#include "cuda/device/stream.h"
#include "ops/backend.h"

#include <algorithm>
#include <charconv>

namespace warpjet {
namespace {

constexpr int kOldest = 80;  // what the kernels in sm80/ need
constexpr const char* kNewestDriver = "https://www.nvidia.com/drivers";

// "9.0" of 90, "8.6" of 86.
std::string capability_text(int sm) {
  return cat(sm / 10, ".", sm % 10);
}

// Of the numbers in which CUDA counts its versions: 13000 is "13.0".
std::string version_text(int version) {
  return cat(version / 1000, ".", version % 1000 / 10);
}

// Machine code runs on its own generation, from its own minor version on; with the suffix "a" on that version alone.
// There is no PTX in the build that a driver could compile for other GPUs.
bool runs_on(std::string_view architecture, int sm) {
  int code = 0;
  const auto end = std::from_chars(architecture.begin(), architecture.end(), code).ptr;
  const bool exact = end != architecture.end() && *end == 'a';
  return exact ? code == sm : code / 10 == sm / 10 && code <= sm;
}

bool has_kernels_for(int sm) {
  std::string_view rest = WARPJET_ARCHITECTURES;
  while (!rest.empty()) {
    const std::string_view architecture = rest.substr(0, rest.find(' '));
    if (runs_on(architecture, sm)) return true;
    rest.remove_prefix(std::min(rest.size(), architecture.size() + 1));
  }
  return false;
}

std::string gpu_name(int index) {
  cudaDeviceProp properties;
  WJ_CUDA(cudaGetDeviceProperties(&properties, index));
  return properties.name;
}

std::string gpu_text(int index) {
  cudaDeviceProp properties;
  WJ_CUDA(cudaGetDeviceProperties(&properties, index));
  return cat(properties.name, ", compute capability ", properties.major, ".", properties.minor, ", ",
             properties.multiProcessorCount, " multiprocessors, ", properties.totalGlobalMem >> 20, " MiB");
}

std::string driver_complaint(int driver) {
  if (driver == 0)
    return cat("there is no NVIDIA driver (libcuda.so.1) on this machine; install one that knows CUDA ",
               version_text(CUDART_VERSION), " or newer: ", kNewestDriver);
  // A driver runs every minor version of its CUDA.
  constexpr int kMajor = 1000;
  if (driver / kMajor >= CUDART_VERSION / kMajor) return "";
  return cat("the NVIDIA driver knows CUDA ", version_text(driver), ", this build needs ", CUDART_VERSION / kMajor,
             ".0 or newer; update the driver: ", kNewestDriver, ", or rebuild warpjet with that CUDA toolkit");
}

// Fills status.gpus; says what is wrong when none can be used.
std::string look_for_gpus(CudaStatus& status) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found == cudaErrorNoDevice || (found == cudaSuccess && count == 0))
    return cat("the NVIDIA driver (CUDA ", status.driver,
               ") sees no GPU; is CUDA_VISIBLE_DEVICES set, or the container started without GPUs?");
  if (found != cudaSuccess) return cat("the NVIDIA driver cannot be used: ", error_text(found));
  std::string complaints;
  for (int index = 0; index < count; ++index) {
    status.gpus.push_back(gpu_text(index));
    const std::string complaint = gpu_complaint(index);
    if (complaint.empty() && status.usable < 0) status.usable = index;
    complaints += cat(complaints.empty() ? "" : "; ", complaint);
  }
  return status.usable >= 0 ? "" : complaints;
}

}  // namespace

int compute_capability(int index) {
  int major = 0, minor = 0;
  WJ_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  WJ_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  return 10 * major + minor;
}

std::string gpu_complaint(int index) {
  const int sm = compute_capability(index);
  if (has_kernels_for(sm)) return "";
  const std::string have = cat("cuda:", index, " (", gpu_name(index), ") has compute capability ", capability_text(sm));
  if (sm < kOldest) return cat(have, ", warpjet needs ", capability_text(kOldest), " or newer");
  constexpr int kHopper = 90;
  return cat(have, ", this build has kernels for ", WARPJET_ARCHITECTURES,
             "; rebuild it: CMAKE_ARGS='-DWARPJET_CUDA=ON -DWARPJET_ARCHS=", sm, sm == kHopper ? "a" : "",
             "' pip install .");
}

std::string cuda_architectures() {
  return WARPJET_ARCHITECTURES;
}

CudaStatus cuda_status() {
  CudaStatus status;
  int driver = 0;
  const cudaError_t asked = cudaDriverGetVersion(&driver);  // no driver at all is version 0
  if (asked == cudaSuccess && driver > 0) status.driver = version_text(driver);
  status.unavailable_reason = driver_complaint(asked == cudaSuccess ? driver : 0);
  if (!status.unavailable_reason.empty()) return status;
  try {
    status.unavailable_reason = look_for_gpus(status);
  } catch (const Error& error) {
    status.unavailable_reason = error.message();
  }
  return status;
}

}  // namespace warpjet
