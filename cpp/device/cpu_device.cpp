// The CPU as a device: lazily zeroed memory, and a team of threads for the kernels.
#include "device/device.h"

#include "core/core.h"
#include "device/spin.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

namespace warpjet {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kChunksPerThread = 4;  // enough to even out ranges of unequal cost and threads that start late
// Longer than the pauses inside a step, so that workers stay awake through it; short against an idle server.
constexpr std::chrono::microseconds kSpin{50};

// The team. A job is cut into chunks; whoever is awake claims the next one, the caller too, so a worker that sleeps or
// is held up by the system costs speed and nothing else. Everything shared is atomic and nothing locks.
//
// ticket_ holds the job's number in its upper half and the number of unclaimed chunks in its lower half. A claim is a
// compare-and-swap that takes one off: it succeeds only while that job has chunks left, and as long as it has, the
// caller does not touch the job's fields, so what a claimer read of them before its claim is the job that it claimed. A
// ticket without chunks can never be claimed, whatever the fields say: they may already be the next job's.
class ThreadTeam final : public CpuStream {
 public:
  explicit ThreadTeam(int num_threads) {
    try {
      for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {
      const std::size_t started = workers_.size() + 1;
      stop();
      WJ_FAIL(out_of_memory, "cannot start thread ", started, " of ", num_threads, ": ", error.what(),
              "; lower num_threads");
    }
  }
  ~ThreadTeam() override { stop(); }

  void copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void synchronize() override {}
  void record(Event& event) override;

  void parallel_for(std::int64_t count, std::int64_t grain, RangeFunction body) override {
    if (count <= 0) return;
    const std::int64_t units = ceil_div(count, std::max<std::int64_t>(grain, 1));
    const std::int64_t parts = static_cast<std::int64_t>(workers_.size() + 1) * kChunksPerThread;
    const std::int64_t chunk = ceil_div(units, parts) * std::max<std::int64_t>(grain, 1);
    if (workers_.empty() || chunk >= count) return body(0, count);

    body_.store(&body, std::memory_order_relaxed);
    count_.store(count, std::memory_order_relaxed);
    chunk_.store(chunk, std::memory_order_relaxed);
    finished_.store(0, std::memory_order_relaxed);
    ++job_;
    // Sequentially consistent with the count of sleepers: either a worker sees this job before it sleeps, or it is
    // counted here and woken.
    const std::int64_t chunks = ceil_div(count, chunk);
    ticket_.store(static_cast<std::uint64_t>(job_) << 32 | static_cast<std::uint64_t>(chunks));
    if (sleepers_.load() > 0) wake_all();
    while (run_chunk(job_)) {
    }
    const auto all_done = [&] { return finished_.load(std::memory_order_acquire) == chunks; };
    while (!spin_until(all_done, kSpin)) std::this_thread::yield();
  }

 private:
  // Claims and runs one chunk of this job; false when there is none left.
  bool run_chunk(std::uint32_t job) {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
      const RangeFunction* body = body_.load(std::memory_order_relaxed);
      const std::int64_t count = count_.load(std::memory_order_relaxed);
      const std::int64_t chunk = chunk_.load(std::memory_order_relaxed);
      const auto left = static_cast<std::int64_t>(ticket & 0xffffffffu);
      if (ticket >> 32 != job || left == 0) return false;
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      const std::int64_t begin = (ceil_div(count, chunk) - left) * chunk;
      (*body)(begin, std::min(begin + chunk, count));
      finished_.fetch_add(1, std::memory_order_release);
      return true;
    }
  }

  std::uint32_t current_job() const { return static_cast<std::uint32_t>(ticket_.load() >> 32); }

  void work() {
    std::uint32_t seen = 0;
    while (!stopping_.load(std::memory_order_relaxed)) {
      const auto has_news = [&] { return current_job() != seen || stopping_.load(std::memory_order_relaxed); };
      if (!spin_until(has_news, kSpin)) {
        sleep_until(has_news);
        continue;
      }
      seen = current_job();
      while (run_chunk(seen)) {
      }
    }
  }

  template <class Done>
  void sleep_until(Done done) {
    const int ring = bell_.load();
    sleepers_.fetch_add(1);
    if (!done()) bell_.wait(ring);
    sleepers_.fetch_sub(1);
  }

  void wake_all() {
    bell_.fetch_add(1);
    bell_.notify_all();
  }

  void stop() {
    stopping_.store(true);
    wake_all();
    for (std::thread& worker : workers_) worker.join();
  }

  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  std::atomic<const RangeFunction*> body_{nullptr};
  std::atomic<std::int64_t> count_{0};
  std::atomic<std::int64_t> chunk_{1};
  alignas(64) std::atomic<std::int64_t> finished_{0};  // chunks of the current job
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<int> bell_{0};  // sleepers wait for it to change
  std::atomic<bool> stopping_{false};
  std::uint32_t job_ = 0;  // the caller's
  std::vector<std::thread> workers_;
};

// All work before it is done when it is recorded.
class CpuEvent final : public Event {
 public:
  bool done() const override { return true; }
  void wait() const override {}
  double microseconds_since(const Event& start) const override {
    return std::chrono::duration<double, std::micro>(time - static_cast<const CpuEvent&>(start).time).count();
  }
  std::chrono::steady_clock::time_point time;
};

void ThreadTeam::record(Event& event) {
  static_cast<CpuEvent&>(event).time = std::chrono::steady_clock::now();
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());  // more cores than a cpu_set_t holds
}

// The machine's memory, or the container's share of it if that is less.
std::int64_t usable_memory() {
  std::int64_t bytes = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::int64_t limit = 0;
    if (std::ifstream(path) >> limit && limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int num_threads) : team_(num_threads) {
    const std::int64_t bytes = usable_memory();
    info_ = {.name = "CPU", .id = "cpu", .sm = 0, .cores = num_threads, .memory_bytes = bytes, .free_bytes = bytes};
  }

  const DeviceInfo& info() const override { return info_; }
  Stream& stream() override { return team_; }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<ThreadTeam>(1); }
  std::unique_ptr<Event> make_event() override { return std::make_unique<CpuEvent>(); }
  Buffer allocate_host(std::size_t bytes) override { return allocate(bytes); }

  Buffer allocate(std::size_t bytes) override {
    if (bytes == 0) return {};
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    WJ_REQUIRE(data != MAP_FAILED, out_of_memory, "cannot allocate ", bytes, " bytes (",
               std::error_code(errno, std::generic_category()).message(), "); this machine has ", info_.memory_bytes,
               " bytes of memory");
    return Buffer(data, bytes, [](void* mapped, std::size_t size) { munmap(mapped, size); });
  }

 private:
  DeviceInfo info_;
  ThreadTeam team_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(int num_threads) {
  WJ_REQUIRE(num_threads >= 0 && num_threads <= kMaxThreads, invalid_argument, "num_threads must be 0 to ", kMaxThreads,
             " (0 is one per core), got ", num_threads);
  return std::make_unique<CpuDevice>(num_threads == 0 ? usable_cores() : num_threads);
}

}  // namespace warpjet
