// Memory that runs out: whoever links this gets an operator new that fails when this thread has asked for it.
#pragma once

#include <cstdint>

namespace warpjet::history {

// While armed, allocations [fail_at, fail_at + failures) fail, counted from when it was set.
struct Shortage {
  bool armed = false;
  std::int64_t count = 0, fail_at = -1, failures = 1;
};
Shortage& shortage();  // this thread's

}  // namespace warpjet::history
