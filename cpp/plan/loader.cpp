#include "plan/loader.h"

#include <algorithm>
#include <numeric>
#include <thread>

namespace warpjet {
namespace {

int num_readers(const Plan& plan) {
  const std::int64_t pieces = ceil_div(plan.weight_bytes(), kSlotBytes);
  const std::int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const auto weights = static_cast<std::int64_t>(plan.weights.size());
  return static_cast<int>(std::max<std::int64_t>(1, std::min({pieces, cores, weights, std::int64_t{kMaxReaders}})));
}

// No slot is longer than the longest weight.
std::int64_t slot_bytes(const Plan& plan) {
  std::int64_t longest = 1;
  for (const WeightRef& ref : plan.weights) longest = std::max(longest, weight_bytes(ref));
  return std::min(align_up(longest, kWeightAlignment), kSlotBytes);
}

}  // namespace

std::int64_t weight_bytes(const WeightRef& ref) {
  return ref.bytes();
}

Lane::Lane(Device& device, std::int64_t slot_bytes)
    : slot_bytes_(slot_bytes), memory_(device.allocate_host(kLaneSlots * slot_bytes)), stream_(device.make_stream()) {
  for (auto& event : copied_) event = device.make_event();
}

// When an error is on its way, copies may still read the slots; whatever becomes of them is not news then.
Lane::~Lane() {
  try {
    stream_->synchronize();
  } catch (const Error&) {
  }
}

std::span<std::byte> Lane::slot() {
  copied_[next_]->wait();
  return {memory_.at(next_ * slot_bytes_), static_cast<std::size_t>(slot_bytes_)};
}

void Lane::send(std::byte* to, std::int64_t bytes) {
  stream_->copy(to, memory_.at(next_ * slot_bytes_), static_cast<std::size_t>(bytes));
  stream_->record(*copied_[next_]);
  next_ = (next_ + 1) % kLaneSlots;
}

void Lane::write(std::byte* to, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::span<std::byte> free = slot();
    const std::size_t count = std::min(free.size(), bytes.size());
    std::memcpy(free.data(), bytes.data(), count);
    send(to, static_cast<std::int64_t>(count));
    to += count;
    bytes = bytes.subspan(count);
  }
}

void Lane::finish() {
  stream_->synchronize();
}

WeightQueue::WeightQueue(const Plan& plan) : order_(plan.weights.size()) {
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  std::stable_sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
    return weight_bytes(plan.weights[a]) > weight_bytes(plan.weights[b]);
  });
}

std::optional<std::size_t> WeightQueue::next() {
  if (stopped_.load(std::memory_order_relaxed)) return std::nullopt;
  const std::size_t place = taken_.fetch_add(1, std::memory_order_relaxed);
  return place < order_.size() ? std::optional(order_[place]) : std::nullopt;
}

int on_readers(const Plan& plan, Device& device, const std::function<void(WeightQueue&)>& work) {
  WeightQueue queue(plan);
  std::mutex mutex;
  std::exception_ptr first;  // guarded by mutex
  const auto read = [&] {
    try {
      device.use_on_this_thread();
      work(queue);
    } catch (...) {
      queue.stop();
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(kMaxReaders);
  try {
    for (int i = num_readers(plan); i > 1; --i) others.emplace_back(read);
  } catch (const std::exception&) {  // no more threads to be had: those that run do the work
  }
  read();
  for (std::thread& other : others) other.join();
  if (first) std::rethrow_exception(first);
  return static_cast<int>(others.size()) + 1;
}

int load_weights(const Plan& plan, Device& device, const std::function<void(std::size_t, Lane&)>& load) {
  const std::int64_t bytes = slot_bytes(plan);
  return on_readers(plan, device, [&](WeightQueue& queue) {
    Lane lane(device, bytes);
    while (const auto weight = queue.next()) load(*weight, lane);
    lane.finish();
  });
}

}  // namespace warpjet
