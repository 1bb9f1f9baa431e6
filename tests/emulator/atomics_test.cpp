// Whole numbers that many threads change at once, in global and in shared memory: the result is that of any order, and
// whoever looks without waiting is caught.
#include "emulator/schedules.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace emu {
namespace {

namespace ptx = warpjet::ptx;

struct Smem {
  std::uint32_t sum, bits;
};
constexpr Launch kTwoWarps = {.grid = {1}, .block = {64}, .smem_bytes = sizeof(Smem)};

// --- Global memory --------------------------------------------------------------------------------------------------

TEST(Atomics, TheLastOneToCountIsUnique) {
  GlobalBuffer counter(sizeof(int), 0);
  int last = 0;
  run({.grid = {9}, .block = {32}}, [&] {
    if (ptx::lane_id() == 0 && ptx::atomic_add(counter.as<int>(), 1) == 8) ++last;
  });
  EXPECT_EQ(last, 1);
}

TEST(Atomics, LongSumsCarryIntoTheirUpperHalf) {
  GlobalBuffer sum(sizeof(std::uint64_t), 0);
  run({.grid = {3}, .block = {64}}, [&] { ptx::atomic_add(sum.as<std::uint64_t>(), std::uint64_t{0x80000001u}); });
  EXPECT_EQ(*sum.as<std::uint64_t>(), 192 * std::uint64_t{0x80000001u});
}

TEST(Atomics, LongSumsAreGuardedAndAligned) {
  GlobalBuffer sums(2 * sizeof(std::uint64_t), 0);
  const auto add_at = [&](int byte) {
    return [&sums, byte] { ptx::atomic_add(reinterpret_cast<std::uint64_t*>(sums.as<>() + byte), std::uint64_t{1}); };
  };
  expect_caught("of a buffer of 16 bytes", kTwoWarps, add_at(16));
  expect_caught("not aligned", kTwoWarps, add_at(4));
}

// --- Shared memory --------------------------------------------------------------------------------------------------

TEST(Atomics, SharedSumsGiveEveryoneAnotherOldValue) {
  std::vector<std::uint32_t> old(64), sorted(64), expected(64);
  std::iota(expected.begin(), expected.end(), 0u);
  for (std::uint32_t& value : expected) value *= 3;
  const auto kernel = [&] {
    auto& shared = ptx::smem<Smem>();
    if (ptx::thread_idx().x == 0) ptx::store_shared(&shared.sum, 0u);
    ptx::sync_threads();
    old[static_cast<std::size_t>(ptx::thread_idx().x)] = ptx::atomic_add_shared(&shared.sum, 3u);
    ptx::sync_threads();
    EXPECT_EQ(ptx::load_shared(&shared.sum), 192u);
  };
  in_every_order(kTwoWarps, kernel, [&] {
    sorted = old;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, expected);
  });
}

TEST(Atomics, SharedBitsAreClearedOneByOne) {
  const auto kernel = [] {
    auto& shared = ptx::smem<Smem>();
    const int thread = ptx::thread_idx().x;
    if (thread == 0) ptx::store_shared(&shared.bits, ~0u);
    ptx::sync_threads();
    if (thread % 3 == 0 && thread < 32) {
      const std::uint32_t old = ptx::atomic_and_shared(&shared.bits, ~(1u << thread));
      EXPECT_NE(old >> thread & 1u, 0u);
    }
    ptx::sync_threads();
    EXPECT_EQ(ptx::load_shared(&shared.bits), 0xb6db6db6u);
  };
  in_every_order(kTwoWarps, kernel, [] {});
}

TEST(Atomics, ReadingASharedSumWithoutABarrierIsCaught) {
  expect_caught("no barrier between", kTwoWarps, [] {
    auto& shared = ptx::smem<Smem>();
    if (ptx::thread_idx().x == 0) ptx::store_shared(&shared.sum, 0u);
    ptx::sync_threads();
    ptx::atomic_add_shared(&shared.sum, 1u);
    static_cast<void>(ptx::load_shared(&shared.sum));
  });
}

TEST(Atomics, ClearingASharedSumWithoutABarrierIsCaught) {
  expect_caught("race", kTwoWarps, [] {
    auto& shared = ptx::smem<Smem>();
    if (ptx::thread_idx().x == 0) ptx::store_shared(&shared.sum, 0u);
    ptx::sync_warp();
    if (ptx::warp_id() == 0) ptx::atomic_add_shared(&shared.sum, 1u);
    if (ptx::thread_idx().x == 32) ptx::store_shared(&shared.sum, 0u);
  });
}

TEST(Atomics, ASharedSumThatNobodyClearedIsCaught) {
  expect_caught("which nobody wrote", kTwoWarps, [] { ptx::atomic_add_shared(&ptx::smem<Smem>().sum, 1u); });
}

}  // namespace
}  // namespace emu
