// The walk over a model's weights, and the names that checkpoints give them.
#include <array>

#include "model/model.h"

namespace warpjet {
namespace {

class Walk {
 public:
  explicit Walk(const ModelSpec& spec) : spec_(spec) {}

  std::vector<WeightSlot> slots() {
    table("embed");
    for (std::size_t i = 0; i < spec_.layers.size(); ++i) {
      const LayerSpec& layer = spec_.layers[i];
      const std::string l = cat("layers.", i, ".");
      const bool sandwich = layer.order == NormOrder::sandwich;
      gain(l + "norm1", spec_.hidden_size);
      std::visit([&](const auto& mixer) { add(l, mixer); }, layer.mixer);
      if (sandwich) gain(l + "mixer_norm", spec_.hidden_size);
      gain(l + "norm2", spec_.hidden_size);
      std::visit([&](const auto& mlp) { add(l, mlp); }, layer.mlp);
      if (sandwich) gain(l + "mlp_norm", spec_.hidden_size);
    }
    gain("norm", spec_.hidden_size);
    if (!spec_.tied_head) table("head");
    return std::move(slots_);
  }

 private:
  using Part = WeightSlot::Part;

  void add(const std::string& l, const AttentionSpec& a) {
    linear(l + "qkv", {{l + "q", a.q_width()}, {l + "k", a.kv_width()}, {l + "v", a.kv_width()}}, spec_.hidden_size,
           a.qkv_bias, Split::rows);
    if (a.qk_norm) {
      gain(l + "q_norm", a.head_dim);
      gain(l + "k_norm", a.head_dim);
    }
    linear(l + "out", {{l + "out", spec_.hidden_size}}, a.q_width(), a.out_bias, Split::columns);
  }
  void add(const std::string& l, const DenseMlp& m) {
    linear(l + "gate_up", {{l + "gate", m.width}, {l + "up", m.width}}, spec_.hidden_size, m.bias, Split::rows);
    linear(l + "down", {{l + "down", spec_.hidden_size}}, m.width, m.bias, Split::columns);
  }

  void table(const std::string& name) {
    slots_.push_back({.name = name,
                      .role = Role::table,
                      .split = Split::vocabulary,
                      .shape = {spec_.vocab_size, spec_.hidden_size},
                      .parts = {{.name = name + ".weight", .rows = spec_.vocab_size}}});
  }
  void gain(const std::string& name, std::int64_t width) {
    slots_.push_back({.name = name,
                      .role = Role::gain,
                      .split = {},
                      .shape = {width},
                      .parts = {{.name = name + ".weight", .rows = width}}});
  }
  // A projection made of parts stacked row-wise, then its bias if it has one. What ranks share by columns they add up,
  // so that every one of them has the bias.
  void linear(const std::string& name, const std::vector<Part>& parts, std::int64_t columns, bool bias, Split split) {
    WeightSlot weight{.name = name, .role = Role::matrix, .split = split, .shape = {}, .parts = {}};
    WeightSlot biases{.name = name + ".bias",
                      .role = Role::bias,
                      .split = split == Split::columns ? Split::replicated : split,
                      .shape = {},
                      .parts = {}};
    std::int64_t rows = 0;
    for (const Part& part : parts) {
      rows += part.rows;
      weight.parts.push_back({.name = part.name + ".weight", .rows = part.rows});
      biases.parts.push_back({.name = part.name + ".bias", .rows = part.rows});
    }
    weight.shape = {rows, columns};
    biases.shape = {rows};
    slots_.push_back(std::move(weight));
    if (bias) slots_.push_back(std::move(biases));
  }

  const ModelSpec& spec_;
  std::vector<WeightSlot> slots_;
};

constexpr auto kLlamaNames = std::to_array<NameRow>({
    {"embed", "model.embed_tokens"},
    {"layers.*.norm1", "model.layers.*.input_layernorm"},
    {"layers.*.q", "model.layers.*.self_attn.q_proj"},
    {"layers.*.k", "model.layers.*.self_attn.k_proj"},
    {"layers.*.v", "model.layers.*.self_attn.v_proj"},
    {"layers.*.q_norm", "model.layers.*.self_attn.q_norm"},
    {"layers.*.k_norm", "model.layers.*.self_attn.k_norm"},
    {"layers.*.out", "model.layers.*.self_attn.o_proj"},
    {"layers.*.norm2", "model.layers.*.post_attention_layernorm"},
    {"layers.*.gate", "model.layers.*.mlp.gate_proj"},
    {"layers.*.up", "model.layers.*.mlp.up_proj"},
    {"layers.*.down", "model.layers.*.mlp.down_proj"},
    {"norm", "model.norm"},
    {"head", "lm_head"},
});

// "layers.3.q.weight" -> {"layers.*.q", "3", ".weight"}.
struct SplitName {
  std::string row, layer, suffix;
};
SplitName split_name(const std::string& part) {
  constexpr std::string_view kLayers = "layers.";
  const std::size_t dot = part.rfind('.');
  SplitName out{.row = part.substr(0, dot), .layer = {}, .suffix = part.substr(dot)};
  if (!out.row.starts_with(kLayers)) return out;
  const std::size_t end = out.row.find('.', kLayers.size());
  out.layer = out.row.substr(kLayers.size(), end - kLayers.size());
  out.row.replace(kLayers.size(), end - kLayers.size(), "*");
  return out;
}

const NameRow& find_row(std::string_view ours, std::span<const NameRow> family) {
  for (const std::span<const NameRow> rows : {family, std::span<const NameRow>(kLlamaNames)}) {
    for (const NameRow& row : rows) {
      if (row.ours == ours) return row;
    }
  }
  WJ_FAIL(internal, "no name for the weight ", ours);
}

}  // namespace

bool WeightSlot::comes_as(const Format& format) const {
  for (const Part& part : parts) {
    const bool whole = &part == &parts.back() || part.rows % format.block_rows == 0;
    if (part.source != format || !whole) return false;
  }
  return true;
}

Format WeightSlot::format(const Scheme& scheme) const {
  if (parts.front().op == PartOp::add_one) return DType::f32;
  const Format wanted = scheme.format(role);
  return wanted.scaled() && !comes_as(wanted) ? Format(scheme.activation) : wanted;
}

std::vector<WeightSlot> weight_slots(const ModelSpec& spec) {
  return Walk(spec).slots();
}

std::span<const NameRow> llama_names() {
  return kLlamaNames;
}

std::vector<WeightSlot> named(std::vector<WeightSlot> slots, std::span<const NameRow> family) {
  for (WeightSlot& slot : slots) {
    for (WeightSlot::Part& part : slot.parts) {
      const SplitName name = split_name(part.name);
      const NameRow& row = find_row(name.row, family);
      part.name = cat(row.theirs, name.suffix);
      part.op = row.op;
      if (const std::size_t star = part.name.find('*'); star != std::string::npos)
        part.name.replace(star, 1, name.layer);
    }
  }
  return slots;
}

}  // namespace warpjet
