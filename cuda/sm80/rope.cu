// Rotary embedding: the table of angles, one thread an angle; and rotation with KV append, one warp a head of a token.
//   qkv              [tokens, (heads + 2 kv_heads) * head_dim]              f32 | f16 | bf16
//   cos_sin          [tokens, head_dim]                                     f32
//   k_cache, v_cache [blocks, kv_heads, block_size, head_dim]               f32 | f16 | bf16
// Bound: bytes / HBM bandwidth for prompts, latency for decoding, hence a warp for every head.
#include "cuda/sm80/rope.h"

#include "cuda/common.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/reduce.cuh"

#include <cmath>

namespace warpjet::sm80 {
namespace {

// --- The table ------------------------------------------------------------------------------------------------------

constexpr int kTableThreads = 128;

struct SinCos {
  float sin, cos;
};

// Within an ulp or two up to angles of 2^20 and far beyond: the angle is reduced in double, where k * pi / 2 has bits
// to spare, and the rest is within pi / 4, where Taylor's series are short. sinf() would need local memory for that.
WJ_DEVICE SinCos sin_cos(float angle) {
  constexpr double kHalfPi = 1.57079632679489661923;
  const double turns = angle * (1 / kHalfPi);
  const auto quarter = static_cast<std::int64_t>(turns + (turns < 0 ? -0.5 : 0.5));
  const auto r = static_cast<float>(angle - static_cast<double>(quarter) * kHalfPi);
  const float square = r * r;
  float sine = 1.0f / 362880, cosine = -1.0f / 3628800;
  sine = sine * square - 1.0f / 5040;
  sine = sine * square + 1.0f / 120;
  sine = sine * square - 1.0f / 6;
  sine = sine * square * r + r;
  cosine = cosine * square + 1.0f / 40320;
  cosine = cosine * square - 1.0f / 720;
  cosine = cosine * square + 1.0f / 24;
  cosine = cosine * square - 0.5f;
  cosine = cosine * square + 1.0f;
  const float s = quarter & 1 ? cosine : sine, c = quarter & 1 ? sine : cosine;
  return {quarter & 2 ? -s : s, (quarter + 1) & 2 ? -c : c};
}

struct TableArgs {
  const std::int32_t *positions, *rope_lengths;
  const float* frequencies;
  float* cos_sin;
  std::int64_t stride;  // of cos_sin, elements
  std::int64_t angles;  // tokens * half
  int half;
  float scale;
  double ntk_factor, ntk_original;  // 0: frequencies are as given
};

__global__ void __launch_bounds__(kTableThreads) rope_table(TableArgs args) {
  ptx::grid_wait();
  const std::int64_t index = std::int64_t{ptx::block_idx().x} * kTableThreads + ptx::thread_idx().x;
  if (index < args.angles) {
    const std::int64_t token = index / args.half;
    const int i = static_cast<int>(index - token * args.half);
    float frequency = ptx::load(args.frequencies + i);
    if (args.ntk_factor != 0) {
      const double length = ptx::load(args.rope_lengths + token);
      const double growth = args.ntk_factor * length / args.ntk_original - (args.ntk_factor - 1);
      if (length > args.ntk_original)
        frequency = static_cast<float>(frequency / pow(growth, 2.0 * i / (2.0 * args.half - 2.0)));
    }
    // The angle is an fp32 product, as in the models' own code.
    const SinCos turn = sin_cos(ptx::mul(static_cast<float>(ptx::load(args.positions + token)), frequency));
    float* row = args.cos_sin + token * args.stride;
    ptx::store(row + i, turn.cos * args.scale);
    ptx::store(row + args.half + i, turn.sin * args.scale);
  }
  ptx::grid_launch_dependents();
}

// --- Rotation and append --------------------------------------------------------------------------------------------

constexpr int kHeads = 4;         // of a block, one a warp
constexpr int kMaxHeadDim = 256;  // a lane keeps its part of the head in registers

struct AppendArgs {
  void* qkv;
  const float* cos_sin;
  const void *q_norm, *k_norm;  // null: no norm
  const std::int64_t* slots;
  void *k_cache, *v_cache;
  std::int64_t qkv_stride, cos_sin_stride, k_stride, v_stride;  // elements: of tokens, and of blocks
  int heads, kv_heads, head_dim, block_size;
  float eps;
  DType weight;
};

WJ_DEVICE float load_weight(const void* weights, DType type, int i) {
  if (type == DType::f32) return ptx::load(static_cast<const float*>(weights) + i);
  if (type == DType::f16) return ptx::to_float(ptx::load(static_cast<const Half*>(weights) + i));
  return ptx::to_float(ptx::load(static_cast<const Bfloat*>(weights) + i));
}

// A lane's part of a head: `width` neighbours of the low half of the head and their partners in the high half, then
// the same 32 * width elements further on.
template <int width>
struct Part {
  static constexpr int kTurns = kMaxHeadDim / 2 / kWarpSize / width;
  float low[kTurns][width], high[kTurns][width];
};

template <int width, class Function>
WJ_DEVICE void for_each_turn(int half, Function function) {
  WJ_UNROLL for (int turn = 0; turn < Part<width>::kTurns; ++turn) {
    const int i = (turn * kWarpSize + ptx::lane_id()) * width;
    if (i < half) function(turn, i);
  }
}

template <int width, class T>
WJ_DEVICE void load_part(const T* head, int half, Part<width>& part) {
  for_each_turn<width>(half, [&](int turn, int i) {
    const auto low = ptx::load(reinterpret_cast<const Vec<T, width>*>(head + i));
    const auto high = ptx::load(reinterpret_cast<const Vec<T, width>*>(head + half + i));
    for (int j = 0; j < width; ++j) part.low[turn][j] = ptx::to_float(low[j]);
    for (int j = 0; j < width; ++j) part.high[turn][j] = ptx::to_float(high[j]);
  });
}

template <int width, class T>
WJ_DEVICE void store_part(T* head, int half, const Part<width>& part) {
  for_each_turn<width>(half, [&](int turn, int i) {
    Vec<T, width> low, high;
    for (int j = 0; j < width; ++j) low[j] = ptx::from_float<T>(part.low[turn][j]);
    for (int j = 0; j < width; ++j) high[j] = ptx::from_float<T>(part.high[turn][j]);
    ptx::store(reinterpret_cast<Vec<T, width>*>(head + i), low);
    ptx::store(reinterpret_cast<Vec<T, width>*>(head + half + i), high);
  });
}

template <int width>
WJ_DEVICE void normalise(const AppendArgs& args, const void* weights, Part<width>& part) {
  const int half = args.head_dim / 2;
  float squares = 0.0f;
  for_each_turn<width>(half, [&](int turn, int) {
    for (int j = 0; j < width; ++j) squares += part.low[turn][j] * part.low[turn][j];
    for (int j = 0; j < width; ++j) squares += part.high[turn][j] * part.high[turn][j];
  });
  const float scale = ptx::rsqrt(warp_sum(squares) / static_cast<float>(args.head_dim) + args.eps);
  for_each_turn<width>(half, [&](int turn, int i) {
    for (int j = 0; j < width; ++j) part.low[turn][j] *= scale * load_weight(weights, args.weight, i + j);
    for (int j = 0; j < width; ++j) part.high[turn][j] *= scale * load_weight(weights, args.weight, half + i + j);
  });
}

template <int width>
WJ_DEVICE void rotate(const float* cos_sin, int half, Part<width>& part) {
  for_each_turn<width>(half, [&](int turn, int i) {
    const auto cosine = ptx::load(reinterpret_cast<const Vec<float, width>*>(cos_sin + i));
    const auto sine = ptx::load(reinterpret_cast<const Vec<float, width>*>(cos_sin + half + i));
    for (int j = 0; j < width; ++j) {
      const float low = part.low[turn][j], high = part.high[turn][j];
      part.low[turn][j] = low * cosine[j] - high * sine[j];
      part.high[turn][j] = high * cosine[j] + low * sine[j];
    }
  });
}

// Heads of a token in the order of qkv: queries, keys, values.
template <class T, class Kv, int width>
__global__ void __launch_bounds__(kHeads* kWarpSize) rope_append_kv(AppendArgs args) {
  ptx::grid_wait();
  const int token = ptx::block_idx().x, head = ptx::block_idx().y * kHeads + ptx::warp_id();
  const int half = args.head_dim / 2,
            kv_head = head < args.heads + args.kv_heads ? head - args.heads : head - args.heads - args.kv_heads;
  const bool is_query = head < args.heads, is_value = head >= args.heads + args.kv_heads;
  const std::int64_t slot = is_query ? 0 : ptx::load(args.slots + token);
  if (head < args.heads + 2 * args.kv_heads && slot >= 0) {
    T* place = static_cast<T*>(args.qkv) + token * args.qkv_stride + std::int64_t{head} * args.head_dim;
    Part<width> part;
    load_part<width>(place, half, part);
    if (!is_value) {
      const void* weights = is_query ? args.q_norm : args.k_norm;
      if (weights) normalise<width>(args, weights, part);
      rotate<width>(args.cos_sin + token * args.cos_sin_stride, half, part);
    }
    if (is_query) {
      store_part<width>(place, half, part);
    } else {
      const std::int64_t block = slot / args.block_size, offset = slot - block * args.block_size;
      const std::int64_t row = (kv_head * args.block_size + offset) * args.head_dim;
      Kv* cache = is_value ? static_cast<Kv*>(args.v_cache) + block * args.v_stride
                           : static_cast<Kv*>(args.k_cache) + block * args.k_stride;
      store_part<width>(cache + row, half, part);
    }
  }
  ptx::grid_launch_dependents();
}

// Whether pairs of elements may move as one everywhere.
bool moves_pairs(const RopeAppendKv::Args& args) {
  const auto fits = [](const TensorView& view) {
    return view.row_stride % 2 == 0 && reinterpret_cast<std::uintptr_t>(view.data) % (2 * dtype_bytes(view.dtype)) == 0;
  };
  return args.problem.head_dim % 4 == 0 && fits(args.qkv) && fits(args.cos_sin) && fits(args.k_cache) &&
         fits(args.v_cache);
}

}  // namespace

bool supports(const RopeTable::Problem& p) {
  return p.dim > 0 && p.dim % 2 == 0 && p.dim <= 1 << 16 && (p.ntk_factor == 0.0f || (p.ntk_original > 0 && p.dim > 2));
}

void launch(const RopeTable::Args& args, Stream& stream) {
  const RopeTable::Problem& p = args.problem;
  const std::int64_t angles = p.tokens * (p.dim / 2);
  warpjet::launch(rope_table,
                  {.grid = {static_cast<int>(ceil_div<std::int64_t>(angles, kTableThreads))},
                   .block = {kTableThreads},
                   .pdl = true},
                  stream,
                  TableArgs{.positions = args.positions.as<std::int32_t>(),
                            .rope_lengths = args.rope_lengths.as<std::int32_t>(),
                            .frequencies = args.frequencies.as<float>(),
                            .cos_sin = args.cos_sin.as<float>(),
                            .stride = args.cos_sin.row_stride,
                            .angles = angles,
                            .half = static_cast<int>(p.dim / 2),
                            .scale = p.scale,
                            .ntk_factor = p.ntk_factor,
                            .ntk_original = static_cast<double>(p.ntk_original)});
}

template <DType type>
bool supports(const RopeAppendKv::Problem& p) {
  return p.qkv == type && is_float(p.kv) && (!p.qk_norm || is_float(p.weight)) && p.head_dim > 0 &&
         p.head_dim % 2 == 0 && p.head_dim <= kMaxHeadDim && p.block_size > 0;
}

template <DType type>
void launch(const RopeAppendKv::Args& args, Stream& stream) {
  const RopeAppendKv::Problem& p = args.problem;
  const AppendArgs kernel_args = {.qkv = args.qkv.data,
                                  .cos_sin = args.cos_sin.as<float>(),
                                  .q_norm = p.qk_norm ? args.q_norm.data : nullptr,
                                  .k_norm = p.qk_norm ? args.k_norm.data : nullptr,
                                  .slots = args.cache_rows.as<std::int64_t>(),
                                  .k_cache = args.k_cache.data,
                                  .v_cache = args.v_cache.data,
                                  .qkv_stride = args.qkv.row_stride,
                                  .cos_sin_stride = args.cos_sin.row_stride,
                                  .k_stride = args.k_cache.row_stride,
                                  .v_stride = args.v_cache.row_stride,
                                  .heads = static_cast<int>(p.heads),
                                  .kv_heads = static_cast<int>(p.kv_heads),
                                  .head_dim = static_cast<int>(p.head_dim),
                                  .block_size = static_cast<int>(p.block_size),
                                  .eps = p.eps,
                                  .weight = p.weight};
  const LaunchConfig config = {
      .grid = {static_cast<int>(p.tokens), static_cast<int>(ceil_div<std::int64_t>(p.heads + 2 * p.kv_heads, kHeads))},
      .block = {kHeads * kWarpSize},
      .pdl = true};
  with_float_type(p.kv, [&](auto kv) {
    using T = std::conditional_t<type == DType::f32, float, std::conditional_t<type == DType::f16, Half, Bfloat>>;
    using Kv = decltype(kv);
    if (moves_pairs(args)) {
      warpjet::launch(rope_append_kv<T, Kv, 2>, config, stream, kernel_args);
    } else {
      warpjet::launch(rope_append_kv<T, Kv, 1>, config, stream, kernel_args);
    }
  });
}

#define WJ_INSTANCE(type)                                     \
  template bool supports<type>(const RopeAppendKv::Problem&); \
  template void launch<type>(const RopeAppendKv::Args&, Stream&);
WJ_INSTANCE(DType::f32)
WJ_INSTANCE(DType::f16)
WJ_INSTANCE(DType::bf16)
#undef WJ_INSTANCE

}  // namespace warpjet::sm80
