// Threads for a list of independent items.
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "simulate/simulate.h"

namespace warpjet::sim {

struct Team::Shared {
  std::function<void()> poll;
  const std::thread::id caller = std::this_thread::get_id();
  std::chrono::steady_clock::time_point next_poll{};
  std::vector<std::thread> threads;

  // A round: everybody takes items until none is left. `round` goes up when one begins; `busy` is 0 when it is over.
  std::atomic<int> round{0}, busy{0}, next{0};
  int count = 0;
  const std::function<void(int)>* work = nullptr;
  bool stop = false;
  std::mutex mutex;
  std::exception_ptr error;  // under mutex

  void take_items() {
    try {
      for (int item = next.fetch_add(1); item < count; item = next.fetch_add(1)) (*work)(item);
    } catch (...) {
      next.store(count);
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  }
  void serve() {
    for (int seen = 0;; ++seen) {
      round.wait(seen);
      if (stop) return;
      take_items();
      if (busy.fetch_sub(1) == 1) busy.notify_one();
    }
  }
};

Team::Team(int threads, std::function<void()> poll) : shared_(std::make_unique<Shared>()) {
  shared_->poll = std::move(poll);
  for (int i = 1; i < threads; ++i) shared_->threads.emplace_back([shared = shared_.get()] { shared->serve(); });
}

Team::~Team() {
  shared_->stop = true;
  shared_->round.fetch_add(1);
  shared_->round.notify_all();
  for (std::thread& thread : shared_->threads) thread.join();
}

void Team::run(int count, const std::function<void(int)>& work) {
  Shared& s = *shared_;
  s.work = &work;
  s.count = count;
  s.next.store(0);
  s.busy.store(static_cast<int>(s.threads.size()));
  s.round.fetch_add(1);
  s.round.notify_all();
  s.take_items();
  for (int busy = s.busy.load(); busy > 0; busy = s.busy.load()) s.busy.wait(busy);
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
  poll();
}

void Team::poll() {
  Shared& s = *shared_;
  if (!s.poll || std::this_thread::get_id() != s.caller) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < s.next_poll) return;
  s.next_poll = now + std::chrono::milliseconds(100);
  s.poll();
}

}  // namespace warpjet::sim
