// GEMM for many tokens (prefill) on any GPU since 8.0.
//   a [m, k], b [n, k] f16 | bf16; d [m, n or n / 2] f32 | f16 | bf16; epilogue and contract in cuda/gemm.cuh
// Bound: products / tensor cores. A block makes kM tokens x kN weight rows: cp.async fills a ring of stages, ldmatrix
// feeds mma; tokens are mma's a, weights its b. The epilogue goes through shared memory, so that it is short code and
// whole rows leave in 16-byte pieces.
#include "cuda/gemm.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/sm80/gemm.h"

namespace warpjet::sm80 {
namespace {

constexpr int kPiece = 8;                 // elements of 16 bytes
constexpr int kDepth = 32;                // k of a stage: two products
constexpr int kPieces = kDepth / kPiece;  // of a row
constexpr int kStages = 4;                // 64 KB at 128 x 128: two blocks a multiprocessor from 9.0 on, one on 8.6
// Threads of a multiprocessor, at 128 registers each; the compiler for 10.0 needs two more for the largest tile.
template <int kM, int kN>
constexpr int resident_threads() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 1000
  if (kM * kN >= 128 * 128) return 256;
#endif
  return 512;
}

template <class T, int kM, int kN>
struct LargeSmem {
  struct Stage {
    T tokens[kM][kDepth];
    T weights[kN][kDepth];
  };
  union {
    Stage stages[kStages];
    float acc[kM][kN];
  };
};

// Rows of 64 bytes: two share a line of all banks. Row r keeps its piece p at p ^ (r / 2 % 4), so that eight rows of
// one column of pieces, which is what ldmatrix reads, lie in different banks.
template <class T>
WJ_DEVICE T* place_of(T (*rows)[kDepth], int row, int piece) {
  return rows[row] + (piece ^ row / 2 % kPieces) * kPiece;
}

// acc += one stage, for a warp's tokens x weights.
template <class T, int kRowBlocks, int kSlices>
WJ_DEVICE void multiply(float (&acc)[kRowBlocks][kSlices][4], T (*tokens)[kDepth], T (*weights)[kDepth]) {
  const int lane = ptx::lane_id();
  WJ_UNROLL for (int step = 0; step < kDepth; step += 16) {
    const int piece = step / kPiece;
    std::uint32_t a[kRowBlocks][4], b[kSlices / 2][4];  // one b holds sixteen weight rows
    WJ_UNROLL for (int s = 0; s < kSlices / 2; ++s) {
      ptx::load_matrix(b[s], place_of(weights, s * 16 + lane / 16 * 8 + lane % 8, piece + lane / 8 % 2));
    }
    WJ_UNROLL for (int r = 0; r < kRowBlocks; ++r) {
      ptx::load_matrix(a[r], place_of(tokens, r * 16 + lane % 16, piece + lane / 16));
    }
    WJ_UNROLL for (int r = 0; r < kRowBlocks; ++r) {
      WJ_UNROLL for (int s = 0; s < kSlices; ++s) {
        const std::uint32_t pair[2] = {b[s / 2][s % 2 * 2], b[s / 2][s % 2 * 2 + 1]};
        ptx::mma<T>(acc[r][s], a[r], pair);
      }
    }
  }
}

template <class T, int kM, int kN, int kWarpsM, int kWarpsN>
__global__ void __launch_bounds__(kWarpsM* kWarpsN* kWarpSize,
                                  resident_threads<kM, kN>() / (kWarpsM * kWarpsN * kWarpSize))
    gemm_large(const GemmTask<T> task) {
  constexpr int kThreads = kWarpsM * kWarpsN * kWarpSize;
  constexpr int kRowBlocks = kM / kWarpsM / 16, kSlices = kN / kWarpsN / 8;
  auto& shared = ptx::smem<LargeSmem<T, kM, kN>>();
  const int thread = ptx::thread_idx().x, lane = ptx::lane_id(), warp = ptx::warp_id();
  const int columns = tile_columns(task, kN);
  const TilePlace tile =
      place_of_tile(ptx::block_idx().x, (task.m + kM - 1) / kM, (task.columns + columns - 1) / columns);
  const int first_token = tile.token_tile * kM, first_column = tile.weight_tile * columns;
  const int stages = (task.k + kDepth - 1) / kDepth;

  // --- Copies: four threads a row. Rows beyond the end repeat the last.
  constexpr int kAtOnce = kThreads / kPieces;
  const int piece = thread % kPieces, line = thread / kPieces;
  const T *tokens[kM / kAtOnce], *weights[kN / kAtOnce];
  WJ_UNROLL for (int i = 0; i < kM / kAtOnce; ++i) {
    tokens[i] = task.a + ptx::min(first_token + line + i * kAtOnce, task.m - 1) * task.a_stride;
  }
  WJ_UNROLL for (int i = 0; i < kN / kAtOnce; ++i) {
    weights[i] = task.b + weight_row(task, first_column, line + i * kAtOnce) * task.b_stride;
  }
  const auto copy_stage = [&](int stage, int slot) {
    auto& to = shared.stages[slot];
    const int k = stage * kDepth + piece * kPiece, from = k < task.k ? k : 0, valid = k < task.k ? kVectorBytes : 0;
    WJ_UNROLL for (int i = 0; i < kM / kAtOnce; ++i) {
      ptx::copy_async<kVectorBytes>(place_of(to.tokens, line + i * kAtOnce, piece), tokens[i] + from, valid);
    }
    WJ_UNROLL for (int i = 0; i < kN / kAtOnce; ++i) {
      ptx::copy_async<kVectorBytes>(place_of(to.weights, line + i * kAtOnce, piece), weights[i] + from, valid);
    }
  };

  ptx::grid_wait();
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < stages) copy_stage(stage, stage);
    ptx::copy_commit();
  }

  // --- Products
  const int warp_token = warp / kWarpsN * (kM / kWarpsM), warp_weight = warp % kWarpsN * (kN / kWarpsN);
  float acc[kRowBlocks][kSlices][4] = {};
  int slot = 0, free_slot = kStages - 1;
  for (int stage = 0; stage < stages; ++stage) {
    ptx::copy_wait<kStages - 2>();
    ptx::sync_threads();
    if (stage + kStages - 1 < stages) copy_stage(stage + kStages - 1, free_slot);
    ptx::copy_commit();
    multiply(acc, shared.stages[slot].tokens + warp_token, shared.stages[slot].weights + warp_weight);
    free_slot = slot;
    slot = slot + 1 == kStages ? 0 : slot + 1;
  }
  ptx::grid_launch_dependents();

  // --- Epilogue
  ptx::copy_wait<0>();
  ptx::sync_threads();  // the ring is free
  WJ_UNROLL for (int r = 0; r < kRowBlocks; ++r) {
    WJ_UNROLL for (int s = 0; s < kSlices; ++s) {
      WJ_UNROLL for (int half = 0; half < 2; ++half) {
        float* run = run_of(shared.acc, warp_token + r * 16 + half * 8 + lane / 4, warp_weight / kRun + s);
        const Vec<float, 2> pair = {acc[r][s][2 * half], acc[r][s][2 * half + 1]};
        ptx::store_shared(reinterpret_cast<Vec<float, 2>*>(run + lane % 4 * 2), pair);
      }
    }
  }
  ptx::sync_threads();
  const int runs = columns / kRun, weight_runs = task.gated() ? 2 : 1;
  for (int i = thread; i < kM * runs; i += kThreads) {
    const int row = i / runs, run = i % runs;
    float x[kRun], up[kRun];
    load_shared_run(run_of(shared.acc, row, run * weight_runs), x);
    load_shared_run(run_of(shared.acc, row, run * weight_runs + weight_runs - 1), up);
    finish_run(task, first_token + row, first_column + run * kRun, x, up);
  }
}

// --- Launchers ------------------------------------------------------------------------------------------------------

std::int64_t tiles(const Gemm::Problem& p, int m, int n) {
  return ceil_div<std::int64_t>(p.m, m) * ceil_div<std::int64_t>(p.n, n);  // gated or not
}

}  // namespace

template <DType type, int m, int n>
bool supports_large_gemm(const Gemm::Problem& p) {
  constexpr std::int64_t kMaxGridX = (std::int64_t{1} << 31) - 1;
  return is_gemm_of(type, p) && p.k % kPiece == 0 && tiles(p, m, n) <= kMaxGridX;
}

template <DType type, int m, int n>
void launch_large_gemm(const Gemm::Args& args, Stream& stream) {
  using T = Element<type>;
  constexpr int kWarpsM = m / 64, kWarpsN = n / 32;  // a warp makes 64 x 32
  if (!rows_are_aligned(args)) return launch_unaligned_gemm<type>(args, stream);
  const LaunchConfig config = {.grid = {static_cast<int>(tiles(args.problem, m, n))},
                               .block = {kWarpsM * kWarpsN * kWarpSize},
                               .smem_bytes = sizeof(LargeSmem<T, m, n>),
                               .pdl = true};
  warpjet::launch(gemm_large<T, m, n, kWarpsM, kWarpsN>, config, stream, make_task<T>(args));
}

#define WJ_INSTANCE(type, m, n)                                        \
  template bool supports_large_gemm<type, m, n>(const Gemm::Problem&); \
  template void launch_large_gemm<type, m, n>(const Gemm::Args&, Stream&);
#define WJ_INSTANCES(type)   \
  WJ_INSTANCE(type, 64, 64)  \
  WJ_INSTANCE(type, 64, 128) \
  WJ_INSTANCE(type, 128, 128)
WJ_INSTANCES(DType::f16)
WJ_INSTANCES(DType::bf16)
#undef WJ_INSTANCES
#undef WJ_INSTANCE

}  // namespace warpjet::sm80
