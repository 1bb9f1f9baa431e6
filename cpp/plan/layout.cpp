// Where buffers lie in the arena.
#include <algorithm>
#include <numeric>

#include "plan/plan.h"

namespace warpjet {

// Biggest first, each at the lowest offset that is free during its whole life.
std::vector<std::int64_t> lay_out(const Plan& plan, std::int64_t max_tokens, std::int64_t max_sampled,
                                  std::int64_t& bytes) {
  constexpr std::int64_t kAlignment = 256;
  const auto size = [&](int i) {
    const BufferSpec& b = plan.buffers[i];
    const std::int64_t rows = b.rows == Rows::tokens ? max_tokens : max_sampled;
    return align_up(rows * b.width * dtype_bytes(b.dtype), kAlignment);
  };
  std::vector<int> order(plan.buffers.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return size(a) > size(b); });

  std::vector<std::int64_t> offsets(plan.buffers.size(), -1);
  bytes = 0;
  for (int i : order) {
    std::vector<std::pair<std::int64_t, std::int64_t>> taken;
    for (int j : order) {
      const bool alive_together =
          plan.buffers[i].first <= plan.buffers[j].last && plan.buffers[j].first <= plan.buffers[i].last;
      if (offsets[j] >= 0 && alive_together) taken.emplace_back(offsets[j], offsets[j] + size(j));
    }
    std::sort(taken.begin(), taken.end());
    std::int64_t offset = 0;
    for (const auto& [begin, end] : taken) {
      if (offset + size(i) <= begin) break;
      offset = std::max(offset, end);
    }
    offsets[i] = offset;
    bytes = std::max(bytes, offset + size(i));
  }
  return offsets;
}

}  // namespace warpjet
