// Quantisation: how numbers are stored. A Scheme names the format of weights, activations and KV cache; the codec
// converts between formats on the host and is the bit-exact reference for every kernel that decodes.
#pragma once

#include <warpjet/tensor.h>

#include "quant/format.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace warpjet {

// What a weight is used as.
enum class Role : std::uint8_t { matrix, table, bias, gain };

// One row of the table in scheme.cpp.
struct Scheme {
  std::string_view name;  // "bf16"; written into engine files
  Format weight;          // of matrices; tables, biases and gains have the activations' type
  DType activation;
  DType kv;

  Format format(Role role) const { return role == Role::matrix ? weight : Format(activation); }
};

std::span<const Scheme> schemes();

// By name or alias ("bfloat16", "float16", "half", "float"); throws unsupported listing the names.
const Scheme& find_scheme(std::string_view name);

// The scheme that keeps a checkpoint's weights as they are.
const Scheme& scheme_for(DType checkpoint_dtype);

// Decodes columns [first, first + count) of row `row` of a scaled matrix to fp32. codes: that row's first code; scales:
// [ceil(rows / block_rows), scale_stride].
void decode_row(const Format& format, const void* codes, const float* scales, std::int64_t scale_stride,
                std::int64_t row, std::int64_t first, std::int64_t count, float* to);

// --- Scalar conversions, round to nearest even; NaN stays NaN --------------------------------------------------------

inline float bf16_to_f32(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof value);
  return value;
}

inline std::uint16_t f32_to_bf16(float value) {
  std::uint32_t wide;
  __builtin_memcpy(&wide, &value, sizeof wide);
  const std::uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
  const bool nan = (wide & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(nan ? (wide >> 16) | 0x40u : rounded);
}

// By hand, because without F16C compilers call a function for each _Float16; this form is vectorised.
inline float f16_to_f32(std::uint16_t bits) {
  constexpr float kRebias = 0x1p112f;  // 2^(127 - 15): turns half's exponents, subnormal ones too, into float's
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fffu) << 13;
  float scaled;
  __builtin_memcpy(&scaled, &magnitude, sizeof scaled);
  scaled *= kRebias;
  std::uint32_t wide;
  __builtin_memcpy(&wide, &scaled, sizeof wide);
  const bool special = (bits & 0x7c00u) == 0x7c00u;  // infinity or NaN
  wide = (special ? magnitude | 0x7f800000u : wide) | static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof value);
  return value;
}

inline std::uint16_t f32_to_f16(float value) {
  std::uint32_t wide;
  __builtin_memcpy(&wide, &value, sizeof wide);
  const std::uint32_t magnitude = wide & 0x7fffffffu;
  // Normal: move the exponent's bias, then round the 13 dropped bits to even; a carry goes into the exponent rightly.
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal: at 0.5 the last bit of a float is worth 2^-24, half's smallest step, so the addition rounds.
  float small;
  __builtin_memcpy(&small, &magnitude, sizeof small);
  small += 0.5f;
  std::uint32_t subnormal;
  __builtin_memcpy(&subnormal, &small, sizeof subnormal);
  subnormal -= 0x3f000000u;
  std::uint32_t half = magnitude < 0x38800000u ? subnormal : normal;               // below 2^-14
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;                                // from 65520 on: infinity
  half = magnitude > 0x7f800000u ? 0x7e00u | ((magnitude >> 13) & 0x3ffu) : half;  // NaN keeps its payload's top
  return static_cast<std::uint16_t>(half | ((wide >> 16) & 0x8000u));
}

// OCP 8-bit floats (Micikevicius et al. 2022). Encoding saturates: e4m3 has no infinity, and of e5m2 none is wanted.
float f8_e4m3_to_f32(std::uint8_t bits);
float f8_e5m2_to_f32(std::uint8_t bits);
std::uint8_t f32_to_f8_e4m3(float value);
std::uint8_t f32_to_f8_e5m2(float value);

// Converts `count` elements between floats of 32, 16 and 8 bits (equal types copy bytes). Throws unsupported for other
// types.
void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t count);

}  // namespace warpjet
