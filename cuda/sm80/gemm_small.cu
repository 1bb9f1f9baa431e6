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

constexpr int kPiece = 8;                     // elements of 16 bytes
constexpr int kDepth = 128;                   // k of a stage: 256 bytes a row, what one L2 prefetch covers
constexpr int kPieces = kDepth / kPiece;      // of a row
constexpr int kWarpRows = 16;                 // mma's m
constexpr int kSlice = 8;                     // mma's n
constexpr int kChunk = 32;                    // k of two products: what one ldmatrix of eight tokens holds
constexpr int kTurns = 2;                     // stages a turn of the loop: fragments change places without moves
constexpr int kAtOnce = kWarpSize / kPieces;  // rows that one copy of a warp touches

// Rows of 256 bytes meet in the same banks. Row r keeps its piece p at p ^ (r % 8), so that eight rows of one column of
// pieces, which is what ldmatrix reads, lie in different ones.
template <class T, int kWarps, int kTokens, int kStages>
struct SmallSmem {
  struct Stage {
    T weights[kWarps * kWarpRows][kDepth];
    T tokens[kTokens][kDepth];
  };
  Stage stages[kStages];
};

// Eight elements, of which those below `end` exist; zeros beyond.
template <bool kAligned, ptx::Cache cache, class T>
WJ_DEVICE void copy_piece(T* to, const T* from, int k, int end) {
  if constexpr (kAligned) {  // then end is a multiple of eight: the piece exists or does not
    ptx::copy_async<kVectorBytes, cache>(to, from, k < end ? kVectorBytes : 0);
  } else {
    Vec<T, kPiece> piece;
    for (int i = 0; i < kPiece; ++i) piece[i] = k + i < end ? ptx::load(from + i) : T{};
    ptx::store_shared(reinterpret_cast<Vec<T, kPiece>*>(to), piece);
  }
}

// --- Products -------------------------------------------------------------------------------------------------------

// What registers hold of a stage: all of it for eight tokens, else less. One is loaded while the one before is
// multiplied, because a warp here has few others to hide its latencies behind.
template <int kSlices>
struct Fragments {
  static constexpr int kChunks = kSlices == 1 ? 4 : kSlices == 2 ? 2 : 1;
  static constexpr int kUnits = kDepth / kChunk / kChunks;  // of a stage
  std::uint32_t weights[kChunks * 2][4];
  std::uint32_t tokens[kChunks][kSlices][4];

  template <class T>
  WJ_DEVICE void load(const T (*weight_rows)[kDepth], const T (*token_rows)[kDepth], int unit) {
    const int lane = ptx::lane_id();
    WJ_UNROLL for (int c = 0; c < kChunks; ++c) {
      const int first = (unit * kChunks + c) * kChunk / kPiece;
      WJ_UNROLL for (int i = 0; i < 2; ++i) {
        const int piece = (lane / 16 ^ lane % 8) ^ (first + 2 * i);
        ptx::load_matrix(weights[2 * c + i], weight_rows[lane % 16] + piece * kPiece);
      }
      WJ_UNROLL for (int s = 0; s < kSlices; ++s) {
        const int piece = (lane / 8 ^ lane % 8) ^ first;
        ptx::load_matrix(tokens[c][s], token_rows[lane % 8 + s * kSlice] + piece * kPiece);
      }
    }
  }

  // acc[s] is 16 weight rows times tokens 8s .. 8s + 7. Each step depends on the one before: between(step) is what to
  // do meanwhile.
  template <class T, class Between>
  WJ_DEVICE void multiply(float (&acc)[kSlices][4], Between&& between) const {
    WJ_UNROLL for (int step = 0; step < kChunks * 2; ++step) {
      WJ_UNROLL for (int s = 0; s < kSlices; ++s) {
        const std::uint32_t* chunk = tokens[step / 2][s];
        const std::uint32_t pair[2] = {chunk[step % 2 * 2], chunk[step % 2 * 2 + 1]};
        ptx::mma<T>(acc[s], weights[step], pair);
      }
      between(step);
    }
  }
};

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

  // A warp copies its own weight rows, two at a time, and its share of the tokens, which are everybody's.
  const int piece = lane % kPieces, odd = lane / kPieces, first_piece = piece * kPiece;
  const T* weights[kWarpRows / kAtOnce];
  WJ_UNROLL for (int i = 0; i < kWarpRows / kAtOnce; ++i) {
    weights[i] = task.b + weight_row(task, first_column, first_row + i * kAtOnce + odd) * task.b_stride + first_piece;
  }
  const int own_token = warp * kAtOnce + odd;
  const T* activations = task.a + (first_token + own_token) * task.a_stride + first_piece;
  const std::int64_t next_token = kWarps * kAtOnce * task.a_stride;
  // Part i of kParts of a stage; a stage beyond the end is zeros, which nobody reads.
  constexpr int kParts = kWarpRows / kAtOnce, kTokenTurns = kTokens / (kWarps * kAtOnce);
  const auto copy_part = [&](int stage, int slot, int i) {
    const int k = stage * kDepth, place = (piece ^ odd) ^ (i * kAtOnce & 7);
    copy_piece<kAligned, ptx::Cache::weights>(
        shared.stages[slot].weights[first_row + odd + i * kAtOnce] + place * kPiece, weights[i] + k, first_piece + k,
        task.k);
    WJ_UNROLL for (int turn = i * kTokenTurns / kParts; turn < (i + 1) * kTokenTurns / kParts; ++turn) {
      const int row = turn * kWarps * kAtOnce, token_place = (piece ^ own_token) ^ (row & 7);
      if (row + own_token < tokens)
        copy_piece<kAligned, ptx::Cache::normal>(shared.stages[slot].tokens[own_token + row] + token_place * kPiece,
                                                 activations + turn * next_token + k, first_piece + k, task.k);
    }
  };
  // Tokens that do not exist are zeros, once for all stages.
  for (int row = own_token; row < kStages * kTokens; row += kWarps * kAtOnce) {
    T* to = shared.stages[row / kTokens].tokens[row % kTokens] + first_piece;
    if (row % kTokens >= tokens) ptx::store_shared(reinterpret_cast<Vec<T, kPiece>*>(to), Vec<T, kPiece>{});
  }

  // Fragments: g and t as in cuda/ptx/mma.cuh. This thread has weight rows g and g + 8, tokens 8s + 2t and the next.
  const int g = lane / 4, t = lane % 4;
  const int columns[2] = {first_column + (task.gated() ? warp * 8 : first_row) + g,
                          task.gated() ? task.columns : first_column + first_row + g + 8};
  const auto exists = [&](int s, int i) {
    return columns[i / 2] < task.columns && s * kSlice + 2 * t + i % 2 < tokens;
  };
  float bias[2] = {};
  if (task.bias != nullptr) {
    for (int h = 0; h < 2; ++h)
      bias[h] = ptx::to_float(ptx::load(task.bias + weight_row(task, first_column, first_row + g + 8 * h)));
  }

  ptx::grid_wait();
  for (int stage = 0; stage < kStages - 1; ++stage) {
    WJ_UNROLL for (int i = 0; i < kParts; ++i) copy_part(stage, stage, i);
    ptx::copy_commit();
  }
  // The residual is fetched before it is needed: long before, if registers allow. It may be d, of which this thread
  // alone writes these elements.
  constexpr bool kEarly = kSlices <= 2;
  std::uint32_t residual[kSlices][4] = {};
  const auto fetch_residual = [&] {
    WJ_UNROLL for (int s = 0; s < kSlices; ++s) {
      WJ_UNROLL for (int i = 0; i < 4; ++i) {
        const std::int64_t row = first_token + s * kSlice + 2 * t + i % 2;
        if (exists(s, i))
          residual[s][i] = load_bits(task.residual, task.d_type, row * task.residual_stride + columns[i / 2]);
      }
    }
  };
  if (kEarly && task.residual != nullptr) fetch_residual();

  float acc[kSlices][4] = {};
  Fragments<kSlices> loaded = {};  // zeros, which change no sum
  int slot = 0, free_slot = kStages - 1;
  for (int first = 0; first < stages; first += kTurns) {
    WJ_UNROLL for (int turn = 0; turn < kTurns; ++turn) {
      const int stage = first + turn, far = stage + kStages - 1;
      if (stage >= stages) break;
      ptx::copy_wait<kStages - 2>();
      if constexpr (kWarps == 1)
        ptx::sync_warp();
      else
        ptx::sync_threads();
      // From here on the stage before is in registers, so its slot is free.
      WJ_UNROLL for (int unit = 0; unit < loaded.kUnits; ++unit) {
        Fragments<kSlices> next;
        next.load(shared.stages[slot].weights + first_row, shared.stages[slot].tokens, unit);
        loaded.template multiply<T>(acc,
                                    [&](int step) { copy_part(far, free_slot, unit * kParts / loaded.kUnits + step); });
        loaded = next;
      }
      ptx::copy_commit();
      if (far == stages) ptx::grid_launch_dependents();  // no more loads: let the next grid load
      free_slot = slot;
      slot = slot + 1 == kStages ? 0 : slot + 1;
    }
  }
  if (!kEarly && task.residual != nullptr) fetch_residual();
  loaded.template multiply<T>(acc, [](int) {});

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

constexpr int kUnalignedWarps = 4, kUnalignedTokens = 16;

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
  WJ_INSTANCE(type, 64, 64)                                          \
  template bool supports_unaligned_gemm<type>(const Gemm::Problem&); \
  template void launch_unaligned_gemm<type>(const Gemm::Args&, Stream&);
WJ_INSTANCES(DType::f16)
WJ_INSTANCES(DType::bf16)
#undef WJ_INSTANCES
#undef WJ_INSTANCE

}  // namespace warpjet::sm80
