// What follows from a plan's lists.
#include "plan/plan.h"

#include <algorithm>

namespace warpjet {

int Plan::first_of(std::string_view phase) const {
  for (const Phase& candidate : phases) {
    if (candidate.name == phase) return candidate.first;
  }
  WJ_FAIL(internal, "the plan has no phase ", phase);
}

int Plan::end_of(std::string_view phase) const {
  const int first = first_of(phase);
  int end = static_cast<int>(nodes.size());
  for (const Phase& other : phases) {
    if (other.first > first) end = std::min(end, other.first);
  }
  return end;
}

const Phase& Plan::phase_of(int node) const {
  auto phase = phases.rbegin();
  while (phase->first > node) ++phase;
  return *phase;
}

const Out& Plan::tap(std::string_view name) const {
  for (const Tap& candidate : taps) {
    if (candidate.name == name) return candidate.buffer;
  }
  WJ_FAIL(internal, "the plan has no tap ", name);
}

std::int64_t Plan::weight_bytes() const {
  if (weights.empty()) return 0;
  const WeightRef& last = weights.back();
  return align_up(last.offset + last.bytes(), kWeightAlignment);
}

std::int64_t Plan::parameters() const {
  std::int64_t count = 0;
  for (const WeightRef& weight : weights) count += weight.shape.elements();
  return count;
}

std::int64_t Plan::kv_bytes_per_token() const {
  std::int64_t bytes = 0;
  for (const CacheSpec& cache : caches) bytes += cache.bytes_per_token();
  return bytes;
}

}  // namespace warpjet
