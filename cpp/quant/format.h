// How numbers of a tensor are stored: codes of an element type, and scales that blocks of them share.
#pragma once

#include "core/core.h"

namespace warpjet {

// A plain format has no scales. A scaled one has a scale for every block of block_rows x block_columns values (fewer at
// the ends): value = code * scale. Scales are [ceil(rows / block_rows), ceil(columns / block_columns)], and lie behind
// the codes, kScaleAlignment aligned.
struct Format {
  DType element = DType::f32;
  int block_rows = 0, block_columns = 0;
  DType scale = DType::f32;

  constexpr Format() = default;
  constexpr Format(DType plain) : element(plain) {}
  constexpr Format(DType code, int rows, int columns, DType scales)
      : element(code), block_rows(rows), block_columns(columns), scale(scales) {}

  static constexpr std::int64_t kScaleAlignment = 256;
  bool scaled() const { return block_rows > 0; }
  Shape scale_shape(const Shape& shape) const {
    return {ceil_div<std::int64_t>(shape[0], block_rows), ceil_div<std::int64_t>(shape[1], block_columns)};
  }
  std::int64_t code_bytes(const Shape& shape) const { return shape.elements() * dtype_bytes(element); }
  std::int64_t scale_offset(const Shape& shape) const { return align_up(code_bytes(shape), kScaleAlignment); }
  std::int64_t bytes(const Shape& shape) const {
    return scaled() ? scale_offset(shape) + scale_shape(shape).elements() * dtype_bytes(scale) : code_bytes(shape);
  }
  // Of one value, its share of a scale included.
  double bytes_per_value() const {
    const double code = dtype_bytes(element);
    return scaled() ? code + static_cast<double>(dtype_bytes(scale)) / (1.0 * block_rows * block_columns) : code;
  }
  bool operator==(const Format&) const = default;
};

std::string to_string(const Format& format);  // "bf16", "f8_e4m3[128x128:f32]"
inline bool is_float(const Format& format) {
  return !format.scaled() && is_float(format.element);
}
Json json_of(const Format& format);  // the name of a plain one, else an object
void from_json(const Json& json, Format& format);

}  // namespace warpjet
