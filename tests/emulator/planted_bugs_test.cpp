// Kernels with one mistake each. The emulator names every one of them, whatever the schedule.
#include "emulator/schedules.h"

#include <cmath>
#include <vector>

namespace emu {
namespace {

namespace ptx = warpjet::ptx;

// --- A pipeline of asynchronous copies ------------------------------------------------------------------------------
// Sums tiles of 64 floats through two stages; the test leaves out one of its waits.

constexpr int kThreads = 64, kStages = 2, kTiles = 5;

struct Pipeline {
  alignas(16) float stage[kStages][kThreads];
};
constexpr Launch kPipeline = {.grid = {1}, .block = {kThreads}, .smem_bytes = sizeof(Pipeline)};

enum class LeftOut { nothing, wait, barrier_before_read, barrier_before_refill };

float sum_tiles(const float* tiles, LeftOut left_out) {
  auto& shared = ptx::smem<Pipeline>();
  const int me = ptx::thread_idx().x;
  const auto fetch = [&](int tile) {
    if (tile < kTiles) ptx::copy_async<4>(&shared.stage[tile % kStages][me], tiles + tile * kThreads + me);
    ptx::copy_commit();
  };
  fetch(0);
  float sum = 0;
  for (int tile = 0; tile < kTiles; ++tile) {
    fetch(tile + 1);
    if (left_out != LeftOut::wait) ptx::copy_wait<1>();
    if (left_out != LeftOut::barrier_before_read) ptx::sync_threads();
    sum += ptx::load_shared(&shared.stage[tile % kStages][kThreads - 1 - me]);
    if (left_out != LeftOut::barrier_before_refill) ptx::sync_threads();
  }
  return sum;
}

class PlantedBug : public testing::Test {
 protected:
  PlantedBug() : tiles_(kTiles * kThreads * sizeof(float)) {
    for (int i = 0; i < kTiles * kThreads; ++i) tiles_.as<float>()[i] = static_cast<float>(i);
  }
  GlobalBuffer tiles_;
};

TEST_F(PlantedBug, NoneIsFoundInASoundPipeline) {
  in_every_order(
      kPipeline,
      [&] {
        float expected = 0;
        for (int tile = 0; tile < kTiles; ++tile)
          expected += static_cast<float>(tile * kThreads + kThreads - 1 - ptx::thread_idx().x);
        EXPECT_EQ(sum_tiles(tiles_.as<float>(), LeftOut::nothing), expected);
      },
      [] {});
}

TEST_F(PlantedBug, MissingCopyWait) {
  expect_caught("that was not waited for", kPipeline, [&] { sum_tiles(tiles_.as<float>(), LeftOut::wait); });
}

TEST_F(PlantedBug, MissingBarrierBetweenWaitAndRead) {
  for (int seed = 1; seed <= kSeeds; ++seed) {
    set_seed(static_cast<std::uint64_t>(seed));
    EXPECT_THROW(run(kPipeline, [&] { sum_tiles(tiles_.as<float>(), LeftOut::barrier_before_read); }), Failure);
  }
}

TEST_F(PlantedBug, MissingBarrierBeforeAStageIsRefilled) {
  for (int seed = 1; seed <= kSeeds; ++seed) {
    set_seed(static_cast<std::uint64_t>(seed));
    EXPECT_THROW(run(kPipeline, [&] { sum_tiles(tiles_.as<float>(), LeftOut::barrier_before_refill); }), Failure);
  }
}

// --- Barriers and masks ---------------------------------------------------------------------------------------------

TEST(PlantedBugs, DivergentBarrier) {
  expect_caught("divergent sync_threads", {.grid = {1}, .block = {64}}, [] {
    if (ptx::warp_id() == 0) {
      ptx::sync_threads();
    } else {
      ptx::sync_threads();
    }
  });
}

TEST(PlantedBugs, BarrierThatSomeThreadsSkip) {
  expect_caught("sync_threads", {.grid = {1}, .block = {64}}, [] {
    if (ptx::thread_idx().x != 40) ptx::sync_threads();
  });
}

TEST(PlantedBugs, NamedBarrierWithTooFewThreadsIsADeadlockThatNamesTheWaiters) {
  expect_caught("warp 1 lane 0 (lanes 0xffffffff) waits for barrier_sync 0x3 at", {.grid = {1}, .block = {64}}, [] {
    if (ptx::warp_id() == 1) ptx::barrier_sync(3, 64);
  });
}

TEST(PlantedBugs, NamedBarrierWithTwoOpinionsOfItsSize) {
  expect_caught("a barrier of", {.grid = {1}, .block = {64}},
                [] { ptx::barrier_sync(1, ptx::warp_id() == 0 ? 64 : 32 * 3); });
}

TEST(PlantedBugs, LanesThatLeftEarlyAreStillInTheMask) {
  expect_caught("has left the kernel", {.grid = {1}, .block = {32}}, [] {
    if (ptx::lane_id() >= 20) return;  // the tail
    ptx::shuffle_xor(ptx::lane_id(), 1);
  });
}

TEST(PlantedBugs, MaskLacksItsCaller) {
  expect_caught("lacks the caller", {.grid = {1}, .block = {32}}, [] { ptx::ballot(true, 0x0000ffffu); });
}

TEST(PlantedBugs, ShuffleFromALaneOutsideTheMask) {
  expect_caught("which mask", {.grid = {1}, .block = {32}}, [] {
    if (ptx::lane_id() < 16) ptx::shuffle(1, 20, 0x0000ffffu);
  });
}

TEST(PlantedBugs, HalvesOfAWarpMeetAtDifferentInstructions) {
  expect_caught("of its warp wait for it in", {.grid = {1}, .block = {32}}, [] {
    if (ptx::lane_id() < 16) {
      ptx::shuffle_xor(1, 1);
    } else {
      ptx::ballot(true);
    }
  });
}

// --- Shared memory --------------------------------------------------------------------------------------------------

struct Row {
  float value[33];
};
constexpr Launch kRow = {.grid = {1}, .block = {32}, .smem_bytes = sizeof(Row)};

TEST(PlantedBugs, ReadOfAnUnwrittenSharedByte) {
  expect_caught("which nobody wrote", kRow, [] {
    auto& row = ptx::smem<Row>();
    ptx::store_shared(&row.value[ptx::lane_id()], 1.0f);
    ptx::sync_threads();
    ptx::load_shared(&row.value[ptx::lane_id() + 1]);
  });
}

TEST(PlantedBugs, MissingWarpBarrierBetweenLanes) {
  for (int seed = 1; seed <= kSeeds; ++seed) {
    set_seed(static_cast<std::uint64_t>(seed));
    EXPECT_THROW(run(kRow,
                     [] {
                       auto& row = ptx::smem<Row>();
                       ptx::store_shared(&row.value[ptx::lane_id()], 1.0f);
                       ptx::load_shared(&row.value[ptx::lane_id() ^ 1]);
                     }),
                 Failure);
  }
}

TEST(PlantedBugs, SharedAccessBeyondTheBlock) {
  expect_caught("bytes of shared memory", kRow,
                [] { ptx::store_shared(&ptx::smem<Row>().value[ptx::lane_id() + 2], 1.0f); });
}

TEST(PlantedBugs, PlainStoreBeyondTheBlock) {
  expect_caught("plain store left", kRow, [] {
    volatile float* value = ptx::smem<Row>().value;
    value[33 + ptx::lane_id()] = 1.0f;
  });
}

TEST(PlantedBugs, LaunchWithTooLittleSharedMemory) {
  expect_caught("the kernel wants", {.grid = {1}, .block = {32}, .smem_bytes = 16}, [] { ptx::smem<Row>(); });
}

TEST(PlantedBugs, MisalignedMatrixRow) {
  struct Smem {
    alignas(16) std::uint16_t tile[9][8];
  };
  expect_caught("not aligned", {.grid = {1}, .block = {32}, .smem_bytes = sizeof(Smem)}, [] {
    std::uint32_t r[1];
    ptx::load_matrix(r, &ptx::smem<Smem>().tile[ptx::lane_id() % 8][1]);
  });
}

// --- Global memory --------------------------------------------------------------------------------------------------

TEST(PlantedBugs, WritePastTheTailOfTheOutput) {
  GlobalBuffer out(50 * sizeof(float));
  const auto fill = [&](int count) {
    for (int i = ptx::thread_idx().x; i < count; i += 32) ptx::store(out.as<float>() + i, 0.0f);
  };
  in_every_order(
      {.grid = {1}, .block = {32}}, [&] { fill(50); }, [] {});
  expect_caught("of a buffer of 200 bytes", {.grid = {1}, .block = {32}}, [&] { fill(64); });
}

TEST(PlantedBugs, PlainStorePastTheTailOfTheOutput) {
  GlobalBuffer out(50 * sizeof(float));
  volatile float* plain = out.as<float>();
  EXPECT_THROW(run({.grid = {1}, .block = {32}}, [&] { plain[ptx::lane_id() + 32] = 0.0f; }), Failure);
  for (int i = 50; i < 64; ++i) std::memset(const_cast<float*>(plain) + i, 0xa5, sizeof(float));  // mend the band
}

TEST(PlantedBugs, MisalignedVector) {
  GlobalBuffer in(64);
  expect_caught("not aligned", {.grid = {1}, .block = {32}},
                [&] { ptx::load(reinterpret_cast<const warpjet::Vec<float, 4>*>(in.as<float>() + 1)); });
}

TEST(PlantedBugs, WriteBeforeGridWait) {
  GlobalBuffer out(128);
  expect_caught("before grid_wait()", {.grid = {1}, .block = {32}, .pdl = true}, [&] {
    ptx::store(out.as<int>() + ptx::lane_id(), 1);
    ptx::grid_wait();
  });
}

TEST(PlantedBugs, EarlyExitWithoutGridWait) {
  expect_caught("ended without grid_wait()", {.grid = {4}, .block = {32}, .pdl = true}, [] {
    if (ptx::block_idx().x == 3) return;  // no work
    ptx::grid_wait();
  });
}

// A gather of paged rows: position t lies in page table[t / kPage]. Pages that no table names are NaN, so that a wrong
// page shows in the result.
TEST(PlantedBugs, OffByOnePageBoundary) {
  constexpr int kPage = 16, kLength = 40;
  GlobalBuffer pages(8 * kPage * sizeof(float)), table(3 * sizeof(int));
  const int used[] = {5, 1, 6};
  for (int i = 0; i < 3; ++i) table.as<int>()[i] = used[i];
  for (int t = 0; t < kLength; ++t) pages.as<float>()[used[t / kPage] * kPage + t % kPage] = static_cast<float>(t);
  const auto wrong = [&](int boundary) {
    GlobalBuffer out(kLength * sizeof(float));
    run({.grid = {1}, .block = {32}}, [&] {
      for (int t = ptx::lane_id(); t < kLength; t += 32) {
        const int page = ptx::load(table.as<int>() + (t + boundary) / kPage);
        ptx::store(out.as<float>() + t, ptx::load(pages.as<float>() + page * kPage + t % kPage));
      }
    });
    int count = 0;
    for (int t = 0; t < kLength; ++t) count += out.as<float>()[t] == static_cast<float>(t) ? 0 : 1;
    return count;
  };
  EXPECT_EQ(wrong(0), 0);
  EXPECT_EQ(wrong(1), 2);   // the last position of each full page
  EXPECT_GT(wrong(-1), 0);  // the first of each
}

}  // namespace
}  // namespace emu
