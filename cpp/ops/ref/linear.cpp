// Matrix products. Every output is kLanes sums over k (element i in lane i % kLanes) added as a tree, so a row never
// depends on the rows beside it, nor on the tile, the panel or the instruction set's width.
#include "ops/linear.h"
#include "ops/ref/number.h"
#include "quant/quant.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace warpjet::ref {
namespace {

constexpr int kTileRows = 4;       // rows whose sums stay in registers together
constexpr int kBlockRows = 16;     // weights of a block are widened once for so many rows
constexpr int kBlockColumns = 32;  // activations are widened once for so many columns
constexpr int kPanel = 1024,
              kLongPanel = 2048;  // elements of k at a time, for widened weights and for weights as stored
constexpr std::int64_t kMinProducts = 1 << 14;  // about a microsecond: less is not worth a thread

// acc[r][c] = a row r · b row c, for at most kBlockRows rows and kBlockColumns columns.
struct Block {
  const std::byte* a = nullptr;
  const std::byte* b = nullptr;
  DType a_type = DType::f32;
  std::int64_t a_stride = 0, b_stride = 0;  // bytes
  const Format* format = nullptr;           // of b
  const float* scales = nullptr;            // of all of the matrix, of a scaled one
  std::int64_t scale_stride = 0, first_weight = 0;
  std::int64_t rows = 0, columns = 0, k = 0;
  float (*acc)[kBlockColumns] = nullptr;
};

using Lanes = float[kBlockRows][kBlockColumns][kLanes];

// What accumulate() keeps in registers for kRows rows: columns, and vectors of the kLanes at a time.
struct Tile {
  int columns, vectors;
};
template <Isa kIsa>
constexpr Tile tile_for(int rows) {
  if (kIsa == Isa::avx512) return {rows == 1 ? 8 : 4, 1};  // of 32 registers
  if (rows == 1) return {kIsa == Isa::avx2 ? 4 : 2, kLanes / Vector<kIsa>::kWidth};
  return {rows == 2 ? 4 : 3, 1};  // of 16
}

// lanes[r][c][l] += a[r][i] * b[c][i] for all i with i % kLanes == l, in that order; count is a multiple of kLanes.
// One row is bound by memory: what lies `ahead` elements further, the columns of the next tile, is fetched meanwhile.
template <Isa kIsa, int kRows, class B>
WJ_INLINE void accumulate(const float* const* a, const B* const* b, std::int64_t count, Lanes& lanes,
                          std::int64_t first_row, const std::int64_t* column, std::int64_t ahead) {
  constexpr Tile kTile = tile_for<kIsa>(kRows);
  using Vec = Vector<kIsa>;
  // The loops over sums are unrolled, or they would not live in registers.
  for (int pass = 0; pass < kLanes; pass += kTile.vectors * Vec::kWidth) {
    typename Vec::Float sums[kRows][kTile.columns][kTile.vectors];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < kTile.columns; ++c)
#pragma GCC unroll 4
        for (int v = 0; v < kTile.vectors; ++v)
          Vec::load(&lanes[first_row + r][column[c]][pass + v * Vec::kWidth], sums[r][c][v]);
    for (std::int64_t i = pass; i < count; i += kLanes) {
#pragma GCC unroll 4
      for (int v = 0; v < kTile.vectors; ++v) {
        typename Vec::Float x, y[kTile.columns];
#pragma GCC unroll 8
        for (int c = 0; c < kTile.columns; ++c) {
          Vec::load(b[c] + i + v * Vec::kWidth, y[c]);
          if (kRows == 1 && v == 0) __builtin_prefetch(b[c] + i + ahead);  // of an address past the end: no fault
        }
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          Vec::load(a[r] + i + v * Vec::kWidth, x);
#pragma GCC unroll 8
          for (int c = 0; c < kTile.columns; ++c) sums[r][c][v] += x * y[c];
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < kTile.columns; ++c)
#pragma GCC unroll 4
        for (int v = 0; v < kTile.vectors; ++v)
          Vec::store(sums[r][c][v], &lanes[first_row + r][column[c]][pass + v * Vec::kWidth]);
  }
}

// The same for kRows rows and every column of a block; b holds a pointer for each, `stride` elements apart.
template <Isa kIsa, int kRows, class B>
WJ_INLINE void accumulate_columns(const float* const* a, const B* const* b, std::int64_t columns, std::int64_t count,
                                  Lanes& lanes, std::int64_t first_row, std::int64_t stride) {
  constexpr int kColumns = tile_for<kIsa>(kRows).columns;
  for (std::int64_t c = 0; c < columns; c += kColumns) {
    const B* tile[kColumns];
    std::int64_t column[kColumns];
    for (int i = 0; i < kColumns; ++i) {  // a short last tile computes its last column more than once, alike
      column[i] = std::min(c + i, columns - 1);
      tile[i] = b[column[i]];
    }
    accumulate<kIsa, kRows>(a, tile, count, lanes, first_row, column, stride * kColumns);
  }
}

static_assert(kTileRows == 4, "accumulate_rows() handles 1 to 4 rows");
template <Isa kIsa, class B>
WJ_INLINE void accumulate_rows(std::int64_t rows, const float* const* a, const B* const* b, std::int64_t columns,
                               std::int64_t count, Lanes& lanes, std::int64_t first_row, std::int64_t stride) {
  if (rows == kTileRows) return accumulate_columns<kIsa, kTileRows>(a, b, columns, count, lanes, first_row, stride);
  if (rows >= 2) accumulate_columns<kIsa, 2>(a, b, columns, count, lanes, first_row, stride);
  const std::int64_t last = rows - 1;
  if (rows % 2 == 1) accumulate_columns<kIsa, 1>(a + last, b, columns, count, lanes, first_row + last, stride);
}

// Codes of a scaled format. They are decoded before they are multiplied.
struct Code {
  std::byte bits;
};

void decode_column(const Block& block, std::int64_t column, std::int64_t first, std::int64_t count, float* to) {
  decode_row(*block.format, block.b + column * block.b_stride, block.scales, block.scale_stride,
             block.first_weight + column, first, count, to);
}

// Few rows read the weights as they are stored; more rows share weights that were widened once.
template <Isa kIsa, class B>
WJ_INLINE void multiply_on(const Block& block) {
  Lanes lanes;
  float wide_a[kTileRows][kLongPanel], wide_b[kBlockColumns][kPanel];
  constexpr bool kScaled = std::is_same_v<B, Code>;
  const bool stored = !kScaled && (std::is_same_v<B, float> || block.rows <= kTileRows);
  const std::int64_t whole = block.k / kLanes * kLanes, panel = stored ? kLongPanel : kPanel;
  const auto a_at = [&](std::int64_t row, std::int64_t i) {
    return block.a + row * block.a_stride + i * dtype_bytes(block.a_type);
  };
  const auto b_at = [&](std::int64_t column, std::int64_t i) {
    return reinterpret_cast<const B*>(block.b + column * block.b_stride) + i;
  };
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = 0; c < block.columns; ++c)
      for (int l = 0; l < kLanes; ++l) lanes[r][c][l] = 0.0f;

  for (std::int64_t first = 0; first < whole; first += panel) {
    const std::int64_t count = std::min(panel, whole - first);
    const B* b[kBlockColumns];
    const float* wide[kBlockColumns];
    for (std::int64_t c = 0; c < block.columns; ++c) {
      b[c] = b_at(c, first);
      wide[c] = wide_b[c];
      if constexpr (kScaled)
        decode_column(block, c, first, count, wide_b[c]);
      else if (!stored)
        widen<kIsa>(b[c], count, wide_b[c]);
    }
    for (std::int64_t row = 0; row < block.rows; row += kTileRows) {
      const std::int64_t rows = std::min<std::int64_t>(kTileRows, block.rows - row);
      const float* a[kTileRows];
      for (std::int64_t r = 0; r < rows; ++r) {
        a[r] = block.a_type == DType::f32 ? reinterpret_cast<const float*>(a_at(row + r, first)) : wide_a[r];
        if (block.a_type != DType::f32) load(a_at(row + r, first), block.a_type, count, wide_a[r]);
      }
      if constexpr (kScaled)
        accumulate_rows<kIsa, float>(rows, a, wide, block.columns, count, lanes, row, kPanel);
      else if (stored)
        accumulate_rows<kIsa, B>(rows, a, b, block.columns, count, lanes, row,
                                 block.b_stride / static_cast<std::int64_t>(sizeof(B)));
      else
        accumulate_rows<kIsa, float>(rows, a, wide, block.columns, count, lanes, row, kPanel);
    }
  }
  for (std::int64_t r = 0; r < block.rows; ++r) {
    float rest[kLanes];
    load(a_at(r, whole), block.a_type, block.k - whole, rest);
    for (std::int64_t c = 0; c < block.columns; ++c) {
      for (std::int64_t i = whole; i < block.k; ++i) {
        float b = 0;
        if constexpr (kScaled)
          decode_column(block, c, i, 1, &b);
        else
          b = widen(*b_at(c, i));
        lanes[r][c][i - whole] += rest[i - whole] * b;
      }
      block.acc[r][c] = sum_lanes(lanes[r][c]);
    }
  }
}

using Multiply = void (*)(const Block&);

template <class B>
void multiply_any(const Block& block) {
  multiply_on<Isa::any, B>(block);
}
#ifdef WJ_X86_LEVELS
template <class B>
WJ_AVX2 void multiply_avx2(const Block& block) {
  multiply_on<Isa::avx2, B>(block);
}
template <class B>
WJ_AVX512 void multiply_avx512(const Block& block) {
  multiply_on<Isa::avx512, B>(block);
}
#endif

Multiply multiply_for(const Format& b) {
  const auto choose = []<class B>(B) -> Multiply {
#ifdef WJ_X86_LEVELS
    if (isa() == Isa::avx512) return &multiply_avx512<B>;
    if (isa() == Isa::avx2) return &multiply_avx2<B>;
#endif
    return &multiply_any<B>;
  };
  return b.scaled() ? choose(Code{}) : with_type(b.element, choose);
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
      : args_(args), p_(args.problem), multiply_(multiply_for(args.problem.b)) {}

  std::int64_t columns() const { return p_.gate == Gate::none ? p_.n : p_.n / 2; }

  void write(std::int64_t first_row, std::int64_t first_column) const {
    const std::int64_t rows = std::min<std::int64_t>(kBlockRows, p_.m - first_row);
    const std::int64_t width = std::min<std::int64_t>(kBlockColumns, columns() - first_column);
    float acc[kBlockRows][kBlockColumns] = {}, up[kBlockRows][kBlockColumns] = {};
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
               .a_type = p_.a,
               .a_stride = args_.a.row_stride * dtype_bytes(p_.a),
               .b_stride = args_.b.row_stride * dtype_bytes(p_.b.element),
               .format = &p_.b,
               .scales = args_.b_scales.as<const float>(),
               .scale_stride = args_.b_scales.row_stride,
               .first_weight = first_weight,
               .rows = rows,
               .columns = width,
               .k = p_.k,
               .acc = acc});
    if (!p_.bias) return;
    for (std::int64_t r = 0; r < rows; ++r) add(element(args_.bias, first_weight), p_.bias_type(), width, acc[r]);
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
  const bool b = p.b.scaled() ? p.b.element == DType::f8_e4m3 && p.b.scale == DType::f32
                              : is_float(p.b) && (p.b == Format(p.a) || p.a == DType::f32);
  return b && is_float(p.a) && is_float(p.d) && p.n > 0 && p.k > 0 && !(gated && (p.residual || p.n % 2));
}

void launch(const Gemm::Args& args, Stream& stream) {
  const Gemm::Problem& p = args.problem;
  const BlockWriter writer(args);
  const std::int64_t row_tiles = ceil_div<std::int64_t>(p.m, kBlockRows);
  const std::int64_t column_blocks = ceil_div<std::int64_t>(writer.columns(), kBlockColumns);
  const std::int64_t products = std::min<std::int64_t>(p.m, kBlockRows) * kBlockColumns * p.k;
  static_cast<CpuStream&>(stream).parallel_for(
      row_tiles * column_blocks, std::max<std::int64_t>(1, kMinProducts / std::max<std::int64_t>(1, products)),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          writer.write(i % row_tiles * kBlockRows, i / row_tiles * kBlockColumns);
      });
}

}  // namespace warpjet::ref

namespace warpjet {

Kernel<Gemm> Gemm::reference() {
  return {.name = "ref.gemm", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}

}  // namespace warpjet
