// Every wrapper of cuda/ptx/ does in the emulator what the PTX manual says.
#include "cuda/ptx/math.cuh"
#include "cuda/reduce.cuh"
#include "emulator/schedules.h"

#include <cmath>
#include <random>
#include <vector>

namespace emu {
namespace {

namespace ptx = warpjet::ptx;
using warpjet::Bfloat;
using warpjet::Half;
using warpjet::Vec;

constexpr Launch kOneWarp = {.grid = {1}, .block = {32}};

// --- Threads and warps ----------------------------------------------------------------------------------------------

TEST(Threads, EachKnowsItsPlace) {
  std::vector<int> seen(2 * 3 * 64);
  run({.grid = {2, 3}, .block = {64}}, [&] {
    const warpjet::Dim3 block = ptx::block_idx();
    EXPECT_EQ(ptx::thread_idx().x, ptx::warp_id() * 32 + ptx::lane_id());
    EXPECT_EQ(ptx::block_dim().x, 64);
    EXPECT_EQ(ptx::grid_dim().y, 3);
    ++seen[static_cast<std::size_t>((block.y * 2 + block.x) * 64 + ptx::thread_idx().x)];
  });
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
}

TEST(Threads, RecomputedValuesAreTheSame) {
  run(kOneWarp, [] { EXPECT_EQ(ptx::recomputed(ptx::lane_id()), ptx::lane_id()); });
}

TEST(Warp, ShufflesMoveValuesBetweenLanes) {
  run(kOneWarp, [] {
    const int lane = ptx::lane_id();
    EXPECT_EQ(ptx::shuffle(lane * 10, 7), 70);
    EXPECT_EQ(ptx::shuffle(static_cast<float>(lane), 35), 3.0f);
    EXPECT_EQ(ptx::shuffle_xor(lane, 5), lane ^ 5);
    EXPECT_EQ(ptx::shuffle_up(lane, 3), lane < 3 ? lane : lane - 3);
    EXPECT_EQ(ptx::shuffle_down(lane, 3), lane > 28 ? lane : lane + 3);
  });
}

TEST(Warp, PartsOfAWarpMeetOnTheirOwn) {
  run(kOneWarp, [] {
    const int lane = ptx::lane_id();
    if (lane < 8) {
      EXPECT_EQ(ptx::shuffle(lane, 3, 0x000000ffu), 3);
    } else {
      EXPECT_EQ(ptx::shuffle(lane, 30, 0xffffff00u), 30);
    }
    ptx::sync_warp();
  });
}

TEST(Warp, VotesAndMatches) {
  run(kOneWarp, [] {
    EXPECT_EQ(ptx::ballot(ptx::lane_id() % 2 == 1), 0xaaaaaaaau);
    EXPECT_EQ(ptx::count_bits(ptx::ballot(ptx::lane_id() > 4)), 27);
    EXPECT_EQ(ptx::match_any(static_cast<std::uint32_t>(ptx::lane_id() / 16)),
              ptx::lane_id() < 16 ? 0xffffu : 0xffff0000u);
  });
}

TEST(Warp, IntegerReductions) {
  run(kOneWarp, [] {
    EXPECT_EQ(ptx::reduce_add(ptx::lane_id()), 31 * 16);
    EXPECT_EQ(ptx::reduce_min(ptx::lane_id() - 4), -4);
    EXPECT_EQ(ptx::reduce_max(ptx::lane_id() - 40), -9);
  });
}

TEST(Warp, SumsHaveTheSameBitsInAllLanes) {
  std::vector<float> sums(32);
  run(kOneWarp, [&] {
    const float value = 1.0f / static_cast<float>(1 + ptx::lane_id());
    sums[static_cast<std::size_t>(ptx::lane_id())] = warpjet::warp_sum(value);
    EXPECT_EQ(warpjet::warp_max(value), 1.0f);
  });
  EXPECT_EQ(sums, std::vector<float>(32, sums[0]));
  EXPECT_NEAR(sums[0], 4.0584951, 1e-5);
}

// --- Blocks ---------------------------------------------------------------------------------------------------------

TEST(Block, SumsDoNotDependOnTheSchedule) {
  struct Smem {
    warpjet::BlockScratch<256> scratch;
  };
  float sum = 0;
  std::vector<float> sums;
  in_every_order(
      {.grid = {1}, .block = {256}, .smem_bytes = sizeof(Smem)},
      [&] {
        const float value = std::sin(static_cast<float>(ptx::thread_idx().x));
        sum = warpjet::block_sum<256>(value, ptx::smem<Smem>().scratch);
      },
      [&] { sums.push_back(sum); });
  EXPECT_EQ(sums, std::vector<float>(sums.size(), sums[0]));
}

TEST(Block, BarriersOrderSharedMemory) {
  struct Smem {
    int value[64];
  };
  const Launch launch = {.grid = {1}, .block = {64}, .smem_bytes = sizeof(Smem)};
  const auto reverse = [] {
    auto& shared = ptx::smem<Smem>();
    const int me = ptx::thread_idx().x;
    for (int round = 0; round < 3; ++round) {
      ptx::store_shared(&shared.value[me], me + round);
      ptx::sync_threads();
      EXPECT_EQ(ptx::load_shared(&shared.value[63 - me]), 63 - me + round);
      ptx::sync_threads();
    }
  };
  in_every_order(launch, reverse, [] { EXPECT_EQ(counters().barrier_waits, 6 * 64); });
}

TEST(Block, NamedBarriersJoinProducersAndConsumers) {
  struct Smem {
    int value[32];
  };
  constexpr int kFull = 1, kThreads = 64;
  const auto kernel = [] {
    auto& shared = ptx::smem<Smem>();
    if (ptx::warp_id() == 0) {
      ptx::store_shared(&shared.value[ptx::lane_id()], ptx::lane_id());
      ptx::barrier_arrive(kFull, kThreads);
    } else {
      ptx::barrier_sync(kFull, kThreads);
      EXPECT_EQ(ptx::load_shared(&shared.value[31 - ptx::lane_id()]), 31 - ptx::lane_id());
    }
  };
  in_every_order({.grid = {1}, .block = {kThreads}, .smem_bytes = sizeof(Smem)}, kernel, [] {});
}

// --- Memory ---------------------------------------------------------------------------------------------------------

TEST(Memory, TrafficIsCountedInBytesAndSectors) {
  GlobalBuffer from(32 * 16, 7), to(32 * 64);
  run(kOneWarp, [&] {
    using Vector = Vec<std::uint32_t, 4>;
    const auto value = ptx::load(from.as<Vector>() + ptx::lane_id());
    EXPECT_EQ(value[3], 0x07070707u);
    ptx::store(to.as<std::uint32_t>() + ptx::lane_id() * 16, value[0]);  // one sector each
  });
  EXPECT_EQ(counters().global_read_bytes, 32 * 16);
  EXPECT_EQ(counters().global_written_bytes, 32 * 4);
  EXPECT_EQ(counters().global_sectors, 16 + 32);
}

TEST(Memory, BankConflictsAreCounted) {
  struct Smem {
    float value[32 * 33];
  };
  const auto conflicts = [](int pitch) {
    run({.grid = {1}, .block = {32}, .smem_bytes = sizeof(Smem)},
        [&] { ptx::store_shared(&ptx::smem<Smem>().value[ptx::lane_id() * pitch], 1.0f); });
    return counters().shared_bank_conflicts;
  };
  EXPECT_EQ(conflicts(1), 0);
  EXPECT_EQ(conflicts(2), 1);
  EXPECT_EQ(conflicts(32), 31);
  EXPECT_EQ(conflicts(33), 0);
}

TEST(Memory, AsynchronousCopiesFillTheRestWithZeros) {
  struct Smem {
    alignas(16) std::uint8_t a[32][16];
    alignas(16) std::uint8_t weights[32][16];
    std::uint8_t b[32][8];
    std::uint8_t c[32][4];
  };
  GlobalBuffer from(32 * 16, 9);
  const auto kernel = [&] {
    auto& shared = ptx::smem<Smem>();
    const int lane = ptx::lane_id();
    ptx::copy_async<16>(shared.a[lane], from.as<>() + lane * 16, lane % 17);
    ptx::copy_async<16, ptx::Cache::weights>(shared.weights[lane], from.as<>() + lane * 16, lane % 17);
    ptx::copy_commit();
    ptx::copy_async<8>(shared.b[lane], from.as<>() + lane * 8);
    ptx::copy_async<4>(shared.c[lane], from.as<>() + lane * 4, 0);
    ptx::copy_commit();
    ptx::copy_wait<1>();
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(ptx::load_shared(&shared.a[lane][i]), i < lane % 17 ? 9 : 0);
      EXPECT_EQ(ptx::load_shared(&shared.weights[lane][i]), i < lane % 17 ? 9 : 0);
    }
    ptx::copy_wait<0>();
    ptx::sync_warp();
    EXPECT_EQ(ptx::load_shared(&shared.b[31 - lane][5]), 9);
    EXPECT_EQ(ptx::load_shared(&shared.c[31 - lane][2]), 0);
  };
  in_every_order({.grid = {1}, .block = {32}, .smem_bytes = sizeof(Smem)}, kernel, [] {});
}

TEST(Memory, FlagsPassBetweenWarps) {
  GlobalBuffer flag(4, 0), data(4, 0);
  in_every_order(
      {.grid = {1}, .block = {64}},
      [&] {
        if (ptx::thread_idx().x == 0) {
          ptx::store(data.as<int>(), 42);
          ptx::store_release(flag.as<int>(), 1);
        } else if (ptx::thread_idx().x == 32) {
          while (ptx::load_acquire(flag.as<int>()) == 0) continue;
          EXPECT_EQ(ptx::load(data.as<int>()), 42);
        }
      },
      [&] { *flag.as<int>() = 0; });
}

TEST(Memory, ADependentGridWaitsBeforeItWrites) {
  GlobalBuffer out(4);
  run({.grid = {1}, .block = {32}, .pdl = true}, [&] {
    ptx::grid_launch_dependents();
    ptx::grid_wait();
    if (ptx::lane_id() == 0) ptx::store(out.as<int>(), 5);
  });
  EXPECT_EQ(*out.as<int>(), 5);
}

// --- Conversions ----------------------------------------------------------------------------------------------------

template <class T>
void expect_round_trip(double ulp_of_one) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = ptx::to_float(T{static_cast<std::uint16_t>(bits)});
    if (std::isnan(value)) {
      EXPECT_EQ(ptx::from_float<T>(value).bits, 0x7fff);
      continue;
    }
    ASSERT_EQ(ptx::from_float<T>(value).bits, bits);
    const float next = ptx::to_float(T{static_cast<std::uint16_t>(bits + 1)});
    if (!std::isfinite(value) || !std::isfinite(next) || bits == 0x7fff || std::signbit(value)) continue;
    const float middle = value + (next - value) / 2;  // exact: one bit more
    ASSERT_EQ(ptx::from_float<T>(middle).bits, bits + bits % 2) << value;
    ASSERT_EQ(ptx::from_float<T>(std::nextafter(middle, INFINITY)).bits, bits + 1) << value;
    ASSERT_EQ(ptx::from_float<T>(std::nextafter(middle, 0.0f)).bits, bits) << value;
  }
  EXPECT_EQ(ptx::to_float(ptx::from_float<T>(static_cast<float>(1 + ulp_of_one))), static_cast<float>(1 + ulp_of_one));
}

TEST(Convert, EveryHalfRoundsTripAndTiesGoToEven) {
  expect_round_trip<Half>(0x1p-10);
  EXPECT_EQ(ptx::from_float<Half>(65519.0f).bits, 0x7bff);
  EXPECT_EQ(ptx::from_float<Half>(65520.0f).bits, 0x7c00);
}

TEST(Convert, EveryBfloatRoundsTripAndTiesGoToEven) {
  expect_round_trip<Bfloat>(0x1p-7);
}

TEST(Convert, PacksPutTheFirstInTheLowHalf) {
  EXPECT_EQ(ptx::pack<Bfloat>(1.0f, -2.0f), 0xc0003f80u);
  EXPECT_EQ(ptx::pack<Half>(1.0f, -2.0f), 0xc0003c00u);
}

TEST(Math, ArithmeticRoundsOnce) {
  constexpr float kUlp = 0x1p-23f;
  EXPECT_EQ(ptx::fma(1 + kUlp, 1 - kUlp, -1.0f), -kUlp * kUlp);  // the product alone would round to 1
  EXPECT_EQ(ptx::add(ptx::mul(1 + kUlp, 1 - kUlp), -1.0f), 0.0f);
  EXPECT_EQ(ptx::min(-3, 2), -3);
}

TEST(Math, ApproximationsAreTheFunctions) {
  EXPECT_FLOAT_EQ(ptx::exp2(-1.5f), std::exp2(-1.5f));
  EXPECT_FLOAT_EQ(ptx::log2(8.0f), 3.0f);
  EXPECT_FLOAT_EQ(ptx::reciprocal(8.0f), 0.125f);
  EXPECT_FLOAT_EQ(ptx::rsqrt(16.0f), 0.25f);
  EXPECT_FLOAT_EQ(ptx::tanh(0.5f), std::tanh(0.5f));
  EXPECT_FLOAT_EQ(ptx::erf(0.5f), std::erf(0.5f));
}

// --- Tensor cores ---------------------------------------------------------------------------------------------------

// a [16, 16] and b [8, 16] come from shared memory through ldmatrix and meet in one mma: every index of the layouts
// that mma.cuh writes down takes part. Rows are padded to 48 bytes, which no two rows of a matrix share banks with.
template <class T>
void expect_product() {
  constexpr int kPitch = 24;
  struct Smem {
    alignas(16) T a[16][kPitch];
    alignas(16) T b[8][kPitch];
  };
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  float a[16][16], b[8][16], c[16][8], d[16][8];
  for (auto& row : a)
    for (float& x : row) x = ptx::to_float(ptx::from_float<T>(uniform(random)));
  for (auto& row : b)
    for (float& x : row) x = ptx::to_float(ptx::from_float<T>(uniform(random)));
  for (auto& row : c)
    for (float& x : row) x = uniform(random);
  run({.grid = {1}, .block = {32}, .smem_bytes = sizeof(Smem)}, [&] {
    auto& shared = ptx::smem<Smem>();
    const int lane = ptx::lane_id(), g = lane / 4, t = lane % 4;
    for (int i = lane; i < 256; i += 32)
      ptx::store_shared(&shared.a[i / 16][i % 16], ptx::from_float<T>(a[i / 16][i % 16]));
    for (int i = lane; i < 128; i += 32)
      ptx::store_shared(&shared.b[i / 16][i % 16], ptx::from_float<T>(b[i / 16][i % 16]));
    ptx::sync_warp();
    std::uint32_t left[4], right[2];
    ptx::load_matrix(left, &shared.a[lane % 16][lane / 16 * 8]);
    ptx::load_matrix(right, &shared.b[lane % 8][lane / 8 % 2 * 8]);
    float sum[4] = {c[g][2 * t], c[g][2 * t + 1], c[g + 8][2 * t], c[g + 8][2 * t + 1]};
    ptx::mma<T>(sum, left, right);
    for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][2 * t + i % 2] = sum[i];
  });
  EXPECT_EQ(counters().mma, 1);
  for (int r = 0; r < 16; ++r) {
    for (int n = 0; n < 8; ++n) {
      double exact = c[r][n];
      for (int k = 0; k < 16; ++k) exact += static_cast<double>(a[r][k]) * b[n][k];
      EXPECT_NEAR(d[r][n], exact, 1e-6);
    }
  }
}

TEST(Mma, MultipliesBfloats) {
  expect_product<Bfloat>();
}
TEST(Mma, MultipliesHalves) {
  expect_product<Half>();
}

TEST(Mma, MultipliesBytes) {
  std::int8_t a[16][32], b[8][32];
  for (int i = 0; i < 16 * 32; ++i) a[i / 32][i % 32] = static_cast<std::int8_t>(i * 37);
  for (int i = 0; i < 8 * 32; ++i) b[i / 32][i % 32] = static_cast<std::int8_t>(i * 91);
  run(kOneWarp, [&] {
    const int g = ptx::lane_id() / 4, t = ptx::lane_id() % 4;
    const auto word = [](const std::int8_t* four) {
      std::uint32_t bits;
      std::memcpy(&bits, four, 4);
      return bits;
    };
    const std::uint32_t left[4] = {word(&a[g][4 * t]), word(&a[g + 8][4 * t]), word(&a[g][4 * t + 16]),
                                   word(&a[g + 8][4 * t + 16])};
    const std::uint32_t right[2] = {word(&b[g][4 * t]), word(&b[g][4 * t + 16])};
    std::int32_t d[4] = {1, 2, 3, 4};
    ptx::mma_s8(d, left, right);
    for (int i = 0; i < 4; ++i) {
      int exact = i + 1;
      for (int k = 0; k < 32; ++k) exact += a[g + i / 2 * 8][k] * b[2 * t + i % 2][k];
      EXPECT_EQ(d[i], exact);
    }
  });
}

struct MatrixSmem {
  alignas(16) std::uint16_t from[4][8][8];
  alignas(16) std::uint16_t to[4][8][8];
};

template <int count, ptx::Matrix load, ptx::Matrix store>
void expect_matrices(bool transposed) {
  run({.grid = {1}, .block = {32}, .smem_bytes = sizeof(MatrixSmem)}, [&] {
    auto& shared = ptx::smem<MatrixSmem>();
    const int lane = ptx::lane_id();
    for (int i = lane; i < count * 64; i += 32)
      ptx::store_shared(&shared.from[i / 64][i / 8 % 8][i % 8], static_cast<std::uint16_t>(i));
    ptx::sync_warp();
    std::uint32_t r[count];
    ptx::load_matrix<load>(r, shared.from[lane / 8 % count][lane % 8]);
    ptx::store_matrix<store>(shared.to[lane / 8 % count][lane % 8], r);
    ptx::sync_warp();
    for (int m = 0; m < count; ++m) {
      const int row = lane / 4, column = lane % 4 * 2;
      const int expected = transposed ? m * 64 + column * 8 + row : m * 64 + row * 8 + column;
      EXPECT_EQ(ptx::load_shared(&shared.to[m][row][column]), expected);
    }
  });
  EXPECT_EQ(counters().shared_bank_conflicts, 0);
}

TEST(Matrix, LoadsAndStoresOneTwoAndFour) {
  using enum ptx::Matrix;
  expect_matrices<1, straight, straight>(false);
  expect_matrices<2, straight, straight>(false);
  expect_matrices<4, straight, straight>(false);
  expect_matrices<1, transposed, transposed>(false);
  expect_matrices<1, transposed, straight>(true);
  expect_matrices<2, straight, transposed>(true);
  expect_matrices<4, transposed, straight>(true);
}

}  // namespace
}  // namespace emu
