#include "quant/quant.h"

#include "core/core.h"

namespace warpjet {
namespace {

// One format: how an element is decoded to and encoded from fp32.
struct F32 {
  using Bits = float;
  static float decode(Bits bits) { return bits; }
  static Bits encode(float value) { return value; }
};
struct F16 {
  using Bits = std::uint16_t;
  static float decode(Bits bits) { return f16_to_f32(bits); }
  static Bits encode(float value) { return f32_to_f16(value); }
};
struct BF16 {
  using Bits = std::uint16_t;
  static float decode(Bits bits) { return bf16_to_f32(bits); }
  static Bits encode(float value) { return f32_to_bf16(value); }
};

// Bytes out of a file may lie at any address: memcpy instead of a cast. Compilers turn it into plain loads and stores.
template <class From, class To>
void convert_elements(const void* from, void* to, std::int64_t count) {
  const auto* source = static_cast<const std::byte*>(from);
  auto* target = static_cast<std::byte*>(to);
  for (std::int64_t i = 0; i < count; ++i) {
    typename From::Bits bits;
    std::memcpy(&bits, source + i * static_cast<std::int64_t>(sizeof bits), sizeof bits);
    const typename To::Bits out = To::encode(From::decode(bits));
    std::memcpy(target + i * static_cast<std::int64_t>(sizeof out), &out, sizeof out);
  }
}

template <class From>
void convert_from(const void* from, void* to, DType to_dtype, std::int64_t count) {
  switch (to_dtype) {
    case DType::f32:
      return convert_elements<From, F32>(from, to, count);
    case DType::f16:
      return convert_elements<From, F16>(from, to, count);
    case DType::bf16:
      return convert_elements<From, BF16>(from, to, count);
    default:
      WJ_FAIL(unsupported, "conversion to ", to_string(to_dtype), "; supported are f32, f16 and bf16");
  }
}

}  // namespace

void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t count) {
  WJ_CHECK(count >= 0, "count ", count);
  if (from_dtype == to_dtype) {
    if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count) * dtype_bytes(to_dtype));
    return;
  }
  switch (from_dtype) {
    case DType::f32:
      return convert_from<F32>(from, to, to_dtype, count);
    case DType::f16:
      return convert_from<F16>(from, to, to_dtype, count);
    case DType::bf16:
      return convert_from<BF16>(from, to, to_dtype, count);
    default:
      WJ_FAIL(unsupported, "conversion from ", to_string(from_dtype), "; supported are f32, f16 and bf16");
  }
}

}  // namespace warpjet
