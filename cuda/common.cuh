// How the host starts a kernel: launch(), and the streams that it goes to. The emulated build has the same launch() on
// the CPU, where it returns when the kernel is done.
#pragma once

#include "cuda/ptx/convert.cuh"
#include "cuda/ptx/thread.cuh"

#include "core/core.h"
#include "device/device.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#endif

namespace warpjet {

#if defined(__CUDACC__)

#define WJ_CUDA(call)                                                                           \
  do {                                                                                          \
    const cudaError_t wj_status = (call);                                                       \
    WJ_REQUIRE(wj_status == cudaSuccess, device, #call ": ", cudaGetErrorName(wj_status), ", ", \
               cudaGetErrorString(wj_status));                                                  \
  } while (false)

// What the Stream of a GPU's Device is.
class CudaStream : public Stream {
 public:
  virtual cudaStream_t handle() const = 0;
  virtual int sm() const = 0;  // of its device, as in DeviceInfo
};

#endif

struct LaunchConfig {
  Dim3 grid, block;
  int cluster = 1;     // neighbouring blocks along x that run together, on 9.0 and newer
  int smem_bytes = 0;  // sizeof(Smem)
  // The kernel calls grid_wait() on every path and may start before its predecessor has ended, on 9.0 and newer. The
  // binary must then hold code for 9.0: code for 8.0 has no grid_wait().
  bool pdl = false;
};

// Calls kernel(args...) in every thread of the grid. A grid without blocks is nothing to do. Throws device.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const LaunchConfig& config, [[maybe_unused]] Stream& stream, Args&&... args) {
  if (config.grid.x == 0 || config.grid.y == 0 || config.grid.z == 0) return;
#if defined(__CUDACC__)
  const auto& queue = static_cast<const CudaStream&>(stream);
  constexpr int kSmemWithoutAsking = 48 << 10;  // more needs the kernel's consent, a CUDA rule
  if (config.smem_bytes > kSmemWithoutAsking)
    WJ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, config.smem_bytes));
  const auto extent = [](const Dim3& d) {
    return dim3(static_cast<unsigned>(d.x), static_cast<unsigned>(d.y), static_cast<unsigned>(d.z));
  };
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t native = {};
  native.gridDim = extent(config.grid);
  native.blockDim = extent(config.block);
  native.dynamicSmemBytes = static_cast<std::size_t>(config.smem_bytes);
  native.stream = queue.handle();
  native.attrs = attributes;
  constexpr int kHopper = 90;
  if (config.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[native.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(config.cluster), 1, 1};
  }
  if (config.pdl && queue.sm() >= kHopper) {
    cudaLaunchAttribute& overlap = attributes[native.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  WJ_CUDA(cudaLaunchKernelEx(&native, kernel, static_cast<Params>(args)...));
#else
  emu::launch({.grid = config.grid,
               .block = config.block,
               .cluster = config.cluster,
               .smem_bytes = config.smem_bytes,
               .pdl = config.pdl},
              [&] { kernel(static_cast<Params>(args)...); });
#endif
}

// Of the current device: how many blocks a grid has whose blocks take one each and live until the work is done.
inline int multiprocessors() {
#if defined(__CUDACC__)
  int device = 0, count = 0;
  WJ_CUDA(cudaGetDevice(&device));
  WJ_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
#else
  return 2;  // few, so that blocks get several tiles of small problems
#endif
}

// Calls function(T{}) with the element type T that dtype names, for dtypes with is_float().
template <class Function>
auto with_float_type(DType dtype, Function&& function) {
  if (dtype == DType::f32) return function(float{});
  if (dtype == DType::f16) return function(Half{});
  WJ_CHECK(dtype == DType::bf16, "not a type that kernels compute with: ", to_string(dtype));
  return function(Bfloat{});
}

}  // namespace warpjet
