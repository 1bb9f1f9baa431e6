// What the walks over the GPU's catalogue share: matrices in guarded memory, and the fixture that runs every row of an
// op against its reference.
#pragma once

#include "cuda/catalog.h"
#include "emulator/emulator.h"
#include "kit.h"

#include <cstdio>
#include <map>
#include <set>

namespace warpjet {
namespace {

using kit::kFloats;
using kit::Matrix;
using kit::Random;

// A matrix in guarded memory that starts `offset` elements behind an aligned address, with columns of padding after
// each row but the last: a kernel that writes past any row is seen.
class Guarded {
 public:
  Guarded(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t padding = 0, std::int64_t offset = 0)
      : dtype_(dtype),
        rows_(rows),
        columns_(columns),
        stride_(columns + padding),
        offset_(offset),
        memory_(static_cast<std::size_t>((offset + std::max<std::int64_t>(1, rows) * stride_ - padding) *
                                         dtype_bytes(dtype))) {}

  TensorView view() const {
    return TensorView(memory_.as<>() + offset_ * dtype_bytes(dtype_), dtype_, {rows_, columns_}, stride_);
  }
  TensorView flat() const { return TensorView(view().data, dtype_, {rows_ * columns_}); }  // no padding
  std::string row_bytes(std::int64_t row) const {
    return std::string(reinterpret_cast<const char*>(at(row, 0)),
                       static_cast<std::size_t>(columns_ * dtype_bytes(dtype_)));
  }
  double get(std::int64_t row, std::int64_t column) const {
    if (dtype_ == DType::f32) return *reinterpret_cast<const float*>(at(row, column));
    const std::uint16_t bits = *reinterpret_cast<const std::uint16_t*>(at(row, column));
    return dtype_ == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
  void fill(Random& random) {
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t c = 0; c < columns_; ++c) {
        const float value = static_cast<float>(random.uniform(-1, 1));
        const std::uint16_t half = dtype_ == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
        std::memcpy(at(r, c), dtype_ == DType::f32 ? static_cast<const void*>(&value) : &half,
                    static_cast<std::size_t>(dtype_bytes(dtype_)));
      }
    }
  }
  bool padding_is_untouched() const {
    for (std::int64_t r = 0; r + 1 < rows_; ++r) {
      for (const std::byte* b = at(r, columns_); b < at(r + 1, 0); ++b) {
        if (*b != std::byte{0xff}) return false;
      }
    }
    return true;
  }

 private:
  std::byte* at(std::int64_t row, std::int64_t column) const {
    return memory_.as<>() + (offset_ + row * stride_ + column) * dtype_bytes(dtype_);
  }

  DType dtype_;
  std::int64_t rows_, columns_, stride_, offset_;
  emu::GlobalBuffer memory_;
};

// A list of numbers in guarded memory.
template <class T>
class List {
 public:
  List(DType dtype, std::int64_t count)
      : dtype_(dtype), count_(count), memory_(static_cast<std::size_t>(count) * sizeof(T)) {}
  List(DType dtype, const std::vector<T>& values) : List(dtype, std::ssize(values)) {
    std::copy(values.begin(), values.end(), memory_.template as<T>());
  }
  TensorView view() const { return {memory_.as<>(), dtype_, {count_}}; }
  TensorView matrix(std::int64_t rows) const { return {memory_.as<>(), dtype_, {rows, count_ / rows}}; }
  T& operator[](std::int64_t i) const { return memory_.template as<T>()[i]; }
  std::vector<T> values() const { return {memory_.template as<T>(), memory_.template as<T>() + count_}; }

 private:
  DType dtype_;
  std::int64_t count_;
  emu::GlobalBuffer memory_;
};
using Ints = List<std::int32_t>;

void expect_close(const Guarded& got, const Guarded& want, std::int64_t rows, std::int64_t columns, double tolerance) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const double exact = want.get(r, c);
      ASSERT_NEAR(got.get(r, c), exact, tolerance * std::max(1.0, std::abs(exact))) << "row " << r << ", column " << c;
    }
  }
}

// The shape of an output in memory.
struct Layout {
  std::int64_t rows, width, padding, offset;
};

// Cases<Op>::each(random, run): calls run(problem, args, out, tolerance) for every case, with all inputs filled.

template <class Op>
struct Cases {
  template <class Run>
  static void each(Random&, Run) {}
};

// Ops with cases in a test file of their own: emulated_ops_test.cpp leaves them out.
template <class Op>
constexpr bool kHasOwnTest = false;
template <>
inline constexpr bool kHasOwnTest<Gemm> = true;
template <>
inline constexpr bool kHasOwnTest<RopeTable> = true;
template <>
inline constexpr bool kHasOwnTest<RopeAppendKv> = true;
template <>
inline constexpr bool kHasOwnTest<Attention> = true;
template <>
inline constexpr bool kHasOwnTest<Edit> = true;
template <>
inline constexpr bool kHasOwnTest<PrepareRows> = true;
template <>
inline constexpr bool kHasOwnTest<CopyBlocks> = true;
template <>
inline constexpr bool kHasOwnTest<Penalize> = true;
template <>
inline constexpr bool kHasOwnTest<Select> = true;
template <>
inline constexpr bool kHasOwnTest<Logprob> = true;
template <>
inline constexpr bool kHasOwnTest<AppendTokens> = true;

// What rows moved through global memory, against bytes() of their problem, the least that must be moved: a line a row,
// for its largest problem. Nothing where the emulator does not count.
class Traffic {
 public:
  // Of the launch that has just ended.
  void note(std::string_view row, double least_bytes) {
    const double moved = static_cast<double>(emu::counters().global_read_bytes + emu::counters().global_written_bytes);
    Largest& largest = rows_[row];
    if (least_bytes > largest.least_bytes) largest = {least_bytes, moved};
  }
  double ratio(std::string_view row) const { return rows_.at(row).moved / rows_.at(row).least_bytes; }
  ~Traffic() {
    if (emu::kOnGpu) return;
    for (const auto& [row, largest] : rows_) {
      std::printf("[  traffic ] %-40.*s %6.2f x of %.0f bytes\n", static_cast<int>(row.size()), row.data(), ratio(row),
                  largest.least_bytes);
    }
  }

 private:
  struct Largest {
    double least_bytes = 0, moved = 0;
  };
  std::map<std::string_view, Largest> rows_;
};

class EmulatedOps : public testing::Test {
 protected:
  EmulatedOps() : device_(make_cpu_device(1)) {
    register_cuda_kernels(gpu_);
    register_reference(reference_);
  }

  template <class Op>
  void check_all() {
    std::set<std::string_view> ran;
    Random random(1);
    SCOPED_TRACE(random.trace());
    Cases<Op>::each(random, [&](const typename Op::Problem& problem, typename Op::Args args, auto output, DType type,
                                const Layout& l, std::int64_t terms) {
      Guarded want(type, l.rows, l.width, l.padding, l.offset);
      args.*output = want.view();
      reference_.of<Op>().rows().front().launch(args, device_->stream());
      for (const Kernel<Op>& row : gpu_.of<Op>().rows()) {
        if (!row.supports(problem)) continue;
        ran.insert(row.name);
        SCOPED_TRACE(cat(row.name, " ", to_string(problem), " padding=", l.padding, " offset=", l.offset));
        Guarded got(type, l.rows, l.width, l.padding, l.offset);
        args.*output = got.view();
        row.launch(args, device_->stream());
        traffic_.note(row.name, Op::bytes(problem));
        expect_close(got, want, l.rows, l.width, kit::tolerance(type, terms));
        EXPECT_TRUE(got.padding_is_untouched());
      }
    });
    constexpr double kMostRatio = 3;  // tiles read operands again, and these problems are a few tiles
    for (const Kernel<Op>& row : gpu_.of<Op>().rows()) {
      EXPECT_TRUE(ran.contains(row.name)) << row.name << " never ran";
      EXPECT_LE(traffic_.ratio(row.name), kMostRatio) << row.name << " moves more than it should";
    }
  }

  Catalogs gpu_, reference_;
  std::unique_ptr<Device> device_;
  Traffic traffic_;
};

}  // namespace
}  // namespace warpjet
