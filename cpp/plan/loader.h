// Weights on their way into device memory: several threads, each with slots of pinned host memory and a stream of its
// own, so that reading one piece and copying another overlap. Memory stays under kMaxReaders * kLaneSlots * kSlotBytes.
#pragma once

#include "plan/plan.h"

#include <atomic>
#include <exception>
#include <mutex>

namespace warpjet {

// Enough threads to copy out of the page cache faster than a PCIe 5 link takes it; slots are long enough that neither
// their number nor their last copy matters.
constexpr int kMaxReaders = 16;
constexpr int kLaneSlots = 2;
constexpr std::int64_t kSlotBytes = 8ll << 20;

// One thread's way into device memory. Belongs to the thread that makes it.
class Lane {
 public:
  Lane(Device& device, std::int64_t slot_bytes);
  ~Lane();  // waits for what was sent
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // The next slot, to be filled from its start; waits until its last copy is done.
  std::span<std::byte> slot();
  // Copies this much of that slot to the device. The slot may be read until the next slot() but one.
  void send(std::byte* to, std::int64_t bytes);
  // Copies bytes that are only borrowed, through as many slots as it takes.
  void write(std::byte* to, std::span<const std::byte> bytes);
  void finish();  // waits for what was sent; throws device

 private:
  std::int64_t slot_bytes_;
  Buffer memory_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Event> copied_[kLaneSlots];
  int next_ = 0;
};

// Which weights are left to load: the biggest come first, so that the threads end together.
class WeightQueue {
 public:
  explicit WeightQueue(const Plan& plan);
  std::optional<std::size_t> next();  // index of a weight, each once; nothing after stop()
  void stop() { stopped_.store(true, std::memory_order_relaxed); }

 private:
  std::vector<std::size_t> order_;
  std::atomic<std::size_t> taken_{0};
  std::atomic<bool> stopped_{false};
};

// Runs work(queue) on some threads, the caller's among them, until the queue is empty; returns how many there were. The
// first exception stops all and is thrown.
int on_readers(const Plan& plan, Device& device, const std::function<void(WeightQueue&)>& work);

// Calls load(weight, lane) for every weight of the plan, on some threads; everything has arrived when it returns.
int load_weights(const Plan& plan, Device& device, const std::function<void(std::size_t, Lane&)>& load);

// Bytes of a weight, without what aligns the next one.
std::int64_t weight_bytes(const WeightRef& ref);

}  // namespace warpjet
