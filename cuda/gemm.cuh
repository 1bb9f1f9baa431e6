// What all GEMM kernels share: the contract about bits, which weight row a tile row is, and the epilogue.
//
// The contract. Every element of d is one chain of tensor-core products over k in ascending steps of 16, in fp32 from
// zero; then the epilogue below in fp32; then one rounding. k is never split, and a last step of less than 16 is filled
// with zeros. (fp32 operands: one chain of fma over k.) Hence every kernel, tile and operand order gives the same bits
// for a row, whatever the rows beside it: the tuner may choose freely, and no request can tell who shares its batch.
#pragma once

#include "cuda/common.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/memory.cuh"
#include "ops/linear.h"

namespace warpjet {

// The operands of tensor cores.
template <DType type>
using Element = std::conditional_t<type == DType::f16, Half, Bfloat>;

// A problem with its pointers, as kernels take it.
template <class T>
struct GemmTask {
  const T* a;                                                  // [m, k]
  const T* b;                                                  // [n, k]
  const T* bias;                                               // [n] or null
  const void* residual;                                        // [m, columns] of d's type, or null; may be d
  void* d;                                                     // [m, columns]
  std::int64_t a_stride, b_stride, residual_stride, d_stride;  // elements
  int m, k;
  int columns;  // n, or n / 2 with a gate
  DType d_type;
  Gate gate;

  WJ_DEVICE bool gated() const { return gate != Gate::none; }
};

template <class T>
GemmTask<T> make_task(const Gemm::Args& args) {
  const Gemm::Problem& p = args.problem;
  return {.a = args.a.as<const T>(),
          .b = args.b.as<const T>(),
          .bias = p.bias ? args.bias.as<const T>() : nullptr,
          .residual = p.residual ? args.residual.data : nullptr,
          .d = args.d.data,
          .a_stride = args.a.row_stride,
          .b_stride = args.b.row_stride,
          .residual_stride = args.residual.row_stride,
          .d_stride = args.d.row_stride,
          .m = static_cast<int>(p.m),
          .k = static_cast<int>(p.k),
          .columns = static_cast<int>(p.gate == Gate::none ? p.n : p.n / 2),
          .d_type = p.d,
          .gate = p.gate};
}

// What every kernel asks of a problem: operands of one type, and 32 bits for indices within tensors.
inline bool is_gemm_of(DType type, const Gemm::Problem& p) {
  constexpr std::int64_t kMost = 1 << 30;
  const bool gated = p.gate != Gate::none;
  return p.a == type && p.b == Format(type) && is_float(p.d) && p.n > 0 && p.k > 0 && p.m < kMost && p.n < kMost &&
         p.k < kMost && !(gated && (p.residual || p.n % 2 != 0));
}

// Whether all rows of a and b may move in 16-byte pieces. supports() cannot know: it sees no pointers.
inline bool rows_are_aligned(const Gemm::Args& args) {
  const auto aligned = [](const TensorView& view) {
    return reinterpret_cast<std::uintptr_t>(view.data) % kVectorBytes == 0 &&
           view.row_stride * dtype_bytes(view.dtype) % kVectorBytes == 0;
  };
  return aligned(args.a) && aligned(args.b);
}

constexpr int kMaxGridY = 65535;  // a limit of CUDA

// --- Tiles ----------------------------------------------------------------------------------------------------------

// Columns of d that a tile of `rows` weight rows makes.
template <class T>
__host__ __device__ constexpr int tile_columns(const GemmTask<T>& task, int rows) {
  return task.gate == Gate::none ? rows : rows / 2;
}

// The weight row that is row r of the tile that starts at this column of d. With a gate, every 16 rows are 8 gate rows
// and the 8 up rows that go with them, so that one thread's fragments hold both. Rows beyond the end repeat the last.
template <class T>
WJ_DEVICE std::int64_t weight_row(const GemmTask<T>& task, int first_column, int r) {
  if (!task.gated()) return ptx::min(first_column + r, task.columns - 1);
  return ptx::min(first_column + r / 16 * 8 + r % 8, task.columns - 1) + (r / 8 % 2 == 0 ? 0 : task.columns);
}

// Tiles of a grid in bands of kBand token tiles: down the band first, then to the next weights, which the band's tiles
// share in L2.
constexpr int kBand = 8;
struct TilePlace {
  int token_tile, weight_tile;
};
WJ_DEVICE TilePlace place_of_tile(int tile, int token_tiles, int weight_tiles) {
  const int band = tile / (kBand * weight_tiles), within = tile % (kBand * weight_tiles);
  const int height = ptx::min(kBand, token_tiles - band * kBand);
  return {band * kBand + within % height, within / height};
}

// --- The epilogue: the only place that touches accumulators ---------------------------------------------------------

// gate(x) * up. Products and sums are rounded one by one: the same bits wherever this is inlined.
WJ_DEVICE float apply_gate(Gate gate, float x, float up) {
  constexpr float kLog2E = 0x1.715476p+0f;
  constexpr float kSqrtHalf = 0x1.6a09e6p-1f, kSqrt2OverPi = 0x1.988454p-1f;
  // x / (1 + 2^y)
  const auto damp = [&](float y) { return ptx::mul(x, ptx::reciprocal(ptx::add(1.0f, ptx::exp2(y)))); };
  float value = x;
  if (gate == Gate::silu) value = damp(ptx::mul(x, -kLog2E));
  if (gate == Gate::gelu) value = ptx::mul(ptx::mul(0.5f, x), ptx::add(1.0f, ptx::erf(ptx::mul(x, kSqrtHalf))));
  if (gate == Gate::gelu_tanh) {  // (1 + tanh u) / 2 = 1 / (1 + e^-2u)
    const float cube = ptx::mul(ptx::mul(x, x), x);
    value = damp(ptx::mul(ptx::fma(0.044715f, cube, x), -2.0f * kSqrt2OverPi * kLog2E));
  }
  if (gate == Gate::relu) value = x < 0.0f ? 0.0f : x;  // NaN stays
  return ptx::mul(value, up);
}

// Two accumulators of a gated pair, or one, to what is rounded. Absent biases and residuals are zeros that nobody adds.
template <class T>
WJ_DEVICE float finish(const GemmTask<T>& task, float acc, float bias, float residual) {
  if (task.bias != nullptr) acc = ptx::add(acc, bias);
  if (task.residual != nullptr) acc = ptx::add(acc, residual);
  return acc;
}
template <class T>
WJ_DEVICE float finish_gated(const GemmTask<T>& task, float acc, float bias, float up, float up_bias) {
  if (task.bias != nullptr) {
    acc = ptx::add(acc, bias);
    up = ptx::add(up, up_bias);
  }
  return apply_gate(task.gate, acc, up);
}

// One element of d's type: its bits, so that many loads can be under way before the first is looked at.
WJ_DEVICE std::uint32_t load_bits(const void* from, DType type, std::int64_t i) {
  if (type == DType::f32) return ptx::load(static_cast<const std::uint32_t*>(from) + i);
  return ptx::load(static_cast<const std::uint16_t*>(from) + i);
}
WJ_DEVICE float float_of(std::uint32_t bits, DType type) {
  if (type == DType::f32) return bit_cast<float>(bits);
  const auto low = static_cast<std::uint16_t>(bits);
  return type == DType::f16 ? ptx::to_float(Half{low}) : ptx::to_float(Bfloat{low});
}
WJ_DEVICE void store_rounded(void* to, DType type, std::int64_t i, float value) {
  if (type == DType::f32) return ptx::store(static_cast<float*>(to) + i, value);
  const auto bits = type == DType::f16 ? ptx::from_float<Half>(value).bits : ptx::from_float<Bfloat>(value).bits;
  ptx::store(static_cast<std::uint16_t*>(to) + i, bits);
}

// --- Runs: neighbouring elements of a row, as vectors where memory allows; the first `valid` exist ------------------

constexpr int kRun = 8;  // what kernels that send accumulators through shared memory finish at once

// Where eight columns of an accumulator row lie: rows that a fragment stores together go to different banks.
template <int width>
WJ_DEVICE float* run_of(float (*acc)[width], int row, int run) {
  return acc[row] + (run ^ row % 4) * kRun;
}

template <class E, int count>
WJ_DEVICE bool moves_as_vectors(const E* place, int valid) {
  constexpr int kBytes = count * sizeof(E) < kVectorBytes ? count * sizeof(E) : kVectorBytes;
  return valid >= count && reinterpret_cast<std::uintptr_t>(place) % kBytes == 0;
}

template <int count, class E>
WJ_DEVICE void load_run(const E* from, int valid, float (&values)[count]) {
  constexpr int kVector = count * sizeof(E) < kVectorBytes ? count : kVectorBytes / sizeof(E);
  if (moves_as_vectors<E, count>(from, valid)) {
    for (int j = 0; j < count; j += kVector) {
      const auto vector = ptx::load(reinterpret_cast<const Vec<E, kVector>*>(from + j));
      for (int l = 0; l < kVector; ++l) values[j + l] = ptx::to_float(vector[l]);
    }
  } else {
    for (int j = 0; j < count; ++j) values[j] = j < valid ? ptx::to_float(ptx::load(from + j)) : 0.0f;
  }
}

template <int count, class E>
WJ_DEVICE void store_run(E* to, int valid, const float (&values)[count]) {
  constexpr int kVector = count * sizeof(E) < kVectorBytes ? count : kVectorBytes / sizeof(E);
  if (moves_as_vectors<E, count>(to, valid)) {
    for (int j = 0; j < count; j += kVector) {
      Vec<E, kVector> vector;
      for (int l = 0; l < kVector; ++l) vector[l] = ptx::from_float<E>(values[j + l]);
      ptx::store(reinterpret_cast<Vec<E, kVector>*>(to + j), vector);
    }
  } else {
    for (int j = 0; j < count; ++j) {
      if (j < valid) ptx::store(to + j, ptx::from_float<E>(values[j]));
    }
  }
}

template <int count>
WJ_DEVICE void load_shared_run(const float* from, float (&values)[count]) {
  constexpr int kVector = kVectorBytes / sizeof(float);
  for (int j = 0; j < count; j += kVector) {
    const auto vector = ptx::load_shared(reinterpret_cast<const Vec<float, kVector>*>(from + j));
    for (int l = 0; l < kVector; ++l) values[j + l] = vector[l];
  }
}

// Calls function(pointer) with the element type that dtype names.
template <class Function>
WJ_DEVICE void with_elements(void* data, DType dtype, Function&& function) {
  if (dtype == DType::f32) return function(static_cast<float*>(data));
  if (dtype == DType::f16) return function(static_cast<Half*>(data));
  function(static_cast<Bfloat*>(data));
}

// `count` neighbours of row `row` of d, from column `column` on: accumulators to memory.
template <int count, class T>
WJ_DEVICE void finish_run(const GemmTask<T>& task, int row, int column, float (&acc)[count], const float (&up)[count]) {
  const int valid = ptx::min(count, task.columns - column);
  if (row >= task.m || valid <= 0) return;
  float bias[count] = {}, other[count] = {};
  if (task.bias != nullptr) load_run(task.bias + column, valid, bias);
  if (task.gated()) {
    if (task.bias != nullptr) load_run(task.bias + task.columns + column, valid, other);
    for (int j = 0; j < count; ++j) acc[j] = finish_gated(task, acc[j], bias[j], up[j], other[j]);
  } else {
    if (task.residual != nullptr)
      with_elements(const_cast<void*>(task.residual), task.d_type,
                    [&](auto* from) { load_run(from + row * task.residual_stride + column, valid, other); });
    for (int j = 0; j < count; ++j) acc[j] = finish(task, acc[j], bias[j], other[j]);
  }
  with_elements(task.d, task.d_type, [&](auto* to) { store_run(to + row * task.d_stride + column, valid, acc); });
}

}  // namespace warpjet
