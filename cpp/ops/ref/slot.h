// What the reference kernels of sampling share: rows in parallel, and what is known of a row's slot.
#pragma once

#include "ops/sampling.h"

#include <limits>

namespace warpjet::ref {

constexpr float kNever = -std::numeric_limits<float>::infinity();

template <class Row>
void for_each_row(Stream& stream, std::int64_t rows, Row row) {
  static_cast<CpuStream&>(stream).parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) row(r);
  });
}

// The slot that row r works for; negative: it has no work.
inline std::int32_t slot_at_work(const TensorView& slots, const SlotViews& views, std::int64_t r) {
  const std::int32_t slot = slots.as<std::int32_t>()[r];
  return slot >= 0 && views.alive.as<std::int32_t>()[slot] != 0 ? slot : -1;
}

inline const SlotSampling& sampling_of(const SlotViews& views, std::int32_t slot) {
  return *reinterpret_cast<const SlotSampling*>(views.params.row<std::byte>(slot));
}

}  // namespace warpjet::ref
