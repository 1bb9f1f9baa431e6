// What the reference kernels compute with: element types that widen to fp32, the dot product, exp and log. Everything
// here is plain C++ that the compiler vectorises, and always inlined: a function marked WJ_CLONES gets one clone per
// instruction set, and only what is inlined into it is compiled for that set.
#pragma once

#include "core/core.h"
#include "ops/kernel.h"

#include <cstdint>

// One clone per x86-64 level, chosen when the library is loaded, because a wheel is compiled for the oldest one.
// Sanitizers instrument the choosing function, which runs before they are ready.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && defined(__gnu_linux__) && defined(__GLIBC__)
#define WJ_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// The same levels by hand, for loops whose tiles depend on the level: one function each, chosen by isa().
#define WJ_X86_LEVELS
#define WJ_AVX2 __attribute__((target("arch=x86-64-v3")))
#define WJ_AVX512 __attribute__((target("arch=x86-64-v4")))
#else
#define WJ_CLONES
#endif
#define WJ_INLINE __attribute__((always_inline)) inline

namespace warpjet::ref {

// --- Element types --------------------------------------------------------------------------------------------------

struct Half {
  std::uint16_t bits;
};
struct Bfloat {
  std::uint16_t bits;
};

WJ_INLINE float as_float(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
WJ_INLINE std::uint32_t as_bits(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

WJ_INLINE float widen(float value) {
  return value;
}
WJ_INLINE float widen(Bfloat value) {
  return as_float(static_cast<std::uint32_t>(value.bits) << 16);
}

// By hand, because compilers do not vectorise _Float16 everywhere: exponent and mantissa move to their places in fp32,
// and a product with a power of two mends the exponent's bias (exactly, subnormals too) for all but infinity and NaN.
WJ_INLINE float widen(Half value) {
  constexpr std::uint32_t kExponent = 31u << 23;
  const std::uint32_t spread = static_cast<std::uint32_t>(static_cast<std::int16_t>(value.bits));
  const std::uint32_t placed = (spread << 13) & 0x8fffe000u;
  const std::uint32_t finite = as_bits(as_float(placed) * 0x1p112f);
  return as_float(finite | ((placed & kExponent) == kExponent ? 0x7f800000u : 0u));
}

// The vector instructions of this machine, as far as the loops here tell them apart. (number.cpp)
enum class Isa { any, avx2, avx512 };
Isa isa();

// Vectors of a level's width, spelled out because g++ 12 converts no vector whose size depends on a template.
template <Isa kIsa>
struct VectorTypes;
template <>
struct VectorTypes<Isa::any> {
  using Float __attribute__((vector_size(16))) = float;
  using Words __attribute__((vector_size(16))) = std::uint32_t;
  using Halves __attribute__((vector_size(8))) = std::uint16_t;
};
template <>
struct VectorTypes<Isa::avx2> {
  using Float __attribute__((vector_size(32))) = float;
  using Words __attribute__((vector_size(32))) = std::uint32_t;
  using Halves __attribute__((vector_size(16))) = std::uint16_t;
};
template <>
struct VectorTypes<Isa::avx512> {
  using Float __attribute__((vector_size(64))) = float;
  using Words __attribute__((vector_size(64))) = std::uint32_t;
  using Halves __attribute__((vector_size(32))) = std::uint16_t;
};

// kWidth floats at a time. Values travel by reference: by value they would have another ABI for each level.
template <Isa kIsa>
struct Vector {
  using Float = typename VectorTypes<kIsa>::Float;
  using Words = typename VectorTypes<kIsa>::Words;
  using Halves = typename VectorTypes<kIsa>::Halves;
  static constexpr int kWidth = sizeof(Float) / sizeof(float);

  WJ_INLINE static void load(const float* from, Float& to) { __builtin_memcpy(&to, from, sizeof to); }
  WJ_INLINE static void load(const Bfloat* from, Float& to) {
    Words words;
#ifdef WJ_X86_LEVELS
    if constexpr (kIsa != Isa::any) {  // g++ 12 converts in halves
      asm("vpmovzxwd %1, %0" : "=v"(words) : "m"(*reinterpret_cast<const char(*)[sizeof(Halves)]>(from)));
      words <<= 16;
      __builtin_memcpy(&to, &words, sizeof to);
      return;
    }
#endif
    Halves bits;
    __builtin_memcpy(&bits, from, sizeof bits);
    words = __builtin_convertvector(bits, Words) << 16;
    __builtin_memcpy(&to, &words, sizeof to);
  }
  WJ_INLINE static void load(const Half* from, Float& to) {
#ifdef WJ_X86_LEVELS
    if constexpr (kIsa != Isa::any) {  // an intrinsic would want this function, which has no level, to have F16C
      asm("vcvtph2ps %1, %0" : "=v"(to) : "m"(*reinterpret_cast<const char(*)[sizeof(Halves)]>(from)));
      return;
    }
#endif
    float values[kWidth];
    for (int i = 0; i < kWidth; ++i) values[i] = widen(from[i]);
    __builtin_memcpy(&to, values, sizeof to);
  }
  WJ_INLINE static void store(const Float& from, float* to) {
    __builtin_memcpy(to, &from, sizeof from);
  }
#ifdef WJ_X86_LEVELS
  WJ_INLINE static void store(const Float& from, Half* to) {  // rounds to nearest even; NaN as f32_to_f16()
    static_assert(kIsa != Isa::any, "F16C comes with avx2");
    asm("vcvtps2ph $0, %1, %0" : "=m"(*reinterpret_cast<char(*)[sizeof(Halves)]>(to)) : "v"(from));
  }
#endif
};

// count elements to fp32; inside a function of that level.
template <Isa kIsa, class T>
WJ_INLINE void widen(const T* from, std::int64_t count, float* to) {
  using Vec = Vector<kIsa>;
  std::int64_t i = 0;
  for (; i + Vec::kWidth <= count; i += Vec::kWidth) {
    typename Vec::Float values;
    Vec::load(from + i, values);
    Vec::store(values, to + i);
  }
  for (; i < count; ++i) to[i] = widen(from[i]);
}

// Calls function(T{}) with the element type T that dtype names.
template <class Function>
auto with_type(DType dtype, Function&& function) {
  if (dtype == DType::f32) return function(float{});
  if (dtype == DType::f16) return function(Half{});
  WJ_CHECK(dtype == DType::bf16, "the reference kernels compute with f32, f16 and bf16, not ", to_string(dtype));
  return function(Bfloat{});
}

// Elements of any float type to fp32 and back, rounded to nearest even. (number.cpp)
void load(const void* from, DType dtype, std::int64_t count, float* to);
void store(const float* from, std::int64_t count, void* to, DType dtype);

// The element at this index of row `row`.
inline std::byte* element(const TensorView& view, std::int64_t row, std::int64_t index = 0) {
  return static_cast<std::byte*>(view.data) + (row * view.row_stride + index) * dtype_bytes(view.dtype);
}

// --- Reductions -----------------------------------------------------------------------------------------------------

// Long sums run in this many lanes (element i in lane i % kLanes) that are then added as a tree: one order, whatever
// the machine, the blocking or the batch.
//
// Loops over lanes become one vector instruction each, if the compiler does not unroll them before it vectorises: hence
// "unroll 1" where g++ 12 would. (Where it would not, it makes better code without.)
constexpr int kLanes = 16;

WJ_INLINE float sum_lanes(const float (&lanes)[kLanes]) {
  float eight[8], four[4];
#pragma GCC unroll 1
  for (int i = 0; i < 8; ++i) eight[i] = lanes[i] + lanes[i + 8];
#pragma GCC unroll 1
  for (int i = 0; i < 4; ++i) four[i] = eight[i] + eight[i + 4];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

template <class T>
WJ_INLINE void widen_lanes(const T* from, float (&to)[kLanes]) {
  for (int l = 0; l < kLanes; ++l) to[l] = widen(from[l]);
}
WJ_INLINE void widen_lanes(const Half* from, float (&to)[kLanes]) {
#pragma GCC unroll 1
  for (int l = 0; l < kLanes; ++l) to[l] = widen(from[l]);
}

// out[r][c] = a[r] · b[c]. Every pair sees the same operations in the same order whatever kRows and kColumns are.
template <int kRows, int kColumns, class A, class B>
WJ_INLINE void dot_tile(const A* const (&a)[kRows], const B* const (&b)[kColumns], std::int64_t k,
                        float (&out)[kRows][kColumns]) {
  float lanes[kRows][kColumns][kLanes] = {};
  const std::int64_t whole = k / kLanes * kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
    float x[kLanes], y[kColumns][kLanes];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) widen_lanes(b[c] + i, y[c]);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      widen_lanes(a[r] + i, x);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 1
        for (int l = 0; l < kLanes; ++l) lanes[r][c][l] += x[l] * y[c][l];
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      for (std::int64_t i = whole; i < k; ++i) lanes[r][c][i - whole] += widen(a[r][i]) * widen(b[c][i]);
      out[r][c] = sum_lanes(lanes[r][c]);
    }
  }
}

// --- Functions ------------------------------------------------------------------------------------------------------

// e^x to about an ulp: x = n ln2 + r with |r| <= ln2 / 2, and the Taylor series of e^r to the seventh power (its
// remainder is below 1e-8). 2^n goes in as two factors, so that results may be subnormal or up to the largest float.
WJ_INLINE float exp_f32(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the rounded integer in the low bits
  constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;
  x = x < -160.0f ? -160.0f : x;
  x = x > 130.0f ? 130.0f : x;
  const float shifted = x * 0x1.715476p0f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float series = 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const std::int32_t power = static_cast<std::int32_t>(as_bits(shifted)) - static_cast<std::int32_t>(as_bits(kRound));
  const std::int32_t half = power >> 1;
  const float low = as_float(static_cast<std::uint32_t>(half + 127) << 23);
  const float high = as_float(static_cast<std::uint32_t>(power - half + 127) << 23);
  return series * low * high;
}

// ln x of a positive normal x to about an ulp: x = 2^e m with m in [sqrt(1/2), sqrt(2)), s = (m - 1) / (m + 1), and
// ln m = 2 atanh(s) = 2 (s + s^3 / 3 + ...) to the ninth power (its remainder is below 1e-9).
WJ_INLINE float log_f32(float x) {
  constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;
  constexpr std::uint32_t kRootHalf = 0x3f3504f3u;
  const std::uint32_t shifted = as_bits(x) - kRootHalf;
  const float e = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float m = as_float((shifted & 0x7fffffu) + kRootHalf);
  const float s = (m - 1.0f) / (m + 1.0f);
  const float square = s * s;
  float series = 2.0f / 9;
  series = series * square + 2.0f / 7;
  series = series * square + 2.0f / 5;
  series = series * square + 2.0f / 3;
  series = series * square * s;
  return e * kLn2High + (e * kLn2Low + (series + 2.0f * s));
}

}  // namespace warpjet::ref
