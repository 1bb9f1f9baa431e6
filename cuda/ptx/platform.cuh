// What lets one kernel source compile with nvcc for a GPU and with a plain C++ compiler for the emulator, which knows
// no CUDA header: the language's qualifiers, and our own small vector types.
//
// Every wrapper in this folder has two bodies: under __CUDACC__ the instruction, else a call into namespace emu. The
// switch is __CUDACC__ and not __CUDA_ARCH__ because nvcc's host pass drops the bodies of device functions anyway.
// The instruction in a wrapper's comment is the title of its section in the PTX ISA manual.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if !defined(__CUDACC__)
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#endif

#define WJ_DEVICE __device__ __forceinline__

// Before a loop whose counter indexes registers: the compiler leaves long bodies rolled, and arrays in local memory.
#if defined(__CUDACC__)
#define WJ_UNROLL _Pragma("unroll")
#else
#define WJ_UNROLL
#endif

namespace warpjet {

struct Dim3 {
  int x = 1, y = 1, z = 1;
  __host__ __device__ constexpr int count() const { return x * y * z; }
};

// n elements that move as one: aligned to their size, so that 2, 4, 8 and 16 bytes are one memory instruction.
template <class T, int n>
struct alignas(sizeof(T) * n) Vec {
  T v[n];
  __host__ __device__ constexpr T& operator[](int i) { return v[i]; }
  __host__ __device__ constexpr const T& operator[](int i) const { return v[i]; }
};

// The widest access of one thread.
constexpr int kVectorBytes = 16;
constexpr int kWarpSize = 32;

template <class To, class From>
WJ_DEVICE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From) && std::is_trivially_copyable_v<To>, "a bit cast keeps every bit");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

namespace ptx {

// Where a wrapper was called: the last, defaulted parameter of every wrapper that can wait or fail. The emulator's
// reports name it; on a GPU it is empty and vanishes.
struct Site {
#if defined(__CUDACC__)
  static WJ_DEVICE constexpr Site here() {
    return {};
  }
#else
  const char* file = "";
  int line = 0;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  constexpr bool operator==(const Site&) const = default;
#endif
};

}  // namespace ptx
}  // namespace warpjet
