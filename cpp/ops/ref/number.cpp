// Rows of elements to fp32 and back.
#include "ops/ref/number.h"

#include "quant/quant.h"

#include <cstring>

namespace warpjet::ref {
namespace {

template <class T>
WJ_CLONES void load_as(const T* from, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
}

#ifdef WJ_X86_LEVELS
WJ_AVX2 void load_f16_avx2(const Half* from, std::int64_t count, float* to) {
  widen<Isa::avx2>(from, count, to);
}
WJ_AVX512 void load_f16_avx512(const Half* from, std::int64_t count, float* to) {
  widen<Isa::avx512>(from, count, to);
}

template <Isa kIsa>
WJ_INLINE void narrow(const float* from, std::int64_t count, Half* to) {
  using Vec = Vector<kIsa>;
  std::int64_t i = 0;
  for (; i + Vec::kWidth <= count; i += Vec::kWidth) {
    typename Vec::Float values;
    Vec::load(from + i, values);
    Vec::store(values, to + i);
  }
  for (; i < count; ++i) to[i].bits = f32_to_f16(from[i]);
}
WJ_AVX2 void store_f16_avx2(const float* from, std::int64_t count, Half* to) {
  narrow<Isa::avx2>(from, count, to);
}
WJ_AVX512 void store_f16_avx512(const float* from, std::int64_t count, Half* to) {
  narrow<Isa::avx512>(from, count, to);
}

void load_as(const Half* from, std::int64_t count, float* to) {
  if (isa() == Isa::avx512) return load_f16_avx512(from, count, to);
  if (isa() == Isa::avx2) return load_f16_avx2(from, count, to);
  load_as<Half>(from, count, to);
}
#endif

WJ_CLONES void store_bf16(const float* from, std::int64_t count, std::uint16_t* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = f32_to_bf16(from[i]);
}

void store_f16(const float* from, std::int64_t count, Half* to) {
#ifdef WJ_X86_LEVELS
  if (isa() == Isa::avx512) return store_f16_avx512(from, count, to);
  if (isa() == Isa::avx2) return store_f16_avx2(from, count, to);
#endif
  for (std::int64_t i = 0; i < count; ++i) to[i].bits = f32_to_f16(from[i]);
}

}  // namespace

Isa isa() {
#ifdef WJ_X86_LEVELS
  static const Isa best = __builtin_cpu_supports("x86-64-v4")   ? Isa::avx512
                          : __builtin_cpu_supports("x86-64-v3") ? Isa::avx2
                                                                : Isa::any;
  return best;
#else
  return Isa::any;
#endif
}

void load(const void* from, DType dtype, std::int64_t count, float* to) {
  with_type(dtype, [&]<class T>(T) { load_as(static_cast<const T*>(from), count, to); });
}

void store(const float* from, std::int64_t count, void* to, DType dtype) {
  with_type(dtype, [&]<class T>(T) {
    if constexpr (std::is_same_v<T, float>) {
      std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    } else if constexpr (std::is_same_v<T, Half>) {
      store_f16(from, count, static_cast<Half*>(to));
    } else {
      store_bf16(from, count, static_cast<std::uint16_t*>(to));
    }
  });
}

}  // namespace warpjet::ref
