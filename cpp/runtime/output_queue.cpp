// Where outputs wait for their reader.
#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/runtime.h"

namespace warpjet {

OutputQueue::State::State() : event_fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  WJ_REQUIRE(event_fd >= 0, io, "cannot create an eventfd: ", std::strerror(errno));
}

OutputQueue::State::~State() {
  ::close(event_fd);
}

void OutputQueue::State::push(std::span<Output*> batch) {
  {
    const std::lock_guard lock(mutex);
    for (Output* output : batch) outputs.push_back(std::move(*output));
  }
  ready.notify_one();
  const std::uint64_t one = 1;
  // Fails only when the counter is full, and then the descriptor is readable anyway.
  [[maybe_unused]] const auto written = ::write(event_fd, &one, sizeof one);
}

OutputQueue::OutputQueue() : state_(std::make_shared<State>()) {}
OutputQueue::~OutputQueue() = default;
OutputQueue::OutputQueue(OutputQueue&&) noexcept = default;
OutputQueue& OutputQueue::operator=(OutputQueue&&) noexcept = default;

std::vector<Output> OutputQueue::poll(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(state_->mutex);
  state_->ready.wait_for(lock, timeout, [&] { return !state_->outputs.empty(); });
  std::uint64_t count;
  [[maybe_unused]] const auto drained = ::read(state_->event_fd, &count, sizeof count);
  return std::exchange(state_->outputs, {});
}

int OutputQueue::wait_fd() const {
  return state_->event_fd;
}

}  // namespace warpjet
