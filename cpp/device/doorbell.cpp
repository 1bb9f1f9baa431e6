// The doorbell: a counter of rings that waiters sleep on as a futex.
#include "device/device.h"
#include "device/spin.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <ctime>

namespace warpjet {
namespace {

// Longer than it takes to sleep and be woken again, so that who is rung often never does; short against an idle engine.
constexpr std::chrono::nanoseconds kSpinBeforeSleep = std::chrono::microseconds(20);

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t), "the kernel looks at the plain word");

void futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout) {
  syscall(SYS_futex, &word, operation, value, timeout, nullptr, 0);
}

}  // namespace

// Sequentially consistent with wait(): either the ringer sees the sleeper, or the kernel sees the new count and does
// not let it sleep.
void Doorbell::ring() {
  rings_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) futex(rings_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr);
}

void Doorbell::wait(std::uint32_t seen, std::chrono::nanoseconds timeout) {
  const auto rung = [&] { return rings_.load(std::memory_order_seq_cst) != seen; };
  if (spin_until(rung, std::min(timeout, kSpinBeforeSleep)) || timeout <= kSpinBeforeSleep) return;
  const std::chrono::nanoseconds rest = timeout - kSpinBeforeSleep;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(rest);
  const timespec sleep = {.tv_sec = seconds.count(), .tv_nsec = (rest - seconds).count()};
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  futex(rings_, FUTEX_WAIT_PRIVATE, seen, &sleep);
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace warpjet
