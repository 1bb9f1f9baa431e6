// Barriers with phases, bulk copies and warpgroup products; a small pipelined matrix product that uses them all, and
// the same product with one mistake at a time.
#include "cuda/ptx/wgmma.cuh"
#include "cuda/tensor_map.cuh"
#include "emulator/schedules.h"

#include <random>
#include <vector>

namespace emu {
namespace {

namespace ptx = warpjet::ptx;
using ptx::Swizzle;
using warpjet::Bfloat;

// --- Barriers and copies --------------------------------------------------------------------------------------------

TEST(Mbarrier, PhasesAlternate) {
  struct Smem {
    ptx::Mbarrier full, empty;
    int value;
  };
  const auto kernel = [] {
    auto& shared = ptx::smem<Smem>();
    if (ptx::thread_idx().x == 0) {
      ptx::init(shared.full, 1);
      ptx::init(shared.empty, 1);
      ptx::fence_init();
    }
    ptx::sync_threads();
    for (int round = 0; round < 5; ++round) {
      if (ptx::thread_idx().x == 0) {
        ptx::wait(shared.empty, (round & 1) ^ 1);
        ptx::store_shared(&shared.value, round);
        ptx::arrive(shared.full);
      } else if (ptx::thread_idx().x == 32) {
        ptx::wait(shared.full, round & 1);
        EXPECT_EQ(ptx::load_shared(&shared.value), round);
        ptx::arrive(shared.empty);
      }
    }
  };
  in_every_order({.grid = {1}, .block = {64}, .smem_bytes = sizeof(Smem)}, kernel, [] {});
}

struct TileSmem {
  alignas(1024) std::uint16_t tile[64 * 64];
  ptx::Mbarrier full;
};

class Boxes : public testing::TestWithParam<Swizzle> {};

// A box that leaves a 70 x 50 tensor on two sides: zeros come in, and nothing beyond it goes out.
TEST_P(Boxes, LoadAndStoreWithZerosOutsideTheTensor) {
  constexpr int kWidth = 50, kHeight = 70, kPitch = 56;
  const Swizzle swizzle = GetParam();
  const int box = swizzle == Swizzle::b32 ? 16 : swizzle == Swizzle::b64 ? 32 : 64;
  GlobalBuffer from(kPitch * kHeight * 2), to(kPitch * kHeight * 2);
  for (int i = 0; i < kPitch * kHeight; ++i) from.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(i);
  ptx::TensorMapDesc desc = {.data = from.as<>(),
                             .extents = {kWidth, kHeight},
                             .strides = {0, kPitch * 2},
                             .box = {box, 64},
                             .swizzle = swizzle};
  const ptx::TensorMap source = warpjet::make_tensor_map(desc);
  desc.data = to.as<>();
  const ptx::TensorMap target = warpjet::make_tensor_map(desc);
  const int x = kWidth - 10, y = kHeight - 20;
  const auto kernel = [&] {
    auto& shared = ptx::smem<TileSmem>();
    if (ptx::lane_id() == 0) {
      ptx::init(shared.full, 1);
      ptx::fence_init();
      ptx::arrive_expect(shared.full, box * 64 * 2);
      ptx::tma_load(shared.tile, source, shared.full, {x, y});
    }
    ptx::sync_warp();
    ptx::wait(shared.full, 0);
    for (int i = ptx::lane_id(); i < box * 64; i += 32) {
      const int row = i / box, line = i * 2 / 128 % 8, pieces = box * 2 / 16;
      const int shift = swizzle == Swizzle::none ? 0 : line & (pieces - 1);
      const int piece = i % box / 8 ^ shift;
      const bool inside = x + i % box < kWidth && y + row < kHeight;
      EXPECT_EQ(ptx::load_shared(&shared.tile[row * box + piece * 8 + i % 8]),
                inside ? (y + row) * kPitch + x + i % box : 0);
    }
    if (ptx::lane_id() == 0) {
      ptx::tma_store(target, shared.tile, {x, y});
      ptx::bulk_commit();
      ptx::bulk_wait_read<0>();
    }
  };
  in_every_order({.grid = {1}, .block = {32}, .smem_bytes = sizeof(TileSmem)}, kernel, [] {});
  for (int i = 0; i < kPitch * kHeight; ++i) {
    const int row = i / kPitch, column = i % kPitch;
    const bool moved = column >= x && column < std::min(x + box, kWidth) && row >= y;
    ASSERT_EQ(to.as<std::uint16_t>()[i], moved ? i : 0xffff) << row << " " << column;
  }
}

INSTANTIATE_TEST_SUITE_P(Swizzles, Boxes, testing::Values(Swizzle::none, Swizzle::b32, Swizzle::b64, Swizzle::b128));

TEST(PlantedBugs, BoxThatStartsBetweenTheSixteenByteSteps) {
  GlobalBuffer from(64 * 64 * 2);
  const ptx::TensorMap map = warpjet::make_tensor_map(
      {.data = from.as<>(), .extents = {64, 64}, .strides = {0, 128}, .box = {64, 8}, .swizzle = Swizzle::b128});
  expect_caught("innermost coordinate", {.grid = {1}, .block = {32}, .smem_bytes = sizeof(TileSmem)}, [&] {
    auto& shared = ptx::smem<TileSmem>();
    if (ptx::lane_id() == 0) ptx::tma_load(shared.tile, map, shared.full, {-3, 0});
  });
}

TEST(Cluster, MulticastFillsBothBlocksAndRemoteArrivalsCount) {
  struct Smem {
    alignas(1024) std::uint16_t tile[64 * 8];
    ptx::Mbarrier full, empty;
  };
  GlobalBuffer from(64 * 8 * 2, 3);
  const ptx::TensorMap map =
      warpjet::make_tensor_map({.data = from.as<>(), .extents = {64, 8}, .strides = {0, 128}, .box = {64, 8}});
  const auto kernel = [&] {
    auto& shared = ptx::smem<Smem>();
    if (ptx::lane_id() == 0) {
      ptx::init(shared.full, 1);
      ptx::init(shared.empty, 2);
      ptx::fence_init();
      ptx::arrive_expect(shared.full, sizeof shared.tile);
    }
    ptx::sync_cluster();
    if (ptx::cluster_rank() == 0 && ptx::lane_id() == 0)
      ptx::tma_load_multicast(shared.tile, map, shared.full, {0, 0}, 3);
    ptx::wait(shared.full, 0);
    EXPECT_EQ(ptx::load_shared(&shared.tile[ptx::lane_id()]), 0x0303);
    ptx::sync_warp();
    if (ptx::lane_id() == 0) ptx::arrive_remote(shared.empty, 0);
    if (ptx::cluster_rank() == 0) ptx::wait(shared.empty, 0);
    ptx::sync_cluster();
  };
  in_every_order({.grid = {4}, .block = {32}, .cluster = 2, .smem_bytes = sizeof(Smem)}, kernel, [] {});
}

// --- A pipelined product --------------------------------------------------------------------------------------------
// d [64, 128] = a [64, 320] · b [128, 320]^T: one producer warp, one consumer warpgroup, two stages of 64 along k.

constexpr int kM = 64, kN = 128, kDepth = 64, kSteps = 5, kStages = 2, kK = kDepth * kSteps;
constexpr int kConsumers = 128, kStageBytes = (kM + kN) * kDepth * 2;

struct GemmSmem {
  alignas(1024) Bfloat a[kStages][kM * kDepth];
  alignas(1024) Bfloat b[kStages][kN * kDepth];
  alignas(1024) Bfloat d[kM * kN];
  ptx::Mbarrier full[kStages], empty[kStages];
};

enum class Bug {
  none,
  expects_too_little,
  expects_too_much,
  no_wait_for_the_empty_stage,
  releases_before_wgmma_wait,
  phase_not_flipped,
  no_wgmma_wait,
  no_wgmma_fence,
  no_fence_init,
  no_fence_before_the_store,
  no_barrier_before_the_store,
  wrong_swizzle,
  wrong_stride
};

struct Maps {
  ptx::TensorMap a, b, d;
};

void produce(GemmSmem& shared, const Maps& maps, Bug bug) {
  for (int step = 0; step < kSteps; ++step) {
    const int stage = step % kStages, round = step / kStages;
    if (bug != Bug::no_wait_for_the_empty_stage) ptx::wait(shared.empty[stage], (round & 1) ^ 1);
    const int off = bug == Bug::expects_too_little ? -16 : bug == Bug::expects_too_much ? 16 : 0;
    ptx::arrive_expect(shared.full[stage], kStageBytes + off);
    ptx::tma_load(shared.a[stage], maps.a, shared.full[stage], {step * kDepth, 0});
    ptx::tma_load(shared.b[stage], maps.b, shared.full[stage], {step * kDepth, 0});
  }
}

void consume(GemmSmem& shared, const Maps& maps, Bug bug) {
  const Swizzle swizzle = bug == Bug::wrong_swizzle ? Swizzle::b64 : Swizzle::b128;
  const int stride = bug == Bug::wrong_stride ? 512 : 1024;
  float d[kN / 2];
  for (int step = 0; step < kSteps; ++step) {
    const int stage = step % kStages, round = bug == Bug::phase_not_flipped ? 0 : step / kStages;
    ptx::wait(shared.full[stage], round & 1);
    if (bug != Bug::no_wgmma_fence) ptx::wgmma_fence();
    const auto a = ptx::make_operand(shared.a[stage], swizzle, 0, stride);
    const auto b = ptx::make_operand(shared.b[stage], swizzle, 0, stride);
    for (int k = 0; k < kDepth; k += 16) ptx::wgmma<Bfloat, kN>(d, a.advance(k * 2), b.advance(k * 2), step + k > 0);
    ptx::wgmma_commit();
    if (bug == Bug::releases_before_wgmma_wait) ptx::arrive(shared.empty[stage]);
    if (bug != Bug::no_wgmma_wait) ptx::wgmma_wait<0>();
    if (bug != Bug::releases_before_wgmma_wait) ptx::arrive(shared.empty[stage]);
  }
  const int warp = ptx::warp_id(), g = ptx::lane_id() / 4, t = ptx::lane_id() % 4;
  for (int i = 0; i < kN / 2; i += 2) {
    const int row = warp * 16 + g + i / 2 % 2 * 8, column = i / 4 * 8 + t * 2;
    ptx::store_shared(reinterpret_cast<std::uint32_t*>(&shared.d[row * kN + column]),
                      ptx::pack<Bfloat>(d[i], d[i + 1]));
  }
  if (bug != Bug::no_fence_before_the_store) ptx::fence_async();
  if (bug != Bug::no_barrier_before_the_store) ptx::barrier_sync(1, kConsumers);
  if (ptx::thread_idx().x != 0) return;
  ptx::tma_store(maps.d, shared.d, {0, 0});
  ptx::bulk_commit();
  ptx::bulk_wait_read<0>();
}

void gemm(const Maps& maps, Bug bug) {
  auto& shared = ptx::smem<GemmSmem>();
  if (ptx::thread_idx().x == kConsumers) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::init(shared.full[stage], 1);
      ptx::init(shared.empty[stage], kConsumers);
    }
    if (bug != Bug::no_fence_init) ptx::fence_init();
  }
  ptx::sync_threads();
  if (ptx::thread_idx().x == kConsumers) produce(shared, maps, bug);
  if (ptx::thread_idx().x < kConsumers) consume(shared, maps, bug);
}

class HopperGemm : public testing::Test {
 protected:
  HopperGemm() : a_(kM * kK * 2), b_(kN * kK * 2), d_(kM * kN * 2) {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int i = 0; i < kM * kK; ++i) a_.as<Bfloat>()[i] = ptx::from_float<Bfloat>(uniform(random));
    for (int i = 0; i < kN * kK; ++i) b_.as<Bfloat>()[i] = ptx::from_float<Bfloat>(uniform(random));
    const auto map = [](const GlobalBuffer& data, int rows, int columns, int box_rows, int box_columns,
                        Swizzle swizzle) {
      return warpjet::make_tensor_map({.data = data.as<>(),
                                       .extents = {columns, rows},
                                       .strides = {0, columns * 2},
                                       .box = {box_columns, box_rows},
                                       .swizzle = swizzle});
    };
    maps_ = {map(a_, kM, kK, kM, kDepth, Swizzle::b128), map(b_, kN, kK, kN, kDepth, Swizzle::b128),
             map(d_, kM, kN, kM, kN, Swizzle::none)};
  }

  // Runs the kernel; throws Failure, or tells whether the result is right.
  bool is_right(Bug bug) {
    run({.grid = {1}, .block = {kConsumers + 32}, .smem_bytes = sizeof(GemmSmem)}, [&] { gemm(maps_, bug); });
    for (int m = 0; m < kM; ++m) {
      for (int n = 0; n < kN; ++n) {
        double exact = 0;
        for (int k = 0; k < kK; ++k)
          exact += static_cast<double>(ptx::to_float(a_.as<Bfloat>()[m * kK + k])) *
                   ptx::to_float(b_.as<Bfloat>()[n * kK + k]);
        if (!(std::abs(ptx::to_float(d_.as<Bfloat>()[m * kN + n]) - exact) <= 0x1p-8 * std::max(1.0, std::abs(exact))))
          return false;
      }
    }
    return true;
  }

  std::string failure_of(Bug bug) {
    try {
      return is_right(bug) ? "" : "wrong result";
    } catch (const Failure& failure) {
      return failure.what();
    }
  }

  GlobalBuffer a_, b_, d_;
  Maps maps_;
};

TEST_F(HopperGemm, IsRightInEveryOrder) {
  for (int seed = 1; seed <= 5; ++seed) {
    set_seed(static_cast<std::uint64_t>(seed));
    EXPECT_EQ(failure_of(Bug::none), "");
    EXPECT_EQ(counters().mma, kK / 16);
  }
}

TEST_F(HopperGemm, EveryPlantedBugIsCaughtInEveryOrder) {
  const struct {
    Bug bug;
    const char* words;
  } kBugs[] = {{Bug::expects_too_little, "deadlock"},
               {Bug::expects_too_much, "deadlock"},
               {Bug::no_wait_for_the_empty_stage, "still under way|still reads|race|more than the phase"},
               {Bug::releases_before_wgmma_wait, "still reads|race"},
               {Bug::phase_not_flipped, "not waited for|without waiting|deadlock|still reads|more than"},
               {Bug::no_wgmma_wait, "wgmma"},
               {Bug::no_wgmma_fence, "without wgmma_fence()"},
               {Bug::no_fence_init, "without a fence"},
               {Bug::no_fence_before_the_store, "without a fence"},
               {Bug::no_barrier_before_the_store, "race|nobody wrote|without a fence"},
               {Bug::wrong_swizzle, "wrong result"},
               {Bug::wrong_stride, "wrong result"}};
  for (const auto& [bug, words] : kBugs) {
    for (int seed = 1; seed <= 3; ++seed) {
      set_seed(static_cast<std::uint64_t>(seed));
      const std::string failure = failure_of(bug);
      bool named = false;
      for (std::string_view rest = words; !rest.empty() && !named;) {
        const std::size_t end = std::min(rest.find('|'), rest.size());
        named = failure.find(rest.substr(0, end)) != std::string::npos;
        rest.remove_prefix(std::min(end + 1, rest.size()));
      }
      EXPECT_TRUE(named) << "bug " << static_cast<int>(bug) << " seed " << seed << ": \"" << failure << "\"";
    }
  }
}

}  // namespace
}  // namespace emu
