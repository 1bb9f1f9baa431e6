// An in-order device: a ring of batches and results, and the thread that works through it.
#include "device/spin.h"
#include "execute/execute.h"

#include <thread>
#include <utility>

namespace warpjet {
namespace {

constexpr std::chrono::hours kForever{1};  // whoever has news rings; waking now and then costs nothing

}  // namespace

struct DeviceThread::State {
  struct Entry {
    Batch batch;
    StepResult result;
  };

  State(std::unique_ptr<StepRunner> runner_in, int depth, std::shared_ptr<Doorbell> bell, FaultPlan* faults_in)
      : runner(std::move(runner_in)), engine_bell(std::move(bell)), faults(faults_in), ring(depth + 1) {}

  Entry& entry(std::uint64_t step) { return ring[step % ring.size()]; }
  bool hit() const { return faults && faults->hit(); }
  void work();
  template <class Action>
  bool guarded(Action action);  // keeps the first error
  void start(Entry& entry);
  void finish(Entry& entry);

  const std::unique_ptr<StepRunner> runner;
  const std::shared_ptr<Doorbell> engine_bell;
  FaultPlan* const faults;
  std::vector<Entry> ring;   // one more than can be in flight: the result that was given last stays as it is
  std::uint64_t taken = 0;   // results given; the engine thread's
  std::exception_ptr error;  // the first one, for good; the device thread's

  // Counts of batches. An entry is the device thread's while finished <= its batch < launched, else the engine
  // thread's.
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

void DeviceThread::launch(Batch& batch) {
  State& s = *state_;
  const std::uint64_t step = s.launched.load(std::memory_order_relaxed);
  WJ_CHECK(step - s.taken + 1 < s.ring.size(), step - s.taken, " batches are in flight");
  WJ_REQUIRE(!s.hit(), device, "injected fault: launch");
  std::swap(s.entry(step).batch, batch);
  s.launched.store(step + 1, std::memory_order_release);
  s.bell.ring();
}

StepResult* DeviceThread::poll() {
  State& s = *state_;
  if (s.taken == s.finished.load(std::memory_order_acquire)) return nullptr;
  return &s.entry(s.taken++).result;
}

// What is through is given back before anything new is started; a device that works by itself is polled.
void DeviceThread::State::work() {
  std::uint64_t started = 0, done = 0;
  const auto is_through = [&] { return error || runner->done(); };
  for (;;) {
    const std::uint32_t seen = bell.seen();
    if (started > done && guarded([&] { return is_through(); })) {
      finish(entry(done));
      finished.store(++done, std::memory_order_release);
      engine_bell->ring();
    } else if (!stopping.load() && launched.load(std::memory_order_acquire) > started) {
      start(entry(started++));
    } else if (started > done) {
      pause_briefly();
    } else if (stopping.load()) {
      return;
    } else {
      bell.wait(seen, kForever);
    }
  }
}

// After an error the slots are not what later batches were made for, so these are not run.
template <class Action>
bool DeviceThread::State::guarded(Action action) {
  try {
    return action();
  } catch (...) {
    if (!error) error = std::current_exception();
    return true;
  }
}

void DeviceThread::State::start(Entry& entry) {
  if (error) return;
  guarded([&] {
    WJ_REQUIRE(!hit(), device, "injected fault: step");
    runner->start(entry.batch, entry.result);
    return true;
  });
}

void DeviceThread::State::finish(Entry& entry) {
  if (!error) guarded([&] { return runner->finish(), true; });
  entry.result.error = error;
}

}  // namespace warpjet
