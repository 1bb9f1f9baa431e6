// Matrix products. Every output is one dot_tile() sum, so a row never depends on the rows beside it; tiles of four
// rows exist because they widen each weight once for four products.
#include "ops/ref/number.h"
#include "ops/ref/reference.h"

#include <algorithm>
#include <cmath>

namespace warpjet::ref {
namespace {

constexpr int kTileRows = 4, kTileColumns = 4;  // 16 sums of kLanes: all 512-bit registers but those for operands
constexpr int kBlockColumns = 32;               // weight rows of one block stay in the cache for all row tiles
constexpr std::int64_t kMinProducts = 1 << 14;  // about a microsecond: less is not worth a thread

// acc[r][c] = a row r · b row c, for at most kTileRows rows and kBlockColumns columns.
struct Block {
  const void* a = nullptr;
  const void* b = nullptr;
  std::int64_t a_stride = 0, b_stride = 0;
  std::int64_t rows = 0, columns = 0, k = 0;
  float (*acc)[kBlockColumns] = nullptr;
};

template <int kRows, class A, class B>
WJ_INLINE void multiply_rows(const Block& block, std::int64_t first_row) {
  const A* a[kRows];
  for (int r = 0; r < kRows; ++r) a[r] = static_cast<const A*>(block.a) + (first_row + r) * block.a_stride;
  for (std::int64_t c = 0; c < block.columns; c += kTileColumns) {
    const B* b[kTileColumns];  // a short last tile repeats its last column
    for (int i = 0; i < kTileColumns; ++i) {
      b[i] = static_cast<const B*>(block.b) + std::min(c + i, block.columns - 1) * block.b_stride;
    }
    float out[kRows][kTileColumns];
    dot_tile<kRows, kTileColumns>(a, b, block.k, out);
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kTileColumns; ++i) block.acc[first_row + r][c + i] = out[r][i];
    }
  }
}

static_assert(kTileRows == 4, "multiply() knows what to do with 1 to 4 rows");
template <class A, class B>
WJ_CLONES void multiply(const Block& block) {
  if (block.rows == kTileRows) return multiply_rows<kTileRows, A, B>(block, 0);
  if (block.rows >= 2) multiply_rows<2, A, B>(block, 0);
  if (block.rows % 2 == 1) multiply_rows<1, A, B>(block, block.rows - 1);
}

using Multiply = void (*)(const Block&);

// Activations are of the weights' type or fp32: what schemes combine. Every further pair costs seconds of compiling.
Multiply multiply_for(DType a, DType b) {
  return with_type(b, [&]<class B>(B) -> Multiply { return a == DType::f32 ? &multiply<float, B> : &multiply<B, B>; });
}

// gate[i] = function(gate[i]) * up[i]. silu(x) = x / (1 + e^-x); gelu is exact, gelu_tanh its tanh form
// (Hendrycks & Gimpel 2016).
WJ_CLONES void apply_gate(Gate function, float* gate, const float* up) {
  switch (function) {
    case Gate::none:
      return;
    case Gate::silu:
      for (int i = 0; i < kBlockColumns; ++i) gate[i] = gate[i] / (1.0f + exp_f32(-gate[i])) * up[i];
      return;
    case Gate::gelu:
      for (int i = 0; i < kBlockColumns; ++i)
        gate[i] = 0.5f * gate[i] * (1.0f + std::erf(gate[i] * 0x1.6a09e6p-1f)) * up[i];
      return;
    case Gate::gelu_tanh:
      for (int i = 0; i < kBlockColumns; ++i) {
        const float x = gate[i], inner = 0x1.988454p-1f * (x + 0.044715f * x * x * x);  // sqrt(2 / pi)
        gate[i] = x / (1.0f + exp_f32(-2.0f * inner)) * up[i];  // 1 + tanh u = 2 / (1 + e^-2u), without cancellation
      }
      return;
    case Gate::relu:
      for (int i = 0; i < kBlockColumns; ++i) gate[i] = std::max(gate[i], 0.0f) * up[i];
      return;
  }
}

// One output block: the product, then the epilogue in fp32, then one rounding.
class BlockWriter {
 public:
  explicit BlockWriter(const Gemm::Args& args)
      : args_(args), p_(args.problem), multiply_(multiply_for(args.problem.a, args.problem.b)) {}

  std::int64_t columns() const { return p_.gate == Gate::none ? p_.n : p_.n / 2; }

  void write(std::int64_t first_row, std::int64_t first_column) const {
    const std::int64_t rows = std::min<std::int64_t>(kTileRows, p_.m - first_row);
    const std::int64_t width = std::min<std::int64_t>(kBlockColumns, columns() - first_column);
    float acc[kTileRows][kBlockColumns] = {}, up[kTileRows][kBlockColumns] = {};
    product(first_row, rows, first_column, width, acc);
    if (p_.gate != Gate::none) product(first_row, rows, columns() + first_column, width, up);
    for (std::int64_t r = 0; r < rows; ++r) {
      if (p_.gate != Gate::none) apply_gate(p_.gate, acc[r], up[r]);
      if (p_.residual) add(element(args_.residual, first_row + r, first_column), p_.d, width, acc[r]);
      store(acc[r], width, element(args_.d, first_row + r, first_column), p_.d);
    }
  }

 private:
  void product(std::int64_t first_row, std::int64_t rows, std::int64_t first_weight, std::int64_t width,
               float (*acc)[kBlockColumns]) const {
    multiply_({.a = element(args_.a, first_row),
               .b = element(args_.b, first_weight),
               .a_stride = args_.a.row_stride,
               .b_stride = args_.b.row_stride,
               .rows = rows,
               .columns = width,
               .k = p_.k,
               .acc = acc});
    if (!p_.bias) return;
    for (std::int64_t r = 0; r < rows; ++r) add(element(args_.bias, first_weight), p_.b, width, acc[r]);
  }

  static void add(const void* from, DType dtype, std::int64_t width, float* acc) {
    float values[kBlockColumns];
    load(from, dtype, width, values);
    for (std::int64_t i = 0; i < width; ++i) acc[i] += values[i];
  }

  const Gemm::Args& args_;
  const Gemm::Problem& p_;
  Multiply multiply_;
};

}  // namespace

bool supports(const Gemm::Problem& p) {
  const bool gated = p.gate != Gate::none;
  return (p.a == p.b || p.a == DType::f32) && is_float(p.b) && is_float(p.d) && p.n > 0 && p.k > 0 &&
         !(gated && (p.residual || p.n % 2));
}

void launch(const Gemm::Args& args, Stream& stream) {
  const Gemm::Problem& p = args.problem;
  const BlockWriter writer(args);
  const std::int64_t row_tiles = ceil_div<std::int64_t>(p.m, kTileRows);
  const std::int64_t column_blocks = ceil_div<std::int64_t>(writer.columns(), kBlockColumns);
  const std::int64_t products = std::min<std::int64_t>(p.m, kTileRows) * kBlockColumns * p.k;
  static_cast<CpuStream&>(stream).parallel_for(
      row_tiles * column_blocks, std::max<std::int64_t>(1, kMinProducts / std::max<std::int64_t>(1, products)),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          writer.write(i % row_tiles * kTileRows, i / row_tiles * kBlockColumns);
      });
}

}  // namespace warpjet::ref
