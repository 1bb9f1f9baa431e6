// What a planner writes with: names become indices, and every node gets its kernels.
#pragma once

#include "plan/plan.h"

namespace warpjet {

class PlanBuilder {
 public:
  PlanBuilder(ModelFacts facts, std::span<const WeightSlot> slots, const Scheme& scheme, const Catalogs& catalogs,
              const DeviceInfo& device)
      : catalogs_(catalogs), device_(device) {
    plan_.model = std::move(facts);
    plan_.scheme = scheme.name;
    place_weights(slots, scheme);
  }

  Weight weight(const std::string& name) const {
    const OptionalWeight found = optional_weight(name);
    WJ_CHECK(found, "the model declares no weight ", name);
    return {{found.index}};
  }
  OptionalWeight optional_weight(const std::string& name) const {
    for (std::size_t i = 0; i < plan_.weights.size(); ++i) {
      if (plan_.weights[i].name == name) return {{static_cast<int>(i)}};
    }
    return {};
  }

  // The buffer of this name, shared by all who ask for it; of another one where their width or type differs.
  BufferOperand buffer(const std::string& name, DType dtype, Rows rows, std::int64_t width) {
    for (std::size_t i = 0; i < plan_.buffers.size(); ++i) {
      const BufferSpec& b = plan_.buffers[i];
      if (b.name == name && b.dtype == dtype && b.rows == rows && b.width == width) return {static_cast<int>(i)};
    }
    plan_.buffers.push_back({.name = name, .dtype = dtype, .rows = rows, .width = width});
    return {static_cast<int>(plan_.buffers.size()) - 1};
  }

  int cache(const CacheSpec& spec) {
    plan_.caches.push_back(spec);
    return static_cast<int>(plan_.caches.size()) - 1;
  }

  void begin_phase(std::string_view name, Rows rows) {
    plan_.phases.push_back({std::string(name), rows, static_cast<int>(plan_.nodes.size())});
  }
  void tap(std::string_view name, BufferOperand buffer) { plan_.taps.push_back({std::string(name), Out{buffer}}); }

  template <class N>
  void add(std::string name, const N& node) {
    std::vector<Tactic> tactics;
    for (const std::int64_t rows : kRowBuckets) {
      const auto& kernel = catalogs_.of<typename N::Op>().select(node.problem(plan_.shapes({.rows = rows})), device_);
      if (!tactics.empty() && tactics.back().kernel == kernel.name) tactics.pop_back();
      tactics.push_back({.max_rows = rows, .kernel = std::string(kernel.name)});
    }
    plan_.nodes.push_back({.name = std::move(name), .tactics = std::move(tactics), .op = node});
  }

  Plan finish() {
    set_lifetimes();
    check_plan(plan_);
    return std::move(plan_);
  }

 private:
  void place_weights(std::span<const WeightSlot> slots, const Scheme& scheme) {
    std::int64_t offset = 0;
    for (const WeightSlot& slot : slots) {
      const WeightRef& ref = plan_.weights.emplace_back(
          WeightRef{.name = slot.name, .format = slot.format(scheme), .shape = slot.shape, .offset = offset});
      offset = align_up(offset + ref.bytes(), kWeightAlignment);
    }
  }

  // A buffer lives from its first to its last use; what phases over sampled rows use stays until the end, because they
  // may run several times.
  void set_lifetimes() {
    const int end = static_cast<int>(plan_.nodes.size()) - 1;
    std::vector<bool> seen(plan_.buffers.size(), false);
    for (int i = 0; i <= end; ++i) {
      const bool repeats = plan_.phase_of(i).rows == Rows::sampled;
      for_each_operand(plan_.nodes[i].op, [&]<class Operand>(const Operand& operand) {
        if constexpr (Buffered<Operand>) {
          BufferSpec& buffer = plan_.buffers[operand.index];
          if (!seen[operand.index]) buffer.first = i;
          seen[operand.index] = true;
          buffer.last = repeats ? end : i;
        }
      });
    }
  }

  Plan plan_;
  const Catalogs& catalogs_;
  const DeviceInfo& device_;
};

}  // namespace warpjet
