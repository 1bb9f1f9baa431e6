#include "schedule/schedule.h"

namespace warpjet {

namespace {

bool before_fcfs(const Sequence& a, const Sequence& b) {
  return a.arrival < b.arrival;
}

bool before_priority(const Sequence& a, const Sequence& b) {
  return a.priority != b.priority ? a.priority < b.priority : a.arrival < b.arrival;
}

// THE TABLE of policies.
constexpr Policy kPolicies[] = {
    {"fcfs", before_fcfs},          // first come, first served
    {"priority", before_priority},  // lower value first, then first come
};

}  // namespace

std::span<const Policy> policies() {
  return kPolicies;
}

const Policy& find_policy(std::string_view name) {
  std::string known;
  for (const Policy& policy : kPolicies) {
    if (policy.name == name) return policy;
    known += cat(known.empty() ? "" : ", ", policy.name);
  }
  WJ_FAIL(invalid_argument, "unknown scheduling_policy \"", name, "\"; choose one of: ", known);
}

}  // namespace warpjet
