// Tensor maps are made here and nowhere else: by the driver for a GPU, as a plain description for the emulator.
#pragma once

#include "cuda/common.cuh"
#include "cuda/ptx/tma.cuh"

#if defined(__CUDACC__)
#include <cuda.h>
#endif

namespace warpjet {

// Throws device if the driver refuses the description. Maps are passed by value: `const __grid_constant__ TensorMap`.
inline ptx::TensorMap make_tensor_map(const ptx::TensorMapDesc& desc) {
#if defined(__CUDACC__)
  constexpr CUtensorMapSwizzle kSwizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                              CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B};
  // The driver is asked for its function by name, because linking with it would fail on machines without a GPU.
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found = {};
  constexpr unsigned kSinceCuda = 12000;
  WJ_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, kSinceCuda, cudaEnableDefault, &found));
  WJ_REQUIRE(found == cudaDriverEntryPointSuccess, device, "the driver does not know tensor maps; it is too old");

  // Copies move bits, so the type matters for its size alone.
  const CUtensorMapDataType type = desc.element_bytes == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : desc.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
                                                             : CU_TENSOR_MAP_DATA_TYPE_UINT32;
  cuuint64_t extents[5], strides[5];
  cuuint32_t box[5], steps[5];
  for (int axis = 0; axis < desc.rank; ++axis) {
    extents[axis] = static_cast<cuuint64_t>(desc.extents[axis]);
    strides[axis] = static_cast<cuuint64_t>(desc.strides[axis]);
    box[axis] = static_cast<cuuint32_t>(desc.box[axis]);
    steps[axis] = 1;
  }
  CUtensorMap native;
  const CUresult status = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry)(
      &native, type, static_cast<cuuint32_t>(desc.rank), const_cast<void*>(desc.data), extents, strides + 1, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, kSwizzles[static_cast<int>(desc.swizzle)], CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  WJ_REQUIRE(status == CUDA_SUCCESS, device, "the driver refused a tensor map of rank ", desc.rank, ", box ",
             desc.box[0], " x ", desc.box[1], " (error ", static_cast<int>(status), ")");
  ptx::TensorMap map;
  static_assert(sizeof map == sizeof native, "a tensor map has 128 bytes");
  std::memcpy(&map, &native, sizeof map);
  return map;
#else
  return {desc};
#endif
}

}  // namespace warpjet
