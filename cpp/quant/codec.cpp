#include "quant/quant.h"

#include "core/core.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace warpjet {
namespace {

// An element type: how its bits are decoded to and encoded from fp32.
template <class BitsOf, auto kDecode, auto kEncode>
struct Codec {
  using Bits = BitsOf;
  static float decode(Bits bits) { return kDecode(bits); }
  static Bits encode(float value) { return kEncode(value); }
};
constexpr auto kSame = [](float value) { return value; };
using F32 = Codec<float, kSame, kSame>;
using F16 = Codec<std::uint16_t, f16_to_f32, f32_to_f16>;
using BF16 = Codec<std::uint16_t, bf16_to_f32, f32_to_bf16>;
using F8E4M3 = Codec<std::uint8_t, f8_e4m3_to_f32, f32_to_f8_e4m3>;
using F8E5M2 = Codec<std::uint8_t, f8_e5m2_to_f32, f32_to_f8_e5m2>;

// Calls visit with the codec of a type; throws unsupported when there is none.
template <class Visit>
void with_codec(DType dtype, std::string_view direction, Visit visit) {
  switch (dtype) {
    case DType::f32:
      return visit(F32{});
    case DType::f16:
      return visit(F16{});
    case DType::bf16:
      return visit(BF16{});
    case DType::f8_e4m3:
      return visit(F8E4M3{});
    case DType::f8_e5m2:
      return visit(F8E5M2{});
    default:
      WJ_FAIL(unsupported, "conversion ", direction, " ", to_string(dtype),
              "; supported are floats of 32, 16 and 8 bits");
  }
}

// A small float of `kMantissa` bits of mantissa and `kBias`, all of whose codes are finite but those that `is_nan`.
template <int kMantissa, int kBias>
float decode_small(std::uint8_t bits) {
  const int exponent = (bits & 0x7f) >> kMantissa, mantissa = bits & ((1 << kMantissa) - 1);
  const float magnitude =
      exponent == 0 ? std::ldexp(static_cast<float>(mantissa), 1 - kBias - kMantissa)
                    : std::ldexp(static_cast<float>(mantissa + (1 << kMantissa)), exponent - kBias - kMantissa);
  return bits & 0x80 ? -magnitude : magnitude;
}

// To nearest, ties to even, and no further than `most`; NaN becomes `nan`.
template <int kMantissa, int kBias>
std::uint8_t encode_small(float value, float most, std::uint8_t nan) {
  const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return static_cast<std::uint8_t>(sign | nan);
  const float magnitude = std::min(std::abs(value), most);
  if (magnitude == 0) return sign;
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude in [2^(exponent - 1), 2^exponent)
  exponent = std::max(exponent - 1, 1 - kBias);
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, kMantissa - exponent)));  // exact, then even
  const int code = ((exponent + kBias) << kMantissa) + steps - (1 << kMantissa);
  return static_cast<std::uint8_t>(sign | code);
}

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

template <class Decode>
std::array<float, 256> table_of(Decode decode) {
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code) table[code] = decode(static_cast<std::uint8_t>(code));
  return table;
}

}  // namespace

float f8_e4m3_to_f32(std::uint8_t bits) {
  static const std::array<float, 256> table = table_of([](std::uint8_t code) {
    return (code & 0x7f) == 0x7f ? std::numeric_limits<float>::quiet_NaN() : decode_small<3, 7>(code);
  });
  return table[bits];
}

float f8_e5m2_to_f32(std::uint8_t bits) {
  static const std::array<float, 256> table = table_of([](std::uint8_t code) {
    const float infinity = std::numeric_limits<float>::infinity();
    if ((code & 0x7f) == 0x7c) return code & 0x80 ? -infinity : infinity;
    return (code & 0x7f) > 0x7c ? std::numeric_limits<float>::quiet_NaN() : decode_small<2, 15>(code);
  });
  return table[bits];
}

std::uint8_t f32_to_f8_e4m3(float value) {
  return encode_small<3, 7>(value, 448.0f, 0x7f);
}

std::uint8_t f32_to_f8_e5m2(float value) {
  return encode_small<2, 15>(value, 57344.0f, 0x7f);
}

void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t count) {
  WJ_CHECK(count >= 0, "count ", count);
  if (from_dtype == to_dtype) {
    if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count) * dtype_bytes(to_dtype));
    return;
  }
  with_codec(from_dtype, "from", [&]<class From>(From) {
    with_codec(to_dtype, "to", [&]<class To>(To) { convert_elements<From, To>(from, to, count); });
  });
}

void decode_row(const Format& format, const void* codes, const float* scales, std::int64_t scale_stride,
                std::int64_t row, std::int64_t first, std::int64_t count, float* to) {
  const auto* code = static_cast<const std::byte*>(codes) + first * dtype_bytes(format.element);
  convert(code, format.element, to, DType::f32, count);
  const float* row_scales = scales + row / format.block_rows * scale_stride;
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t block = (first + i) / format.block_columns;
    const std::int64_t end = std::min(count, (block + 1) * format.block_columns - first);
    for (; i < end; ++i) to[i] *= row_scales[block];
  }
}

}  // namespace warpjet
