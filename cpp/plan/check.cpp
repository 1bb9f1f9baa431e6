// The trust boundary of engine files: a plan that passes cannot make a kernel read or write outside its buffers. What
// holds for every node is here; what a node asks of its operands is in its check().
#include "plan/plan.h"

namespace warpjet {
namespace {

constexpr std::int64_t kMaxWidth = Rules::kMaxWidth;
constexpr int kMaxLayers = 4096, kMaxNodes = 1 << 18;

class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan), written_(plan.buffers.size(), false) {}

  void check() {
    check_model();
    check_buffers();
    check_weights();
    check_caches();
    check_phases();
    for (node_ = 0; node_ < num_nodes(); ++node_) check_node(plan_.nodes[node_]);
    node_ = -1;
    check_tap(kHiddenTap, plan_.model.hidden_size);
    check_tap(kLogitsTap, plan_.model.vocab_size);
    require(plan_.buffers[plan_.tap(kLogitsTap).index].dtype == DType::f32, "logits must be f32");
  }

 private:
  template <class... Parts>
  void require(bool condition, const Parts&... parts) const {
    if (condition) return;
    WJ_FAIL(corrupt, "plan", where(), ": ", parts...);
  }
  std::string where() const { return node_ < 0 ? "" : cat(" node ", node_, " (", plan_.nodes[node_].name, ")"); }
  int num_nodes() const { return static_cast<int>(plan_.nodes.size()); }

  void check_model() const {
    const ModelFacts& m = plan_.model;
    const auto width = [&](const char* name, std::int64_t value) {
      require(value > 0 && value <= kMaxWidth, "model.", name, " is ", value, ", expected 1 to ", kMaxWidth);
    };
    width("vocab_size", m.vocab_size);
    width("hidden_size", m.hidden_size);
    width("max_positions", m.max_positions);
    require(m.num_layers > 0 && m.num_layers <= kMaxLayers, m.num_layers, " layers, expected 1 to ", kMaxLayers);
    for (std::int32_t id : m.eos_token_ids) {
      require(id >= 0 && id < m.vocab_size, "eos token ", id, " is outside the vocabulary of ", m.vocab_size);
    }
  }

  void check_buffers() const {
    require(plan_.buffers.size() <= 4096, plan_.buffers.size(), " buffers");
    for (const BufferSpec& b : plan_.buffers) {
      require(is_float(b.dtype) && b.width > 0 && b.width <= kMaxWidth, "buffer ", b.name, " of width ", b.width);
      require(b.first >= 0 && b.first <= b.last && b.last < num_nodes(), "buffer ", b.name, " lives from node ",
              b.first, " to ", b.last, " of ", num_nodes());
    }
  }

  void check_weights() const {
    std::int64_t end = 0;
    for (const WeightRef& w : plan_.weights) {
      require(is_float(w.format) || (w.format.scaled() && w.format.scale == DType::f32 && w.shape.rank() == 2),
              "weight ", w.name, " is ", to_string(w.format));
      require(w.shape.rank() == 1 || w.shape.rank() == 2, "weight ", w.name, " has shape ", w.shape.to_string());
      for (std::int64_t extent : w.shape.extents()) {
        require(extent > 0 && extent <= 4 * kMaxWidth, "weight ", w.name, " has shape ", w.shape.to_string());
      }
      require(w.offset >= end && w.offset % kWeightAlignment == 0 && w.offset < (1ll << 50), "weight ", w.name,
              " at offset ", w.offset);
      end = w.offset + w.bytes();
    }
  }

  void check_caches() const {
    require(!plan_.caches.empty() && plan_.caches.size() <= kMaxLayers, plan_.caches.size(), " caches, expected 1 to ",
            kMaxLayers);
    for (const CacheSpec& c : plan_.caches) {
      require(is_float(c.format) && c.kv_heads > 0 && c.head_dim > 0 && c.window >= 0 &&
                  static_cast<std::int64_t>(c.kv_heads) * c.head_dim <= kMaxWidth,
              "cache of ", c.kv_heads, " heads of ", c.head_dim, ", window ", c.window);
    }
  }

  // The phases that the runner knows, each with a node or more.
  void check_phases() const {
    require(num_nodes() > 0 && num_nodes() <= kMaxNodes, num_nodes(), " nodes");
    const Phase expected[] = {{std::string(kTokensPhase), Rows::tokens},
                              {std::string(kHiddenPhase), Rows::sampled},
                              {std::string(kLogitsPhase), Rows::sampled}};
    require(plan_.phases.size() == std::size(expected), plan_.phases.size(), " phases, expected ", std::size(expected));
    int next = 0;
    for (std::size_t i = 0; i < plan_.phases.size(); ++i) {
      const Phase& phase = plan_.phases[i];
      require(phase.name == expected[i].name && phase.rows == expected[i].rows, "phase ", i, " is ", phase.name);
      require(i == 0 ? phase.first == 0 : phase.first >= next && phase.first < num_nodes(), "phase ", phase.name,
              " begins at node ", phase.first);
      next = phase.first + 1;
    }
  }

  void check_node(const Node& node) {
    check_tactics(node.tactics);
    Rules rules{plan_.shapes({})};
    rules.phase = plan_.phase_of(node_).rows;
    rules.vocab_size = plan_.model.vocab_size;
    rules.where = where();
    std::visit(
        [&]<class N>(const N& op) {
          for_each_field<N>([&](const auto& field) { check_operand(op.*(field.member)); });
          op.check(rules);
          for_each_field<N>([&](const auto& field) { note_written(op.*(field.member)); });
        },
        node.op);
  }

  void check_tactics(const std::vector<Tactic>& tactics) const {
    require(!tactics.empty() && tactics.back().max_rows == kAnyRows, "no kernel for any number of rows");
    for (std::size_t i = 1; i < tactics.size(); ++i) {
      require(tactics[i - 1].max_rows > 0 && tactics[i - 1].max_rows < tactics[i].max_rows, "tactics are not in order");
    }
  }

  // Of a node's fields, those that are operands: there, alive, of this phase's rows, and written before they are read.
  template <class T>
  void check_operand(const T& value) const {
    if constexpr (Buffered<T> || Weighted<T>) {
      if (Optional<T> && value.index == -1) return;
      const std::size_t count = Buffered<T> ? plan_.buffers.size() : plan_.weights.size();
      require(value.index >= 0 && std::cmp_less(value.index, count), Buffered<T> ? "buffer " : "weight ", value.index,
              " does not exist");
    }
    if constexpr (Buffered<T>) {
      const BufferSpec& b = plan_.buffers[value.index];
      const Rows phase = plan_.phase_of(node_).rows;
      require(b.rows == (std::same_as<T, InTokens> ? Rows::tokens : phase), "buffer ", b.name,
              " has the rows of the other phase");
      const int last = phase == Rows::sampled ? num_nodes() - 1 : node_;
      require(b.first <= node_ && b.last >= last, "buffer ", b.name, " is used outside its life");
      require(!Reads<T> || written_[value.index], "buffer ", b.name, " is read before it is written");
    }
  }
  template <class T>
  void note_written(const T& value) {
    if constexpr (Writes<T>) written_[value.index] = true;
  }

  void check_tap(std::string_view name, std::int64_t width) const {
    int count = 0;
    for (const Tap& tap : plan_.taps) {
      if (tap.name != name) continue;
      ++count;
      require(tap.buffer.index >= 0 && std::cmp_less(tap.buffer.index, plan_.buffers.size()), "tap ", name,
              " names no buffer");
      const BufferSpec& b = plan_.buffers[tap.buffer.index];
      require(b.rows == Rows::sampled && b.width == width && written_[tap.buffer.index], name,
              " must be a written buffer [sampled, ", width, "]");
    }
    require(count == 1, count, " taps called ", name, ", expected 1");
  }

  const Plan& plan_;
  std::vector<bool> written_;
  int node_ = -1;
};

}  // namespace

void check_plan(const Plan& plan) {
  Checker(plan).check();
}

}  // namespace warpjet
