// The CPU device: its memory and its team of threads. The doorbell.
#include "device/device.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace warpjet {
namespace {

using Range = std::pair<std::int64_t, std::int64_t>;

CpuStream& stream_of(Device& device) {
  return static_cast<CpuStream&>(device.stream());
}

std::vector<Range> ranges_of(CpuStream& stream, std::int64_t count, std::int64_t grain) {
  std::mutex mutex;
  std::vector<Range> ranges;
  stream.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
    const std::lock_guard lock(mutex);
    ranges.emplace_back(begin, end);
  });
  std::sort(ranges.begin(), ranges.end());
  return ranges;
}

// Whether every thread but this one waits for something.
bool others_are_asleep() {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == std::to_string(gettid())) continue;
    std::string stat;
    std::getline(std::ifstream(task.path() / "stat"), stat);
    const std::size_t name_end = stat.rfind(')');
    if (name_end != std::string::npos && stat.at(name_end + 2) != 'S') return false;
  }
  return true;
}

TEST(ThreadTeam, CoversEveryIndexOnceInWholeGrains) {
  for (int threads = 1; threads <= 4; ++threads) {
    const auto device = make_cpu_device(threads);
    for (const std::int64_t count : {1, 2, 3, 7, 16, 17, 100, 1000, 4097}) {
      for (const std::int64_t grain : {1, 2, 3, 16, 64, 5000}) {
        SCOPED_TRACE(testing::Message() << "threads " << threads << ", count " << count << ", grain " << grain);
        std::int64_t next = 0;
        for (const auto& [begin, end] : ranges_of(stream_of(*device), count, grain)) {
          ASSERT_EQ(begin, next);
          ASSERT_LT(begin, end);
          ASSERT_TRUE((end - begin) % grain == 0 || end == count);
          next = end;
        }
        ASSERT_EQ(next, count);
      }
    }
  }
}

TEST(ThreadTeam, DoesNothingForAnEmptyRange) {
  const auto device = make_cpu_device(3);
  EXPECT_TRUE(ranges_of(stream_of(*device), 0, 4).empty());
}

TEST(ThreadTeam, RunsOneRangeOnTheCallersThread) {
  const auto device = make_cpu_device(4);
  std::thread::id runner;
  stream_of(*device).parallel_for(16, 16, [&](std::int64_t, std::int64_t) { runner = std::this_thread::get_id(); });
  EXPECT_EQ(runner, std::this_thread::get_id());
}

TEST(ThreadTeam, UsesItsOtherThreadsToo) {
  const auto device = make_cpu_device(2);
  std::atomic<int> arrived{0};
  // Each half waits for the other, so this ends only if two threads run at once.
  stream_of(*device).parallel_for(8, 1, [&](std::int64_t, std::int64_t) {
    if (arrived.fetch_add(1) < 2) {
      while (arrived.load() < 2) std::this_thread::yield();
    }
  });
  EXPECT_EQ(arrived.load(), 8);
}

TEST(ThreadTeam, SeesEveryWriteOfTheCallBeforeAndShowsItsOwnAfter) {
  for (int threads = 1; threads <= 4; ++threads) {
    const auto device = make_cpu_device(threads);
    std::vector<std::int64_t> values(257, 0);
    constexpr int kCalls = 20000;
    for (int call = 0; call < kCalls; ++call) {
      stream_of(*device).parallel_for(257, 8, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) values[i] += call + i;
      });
    }
    for (std::int64_t i = 0; i < 257; ++i) {
      ASSERT_EQ(values[i], std::int64_t{kCalls} * (kCalls - 1) / 2 + kCalls * i) << "threads " << threads;
    }
  }
}

// A thread that is late for a job must not take a chunk of the next one, whose fields it may already see.
TEST(ThreadTeam, LateThreadsNeverRunTheNextJobEarly) {
  for (const int threads : {2, 3, 4}) {
    const auto device = make_cpu_device(threads);
    auto& team = static_cast<CpuStream&>(device->stream());
    std::vector<int> hits(512, 0);
    std::uint32_t random = 1;
    for (int job = 0; job < 100'000; ++job) {
      random = random * 1664525u + 1013904223u;
      const std::int64_t count = 1 + (random >> 8) % 511;
      team.parallel_for(count, 1 + (random >> 20) % 3, [&](std::int64_t begin, std::int64_t end) {
        for (; begin < end; ++begin) __atomic_fetch_add(&hits[begin], 1, __ATOMIC_RELAXED);
      });
      for (std::int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(hits[i], 1) << "job " << job << ", index " << i << ", " << threads << " threads";
        hits[i] = 0;
      }
    }
  }
}

// A worker that looks at a call just as it ends must not run a piece of the next one in its name.
TEST(ThreadTeam, RunsEveryIndexOnceWhenSizesChangeFromCallToCall) {
  for (int threads = 2; threads <= 4; ++threads) {
    const auto device = make_cpu_device(threads);
    std::minstd_rand random(1);
    std::vector<std::atomic<int>> runs(512);
    for (int call = 0; call < 200'000; ++call) {
      const std::int64_t count = 1 + static_cast<std::int64_t>(random() % runs.size()), grain = 1 + random() % 3;
      stream_of(*device).parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) runs[i].fetch_add(1, std::memory_order_relaxed);
      });
      for (std::int64_t i = 0; i < count; ++i) ASSERT_EQ(runs[i].exchange(0), 1) << "call " << call << ", index " << i;
    }
  }
}

TEST(ThreadTeam, WakesUpAfterBeingIdle) {
  const auto device = make_cpu_device(3);
  for (const int pause_us : {0, 10, 40, 60, 100, 1000, 20000}) {
    for (int call = 0; call < 20; ++call) {
      std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
      std::atomic<std::int64_t> sum{0};
      stream_of(*device).parallel_for(100, 1, [&](std::int64_t begin, std::int64_t end) { sum += end - begin; });
      ASSERT_EQ(sum.load(), 100);
    }
  }
}

// A thread that spins is never asleep, however busy the machine is.
TEST(ThreadTeam, SleepsWhileIdle) {
  const auto device = make_cpu_device(4);
  stream_of(*device).parallel_for(100, 1, [](std::int64_t, std::int64_t) {});
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(5);
  int looks = 0;  // in a row
  while (looks < 20 && std::chrono::steady_clock::now() < end) {
    looks = others_are_asleep() ? looks + 1 : 0;  // threads spin briefly before they sleep
    std::this_thread::yield();
  }
  EXPECT_EQ(looks, 20);
}

TEST(ThreadTeam, StartsAndStopsAtAnyTime) {
  for (int i = 0; i < 200; ++i) {
    const auto device = make_cpu_device(1 + i % 4);
    if (i % 3 == 0) stream_of(*device).parallel_for(9, 1, [](std::int64_t, std::int64_t) {});
  }
}

TEST(CpuDevice, ReportsWhatItMayUse) {
  const auto device = make_cpu_device(3);
  EXPECT_EQ(device->info().sm, 0);
  EXPECT_EQ(device->info().cores, 3);
  EXPECT_GT(device->info().memory_bytes, 1 << 20);
  EXPECT_GE(make_cpu_device(0)->info().cores, 1);
}

TEST(CpuDevice, RefusesSillyThreadCounts) {
  EXPECT_THROW(make_cpu_device(-1), Error);
  EXPECT_THROW(make_cpu_device(1 << 20), Error);
}

TEST(CpuDevice, AllocatesZeroedAlignedMemory) {
  const auto device = make_cpu_device(1);
  const Buffer buffer = device->allocate(100'000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 4096, 0u);
  EXPECT_TRUE(std::all_of(buffer.at(0), buffer.at(100'000), [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(device->allocate(0).bytes(), 0u);
}

TEST(CpuDevice, TellsHowMuchMemoryWasMissing) {
  const auto device = make_cpu_device(1);
  try {
    device->allocate(std::numeric_limits<std::size_t>::max() / 4);
    FAIL() << "expected out_of_memory";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
    EXPECT_NE(error.message().find(std::to_string(std::numeric_limits<std::size_t>::max() / 4)), std::string::npos);
  }
}

TEST(CpuDevice, CopiesAtOnce) {
  const auto device = make_cpu_device(1);
  const Buffer buffer = device->allocate(8);
  const std::int64_t value = 42;
  std::int64_t back = 0;
  device->stream().copy(buffer.data(), &value, sizeof value);
  device->stream().copy(&back, buffer.data(), sizeof back);
  device->stream().synchronize();
  EXPECT_EQ(back, value);
}

// --- Events, streams, host memory -----------------------------------------------------------------------------------

TEST(CpuDevice, EventsAreDoneWhenTheyAreRecordedAndTellTime) {
  const auto device = make_cpu_device(1);
  const auto start = device->make_event(), end = device->make_event();
  device->stream().record(*start);
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(2);
  while (std::chrono::steady_clock::now() < until) {
  }
  device->stream().record(*end);
  EXPECT_TRUE(start->done());
  end->wait();
  EXPECT_GE(end->microseconds_since(*start), 2000);
  EXPECT_LE(start->microseconds_since(*end), -2000);
  device->stream().record(*start);  // again: an event may be used any number of times
  EXPECT_LE(end->microseconds_since(*start), 0);
}

TEST(CpuDevice, FurtherStreamsCopyAtOnceFromAnyThread) {
  const auto device = make_cpu_device(2);
  const Buffer host = device->allocate_host(1000), memory = device->allocate(1000);
  std::fill_n(static_cast<char*>(host.data()), 1000, 'x');
  std::thread([&] {
    device->use_on_this_thread();
    const auto stream = device->make_stream();
    stream->copy(memory.data(), host.data(), 999);
    stream->copy(memory.data(), nullptr, 0);
  }).join();
  EXPECT_EQ(static_cast<char*>(memory.data())[998], 'x');
  EXPECT_EQ(static_cast<char*>(memory.data())[999], 0);
}

TEST(CpuDevice, HostMemoryIsZeroedAndAligned) {
  const auto device = make_cpu_device(1);
  const Buffer host = device->allocate_host(100'001);
  const auto* bytes = static_cast<const char*>(host.data());
  EXPECT_EQ(std::count(bytes, bytes + 100'001, 0), 100'001);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes) % 256, 0u);
  EXPECT_EQ(device->allocate_host(0).data(), nullptr);
}

TEST(CpuDevice, HasNoGraphs) {
  const auto device = make_cpu_device(1);
  EXPECT_FALSE(device->stream().begin_capture());
  EXPECT_EQ(device->stream().end_capture(), nullptr);
}

// --- Doorbell -------------------------------------------------------------------------------------------------------

using Time = std::chrono::steady_clock;
using namespace std::chrono_literals;

// Now and then longer than a waiter spins, so that it sleeps.
void dawdle(std::mt19937& random) {
  const auto end = Time::now() + std::chrono::microseconds(random() % 8 == 0 ? 60 : 0);
  while (Time::now() < end) {
  }
}

void wait_until(Doorbell& bell, const auto& done) {
  for (;;) {
    const std::uint32_t seen = bell.seen();
    if (done()) return;
    bell.wait(seen, 1h);
  }
}

TEST(Doorbell, DoesNotWaitWhenItRangAfterSeen) {
  Doorbell bell;
  const std::uint32_t seen = bell.seen();
  bell.ring();
  const auto start = Time::now();
  bell.wait(seen, 1h);
  EXPECT_LT(Time::now() - start, 5min);
}

TEST(Doorbell, StopsWaitingAfterTheTimeout) {
  Doorbell bell;
  for (const std::chrono::nanoseconds timeout : {-1ns, 0ns, 5000ns, 3'000'000ns}) {
    const auto start = Time::now();
    bell.wait(bell.seen(), timeout);
    EXPECT_GE(Time::now() - start, timeout);
  }
}

// A lost ring would keep both threads asleep for an hour.
TEST(Doorbell, LosesNoRingBetweenTwoThreads) {
  constexpr int kRounds = 20'000;
  Doorbell ping_bell, pong_bell;
  std::atomic<int> ping{0}, pong{0};
  std::thread other([&] {
    std::mt19937 random(1);
    for (int round = 1; round <= kRounds; ++round) {
      wait_until(ping_bell, [&] { return ping.load(std::memory_order_relaxed) >= round; });
      dawdle(random);
      pong.store(round, std::memory_order_relaxed);
      pong_bell.ring();
    }
  });
  std::mt19937 random(2);
  for (int round = 1; round <= kRounds; ++round) {
    dawdle(random);
    ping.store(round, std::memory_order_relaxed);
    ping_bell.ring();
    wait_until(pong_bell, [&] { return pong.load(std::memory_order_relaxed) >= round; });
  }
  other.join();
  EXPECT_EQ(pong.load(), kRounds);
}

TEST(Doorbell, WakesEveryWaiter) {
  constexpr int kWaiters = 4, kRounds = 1000;
  Doorbell bell, answers;
  std::atomic<int> round{0}, answered{0};
  std::vector<std::thread> waiters;
  for (int i = 0; i < kWaiters; ++i) {
    waiters.emplace_back([&] {
      for (int next = 1; next <= kRounds; ++next) {
        wait_until(bell, [&] { return round.load() >= next; });
        ++answered;
        answers.ring();
      }
    });
  }
  std::mt19937 random(3);
  for (int next = 1; next <= kRounds; ++next) {
    dawdle(random);
    round.store(next);
    bell.ring();
    wait_until(answers, [&] { return answered.load() == next * kWaiters; });
  }
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_EQ(answered.load(), kWaiters * kRounds);
}

}  // namespace
}  // namespace warpjet
