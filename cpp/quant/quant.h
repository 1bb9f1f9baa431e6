// Quantisation: how numbers are stored. A Scheme names the format of weights, activations and KV cache; the codec
// converts between formats on the host and is the bit-exact reference for every kernel that decodes.
#pragma once

#include <warpjet/tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace warpjet {

// One row of the table in scheme.cpp. Plain formats have no scales; block formats join the table with theirs.
struct Scheme {
  std::string_view name;  // "bf16"; written into engine files
  DType weight;
  DType activation;
  DType kv;
};

std::span<const Scheme> schemes();

// By name or alias ("bfloat16", "float16", "half", "float"); throws unsupported listing the names.
const Scheme& find_scheme(std::string_view name);

// The scheme that keeps a checkpoint's weights as they are.
const Scheme& scheme_for(DType checkpoint_dtype);

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

inline float f16_to_f32(std::uint16_t bits) {
  _Float16 half;
  __builtin_memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}

inline std::uint16_t f32_to_f16(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  std::uint16_t bits;
  __builtin_memcpy(&bits, &half, sizeof bits);
  return bits;
}

// Converts `count` elements between f32, f16 and bf16 (equal types copy bytes). Throws unsupported for other types.
void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t count);

}  // namespace warpjet
