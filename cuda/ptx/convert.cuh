// Sixteen-bit floats: storage types and exact conversions. Arithmetic is done in fp32.
#pragma once

#include "cuda/ptx/platform.cuh"

#if !defined(__CUDACC__)
#include "emulator/number.h"
#endif

namespace warpjet {

struct Half {
  std::uint16_t bits;
};
struct Bfloat {
  std::uint16_t bits;
};

namespace ptx {

WJ_DEVICE float to_float(float value) {
  return value;
}

// A bf16 is the upper half of an fp32.
WJ_DEVICE float to_float(Bfloat value) {
  return bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

// cvt.f32.f16
WJ_DEVICE float to_float(Half value) {
#if defined(__CUDACC__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return emu::f16_to_f32(value.bits);
#endif
}

// Rounds to nearest even; NaN becomes 0x7fff. (cvt.rn.f16.f32 and cvt.rn.bf16.f32)
template <class T>
WJ_DEVICE T from_float(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else if constexpr (std::is_same_v<T, Half>) {
#if defined(__CUDACC__)
    std::uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return {bits};
#else
    return {emu::f32_to_f16(value)};
#endif
  } else {
    static_assert(std::is_same_v<T, Bfloat>, "float, Half or Bfloat");
#if defined(__CUDACC__)
    std::uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return {bits};
#else
    return {emu::f32_to_bf16(value)};
#endif
  }
}

// Two at once, low in the low half: what fragments are made of. (cvt.rn.f16x2.f32 and cvt.rn.bf16x2.f32)
template <class T>
WJ_DEVICE std::uint32_t pack(float low, float high) {
#if defined(__CUDACC__)
  std::uint32_t bits;
  if constexpr (std::is_same_v<T, Half>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
#else
  return from_float<T>(low).bits | static_cast<std::uint32_t>(from_float<T>(high).bits) << 16;
#endif
}

}  // namespace ptx
}  // namespace warpjet
