// GEMM of fp32 operands on the CUDA cores, for checkpoints that are fp32.
//   a [m, k], b [n, k] f32; d [m, n or n / 2] f32 | f16 | bf16; epilogue and contract in cuda/gemm.cuh
// Bound: fma / CUDA cores for many tokens, bytes of b / HBM bandwidth for few. Plain on purpose: tiles of 64 weight
// rows through shared memory, element by element, so that no row needs any alignment.
#include "cuda/gemm.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/sm80/gemm.h"

namespace warpjet::sm80 {
namespace {

constexpr int kRows = 64;    // weight rows of a tile
constexpr int kDepth = 16;   // k of a stage
constexpr int kPadding = 4;  // floats: what a warp stores, 16 k of two rows, spreads over the banks
constexpr int kAcross = 16;  // threads along the weight rows

template <int kTokens>
struct F32Smem {
  float weights[kDepth][kRows + kPadding];
  float tokens[kDepth][kTokens + kPadding];
};

// A thread owns weight rows r, r + 1, r + 8 and r + 9, as mma's fragments do, so that it has both halves of a gate; and
// kOwned neighbouring tokens.
template <int kTokens, int kOwned>
__global__ void __launch_bounds__(kAcross* kTokens / kOwned) gemm_f32(const GemmTask<float> task) {
  constexpr int kThreads = kAcross * kTokens / kOwned, kStep = kThreads / kDepth;
  auto& shared = ptx::smem<F32Smem<kTokens>>();
  const int thread = ptx::thread_idx().x;
  const int row = thread % kAcross / 4 * 16 + thread % 4 * 2, token = thread / kAcross * kOwned;
  const int first_column = ptx::block_idx().x * tile_columns(task, kRows);
  const int first_token = ptx::block_idx().y * kTokens;

  // Copies: a thread fetches element k of every kStep-th row, one stage ahead.
  constexpr int kWeights = kRows / kStep, kOthers = (kTokens + kStep - 1) / kStep;
  const int k = thread % kDepth, line = thread / kDepth;
  float next_weights[kWeights], next_tokens[kOthers];
  const auto fetch = [&](int stage) {
    const int at = stage * kDepth + k;
    WJ_UNROLL for (int i = 0; i < kWeights; ++i) {
      const std::int64_t from = weight_row(task, first_column, line + i * kStep) * task.b_stride;
      next_weights[i] = at < task.k ? ptx::load(task.b + from + at) : 0.0f;
    }
    WJ_UNROLL for (int i = 0; i < kOthers; ++i) {
      const std::int64_t from = ptx::min(first_token + line + i * kStep, task.m - 1) * task.a_stride;
      next_tokens[i] = at < task.k ? ptx::load(task.a + from + at) : 0.0f;
    }
  };

  ptx::grid_wait();
  const int stages = (task.k + kDepth - 1) / kDepth;
  float acc[kOwned][4] = {};
  fetch(0);
  for (int stage = 0; stage < stages; ++stage) {
    WJ_UNROLL for (int i = 0; i < kWeights; ++i) {
      ptx::store_shared(&shared.weights[k][line + i * kStep], next_weights[i]);
    }
    WJ_UNROLL for (int i = 0; i < kOthers; ++i) {
      if (line + i * kStep < kTokens) ptx::store_shared(&shared.tokens[k][line + i * kStep], next_tokens[i]);
    }
    ptx::sync_threads();
    if (stage + 1 < stages) fetch(stage + 1);
    WJ_UNROLL for (int i = 0; i < kDepth; ++i) {
      const auto near = ptx::load_shared(reinterpret_cast<const Vec<float, 2>*>(&shared.weights[i][row]));
      const auto far = ptx::load_shared(reinterpret_cast<const Vec<float, 2>*>(&shared.weights[i][row + 8]));
      const auto x = ptx::load_shared(reinterpret_cast<const Vec<float, kOwned>*>(&shared.tokens[i][token]));
      WJ_UNROLL for (int j = 0; j < kOwned; ++j) {
        for (int c = 0; c < 4; ++c) acc[j][c] = ptx::fma(x[j], c < 2 ? near[c] : far[c - 2], acc[j][c]);
      }
    }
    ptx::sync_threads();
  }
  ptx::grid_launch_dependents();

  WJ_UNROLL for (int j = 0; j < kOwned; ++j) {
    float near[2] = {acc[j][0], acc[j][1]}, far[2] = {acc[j][2], acc[j][3]};
    if (task.gated()) {
      finish_run(task, first_token + token + j, first_column + row / 16 * 8 + row % 8, near, far);
    } else {
      finish_run(task, first_token + token + j, first_column + row, near, near);
      finish_run(task, first_token + token + j, first_column + row + 8, far, far);
    }
  }
}

// Tokens a thread.
constexpr int owned(int tokens) {
  return tokens < 64 ? 1 : 4;
}

}  // namespace

template <int tokens>
bool supports_f32_gemm(const Gemm::Problem& p) {
  return is_gemm_of(DType::f32, p) && p.m <= (tokens < 64 ? tokens : std::int64_t{kMaxGridY} * tokens);
}

template <int tokens>
void launch_f32_gemm(const Gemm::Args& args, Stream& stream) {
  const GemmTask<float> task = make_task<float>(args);
  const LaunchConfig config = {.grid = {ceil_div(task.columns, tile_columns(task, kRows)), ceil_div(task.m, tokens)},
                               .block = {kAcross * tokens / owned(tokens)},
                               .smem_bytes = sizeof(F32Smem<tokens>),
                               .pdl = true};
  warpjet::launch(gemm_f32<tokens, owned(tokens)>, config, stream, task);
}

#define WJ_INSTANCE(tokens)                                      \
  template bool supports_f32_gemm<tokens>(const Gemm::Problem&); \
  template void launch_f32_gemm<tokens>(const Gemm::Args&, Stream&);
WJ_INSTANCE(8)
WJ_INSTANCE(64)
#undef WJ_INSTANCE

}  // namespace warpjet::sm80
