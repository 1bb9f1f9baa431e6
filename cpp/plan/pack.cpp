// Packing: checkpoint tensors -> the blob that the plan's kernels read.
#include "plan/plan.h"

namespace warpjet {

Weights pack(const Checkpoint& checkpoint, const Plan& plan, Device& device, const BuildProgress& progress) {
  Weights weights;
  weights.owned = device.allocate(plan.weight_bytes());
  std::int64_t done = 0;
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    const WeightRef& ref = plan.weights[i];
    std::byte* to = weights.owned.at(ref.offset);
    read_slot(checkpoint.slots[i], checkpoint.tensors, ref.dtype, [&](std::span<const std::byte> piece) {
      device.stream().copy(to, piece.data(), piece.size());
      device.stream().synchronize();  // the piece is only borrowed
      to += piece.size();
      done += static_cast<std::int64_t>(piece.size());
      if (progress) progress(done, plan.weight_bytes());
    });
  }
  return weights;
}

}  // namespace warpjet
