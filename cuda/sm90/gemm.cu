// GEMM for many tokens on Hopper.
//   a [m, k], b [n, k] f16 | bf16; d [m, n or n / 2] f32 | f16 | bf16; epilogue and contract in cuda/gemm.cuh
// Bound: products / tensor cores. A block lives as long as the grid and makes tile after tile of 128 tokens x kN weight
// rows: one thread fills a ring of stages by TMA; two warpgroups multiply 64 tokens each, one stage's wgmma always
// under way while the next is waited for. The ring runs on across tiles, so that loads go on during the epilogue.
#include "cuda/sm90/gemm.h"

#include "cuda/gemm.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm80/gemm.h"
#include "cuda/tensor_map.cuh"

namespace warpjet::sm90 {
namespace {

constexpr int kM = 128;           // tokens of a tile
constexpr int kDepth = 64;        // k of a stage: rows of 128 bytes, which is what the swizzle wants
constexpr int kStep = 16;         // k of one wgmma
constexpr int kStages = 4;        // 192 KB at kN = 256
constexpr int kGroup = 128;       // threads of a warpgroup
constexpr int kGroupTokens = 64;  // wgmma's m
constexpr int kConsumers = kM / kGroupTokens * kGroup, kConsumerWarps = kConsumers / kWarpSize;
constexpr int kThreads = kGroup + kConsumers;
constexpr int kWarpTokens = 16;  // of a warp's accumulators
constexpr int kSlots = 4;        // runs of a token that the epilogue handles at once
// Registers: 65536 are 168 a thread, of which the producers need few. Multiples of 8.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
static_assert((kProducerRegisters + 2 * kConsumerRegisters) * kGroup <= 65536, "the registers of a multiprocessor");

template <class T, int kN>
struct Smem {
  alignas(1024) T tokens[kStages][kM * kDepth];
  alignas(1024) T weights[kStages][kN * kDepth];
  float acc[kConsumerWarps][kWarpTokens][kSlots * kRun];
  ptx::Mbarrier full[kStages], empty[kStages];
};

// Where in the ring its user is.
struct Ring {
  int slot = 0, parity = 0;
  WJ_DEVICE void next() {
    slot = slot + 1 == kStages ? 0 : slot + 1;
    parity ^= slot == 0;
  }
};

// What producer and consumers agree on: the tiles of this block, and the stages of each.
template <class T, int kN>
struct Work {
  int token_tiles, weight_tiles, columns, stages;
  WJ_DEVICE explicit Work(const GemmTask<T>& task)
      : token_tiles((task.m + kM - 1) / kM), columns(tile_columns(task, kN)), stages((task.k + kDepth - 1) / kDepth) {
    weight_tiles = (task.columns + columns - 1) / columns;
  }
  WJ_DEVICE int tiles() const { return token_tiles * weight_tiles; }
};

// One thread. Half of a stage's weights are rows from the tile's first column on; the other half are the rows behind
// them or, with a gate, the up rows that go with them. What lies beyond a tensor's end is zeros.
template <class T, int kN>
WJ_DEVICE void produce(Smem<T, kN>& shared, const GemmTask<T>& task, const ptx::TensorMap& a, const ptx::TensorMap& b) {
  const Work<T, kN> work(task);
  const auto load_weights = [&](const Ring& ring, int tile, int stage) {
    const int row = place_of_tile(tile, work.token_tiles, work.weight_tiles).weight_tile * work.columns;
    const int second = task.gated() ? row + task.columns : row + kN / 2;
    T* to = shared.weights[ring.slot];
    ptx::arrive_expect(shared.full[ring.slot], (kM + kN) * kDepth * static_cast<int>(sizeof(T)));
    ptx::tma_load(to, b, shared.full[ring.slot], {stage * kDepth, row});
    ptx::tma_load(to + kN / 2 * kDepth, b, shared.full[ring.slot], {stage * kDepth, second});
  };
  const auto load_tokens = [&](const Ring& ring, int tile, int stage) {
    const int row = place_of_tile(tile, work.token_tiles, work.weight_tiles).token_tile * kM;
    ptx::tma_load(shared.tokens[ring.slot], a, shared.full[ring.slot], {stage * kDepth, row});
  };

  // Weights do not depend on the grid before: the first stages' are fetched while it ends.
  const int first_tile = ptx::block_idx().x, early = ptx::min(kStages, work.stages);
  Ring ring;
  for (int stage = 0; stage < early; ++stage, ring.next()) load_weights(ring, first_tile, stage);
  ptx::grid_wait();
  ring = {};
  for (int stage = 0; stage < early; ++stage, ring.next()) load_tokens(ring, first_tile, stage);
  for (int tile = first_tile; tile < work.tiles(); tile += ptx::grid_dim().x) {
    for (int stage = tile == first_tile ? early : 0; stage < work.stages; ++stage, ring.next()) {
      ptx::wait(shared.empty[ring.slot], ring.parity ^ 1);
      load_weights(ring, tile, stage);
      load_tokens(ring, tile, stage);
    }
  }
  ptx::grid_launch_dependents();
}

// A warp's 16 tokens x the tile's columns: through shared memory, kSlots runs at a time, so that whole pieces of rows
// leave, and the code that finishes them is there once.
template <class T, int kN>
WJ_DEVICE void finish_tile(float (&shared)[kWarpTokens][kSlots * kRun], const GemmTask<T>& task, int first_token,
                           int first_column, const float (&acc)[kN / 2]) {
  const int lane = ptx::lane_id(), pitch = task.gated() ? 2 : 1, runs = kSlots / pitch;
  for (int first_run = 0; first_run * pitch < kN / kRun; first_run += runs) {
    WJ_UNROLL for (int run = 0; run < kN / kRun; ++run) {
      // With a gate the second half of the accumulators are up rows: even slots take gates, odd ones the ups.
      const int half = run >= kN / kRun / 2, within = run - half * (kN / kRun / 2);
      const int slot = task.gated() ? (within - first_run) * 2 + half : run - first_run;
      if (slot < 0 || slot >= kSlots) continue;
      WJ_UNROLL for (int low = 0; low < 2; ++low) {
        const Vec<float, 2> pair = {acc[run * 4 + low * 2], acc[run * 4 + low * 2 + 1]};
        float* to = run_of(shared, low * 8 + lane / 4, slot) + lane % 4 * 2;
        ptx::store_shared(reinterpret_cast<Vec<float, 2>*>(to), pair);
      }
    }
    ptx::sync_warp();
    for (int i = lane; i < kWarpTokens * runs; i += kWarpSize) {
      const int row = i / runs, run = i % runs;
      float x[kRun], up[kRun];
      load_shared_run(run_of(shared, row, run * pitch), x);
      load_shared_run(run_of(shared, row, run * pitch + pitch - 1), up);
      finish_run(task, first_token + row, first_column + (first_run + run) * kRun, x, up);
    }
    ptx::sync_warp();
  }
}

// One of the two warpgroups.
template <class T, int kN>
WJ_DEVICE void consume(Smem<T, kN>& shared, const GemmTask<T>& task) {
  const Work<T, kN> work(task);
  const int warp = ptx::warp_id() - kGroup / kWarpSize, group = warp / (kGroup / kWarpSize);
  bool may_write = false;
  Ring ring;
  for (int tile = ptx::block_idx().x; tile < work.tiles(); tile += ptx::grid_dim().x) {
    float acc[kN / 2];
    WJ_UNROLL for (int i = 0; i < kN / 2; ++i) {
      acc[i] = 0.0f;
    }
    int before = 0;
    for (int stage = 0; stage < work.stages; ++stage, ring.next()) {
      ptx::wait(shared.full[ring.slot], ring.parity);
      const auto tokens = ptx::make_operand(shared.tokens[ring.slot] + group * kGroupTokens * kDepth,
                                            ptx::Swizzle::b128, 0, 8 * kDepth * sizeof(T));
      const auto weights = ptx::make_operand(shared.weights[ring.slot], ptx::Swizzle::b128, 0, 8 * kDepth * sizeof(T));
      ptx::wgmma_fence();
      WJ_UNROLL for (int k = 0; k < kDepth; k += kStep) {
        const int bytes = k * static_cast<int>(sizeof(T));
        ptx::wgmma<T, kN>(acc, tokens.advance(bytes), weights.advance(bytes), 1);
      }
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      if (stage > 0 && ptx::lane_id() == 0) ptx::arrive(shared.empty[before]);
      before = ring.slot;
    }
    ptx::wgmma_wait<0>();
    if (ptx::lane_id() == 0) ptx::arrive(shared.empty[before]);
    if (!may_write) ptx::grid_wait();
    may_write = true;
    const TilePlace place = place_of_tile(tile, work.token_tiles, work.weight_tiles);
    finish_tile<T, kN>(shared.acc[warp], task, place.token_tile * kM + warp * kWarpTokens,
                       place.weight_tile * work.columns, acc);
  }
}

template <class T, int kN>
__global__ void __launch_bounds__(kThreads, 1)
    gemm(const GemmTask<T> task, const __grid_constant__ ptx::TensorMap a, const __grid_constant__ ptx::TensorMap b) {
  auto& shared = ptx::smem<Smem<T, kN>>();
  if (ptx::thread_idx().x == 0) {
    ptx::prefetch(a);
    ptx::prefetch(b);
    for (int slot = 0; slot < kStages; ++slot) {
      ptx::init(shared.full[slot], 1);
      ptx::init(shared.empty[slot], kConsumerWarps);
    }
    ptx::fence_init();
  }
  ptx::sync_threads();
  if (ptx::thread_idx().x < kGroup) {
    ptx::release_registers<kProducerRegisters>();
    if (ptx::thread_idx().x == 0)
      produce(shared, task, a, b);
    else
      ptx::grid_wait();
  } else {
    ptx::claim_registers<kConsumerRegisters>();
    consume(shared, task);
  }
}

// --- Launchers ------------------------------------------------------------------------------------------------------

// A matrix [rows, k] in boxes of box_rows x kDepth.
ptx::TensorMap map_of(const TensorView& view, std::int64_t rows, std::int64_t k, int box_rows) {
  return make_tensor_map({.data = view.data,
                          .element_bytes = dtype_bytes(view.dtype),
                          .extents = {k, rows},
                          .strides = {0, view.row_stride * dtype_bytes(view.dtype)},
                          .box = {kDepth, box_rows},
                          .swizzle = ptx::Swizzle::b128});
}

std::int64_t tiles(const Gemm::Problem& p, int n) {
  return ceil_div<std::int64_t>(p.m, kM) * ceil_div<std::int64_t>(p.n, n);  // gated or not
}

}  // namespace

// Tensor maps want rows at multiples of 16 bytes; where memory does not have them, launch_gemm turns to another kernel.
template <DType type, int n>
bool supports_gemm(const Gemm::Problem& p) {
  constexpr std::int64_t kPiece = 8, kMostTiles = 1 << 30;
  return is_gemm_of(type, p) && p.k % kPiece == 0 && tiles(p, n) < kMostTiles;
}

template <DType type, int n>
void launch_gemm(const Gemm::Args& args, Stream& stream) {
  using T = Element<type>;
  const Gemm::Problem& p = args.problem;
  if (!rows_are_aligned(args)) return sm80::launch_unaligned_gemm<type>(args, stream);
  if (p.m == 0) return;  // an empty tensor has no map
  const LaunchConfig config = {.grid = {static_cast<int>(std::min<std::int64_t>(tiles(p, n), multiprocessors()))},
                               .block = {kThreads},
                               .smem_bytes = sizeof(Smem<T, n>),
                               .pdl = true};
  warpjet::launch(gemm<T, n>, config, stream, make_task<T>(args), map_of(args.a, p.m, p.k, kM),
                  map_of(args.b, p.n, p.k, n / 2));
}

#define WJ_INSTANCE(type, n)                                  \
  template bool supports_gemm<type, n>(const Gemm::Problem&); \
  template void launch_gemm<type, n>(const Gemm::Args&, Stream&);
WJ_INSTANCE(DType::f16, 128)
WJ_INSTANCE(DType::f16, 256)
WJ_INSTANCE(DType::bf16, 128)
WJ_INSTANCE(DType::bf16, 256)
#undef WJ_INSTANCE

}  // namespace warpjet::sm90
