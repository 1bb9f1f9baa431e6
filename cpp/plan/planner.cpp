// ModelSpec -> Plan: the steps of a pre-norm decoder with fused qkv and gate-up projections, residual adds in the GEMM
// epilogues, and buffers shared by lifetime.
#include <algorithm>
#include <numeric>

#include "plan/plan.h"

namespace warpjet {
namespace {

Gate gate_of(const std::string& activation) {
  for (Gate gate : {Gate::silu, Gate::gelu, Gate::gelu_tanh, Gate::relu}) {
    if (to_string(gate) == activation) return gate;
  }
  WJ_FAIL(unsupported, "activation \"", activation, "\" of a gated MLP; supported: silu, gelu, gelu_tanh, relu");
}

class Planner {
 public:
  Planner(const ModelSpec& model, std::span<const WeightSlot> slots, const Scheme& scheme, DType kv,
          const Catalogs& catalogs, const DeviceInfo& device)
      : catalogs_(catalogs), device_(device) {
    plan_.model = model;
    plan_.scheme = scheme.name;
    plan_.activation = scheme.activation;
    plan_.kv = kv;
    place_weights(slots, scheme.weight);
  }

  Plan make() {
    const ModelSpec& m = plan_.model;
    const DType act = plan_.activation;
    const int x = add_buffer("x", act, Rows::tokens, m.hidden_size);
    const int h = add_buffer("h", act, Rows::tokens, m.hidden_size);
    const int cos_sin = add_buffer("cos_sin", DType::f32, Rows::tokens, m.head_dim);
    const int qkv = add_buffer("qkv", act, Rows::tokens, m.q_width() + 2 * m.kv_width());
    const int attention = add_buffer("attention", act, Rows::tokens, m.q_width());
    const int gated = add_buffer("gated", act, Rows::tokens, m.intermediate_size);
    const int last = add_buffer("last", act, Rows::sampled, m.hidden_size);
    plan_.logits = add_buffer("logits", DType::f32, Rows::sampled, m.vocab_size);

    const int embed = weight("embed");
    add("embed", EmbedStep{.table = embed, .out = x});
    add("rope_table", RopeTableStep{.out = cos_sin});
    for (int i = 0; i < static_cast<int>(m.layers.size()); ++i) {
      const std::string l = cat("layers.", i, ".");
      add(l + "norm1", NormStep{.x = x, .weight = weight(l + "norm1"), .y = h});
      add(l + "qkv", GemmStep{.a = h, .b = weight(l + "qkv"), .bias = optional_weight(l + "qkv.bias"), .d = qkv});
      add(l + "rope_append_kv", RopeAppendKvStep{.qkv = qkv,
                                                 .cos_sin = cos_sin,
                                                 .q_norm = optional_weight(l + "q_norm"),
                                                 .k_norm = optional_weight(l + "k_norm"),
                                                 .layer = i});
      add(l + "attention", AttentionStep{.qkv = qkv, .out = attention, .layer = i});
      add(l + "out",
          GemmStep{
              .a = attention, .b = weight(l + "out"), .bias = optional_weight(l + "out.bias"), .residual = x, .d = x});
      add(l + "norm2", NormStep{.x = x, .weight = weight(l + "norm2"), .y = h});
      add(l + "gate_up", GemmStep{.a = h,
                                  .b = weight(l + "gate_up"),
                                  .bias = optional_weight(l + "gate_up.bias"),
                                  .d = gated,
                                  .gate = gate_of(m.activation)});
      add(l + "down",
          GemmStep{
              .a = gated, .b = weight(l + "down"), .bias = optional_weight(l + "down.bias"), .residual = x, .d = x});
    }
    plan_.first_sampled = static_cast<int>(plan_.steps.size());
    add("gather", GatherStep{.x = x, .out = last});
    add("norm", NormStep{.x = last, .weight = weight("norm"), .y = last});
    add("head", GemmStep{.a = last, .b = m.tied_head ? embed : weight("head"), .d = plan_.logits});
    set_lifetimes();
    check_plan(plan_);
    return std::move(plan_);
  }

 private:
  void place_weights(std::span<const WeightSlot> slots, DType dtype) {
    std::int64_t offset = 0;
    for (const WeightSlot& slot : slots) {
      plan_.weights.push_back(
          {.name = slot.name, .dtype = dtype, .shape = slot.shape, .offset = offset, .checksum = {}});
      offset = align_up(offset + slot.shape.elements() * dtype_bytes(dtype), kWeightAlignment);
    }
  }

  int optional_weight(const std::string& name) const {
    for (std::size_t i = 0; i < plan_.weights.size(); ++i) {
      if (plan_.weights[i].name == name) return static_cast<int>(i);
    }
    return -1;
  }
  int weight(const std::string& name) const {
    const int index = optional_weight(name);
    WJ_CHECK(index >= 0, "the family declares no weight slot ", name);
    return index;
  }

  int add_buffer(std::string name, DType dtype, Rows rows, std::int64_t width) {
    plan_.buffers.push_back({.name = std::move(name), .dtype = dtype, .rows = rows, .width = width});
    return static_cast<int>(plan_.buffers.size()) - 1;
  }

  template <class S>
  void add(std::string name, const S& step) {
    using Op = typename OpOf<S>::type;
    std::vector<Tactic> tactics;
    for (const std::int64_t rows : kRowBuckets) {
      const Kernel<Op>& kernel = catalogs_.of<Op>().select(problem(plan_, step, {.rows = rows}), device_);
      if (!tactics.empty() && tactics.back().kernel == kernel.name) tactics.pop_back();
      tactics.push_back({.max_rows = rows, .kernel = std::string(kernel.name)});
    }
    plan_.steps.push_back({.name = std::move(name), .tactics = std::move(tactics), .op = step});
  }

  // A buffer lives from its first to its last use; what the sampled steps read stays until the end, because they may
  // run several times.
  void set_lifetimes() {
    const int end = static_cast<int>(plan_.steps.size()) - 1;
    std::vector<bool> seen(plan_.buffers.size(), false);
    const auto use = [&](int index, int step) {
      if (index < 0) return;
      BufferSpec& buffer = plan_.buffers[index];
      if (!seen[index]) buffer.first = step;
      seen[index] = true;
      buffer.last = step >= plan_.first_sampled ? end : step;
    };
    for (int i = 0; i <= end; ++i) {
      for_each_buffer(plan_.steps[i].op, [&](int index) { use(index, i); });
    }
  }

  Plan plan_;
  const Catalogs& catalogs_;
  const DeviceInfo& device_;
};

}  // namespace

Plan make_plan(const ModelSpec& model, std::span<const WeightSlot> slots, const Scheme& scheme, DType kv,
               const Catalogs& catalogs, const DeviceInfo& device) {
  return Planner(model, slots, scheme, kv, catalogs, device).make();
}

std::int64_t Plan::weight_bytes() const {
  if (weights.empty()) return 0;
  const WeightRef& last = weights.back();
  return align_up(last.offset + last.shape.elements() * dtype_bytes(last.dtype), kWeightAlignment);
}

std::int64_t Plan::parameters() const {
  std::int64_t count = 0;
  for (const WeightRef& weight : weights) count += weight.shape.elements();
  return count;
}

std::int64_t Plan::kv_bytes_per_token() const {
  return 2 * static_cast<std::int64_t>(model.layers.size()) * model.kv_width() * dtype_bytes(kv);
}

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
