#include <warpjet/tensor.h>

#include "core/core.h"

#include <algorithm>
#include <array>

namespace warpjet {
namespace {

// One row an element type, in the order of the enum: our name, its size, other spellings (the first is safetensors').
struct DTypeRow {
  std::string_view name;
  int bytes;
  std::array<std::string_view, 4> aliases;
};

constexpr std::array<DTypeRow, 12> kDTypes{{
    {"f32", 4, {"F32", "float32", "float", "fp32"}},
    {"f16", 2, {"F16", "float16", "half", "fp16"}},
    {"bf16", 2, {"BF16", "bfloat16"}},
    {"f64", 8, {"F64", "float64", "double"}},
    {"f8_e4m3", 1, {"F8_E4M3", "float8_e4m3fn"}},
    {"f8_e5m2", 1, {"F8_E5M2", "float8_e5m2"}},
    {"i64", 8, {"I64", "int64"}},
    {"i32", 4, {"I32", "int32"}},
    {"i16", 2, {"I16", "int16"}},
    {"i8", 1, {"I8", "int8"}},
    {"u8", 1, {"U8", "uint8"}},
    {"bool", 1, {"BOOL", "boolean"}},
}};
static_assert(kDTypes.size() == static_cast<std::size_t>(DType::boolean) + 1, "one row an enumerator, in its order");

const DTypeRow& row_of(DType dtype) {
  return kDTypes[static_cast<std::size_t>(dtype)];
}

}  // namespace

std::string_view to_string(DType dtype) {
  return row_of(dtype).name;
}

int dtype_bytes(DType dtype) {
  return row_of(dtype).bytes;
}

std::optional<DType> dtype_from_string(std::string_view name) {
  if (name.empty()) return std::nullopt;  // unused alias places are empty
  for (std::size_t i = 0; i < kDTypes.size(); ++i) {
    const auto& aliases = kDTypes[i].aliases;
    const bool alias = std::find(aliases.begin(), aliases.end(), name) != aliases.end();
    if (alias || kDTypes[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  WJ_REQUIRE(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product), corrupt, "size ", a, " x ", b,
             " is out of range");
  return product;
}

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  WJ_REQUIRE(extents.size() <= kMaxRank, invalid_argument, "a shape has at most ", kMaxRank, " axes, got ",
             extents.size());
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

std::int64_t Shape::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : extents()) product = checked_mul(product, extent);
  return product;
}

std::string Shape::to_string() const {
  std::string out = "[";
  for (int axis = 0; axis < rank_; ++axis) out += cat(axis == 0 ? "" : ", ", extents_[axis]);
  return out + "]";
}

bool Shape::operator==(const Shape& other) const {
  return std::ranges::equal(extents(), other.extents());
}

TensorView::TensorView(void* data, DType dtype, Shape shape)
    : data(data),
      dtype(dtype),
      shape(shape),
      row_stride(shape.rank() == 0 ? 1 : Shape(shape.extents().subspan(1)).elements()) {}

TensorView::TensorView(void* data, DType dtype, Shape shape, std::int64_t row_stride)
    : data(data), dtype(dtype), shape(shape), row_stride(row_stride) {}

}  // namespace warpjet
