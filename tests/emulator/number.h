// Sixteen-bit floats in software, bit for bit what the GPU's conversions do.
#pragma once

#include <cstdint>
#include <cstring>

namespace emu {

inline std::uint32_t float_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float bits_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

constexpr std::uint16_t kCanonicalNan = 0x7fff;  // what the conversions of a GPU make of every NaN
constexpr std::uint32_t kCanonicalNan32 = 0x7fffffff;

inline float bf16_to_f32(std::uint16_t bits) {
  return bits_float(static_cast<std::uint32_t>(bits) << 16);
}

inline std::uint16_t f32_to_bf16(float value) {
  if (value != value) return kCanonicalNan;
  const std::uint32_t bits = float_bits(value);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // half way goes to even
}

inline float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 0x3ff;
  if (exponent == 31) return bits_float(mantissa ? kCanonicalNan32 : sign | 0x7f800000u);
  if (exponent > 0) return bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // subnormals are multiples of 2^-24
  return sign ? -magnitude : magnitude;
}

inline std::uint16_t f32_to_f16(float value) {
  if (value != value) return kCanonicalNan;
  const std::uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffffu;
  const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: adding one half leaves the rounded multiple of 2^-24 in the low bits
    const float shifted = bits_float(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (float_bits(shifted) - float_bits(0.5f)));
  }
  const std::uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace emu
