#include "runtime/queue_limits.h"

#include "core/core.h"

#include <algorithm>

namespace warpjet {

// Both counters are raised before either is looked at, so that release() undoes the same whatever was full.
void QueueLimits::reserve(std::int64_t tokens, const std::string& tenant, double seconds) {
  const bool has_place = requests_.fetch_add(1) < config_.max_num_queued_reqs;
  const bool has_tokens = tokens_.fetch_add(tokens) + tokens <= config_.max_num_queued_tokens;
  try {
    WJ_REQUIRE(has_place && has_tokens, overloaded, "the queue is full: limits are ", config_.max_num_queued_reqs,
               " requests and ", config_.max_num_queued_tokens, " prompt tokens; try again in about ",
               std::max(0.01, seconds), " s");
    reserve_of_tenant(tenant);
  } catch (...) {
    requests_.fetch_sub(1);
    tokens_.fetch_sub(tokens);
    throw;
  }
}

void QueueLimits::reserve_of_tenant(const std::string& tenant) {
  const int limit = config_.max_num_queued_reqs_per_tenant;
  if (limit == 0) return;
  const std::lock_guard lock(mutex_);
  int& count = tenants_[tenant];
  WJ_REQUIRE(count < limit, overloaded, "tenant ", quote(tenant), " has ", count, " requests, the limit of one tenant",
             " (max_num_queued_reqs_per_tenant); try again when one of them has finished");
  ++count;
}

void QueueLimits::release(std::int64_t tokens, const std::string& tenant) {
  requests_.fetch_sub(1);
  tokens_.fetch_sub(tokens);
  if (config_.max_num_queued_reqs_per_tenant == 0) return;
  const std::lock_guard lock(mutex_);
  const auto found = tenants_.find(tenant);
  if (--found->second == 0) tenants_.erase(found);
}

}  // namespace warpjet
