// GEMM for few tokens (decoding): weights stream through shared memory once, straight into tensor cores.
//   a [m, k], b [n, k] f16 | bf16; d [m, n or n / 2] f32 | f16 | bf16; epilogue and contract in cuda/gemm.cuh
// Bound: bytes of b / HBM bandwidth. What counts is how many bytes are under way at any time, from the first
// microsecond on: every block fetches kStages - 1 stages ahead, and several blocks share a multiprocessor.
//
// A block owns 16 weight rows a warp, which are mma's a; tokens are mma's columns, in slices of eight. k is never
// split: even 4096 weight rows are 256 blocks of 16, and one warp's chain of dependent products eats about as many
// bytes as a multiprocessor's share of the memory bandwidth.
#include "cuda/gemm.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/sm80/gemm.h"

namespace warpjet::sm80 {
namespace {

constexpr int kPiece = 8;                 // elements of 16 bytes
constexpr int kDepth = 128;               // k of a stage: 256 bytes a row, what one L2 prefetch covers
constexpr int kPieces = kDepth / kPiece;  // of a row
constexpr int kWarpRows = 16;             // mma's m
constexpr int kSlice = 8;                 // mma's n
constexpr int kChunk = 32;                // k of two products: what one ldmatrix of eight tokens holds
constexpr int kChunks = kDepth / kChunk;
constexpr int kRowsAtOnce = kWarpSize / kPieces;  // that one copy of a warp touches

template <class T, int kWarps, int kTokens, int kStages>
struct SmallSmem {
  struct Stage {
    T weights[kWarps * kWarpRows][kDepth];
    T tokens[kTokens][kDepth];
  };
  Stage stages[kStages];
};

// Rows of 256 bytes meet in the same banks. Row r keeps its piece p at p ^ (r % 8), so that eight rows of one column of
// pieces, which is what ldmatrix reads, lie in different ones.
template <class T>
WJ_DEVICE T* place_of(T (*rows)[kDepth], int row, int piece) {
  return rows[row] + (piece ^ row % 8) * kPiece;
}

// Eight elements from `k` on of the row that has `end` of them; zeros beyond.
template <bool kAligned, ptx::Cache cache, class T>
WJ_DEVICE void copy_piece(T* to, const T* row, int k, int end) {
  if constexpr (kAligned) {  // then end is a multiple of eight: the piece exists or does not
    const bool exists = k < end;
    ptx::copy_async<kVectorBytes, cache>(to, row + (exists ? k : 0), exists ? kVectorBytes : 0);
  } else {
    Vec<T, kPiece> piece;
    for (int i = 0; i < kPiece; ++i) piece[i] = k + i < end ? ptx::load(row + k + i) : T{};
    ptx::store_shared(reinterpret_cast<Vec<T, kPiece>*>(to), piece);
  }
}

// One stage: acc[s] is 16 weight rows times tokens 8s .. 8s + 7. Tokens that do not exist repeat the last one.
template <class T, int kSlices>
WJ_DEVICE void multiply(float (&acc)[kSlices][4], T (*weights)[kDepth], T (*tokens)[kDepth], int last_token) {
  constexpr int kAtOnce = kSlices <= 2 ? kChunks : 1;  // loads ahead of the first product, as far as registers go
  const int lane = ptx::lane_id();
  for (int first = 0; first < kChunks; first += kAtOnce) {
    std::uint32_t a[kAtOnce * 2][4], b[kAtOnce][kSlices][4];
    for (int c = 0; c < kAtOnce; ++c) {
      const int piece = (first + c) * kChunk / kPiece;
      for (int i = 0; i < 2; ++i)
        ptx::load_matrix(a[2 * c + i], place_of(weights, lane % 16, piece + 2 * i + lane / 16));
      for (int s = 0; s < kSlices; ++s)
        ptx::load_matrix(b[c][s], place_of(tokens, ptx::min(s * kSlice + lane % 8, last_token), piece + lane / 8));
    }
    for (int c = 0; c < kAtOnce; ++c) {
      for (int i = 0; i < 2; ++i) {
        for (int s = 0; s < kSlices; ++s) {
          const std::uint32_t pair[2] = {b[c][s][2 * i], b[c][s][2 * i + 1]};
          ptx::mma<T>(acc[s], a[2 * c + i], pair);
        }
      }
    }
  }
}

template <class T, int kWarps, int kTokens, int kStages, bool kAligned>
__global__ void __launch_bounds__(kWarps* kWarpSize) gemm_small(const GemmTask<T> task) {
  constexpr int kSlices = kTokens / kSlice, kRows = kWarps * kWarpRows;
  auto& shared = ptx::smem<SmallSmem<T, kWarps, kTokens, kStages>>();
  const int lane = ptx::lane_id(), warp = ptx::warp_id();
  const int first_row = warp * kWarpRows;  // of this warp's weights within the tile
  const int first_column = ptx::block_idx().x * tile_columns(task, kRows);
  const int first_token = ptx::block_idx().y * kTokens, tokens = ptx::min(kTokens, task.m - first_token);
  const int stages = (task.k + kDepth - 1) / kDepth;

  // Weights do not depend on the grid before: what the first stages need is on its way to L2 while that grid ends.
  constexpr int kLine = 128 / sizeof(T);  // elements of a cache line
  static_assert(kDepth == 2 * kLine && kWarpSize == 2 * kWarpRows, "a lane prefetches half a row of every stage");
  const T* line = task.b + weight_row(task, first_column, first_row + lane / 2) * task.b_stride + lane % 2 * kLine;
  for (int k = 0; k < (kStages - 1) * kDepth; k += kDepth) {
    if (k + lane % 2 * kLine < task.k) ptx::prefetch_l2(line + k);
  }

  // Fragments: g and t as in cuda/ptx/mma.cuh. This thread has weight rows g and g + 8, tokens 8s + 2t and the next.
  const int g = lane / 4, t = lane % 4;
  float bias[2] = {};
  if (task.bias != nullptr) {
    for (int h = 0; h < 2; ++h)
      bias[h] = ptx::to_float(ptx::load(task.bias + weight_row(task, first_column, first_row + g + 8 * h)));
  }

  // A warp copies its own weight rows, two at a time; the tokens are everybody's.
  const int piece = lane % kPieces, row_at_once = lane / kPieces;
  const T* weights[kWarpRows / kRowsAtOnce];
  for (int i = 0; i < kWarpRows / kRowsAtOnce; ++i)
    weights[i] = task.b + weight_row(task, first_column, first_row + i * kRowsAtOnce + row_at_once) * task.b_stride;
  const auto copy_stage = [&](int stage, int slot) {
    auto& to = shared.stages[slot];
    const int k = stage * kDepth + piece * kPiece;
    for (int i = 0; i < kWarpRows / kRowsAtOnce; ++i)
      copy_piece<kAligned, ptx::Cache::weights>(place_of(to.weights, first_row + i * kRowsAtOnce + row_at_once, piece),
                                                weights[i], k, task.k);
    for (int i = 0; i < kTokens; i += kWarps * kRowsAtOnce) {
      const int row = i + warp * kRowsAtOnce + row_at_once;
      if (row < tokens)
        copy_piece<kAligned, ptx::Cache::normal>(place_of(to.tokens, row, piece),
                                                 task.a + (first_token + row) * task.a_stride, k, task.k);
    }
  };

  ptx::grid_wait();
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < stages) copy_stage(stage, stage);
    ptx::copy_commit();
  }
  // The residual is fetched long before it is needed. It may be d, of which this thread alone writes these elements.
  const int columns[2] = {first_column + (task.gated() ? warp * 8 : first_row) + g,
                          task.gated() ? task.columns : first_column + first_row + g + 8};
  std::uint32_t residual[kSlices][4] = {};
  const auto exists = [&](int s, int i) {
    return columns[i / 2] < task.columns && s * kSlice + 2 * t + i % 2 < tokens;
  };
  if (task.residual != nullptr) {
    WJ_UNROLL for (int s = 0; s < kSlices; ++s) {
      WJ_UNROLL for (int i = 0; i < 4; ++i) {
        const std::int64_t row = first_token + s * kSlice + 2 * t + i % 2;
        if (exists(s, i))
          residual[s][i] = load_bits(task.residual, task.d_type, row * task.residual_stride + columns[i / 2]);
      }
    }
  }

  float acc[kSlices][4] = {};
  int slot = 0, free_slot = kStages - 1;
  for (int stage = 0; stage < stages; ++stage) {
    ptx::copy_wait<kStages - 2>();
    if constexpr (kWarps == 1)
      ptx::sync_warp();
    else
      ptx::sync_threads();
    if (stage + kStages - 1 < stages) copy_stage(stage + kStages - 1, free_slot);
    if (stage + kStages - 1 == stages) ptx::grid_launch_dependents();  // no more loads: let the next grid load
    ptx::copy_commit();
    multiply(acc, shared.stages[slot].weights + first_row, shared.stages[slot].tokens, tokens - 1);
    free_slot = slot;
    slot = slot + 1 == kStages ? 0 : slot + 1;
  }

  WJ_UNROLL for (int s = 0; s < kSlices; ++s) {
    WJ_UNROLL for (int i = 0; i < 4; ++i) {
      if (!task.gated())
        acc[s][i] = finish(task, acc[s][i], bias[i / 2], float_of(residual[s][i], task.d_type));
      else if (i < 2)
        acc[s][i] = finish_gated(task, acc[s][i], bias[0], acc[s][i + 2], bias[1]);
    }
  }
  WJ_UNROLL for (int s = 0; s < kSlices; ++s) {
    WJ_UNROLL for (int i = 0; i < 4; ++i) {
      const std::int64_t row = first_token + s * kSlice + 2 * t + i % 2;
      if (exists(s, i)) store_rounded(task.d, task.d_type, row * task.d_stride + columns[i / 2], acc[s][i]);
    }
  }
}

// --- Launchers ------------------------------------------------------------------------------------------------------

template <class T, int kWarps, int kTokens, int kStages, bool kAligned>
void launch_tiles(const Gemm::Args& args, Stream& stream) {
  const GemmTask<T> task = make_task<T>(args);
  const LaunchConfig config = {
      .grid = {ceil_div(task.columns, tile_columns(task, kWarps * kWarpRows)), ceil_div(task.m, kTokens)},
      .block = {kWarps * kWarpSize},
      .smem_bytes = sizeof(SmallSmem<T, kWarps, kTokens, kStages>),
      .pdl = true};
  warpjet::launch(gemm_small<T, kWarps, kTokens, kStages, kAligned>, config, stream, task);
}

template <DType type>
using Element = std::conditional_t<type == DType::f16, Half, Bfloat>;

// About 80 KB a block: two share a multiprocessor with 100 KB to spare for the next grid's first blocks. At least three
// stages; one-warp blocks take less, because few weight rows are to make many of them.
constexpr int stages_of(int warps, int tokens) {
  const int stage_bytes = (warps * kWarpRows + tokens) * kDepth * 2;
  const int stages = (warps == 1 ? 48 << 10 : 80 << 10) / stage_bytes;
  return stages < 3 ? 3 : stages > 8 ? 8 : stages;
}

}  // namespace

template <DType type, int rows, int tokens>
bool supports_small_gemm(const Gemm::Problem& p) {
  return is_gemm_of(type, p) && p.k % kPiece == 0 && p.m <= tokens;
}

template <DType type, int rows, int tokens>
void launch_small_gemm(const Gemm::Args& args, Stream& stream) {
  constexpr int kWarps = rows / kWarpRows;
  if (!rows_are_aligned(args)) return launch_unaligned_gemm<type>(args, stream);
  launch_tiles<Element<type>, kWarps, tokens, stages_of(kWarps, tokens), true>(args, stream);
}

constexpr int kUnalignedWarps = 4, kUnalignedTokens = 64;  // elements that are loaded one by one want many uses

template <DType type>
bool supports_unaligned_gemm(const Gemm::Problem& p) {
  return is_gemm_of(type, p) && p.m <= std::int64_t{kMaxGridY} * kUnalignedTokens;
}

template <DType type>
void launch_unaligned_gemm(const Gemm::Args& args, Stream& stream) {
  launch_tiles<Element<type>, kUnalignedWarps, kUnalignedTokens, stages_of(kUnalignedWarps, kUnalignedTokens), false>(
      args, stream);
}

#define WJ_INSTANCE(type, rows, tokens)                                        \
  template bool supports_small_gemm<type, rows, tokens>(const Gemm::Problem&); \
  template void launch_small_gemm<type, rows, tokens>(const Gemm::Args&, Stream&);
#define WJ_INSTANCES(type)                                           \
  WJ_INSTANCE(type, 16, 8)                                           \
  WJ_INSTANCE(type, 32, 8)                                           \
  WJ_INSTANCE(type, 64, 8)                                           \
  WJ_INSTANCE(type, 16, 16)                                          \
  WJ_INSTANCE(type, 32, 16)                                          \
  WJ_INSTANCE(type, 64, 16)                                          \
  WJ_INSTANCE(type, 32, 32)                                          \
  WJ_INSTANCE(type, 64, 32)                                          \
  WJ_INSTANCE(type, 32, 64)                                          \
  WJ_INSTANCE(type, 64, 64)                                          \
  template bool supports_unaligned_gemm<type>(const Gemm::Problem&); \
  template void launch_unaligned_gemm<type>(const Gemm::Args&, Stream&);
WJ_INSTANCES(DType::f16)
WJ_INSTANCES(DType::bf16)
#undef WJ_INSTANCES
#undef WJ_INSTANCE

}  // namespace warpjet::sm80
