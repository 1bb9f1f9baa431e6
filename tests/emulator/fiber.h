// Stackful coroutines: one a CUDA thread. Resumed by the scheduler, suspended by themselves.
#pragma once

#include <cstddef>

namespace emu {

class Fiber {
 public:
  using Entry = void (*)(void* argument);

  Fiber();  // maps a stack; throws bad_alloc
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(argument), which must not throw. What the fiber was doing before is forgotten.
  void start(Entry entry, void* argument);
  void resume();   // by the scheduler: until the fiber suspends or its entry returns
  void suspend();  // by the fiber

 private:
  static void run();
  void switch_in();
  void switch_out(bool for_ever);

  char* mapping_;
  char* stack_;
  void* own_ = nullptr;  // where each side stopped
  void* caller_ = nullptr;
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  void* own_shadow_ = nullptr;  // AddressSanitizer's fake stack and the scheduler's real one
  void* caller_shadow_ = nullptr;
  const void* caller_stack_ = nullptr;
  std::size_t caller_bytes_ = 0;
};

}  // namespace emu
