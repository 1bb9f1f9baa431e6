// ModelSpec -> Plan: the forward pass of a decoder, in the order in which it runs. Query, key and value projections are
// one product, gate and up projections another; residuals are added by what writes them.
#include <utility>

#include "plan/builder.h"

namespace warpjet {
namespace {

Gate gate_of(const std::string& activation) {
  for (Gate gate : {Gate::silu, Gate::gelu, Gate::gelu_tanh, Gate::relu}) {
    if (to_string(gate) == activation) return gate;
  }
  WJ_FAIL(unsupported, "activation \"", activation, "\" of a gated MLP; supported: silu, gelu, gelu_tanh, relu");
}

int rope_original(const ModelSpec& model) {
  for (const RopeSpec& rope : model.ropes) {
    if (rope.scaling == "dynamic") return rope.original_max_positions;
  }
  return 0;
}

ModelFacts facts_of(const ModelSpec& model) {
  return {.architecture = model.architecture,
          .vocab_size = model.vocab_size,
          .hidden_size = model.hidden_size,
          .num_layers = static_cast<int>(model.layers.size()),
          .max_positions = model.max_positions,
          .rope_original = rope_original(model),
          .generates = model.generates,
          .eos_token_ids = model.eos_token_ids,
          .bos_token_id = model.bos_token_id};
}

class Planner {
 public:
  Planner(const ModelSpec& model, std::span<const WeightSlot> slots, const Scheme& scheme, DType kv,
          const Catalogs& catalogs, const DeviceInfo& device)
      : model_(model),
        act_(scheme.activation),
        kv_(kv),
        table_(scheme.format(Role::table).element),
        plan_(facts_of(model), slots, scheme, catalogs, device) {}

  Plan make() {
    x_ = tokens("x", model_.hidden_size);
    h_ = tokens("h", model_.hidden_size);
    plan_.begin_phase(kTokensPhase, Rows::tokens);
    plan_.add("embed", EmbedNode{.table = plan_.weight("embed"), .out = {x_}, .scale = embed_scale()});
    for (std::size_t r = 0; r < model_.ropes.size(); ++r) rope_table(static_cast<int>(r));

    for (std::size_t i = 0; i < model_.layers.size(); ++i) {
      const LayerSpec& layer = model_.layers[i];
      const std::string l = cat("layers.", i, ".");
      norm(l + "norm1", x_, h_);
      std::visit([&](const auto& mixer) { mix(l, layer, mixer); }, layer.mixer);
      norm(l + "norm2", x_, h_);
      std::visit([&](const auto& mlp) { feed_forward(l, layer, mlp); }, layer.mlp);
    }

    const BufferOperand last = plan_.buffer("last", act_, Rows::sampled, model_.hidden_size);
    plan_.begin_phase(kHiddenPhase, Rows::sampled);
    plan_.add("gather", GatherNode{.x = {x_}, .out = {last}});
    norm("norm", last, last);
    plan_.tap(kHiddenTap, last);

    const BufferOperand logits = plan_.buffer("logits", DType::f32, Rows::sampled, model_.vocab_size);
    plan_.begin_phase(kLogitsPhase, Rows::sampled);
    plan_.add("head", GemmNode{.a = {last}, .b = plan_.weight(model_.tied_head ? "embed" : "head"), .d = {logits}});
    plan_.tap(kLogitsTap, logits);
    return plan_.finish();
  }

 private:
  // In the type of the table, as transformers multiplies.
  double embed_scale() const {
    const auto scale = static_cast<float>(model_.embed_scale);
    float rounded = 0;
    std::uint32_t bits = 0;
    convert(&scale, DType::f32, &bits, table_, 1);
    convert(&bits, table_, &rounded, DType::f32, 1);
    return rounded;
  }

  // h_ -> x_ += attention(h_).
  void mix(const std::string& l, const LayerSpec& layer, const AttentionSpec& a) {
    const BufferOperand qkv = tokens("qkv", a.q_width() + 2 * a.kv_width()),
                        attended = tokens("attention", a.q_width());
    const int cache = plan_.cache({.kv_heads = a.kv_heads, .head_dim = a.head_dim, .window = a.window, .format = kv_});
    linear(l + "qkv", h_, qkv);
    plan_.add(l + "rope_append_kv", RopeAppendKvNode{.qkv = {qkv},
                                                     .cos_sin = {cos_sin(a.rope)},
                                                     .q_norm = plan_.optional_weight(l + "q_norm"),
                                                     .k_norm = plan_.optional_weight(l + "k_norm"),
                                                     .cache = cache,
                                                     .heads = a.heads,
                                                     .kv_heads = a.kv_heads,
                                                     .head_dim = a.head_dim,
                                                     .eps = model_.norm_eps});
    plan_.add(l + "attention", AttentionNode{.qkv = {qkv},
                                             .out = {attended},
                                             .cache = cache,
                                             .heads = a.heads,
                                             .kv_heads = a.kv_heads,
                                             .head_dim = a.head_dim,
                                             .window = a.window,
                                             .scale = a.scale});
    add_to_residual(l + "out", l + "mixer_norm", layer.order, attended);
  }

  // h_ -> x_ += down(gate(h_) * up(h_)).
  void feed_forward(const std::string& l, const LayerSpec& layer, const DenseMlp& mlp) {
    const BufferOperand gated = tokens("gated", mlp.width);
    linear(l + "gate_up", h_, gated, gate_of(mlp.activation));
    add_to_residual(l + "down", l + "mlp_norm", layer.order, gated);
  }

  // x_ += projection(from), normalised before the sum where the layer says so.
  void add_to_residual(const std::string& projection, const std::string& after, NormOrder order, BufferOperand from) {
    if (order == NormOrder::pre) return linear(projection, from, x_, Gate::none, OptionalIn{x_});
    linear(projection, from, h_);
    norm(after, h_, x_, OptionalIn{x_});
  }

  void linear(const std::string& name, BufferOperand from, BufferOperand to, Gate gate = Gate::none,
              OptionalIn residual = {}) {
    plan_.add(name, GemmNode{.a = {from},
                             .b = plan_.weight(name),
                             .bias = plan_.optional_weight(name + ".bias"),
                             .residual = residual,
                             .d = {to},
                             .gate = gate});
  }

  void norm(const std::string& name, BufferOperand from, BufferOperand to, OptionalIn residual = {}) {
    plan_.add(
        name,
        NormNode{.x = {from}, .weight = plan_.weight(name), .residual = residual, .y = {to}, .eps = model_.norm_eps});
  }

  // Angles for the layers that use this rope, which rotate whole heads of one width.
  void rope_table(int rope) {
    int dim = 0;
    for (const LayerSpec& layer : model_.layers) {
      const AttentionSpec& a = layer.attention();
      if (a.rope != rope) continue;
      WJ_CHECK(dim == 0 || dim == a.head_dim, "layers of rope ", rope, " have heads of ", dim, " and ", a.head_dim);
      dim = a.head_dim;
    }
    if (dim == 0) return;
    const std::string name = rope == 0 ? "rope_table" : cat("rope_table.", rope);
    const BufferOperand to = plan_.buffer(rope == 0 ? "cos_sin" : cat("cos_sin.", rope), DType::f32, Rows::tokens, dim);
    plan_.add(name, RopeTableNode{.cos_sin = {to}, .dim = dim, .rope = model_.ropes[rope]});
    cos_sin_.resize(model_.ropes.size());
    cos_sin_[rope] = to;
  }
  BufferOperand cos_sin(int rope) const { return cos_sin_.at(rope); }

  BufferOperand tokens(const std::string& name, std::int64_t width) {
    return plan_.buffer(name, act_, Rows::tokens, width);
  }

  const ModelSpec& model_;
  const DType act_, kv_, table_;
  PlanBuilder plan_;
  BufferOperand x_, h_;  // the residual stream, and what is made of it
  std::vector<BufferOperand> cos_sin_;
};

}  // namespace

Plan make_plan(const ModelSpec& model, std::span<const WeightSlot> slots, const Scheme& scheme, DType kv,
               const Catalogs& catalogs, const DeviceInfo& device) {
  return Planner(model, slots, scheme, kv, catalogs, device).make();
}

}  // namespace warpjet
