// Embedding, RMS norm and row gather: one block a row.
//   table [vocab, hidden], x [tokens, hidden], weight [hidden], out and y [tokens, hidden]    f32 | f16 | bf16, each
//   ids, rows [tokens]                                                                        i32
// Bound: bytes / HBM bandwidth. A row is read in packs of eight elements, thread after thread, and every thread owns
// the same elements whatever the row's alignment is, so that a sum has one order.
#include "cuda/sm80/token.h"

#include "cuda/common.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/reduce.cuh"

namespace warpjet::sm80 {
namespace {

constexpr int kThreads = 256;  // 2048 elements a turn: a typical row takes two to four
constexpr int kPack = 8;       // elements: one 16-byte access of the 16-bit types, two of fp32

// --- Packs ----------------------------------------------------------------------------------------------------------

// Whether every pack of this row may move as whole vectors.
template <class T>
WJ_DEVICE bool is_aligned(const T* row) {
  return reinterpret_cast<std::uintptr_t>(row) % kVectorBytes == 0;
}

// Elements i .. i + kPack of a row, zeros beyond its end.
template <ptx::Cache cache = ptx::Cache::normal, class T>
WJ_DEVICE Vec<float, kPack> load_pack(const T* row, int i, int width, bool aligned) {
  constexpr int kVector = kVectorBytes / sizeof(T);
  Vec<float, kPack> pack;
  if (aligned && i + kPack <= width) {
    for (int j = 0; j < kPack; j += kVector) {
      const auto vector = ptx::load<cache>(reinterpret_cast<const Vec<T, kVector>*>(row + i + j));
      for (int l = 0; l < kVector; ++l) pack[j + l] = ptx::to_float(vector[l]);
    }
  } else {
    for (int j = 0; j < kPack; ++j) pack[j] = i + j < width ? ptx::to_float(ptx::load<cache>(row + i + j)) : 0.0f;
  }
  return pack;
}

template <class T>
WJ_DEVICE void store_pack(T* row, int i, int width, bool aligned, const Vec<float, kPack>& pack) {
  constexpr int kVector = kVectorBytes / sizeof(T);
  if (aligned && i + kPack <= width) {
    for (int j = 0; j < kPack; j += kVector) {
      Vec<T, kVector> vector;
      for (int l = 0; l < kVector; ++l) vector[l] = ptx::from_float<T>(pack[j + l]);
      ptx::store(reinterpret_cast<Vec<T, kVector>*>(row + i + j), vector);
    }
  } else {
    for (int j = 0; j < kPack; ++j) {
      if (i + j < width) ptx::store(row + i + j, ptx::from_float<T>(pack[j]));
    }
  }
}

// --- Kernels --------------------------------------------------------------------------------------------------------

template <class T>
struct Rows {
  T* data;
  std::int64_t stride;  // elements
  WJ_DEVICE T* operator[](std::int64_t row) const { return data + row * stride; }
};

// to[t] = from[index[t]] * scale. Times one, conversions between equal types keep every bit but those of NaN payloads.
template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    gather_rows(Rows<const From> from, const std::int32_t* index, Rows<To> to, int width, float scale) {
  ptx::grid_wait();
  const int token = ptx::block_idx().x;
  const From* source = from[ptx::load(index + token)];
  To* target = to[token];
  const bool source_aligned = is_aligned(source), target_aligned = is_aligned(target);
  for (int i = ptx::thread_idx().x * kPack; i < width; i += kThreads * kPack) {
    auto pack = load_pack(source, i, width, source_aligned);
    for (int j = 0; j < kPack; ++j) pack[j] *= scale;
    store_pack(target, i, width, target_aligned, pack);
  }
  ptx::grid_launch_dependents();
}

struct NormSmem {
  BlockScratch<kThreads> scratch;
};

// y[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight, plus residual[t] where there is one. y may be x or the residual: a
// thread writes what it alone has read. The second read of the row comes from L1.
template <class X, class W, class Y>
__global__ void __launch_bounds__(kThreads)
    rms_norm(Rows<const X> x, const W* weight, Rows<const Y> residual, Rows<Y> y, int width, float eps) {
  auto& shared = ptx::smem<NormSmem>();
  ptx::grid_wait();
  const int token = ptx::block_idx().x;
  const X* source = x[token];
  Y* target = y[token];
  const bool source_aligned = is_aligned(source), target_aligned = is_aligned(target);
  const bool weight_aligned = is_aligned(weight);

  float squares = 0.0f;
  for (int i = ptx::thread_idx().x * kPack; i < width; i += kThreads * kPack) {
    const auto pack = load_pack(source, i, width, source_aligned);
    for (int j = 0; j < kPack; ++j) squares += pack[j] * pack[j];
  }
  const float scale = ptx::rsqrt(block_sum<kThreads>(squares, shared.scratch) / static_cast<float>(width) + eps);
  for (int i = ptx::thread_idx().x * kPack; i < width; i += kThreads * kPack) {
    auto pack = load_pack(source, i, width, source_aligned);
    const auto gain = load_pack(weight, i, width, weight_aligned);
    for (int j = 0; j < kPack; ++j) pack[j] = pack[j] * scale * gain[j];
    if (residual.data) {
      const auto before = load_pack(residual[token], i, width, is_aligned(residual[token]));
      for (int j = 0; j < kPack; ++j) pack[j] += before[j];
    }
    store_pack(target, i, width, target_aligned, pack);
  }
  ptx::grid_launch_dependents();
}

// --- Launchers ------------------------------------------------------------------------------------------------------

template <class T>
Rows<T> rows_of(const TensorView& view) {
  return {view.as<T>(), view.row_stride};
}

LaunchConfig one_block_a_row(std::int64_t rows, int smem_bytes = 0) {
  return {.grid = {static_cast<int>(rows)}, .block = {kThreads}, .smem_bytes = smem_bytes, .pdl = true};
}

void launch_gather(const TensorView& from, const TensorView& index, const TensorView& to, std::int64_t rows,
                   std::int64_t width, float scale, Stream& stream) {
  with_float_type(from.dtype, [&](auto source) {
    with_float_type(to.dtype, [&](auto target) {
      using From = decltype(source);
      using To = decltype(target);
      warpjet::launch(gather_rows<From, To>, one_block_a_row(rows), stream, rows_of<const From>(from),
                      index.as<const std::int32_t>(), rows_of<To>(to), static_cast<int>(width), scale);
    });
  });
}

// Indices within a row have 32 bits.
bool fits(std::int64_t rows, std::int64_t width) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 31) - kThreads * kPack;
  return width > 0 && width < kMost && rows < kMost;
}

}  // namespace

template <DType type>
bool supports(const Embed::Problem& p) {
  return p.table == type && is_float(p.out) && fits(p.tokens, p.hidden);
}
template <DType type>
bool supports(const Norm::Problem& p) {
  return p.x == type && is_float(p.weight) && is_float(p.y) && fits(p.tokens, p.hidden);
}
template <DType type>
bool supports(const Gather::Problem& p) {
  return p.dtype == type && fits(p.rows, p.hidden);
}

template <DType type>
void launch(const Embed::Args& args, Stream& stream) {
  launch_gather(args.table, args.ids, args.out, args.problem.tokens, args.problem.hidden, args.problem.scale, stream);
}

template <DType type>
void launch(const Norm::Args& args, Stream& stream) {
  const Norm::Problem& p = args.problem;
  with_float_type(p.weight, [&](auto weight) {
    with_float_type(p.y, [&](auto y) {
      using X = std::conditional_t<type == DType::f32, float, std::conditional_t<type == DType::f16, Half, Bfloat>>;
      using W = decltype(weight);
      using Y = decltype(y);
      warpjet::launch(rms_norm<X, W, Y>, one_block_a_row(p.tokens, sizeof(NormSmem)), stream, rows_of<const X>(args.x),
                      args.weight.as<const W>(), rows_of<const Y>(args.residual), rows_of<Y>(args.y),
                      static_cast<int>(p.hidden), p.eps);
    });
  });
}

template <DType type>
void launch(const Gather::Args& args, Stream& stream) {
  launch_gather(args.x, args.rows, args.out, args.problem.rows, args.problem.hidden, 1.0f, stream);
}

#define WJ_INSTANCE(type)                                  \
  template bool supports<type>(const Embed::Problem&);     \
  template bool supports<type>(const Norm::Problem&);      \
  template bool supports<type>(const Gather::Problem&);    \
  template void launch<type>(const Embed::Args&, Stream&); \
  template void launch<type>(const Norm::Args&, Stream&);  \
  template void launch<type>(const Gather::Args&, Stream&);
WJ_INSTANCE(DType::f32)
WJ_INSTANCE(DType::f16)
WJ_INSTANCE(DType::bf16)
#undef WJ_INSTANCE

}  // namespace warpjet::sm80
