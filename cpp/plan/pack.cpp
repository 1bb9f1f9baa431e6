// Packing: checkpoint tensors -> the blob that the plan's kernels read.
#include "plan/loader.h"

namespace warpjet {

Weights pack(const Checkpoint& checkpoint, const Plan& plan, Device& device) {
  Weights weights;
  weights.owned = device.allocate(plan.weight_bytes());
  weights.readers = load_weights(plan, device, [&](std::size_t i, Lane& lane) {
    std::byte* to = weights.owned.at(plan.weights[i].offset);
    read_slot(checkpoint.slots[i], checkpoint.tensors, plan.weights[i].format, [&](std::span<const std::byte> piece) {
      lane.write(to, piece);
      to += piece.size();
    });
  });
  return weights;
}

}  // namespace warpjet
