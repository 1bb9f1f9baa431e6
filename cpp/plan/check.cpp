// The trust boundary of engine files: a plan that passes cannot make a kernel read or write outside its buffers.
#include "plan/plan.h"

namespace warpjet {
namespace {

constexpr std::int64_t kMaxWidth = 1 << 24;
constexpr int kMaxLayers = 4096;

class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan), written_(plan.buffers.size(), false) {}

  void check() {
    check_model();
    check_buffers();
    check_weights();
    const int steps = static_cast<int>(plan_.steps.size());
    require(plan_.first_sampled > 0 && plan_.first_sampled < steps, "first_sampled ", plan_.first_sampled, " of ",
            steps, " steps");
    for (step_ = 0; step_ < steps; ++step_) {
      check_tactics(plan_.steps[step_].tactics);
      std::visit([&](const auto& op) { check_step(op); }, plan_.steps[step_].op);
    }
    step_ = -1;
    const BufferSpec& logits = buffer(plan_.logits);
    require(logits.dtype == DType::f32 && logits.rows == Rows::sampled && logits.width == plan_.model.vocab_size &&
                written_[plan_.logits],
            "logits must be a written f32 buffer [sampled, ", plan_.model.vocab_size, "]");
    const GemmStep* head = std::get_if<GemmStep>(&plan_.steps.back().op);
    require(head && head->d == plan_.logits && buffer(head->a).width == plan_.model.hidden_size,
            "the last step must be ", "the output head");
  }

 private:
  template <class... Parts>
  void require(bool condition, const Parts&... parts) const {
    if (condition) return;
    WJ_FAIL(corrupt, "plan", step_ >= 0 ? cat(" step ", step_, " (", plan_.steps[step_].name, ")") : std::string(),
            ": ", parts...);
  }

  void check_model() const {
    const ModelSpec& m = plan_.model;
    const auto width = [&](const char* name, std::int64_t value) {
      require(value > 0 && value <= kMaxWidth, "model.", name, " is ", value, ", expected 1 to ", kMaxWidth);
    };
    width("vocab_size", m.vocab_size);
    width("hidden_size", m.hidden_size);
    width("intermediate_size", m.intermediate_size);
    width("num_heads", m.num_heads);
    width("num_kv_heads", m.num_kv_heads);
    width("head_dim", m.head_dim);
    width("max_positions", m.max_positions);
    width("heads times head_dim", m.q_width());
    require(m.num_heads % m.num_kv_heads == 0, "num_heads ", m.num_heads, " is not a multiple of num_kv_heads ",
            m.num_kv_heads);
    require(m.head_dim % 2 == 0, "head_dim ", m.head_dim, " is odd");
    require(m.norm_eps >= 0 && m.norm_eps < 1, "norm_eps ", m.norm_eps, " is outside [0, 1)");
    require(m.rope.theta > 0 && m.rope.factor > 0, "rope theta and factor must be positive");
    require(!m.layers.empty() && m.layers.size() <= kMaxLayers, m.layers.size(), " layers, expected 1 to ", kMaxLayers);
    for (const LayerSpec& layer : m.layers) require(layer.window >= 0, "negative window ", layer.window);
    for (std::int32_t id : m.eos_token_ids) {
      require(id >= 0 && id < m.vocab_size, "eos token ", id, " is outside the vocabulary of ", m.vocab_size);
    }
    require(is_float(plan_.activation) && is_float(plan_.kv), "activation and kv types must be f32, f16 or bf16");
  }

  void check_tactics(const std::vector<Tactic>& tactics) const {
    require(!tactics.empty() && tactics.back().max_rows == kAnyRows, "no kernel for any number of rows");
    for (std::size_t i = 1; i < tactics.size(); ++i) {
      require(tactics[i - 1].max_rows > 0 && tactics[i - 1].max_rows < tactics[i].max_rows, "tactics are not in order");
    }
  }

  void check_buffers() const {
    require(plan_.buffers.size() <= 4096, plan_.buffers.size(), " buffers");
    const int steps = static_cast<int>(plan_.steps.size());
    for (const BufferSpec& b : plan_.buffers) {
      require(is_float(b.dtype) && b.width > 0 && b.width <= kMaxWidth, "buffer ", b.name, " of width ", b.width);
      require(b.first >= 0 && b.first <= b.last && b.last < steps, "buffer ", b.name, " lives from step ", b.first,
              " to ", b.last, " of ", steps);
    }
  }

  void check_weights() const {
    std::int64_t end = 0;
    for (const WeightRef& w : plan_.weights) {
      require(is_float(w.dtype), "weight ", w.name, " has type ", to_string(w.dtype));
      require(w.shape.rank() == 1 || w.shape.rank() == 2, "weight ", w.name, " has shape ", w.shape.to_string());
      for (std::int64_t extent : w.shape.extents()) {
        require(extent > 0 && extent <= 4 * kMaxWidth, "weight ", w.name, " has shape ", w.shape.to_string());
      }
      require(w.offset >= end && w.offset % kWeightAlignment == 0 && w.offset < (1ll << 50), "weight ", w.name,
              " at offset ", w.offset);
      end = w.offset + w.shape.elements() * dtype_bytes(w.dtype);
    }
  }

  const BufferSpec& buffer(int index) const {
    require(index >= 0 && index < static_cast<int>(plan_.buffers.size()), "buffer ", index, " does not exist");
    return plan_.buffers[index];
  }
  const WeightRef& weight(int index) const {
    require(index >= 0 && index < static_cast<int>(plan_.weights.size()), "weight ", index, " does not exist");
    return plan_.weights[index];
  }
  void check_layer(int layer) const {
    require(layer >= 0 && layer < static_cast<int>(plan_.model.layers.size()), "layer ", layer, " does not exist");
  }

  // A buffer that this step uses: alive now, of this width and, unless it is the gather's input, of this phase's rows.
  void check_use(int index, std::int64_t width, bool any_rows = false) const {
    const BufferSpec& b = buffer(index);
    const bool sampled = step_ >= plan_.first_sampled;
    require(b.width == width, "buffer ", b.name, " has width ", b.width, ", expected ", width);
    require(any_rows || (b.rows == Rows::sampled) == sampled, "buffer ", b.name, " has the rows of the other phase");
    const int last = sampled ? static_cast<int>(plan_.steps.size()) - 1 : step_;
    require(b.first <= step_ && b.last >= last, "buffer ", b.name, " is used outside its life");
  }
  void read(int index, std::int64_t width, bool any_rows = false) const {
    check_use(index, width, any_rows);
    require(written_[index], "buffer ", buffer(index).name, " is read before it is written");
  }
  void write(int index, std::int64_t width) {
    check_use(index, width);
    written_[index] = true;
  }
  void vector(int index, std::int64_t length) const {
    const WeightRef& w = weight(index);
    require(w.shape == Shape({length}), "weight ", w.name, " has shape ", w.shape.to_string(), ", expected [", length,
            "]");
  }
  void matrix(int index) const {
    const WeightRef& w = weight(index);
    require(w.shape.rank() == 2, "weight ", w.name, " has shape ", w.shape.to_string(), ", expected a matrix");
  }
  std::int64_t qkv_width() const { return plan_.model.q_width() + 2 * plan_.model.kv_width(); }
  void tokens_phase() const {
    require(step_ < plan_.first_sampled, "runs over tokens, but stands among the sampled steps");
  }

  void check_step(const EmbedStep& s) {
    tokens_phase();
    matrix(s.table);
    require(weight(s.table).shape[0] == plan_.model.vocab_size, "the table has ", weight(s.table).shape[0], " rows");
    write(s.out, weight(s.table).shape[1]);
  }
  void check_step(const RopeTableStep& s) {
    tokens_phase();
    require(buffer(s.out).dtype == DType::f32, "cos_sin must be f32");
    write(s.out, plan_.model.head_dim);
  }
  void check_step(const NormStep& s) {
    const std::int64_t width = buffer(s.x).width;
    read(s.x, width);
    vector(s.weight, width);
    write(s.y, width);
  }
  void check_step(const GemmStep& s) {
    matrix(s.b);
    const std::int64_t n = weight(s.b).shape[0];
    read(s.a, weight(s.b).shape[1]);
    if (s.bias != -1) vector(s.bias, n);
    require(s.bias == -1 || weight(s.bias).dtype == weight(s.b).dtype, "bias and matrix have different types");
    require(s.gate == Gate::none || (n % 2 == 0 && s.residual == -1), "a gate needs an even width and no residual");
    const std::int64_t width = s.gate == Gate::none ? n : n / 2;
    if (s.residual != -1) read(s.residual, width);
    require(s.residual == -1 || buffer(s.residual).dtype == buffer(s.d).dtype, "residual and output types differ");
    write(s.d, width);
    require(s.a != s.d, "input and output are the same buffer");
  }
  void check_step(const RopeAppendKvStep& s) {
    tokens_phase();
    check_layer(s.layer);
    read(s.qkv, qkv_width());
    read(s.cos_sin, plan_.model.head_dim);
    require(buffer(s.cos_sin).dtype == DType::f32 && buffer(s.qkv).dtype == plan_.activation, "wrong buffer types");
    require((s.q_norm == -1) == (s.k_norm == -1), "q_norm and k_norm come together");
    if (s.q_norm != -1) vector(s.q_norm, plan_.model.head_dim);
    if (s.k_norm != -1) vector(s.k_norm, plan_.model.head_dim);
    require(s.q_norm == -1 || weight(s.q_norm).dtype == weight(s.k_norm).dtype, "q_norm and k_norm types differ");
  }
  void check_step(const AttentionStep& s) {
    tokens_phase();
    check_layer(s.layer);
    read(s.qkv, qkv_width());
    write(s.out, plan_.model.q_width());
    require(buffer(s.qkv).dtype == plan_.activation && buffer(s.out).dtype == plan_.activation, "wrong buffer types");
  }
  void check_step(const GatherStep& s) {
    require(step_ >= plan_.first_sampled, "stands among the token steps");
    const BufferSpec& x = buffer(s.x);
    require(x.rows == Rows::tokens && x.dtype == buffer(s.out).dtype, "gathers from token rows of its own type");
    read(s.x, x.width, true);
    write(s.out, x.width);
  }

  const Plan& plan_;
  std::vector<bool> written_;
  int step_ = -1;
};

}  // namespace

void check_plan(const Plan& plan) {
  Checker(plan).check();
}

}  // namespace warpjet
