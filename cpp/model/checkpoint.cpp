#include "model/model.h"

#include <algorithm>
#include <set>

namespace warpjet {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kEmbedding = "model.embed_tokens.weight", kHead = "lm_head.weight";

// An id outside the vocabulary can never be drawn, and transformers only warns of it.
bool in_vocabulary(const ModelSpec& spec, std::int32_t id) {
  if (id < spec.vocab_size) return true;
  WJ_LOG(warn, "token id ", id, " of the config is outside the vocabulary of ", spec.vocab_size, "; it is ignored");
  return false;
}

// The model below the head has no head of its own: it embeds. A tied one is the embedding.
void read_head(const HfConfig& config, const SafeTensors& tensors, ModelSpec& spec) {
  const TensorEntry* embedding = tensors.find(kEmbedding);
  const bool base = config.headless() || (embedding != nullptr && embedding->name != kEmbedding);
  if (!base || spec.tied_head || tensors.find(kHead) != nullptr) return;
  WJ_LOG(warn, config.source(), ": the checkpoint has no ", kHead, "; it embeds text, and generates none");
  spec.tied_head = true;
  spec.generates = false;
}

ModelSpec read_spec(HfConfig& config, const fs::path& directory) {
  ModelSpec spec = find_family(config.architecture()).spec(config);
  const GenerationConfig generation = load_generation_config(directory);
  if (!generation.eos_token_ids.empty()) spec.eos_token_ids = generation.eos_token_ids;
  if (generation.bos_token_id) spec.bos_token_id = *generation.bos_token_id;
  std::erase_if(spec.eos_token_ids, [&](std::int32_t id) { return !in_vocabulary(spec, id); });
  if (!in_vocabulary(spec, spec.bos_token_id)) spec.bos_token_id = -1;
  return spec;
}

// The bytes of two tensors, compared piece by piece.
bool equal_bytes(const TensorEntry& a, const TensorEntry& b) {
  if (a.dtype != b.dtype || !(a.shape == b.shape)) return false;
  std::vector<std::byte> left, right;
  for (std::int64_t done = 0; done < a.bytes; done += kCopyPiece) {
    const auto count = static_cast<std::size_t>(std::min(kCopyPiece, a.bytes - done));
    left.resize(count);
    right.resize(count);
    a.file->read(a.offset + done, left);
    b.file->read(b.offset + done, right);
    if (left != right) return false;
  }
  return true;
}

// A checkpoint that asks for a tied head and yet brings another one: its weights win, as in transformers 5.
void untie_if_head_differs(const SafeTensors& tensors, ModelSpec& spec) {
  const TensorEntry* head = tensors.find(kHead);
  const TensorEntry* embedding = tensors.find(kEmbedding);
  if (!spec.tied_head || head == nullptr || embedding == nullptr || equal_bytes(*head, *embedding)) return;
  WJ_LOG(warn, "tie_word_embeddings is true, but ", kHead, " differs from the embedding; using ", kHead);
  spec.tied_head = false;
}

void check_part(const WeightSlot& slot, const WeightSlot::Part& part, const SafeTensors& tensors,
                const std::string& source) {
  const std::string& name = part.name;
  const TensorEntry* entry = tensors.find(name);
  WJ_REQUIRE(entry != nullptr, corrupt, source, ": tensor ", quote(name), " is missing");
  Shape expected = slot.shape;
  expected[0] = part.rows;
  WJ_REQUIRE(entry->shape == expected, corrupt, source, ": tensor ", quote(name), " has shape ",
             entry->shape.to_string(), ", but config.json asks for ", expected.to_string());
  if (!part.source.scaled()) {
    WJ_REQUIRE(is_float(entry->dtype), unsupported, source, ": tensor ", quote(name), " is ", to_string(entry->dtype),
               "; supported are f32, f16 and bf16");
    return;
  }
  WJ_REQUIRE(entry->dtype == part.source.element, corrupt, source, ": tensor ", quote(name), " is ",
             to_string(entry->dtype), ", but it has scales of ", to_string(part.source));
  const TensorEntry* scales = tensors.find(part.scales);
  const Shape blocks = part.source.scale_shape(expected);
  WJ_REQUIRE(scales->shape == blocks && is_float(scales->dtype), corrupt, source, ": tensor ", quote(scales->name),
             " is ", to_string(scales->dtype), " ", scales->shape.to_string(), ", expected floats ",
             blocks.to_string());
}

// A part of a matrix is quantised if its scales are there.
void find_scales(WeightSlot& slot, const QuantisedSource& from, const SafeTensors& tensors) {
  if (slot.role != Role::matrix) return;
  for (WeightSlot::Part& part : slot.parts) {
    const std::string scales = part.name + std::string(from.scale_suffix);
    if (tensors.find(scales) == nullptr) continue;
    part.source = from.format;
    part.scales = scales;
  }
}

// A tensor that no slot reads would change the result if it were meant to be used.
void check_left_over(const std::set<std::string_view>& used, const SafeTensors& tensors, const std::string& source) {
  constexpr int kMostNamed = 4;
  std::string names;
  int count = 0;
  for (const auto& [name, entry] : tensors.tensors()) {
    const bool known = used.contains(name) || name == kHead || name.ends_with("rotary_emb.inv_freq");
    if (!known && ++count <= kMostNamed) names += cat(names.empty() ? "" : ", ", quote(name));
  }
  WJ_REQUIRE(count == 0, corrupt, source, ": ", count, " tensor(s) have no place in this architecture: ", names,
             count > kMostNamed ? ", ..." : "");
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& directory, std::string_view overrides) {
  HfConfig config = HfConfig::load(directory, overrides);
  const std::optional<DType> dtype = config.dtype();
  Checkpoint out{.spec = read_spec(config, directory), .slots = {}, .tensors = SafeTensors::open(directory)};
  untie_if_head_differs(out.tensors, out.spec);
  read_head(config, out.tensors, out.spec);
  out.slots = find_family(out.spec.architecture).slots(out.spec);

  const std::string source = directory.string();
  std::set<std::string_view> used;
  for (WeightSlot& slot : out.slots) {
    if (config.quantised()) find_scales(slot, *config.quantised(), out.tensors);
    for (const WeightSlot::Part& part : slot.parts) {
      check_part(slot, part, out.tensors, source);
      used.insert(out.tensors.find(part.name)->name);
      if (part.source.scaled()) used.insert(out.tensors.find(part.scales)->name);
    }
  }
  check_left_over(used, out.tensors, source);
  out.dtype = dtype.value_or(out.tensors.find(kEmbedding)->dtype);
  out.scheme = config.quantised() ? config.quantised()->scheme : scheme_for(out.dtype).name;
  return out;
}

Checkpoint Checkpoint::without_weights(const fs::path& directory, std::string_view overrides) {
  HfConfig config = HfConfig::load(directory, overrides);
  const std::optional<DType> dtype = config.dtype();
  Checkpoint out{
      .spec = read_spec(config, directory), .dtype = dtype.value_or(DType::bf16), .slots = {}, .tensors = {}};
  out.scheme = config.quantised() ? config.quantised()->scheme : scheme_for(out.dtype).name;
  out.slots = find_family(out.spec.architecture).slots(out.spec);
  for (WeightSlot& slot : out.slots) {
    if (!config.quantised() || slot.role != Role::matrix) continue;
    for (WeightSlot::Part& part : slot.parts) part.source = config.quantised()->format;
  }
  return out;
}

void require_source(const Checkpoint& checkpoint, const Scheme& scheme) {
  WJ_REQUIRE(!scheme.weight.scaled() || checkpoint.scheme == scheme.name, unsupported, "scheme ", scheme.name,
             " needs a checkpoint that is quantised so; this one is ", checkpoint.scheme);
}

}  // namespace warpjet
