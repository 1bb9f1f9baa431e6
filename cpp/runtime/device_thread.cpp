// An in-order device: a ring of plans and results, and the thread that works through it.
#include "runtime/runtime.h"

#include <thread>
#include <utility>

namespace warpjet {
namespace {

constexpr std::chrono::hours kForever{1};  // whoever has news rings; waking now and then costs nothing

}  // namespace

struct DeviceThread::State {
  struct Entry {
    StepPlan plan;
    StepResult result;
  };

  State(std::unique_ptr<StepRunner> runner_in, int depth, std::shared_ptr<Doorbell> bell, FaultPlan* faults_in)
      : runner(std::move(runner_in)), engine_bell(std::move(bell)), faults(faults_in), ring(depth + 1) {}

  Entry& entry(std::uint64_t step) { return ring[step % ring.size()]; }
  bool hit() const { return faults && faults->hit(); }
  bool wait_for(std::uint64_t step);  // false: stopping
  void work();
  void run(Entry& entry);

  const std::unique_ptr<StepRunner> runner;
  const std::shared_ptr<Doorbell> engine_bell;
  FaultPlan* const faults;
  std::vector<Entry> ring;   // one more than can be in flight: the result that was given last stays as it is
  std::uint64_t taken = 0;   // results given; the engine thread's
  std::exception_ptr error;  // the first one, for good; the device thread's

  // Counts of plans. An entry is the device thread's while finished <= its plan < launched, else the engine thread's.
  alignas(64) std::atomic<std::uint64_t> launched{0};
  alignas(64) std::atomic<std::uint64_t> finished{0};
  std::atomic<bool> stopping{false};
  Doorbell bell;
  std::thread thread;  // last: it uses the rest
};

DeviceThread::DeviceThread(std::unique_ptr<StepRunner> runner, int depth, std::shared_ptr<Doorbell> bell,
                           FaultPlan* faults)
    : state_(std::make_unique<State>(std::move(runner), depth, std::move(bell), faults)) {
  state_->thread = std::thread([state = state_.get()] { state->work(); });
}

DeviceThread::~DeviceThread() {
  state_->stopping.store(true);
  state_->bell.ring();
  state_->thread.join();
}

void DeviceThread::launch(StepPlan& plan) {
  State& s = *state_;
  const std::uint64_t step = s.launched.load(std::memory_order_relaxed);
  WJ_CHECK(step - s.taken + 1 < s.ring.size(), step - s.taken, " plans are in flight");
  WJ_REQUIRE(!s.hit(), device, "injected fault: launch");
  std::swap(s.entry(step).plan, plan);
  s.launched.store(step + 1, std::memory_order_release);
  s.bell.ring();
}

StepResult* DeviceThread::poll() {
  State& s = *state_;
  if (s.taken == s.finished.load(std::memory_order_acquire)) return nullptr;
  return &s.entry(s.taken++).result;
}

void DeviceThread::State::work() {
  for (std::uint64_t step = 0; wait_for(step); ++step) {
    run(entry(step));
    finished.store(step + 1, std::memory_order_release);
    engine_bell->ring();
  }
}

bool DeviceThread::State::wait_for(std::uint64_t step) {
  for (;;) {
    const std::uint32_t seen = bell.seen();
    if (stopping.load()) return false;
    if (launched.load(std::memory_order_acquire) > step) return true;
    bell.wait(seen, kForever);
  }
}

// After an error the slots are not what later plans were made for, so these are not run.
void DeviceThread::State::run(Entry& entry) {
  if (!error) {
    try {
      WJ_REQUIRE(!hit(), device, "injected fault: step");
      runner->run(entry.plan, entry.result);
    } catch (...) {
      error = std::current_exception();
    }
  }
  entry.result.error = error;
}

}  // namespace warpjet
