// Who goes first.
#include "schedule/schedule.h"

namespace warpjet {

namespace {

// A step of priority is worth this much service: a request waits for later ones of the next better priority only as
// long as they started less than this many tokens after it.
constexpr std::int64_t kTokensPerPriority = 1 << 16;

std::int64_t key_fcfs(Sequence&, TenantClocks&) {
  return 0;
}

std::int64_t key_priority(Sequence& sequence, TenantClocks&) {
  return sequence.priority;
}

std::int64_t key_fair(Sequence& sequence, TenantClocks& clocks) {
  const int output = sequence.max_length - sequence.prompt_length;  // what is not used of it is given back
  sequence.start = clocks.start(sequence.tenant, sequence.prompt_length + kOutputCost * output);
  return sequence.start + sequence.priority * kTokensPerPriority;
}

// THE TABLE of policies.
constexpr Policy kPolicies[] = {
    {"fcfs", key_fcfs},          // first come, first served
    {"priority", key_priority},  // lower value first, then first come; a low one waits as long as higher ones come
    {"fair", key_fair},          // tenants share the engine, and priorities age
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

std::int64_t TenantClocks::start(const std::string& tenant, std::int64_t cost) {
  std::int64_t& end = tenants_[tenant].end;
  const std::int64_t start = std::max(now_, end);
  end = start + cost;
  return start;
}

void TenantClocks::give_back(const std::string& tenant, std::int64_t cost) {
  std::int64_t& end = tenants_.at(tenant).end;
  end = std::max(std::min(now_, end), end - cost);
}

// Who has nothing to do is forgotten once that is no advantage. When nobody has, all start anew.
void TenantClocks::leave(const std::string& tenant) {
  constexpr int kSweep = 1024;
  --tenants_.at(tenant).live;
  if (--live_ == 0) {
    tenants_.clear();
  } else if (++leaves_ % kSweep == 0) {
    std::erase_if(tenants_, [&](const auto& entry) { return entry.second.live == 0 && entry.second.end <= now_; });
  }
}

}  // namespace warpjet
