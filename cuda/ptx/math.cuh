// Rounded arithmetic that the compiler may not fuse, and the special-function unit.
#pragma once

#include "cuda/ptx/platform.cuh"

#if !defined(__CUDACC__)
#include <cmath>
#endif

namespace warpjet::ptx {

// --- Rounded once, to nearest even ----------------------------------------------------------------------------------
// Plain a * b + c is one rounding or two, as the compiler likes. Kernels that must agree to the bit use these.

// a * b + c (fma.rn.f32)
WJ_DEVICE float fma(float a, float b, float c) {
#if defined(__CUDACC__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

// (mul.rn.f32)
WJ_DEVICE float mul(float a, float b) {
#if defined(__CUDACC__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// (add.rn.f32)
WJ_DEVICE float add(float a, float b) {
#if defined(__CUDACC__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

// --- Functions ------------------------------------------------------------------------------------------------------
// One instruction each, but erf, and about two ulps. The emulator returns the rounded exact value, so tests must not
// depend on the last bits.

// 2^x; softmax scores stay in log2 space for it. (ex2.approx.ftz.f32)
WJ_DEVICE float exp2(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

// (lg2.approx.ftz.f32)
WJ_DEVICE float log2(float x) {
#if defined(__CUDACC__)
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::log2(x);
#endif
}

// 1/x (rcp.approx.ftz.f32)
WJ_DEVICE float reciprocal(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

// 1/sqrt(x) (rsqrt.approx.f32)
WJ_DEVICE float rsqrt(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / std::sqrt(x);
#endif
}

// (tanh.approx.f32): absolute error 2^-11, too coarse for anything but gates that end in bf16.
WJ_DEVICE float tanh(float x) {
#if defined(__CUDACC__)
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::tanh(x);
#endif
}

// The error function, some thirty instructions.
WJ_DEVICE float erf(float x) {
#if defined(__CUDACC__)
  return ::erff(x);
#else
  return std::erf(x);
#endif
}

}  // namespace warpjet::ptx
