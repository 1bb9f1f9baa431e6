// Element types, shapes and non-owning tensor views.
#pragma once

#include <warpjet/error.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace warpjet {

// Stored in engine files by name, never by number.
enum class DType : std::uint8_t { f32, f16, bf16, f64, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u8, boolean };

WJ_API std::string_view to_string(DType dtype);                        // "bf16"
WJ_API std::optional<DType> dtype_from_string(std::string_view name);  // "bf16", "bfloat16", "BF16" (safetensors)
WJ_API int dtype_bytes(DType dtype);                                   // 2
inline bool is_float(DType t) {
  return t == DType::f32 || t == DType::f16 || t == DType::bf16;
}

// Up to five extents, outermost first. A rank-0 shape holds one element.
class WJ_API Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return extents_[axis]; }
  std::int64_t& operator[](int axis) { return extents_[axis]; }
  std::int64_t elements() const;  // product; throws corrupt on overflow
  std::string to_string() const;  // "[2, 3]"
  std::span<const std::int64_t> extents() const { return {extents_.data(), static_cast<std::size_t>(rank_)}; }
  bool operator==(const Shape& other) const;

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

// A view never owns. Only the outermost axis may be strided (a slice of the columns of a matrix); inner axes are dense.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  std::int64_t row_stride = 0;  // elements between consecutive outermost entries

  TensorView() = default;
  TensorView(void* data, DType dtype, Shape shape);                           // dense
  TensorView(void* data, DType dtype, Shape shape, std::int64_t row_stride);  // strided rows

  explicit operator bool() const { return data != nullptr; }
  std::int64_t bytes() const { return shape.elements() * dtype_bytes(dtype); }  // of a dense view
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  template <class T>
  T* row(std::int64_t index) const {
    return as<T>() + index * row_stride;
  }
};

}  // namespace warpjet
