// Waiting for a moment without the kernel. What is waited for comes from another thread, usually within microseconds.
#pragma once

#include <chrono>

namespace warpjet {

// Tells the core that this is a spin loop: it leaves its execution units to the other hardware thread.
inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() or `limit` has passed; tells which.
template <class Done>
bool spin_until(Done done, std::chrono::nanoseconds limit) {
  constexpr int kPausesPerClockRead = 32;
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (done()) return true;
      pause_briefly();
    }
    if (std::chrono::steady_clock::now() >= deadline) return false;
  }
}

}  // namespace warpjet
