// What the kernel tests share: tensors on the host, random data, tolerances, and every op written again as naively as
// possible in double precision.
#pragma once

#include "core/core.h"
#include "ops/catalog.h"
#include "quant/quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace warpjet::kit {

constexpr DType kFloats[] = {DType::f32, DType::f16, DType::bf16};

// Fixed seeds keep failures repeatable; the trace prints the one in use.
class Random {
 public:
  explicit Random(std::uint64_t seed) : seed_(seed), engine_(seed) {}
  double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
  double normal() { return std::normal_distribution<double>()(engine_); }
  std::int32_t below(std::int64_t end) {
    return static_cast<std::int32_t>(std::uniform_int_distribution<std::int64_t>(0, end - 1)(engine_));
  }
  std::string trace() const { return cat("seed ", seed_); }

 private:
  std::uint64_t seed_;
  std::mt19937_64 engine_;
};

// A matrix of floats of any type, with unused columns after each row when `padding` > 0. Poisoned: every byte 0xff,
// which is NaN in every float type.
class Matrix {
 public:
  Matrix(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t padding = 0)
      : dtype_(dtype),
        rows_(rows),
        columns_(columns),
        stride_(columns + padding),
        bytes_(static_cast<std::size_t>(rows * stride_ * dtype_bytes(dtype)), std::byte{0xff}) {}

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  TensorView view() { return TensorView(bytes_.data(), dtype_, {rows_, columns_}, stride_); }
  TensorView view(Shape shape) { return TensorView(bytes_.data(), dtype_, shape); }  // no padding

  double get(std::int64_t row, std::int64_t column) const {
    const std::byte* at = place(row, column);
    if (dtype_ == DType::f32) return read<float>(at);
    return dtype_ == DType::f16 ? f16_to_f32(read<std::uint16_t>(at)) : bf16_to_f32(read<std::uint16_t>(at));
  }
  void set(std::int64_t row, std::int64_t column, double value) {
    std::byte* at = const_cast<std::byte*>(place(row, column));
    const float narrow = static_cast<float>(value);
    const std::uint16_t half = dtype_ == DType::f16 ? f32_to_f16(narrow) : f32_to_bf16(narrow);
    if (dtype_ == DType::f32) {
      std::memcpy(at, &narrow, sizeof narrow);
    } else {
      std::memcpy(at, &half, sizeof half);
    }
  }
  void fill(Random& random, double spread = 1.0) {
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t c = 0; c < columns_; ++c) set(r, c, random.uniform(-spread, spread));
    }
  }

  // The stored bytes of a row, for comparing bits.
  std::string row_bytes(std::int64_t row) const {
    return std::string(reinterpret_cast<const char*>(place(row, 0)),
                       static_cast<std::size_t>(columns_ * dtype_bytes(dtype_)));
  }
  bool padding_is_untouched() const {
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (const std::byte* at = place(r, columns_); at < place(r, stride_); ++at) {
        if (*at != std::byte{0xff}) return false;
      }
    }
    return true;
  }

 private:
  template <class T>
  static T read(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  const std::byte* place(std::int64_t row, std::int64_t column) const {
    return bytes_.data() + (row * stride_ + column) * dtype_bytes(dtype_);
  }

  DType dtype_;
  std::int64_t rows_, columns_, stride_;
  std::vector<std::byte> bytes_;
};

template <class T>
TensorView view_of(std::vector<T>& values) {
  const DType dtype = std::is_same_v<T, float> ? DType::f32 : sizeof(T) == 8 ? DType::i64 : DType::i32;
  return TensorView(values.data(), dtype, {static_cast<std::int64_t>(values.size())});
}
template <class T>
TensorView view_of(std::vector<T>& values, std::int64_t rows) {
  TensorView flat = view_of(values);
  return TensorView(flat.data, flat.dtype,
                    {rows, static_cast<std::int64_t>(values.size()) / std::max<std::int64_t>(1, rows)});
}

// A device with more threads than this machine may have cores, and every kernel that runs on it.
class KernelTest : public testing::Test {
 protected:
  KernelTest() : device_(make_cpu_device(3)) { register_reference(catalogs_); }

  // Calls check(launch) for every kernel here that supports the problem.
  template <class Op, class Check>
  void for_each_kernel(const typename Op::Problem& problem, Check check) {
    int found = 0;
    for (const Kernel<Op>& row : catalogs_.of<Op>().rows()) {
      if (row.sm_min > 0 || !row.supports(problem)) continue;
      ++found;
      SCOPED_TRACE(cat(row.name, " ", to_string(problem)));
      check([&](const typename Op::Args& args) { row.launch(args, device_->stream()); });
      if (HasFatalFailure()) return;
    }
    EXPECT_GT(found, 0) << "no kernel for " << Op::name << to_string(problem);
  }

  Catalogs catalogs_;
  std::unique_ptr<Device> device_;
};

// --- Tolerances

// How far a result may be from the exact one, relative to max(1, |exact|): one rounding to the output's type, and fp32
// rounding that grows with the square root of the number of terms.
inline double tolerance(DType output, std::int64_t terms) {
  const double rounding = output == DType::f32 ? 0x1p-23 : output == DType::f16 ? 0x1p-10 : 0x1p-7;
  return rounding + 0x1p-22 * std::sqrt(static_cast<double>(terms));
}

inline void expect_close(const Matrix& got, const Matrix& exact, double tolerance) {
  for (std::int64_t r = 0; r < got.rows(); ++r) {
    for (std::int64_t c = 0; c < got.columns(); ++c) {
      const double want = exact.get(r, c), bound = tolerance * std::max(1.0, std::abs(want));
      ASSERT_FALSE(std::isnan(got.get(r, c))) << "row " << r << ", column " << c << " was not written";
      ASSERT_NEAR(got.get(r, c), want, bound) << "row " << r << ", column " << c;
    }
  }
}

// --- The ops, again

inline double naive_gate(Gate gate, double x) {
  switch (gate) {
    case Gate::none:
      return x;
    case Gate::silu:
      return x / (1 + std::exp(-x));
    case Gate::gelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Gate::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Gate::relu:
      return x > 0 ? x : 0;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

inline Matrix naive_gemm(const Gemm::Problem& p, const Matrix& a, const Matrix& b, const Matrix& bias,
                         const Matrix& residual) {
  const std::int64_t columns = p.gate == Gate::none ? p.n : p.n / 2;
  const auto product = [&](std::int64_t r, std::int64_t c) {
    double sum = p.bias ? bias.get(0, c) : 0;
    for (std::int64_t i = 0; i < p.k; ++i) sum += a.get(r, i) * b.get(c, i);
    return sum;
  };
  Matrix d(DType::f32, p.m, columns);
  for (std::int64_t r = 0; r < p.m; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      double value = naive_gate(p.gate, product(r, c));
      if (p.gate != Gate::none) value *= product(r, columns + c);
      d.set(r, c, value + (p.residual ? residual.get(r, c) : 0));
    }
  }
  return d;
}

inline std::vector<double> naive_norm(const std::vector<double>& x, const Matrix& weight, double eps) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  std::vector<double> y;
  for (std::size_t i = 0; i < x.size(); ++i) {
    y.push_back(x[i] / std::sqrt(squares / static_cast<double>(x.size()) + eps) *
                weight.get(0, static_cast<std::int64_t>(i)));
  }
  return y;
}

// Pairs (i, i + dim / 2) turned by the angles of row t of cos_sin.
inline std::vector<double> naive_rotate(const std::vector<double>& x, const Matrix& cos_sin, std::int64_t t) {
  const std::size_t half = x.size() / 2;
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < half; ++i) {
    const double cosine = cos_sin.get(t, static_cast<std::int64_t>(i));
    const double sine = cos_sin.get(t, static_cast<std::int64_t>(half + i));
    y[i] = x[i] * cosine - x[half + i] * sine;
    y[half + i] = x[half + i] * cosine + x[i] * sine;
  }
  return y;
}

// One sequence's keys or values, [position][kv_head * head_dim + i], and where they lie in a paged cache.
struct PagedSequence {
  std::int64_t query_count = 0;  // the last positions are queries
  Matrix k, v;
  std::vector<std::int32_t> blocks;
};

// softmax(scale q·k) v for one query and head, over the keys that it sees; zeros where it sees none.
inline std::vector<double> naive_attention(const Attention::Problem& p, const std::vector<double>& q,
                                           const PagedSequence& seq, std::int64_t position, std::int64_t head,
                                           double sink = -std::numeric_limits<double>::infinity()) {
  const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(0, position - p.window + 1) : 0;
  const std::int64_t column = head / (p.heads / p.kv_heads) * p.head_dim;
  std::vector<double> scores, out(static_cast<std::size_t>(p.head_dim), 0.0);
  double max = sink, sum = 0;
  for (std::int64_t key = first; key <= position; ++key) {
    double score = 0;
    for (std::int64_t i = 0; i < p.head_dim; ++i) score += q[static_cast<std::size_t>(i)] * seq.k.get(key, column + i);
    score *= p.scale;
    scores.push_back(p.softcap == 0 ? score : p.softcap * std::tanh(score / p.softcap));
    max = std::max(max, scores.back());
  }
  for (const double score : scores) sum += std::exp(score - max);
  sum += std::isinf(sink) ? 0 : std::exp(sink - max);
  for (std::int64_t key = first; key <= position; ++key) {
    const double probability = std::exp(scores[static_cast<std::size_t>(key - first)] - max) / sum;
    for (std::int64_t i = 0; i < p.head_dim; ++i) {
      out[static_cast<std::size_t>(i)] += probability * seq.v.get(key, column + i);
    }
  }
  return out;
}

}  // namespace warpjet::kit
