#include "model/model.h"

#include <algorithm>
#include <array>

namespace warpjet {
namespace {

constexpr double kMaxTokenId = 2147483647;

// Keys that leave what a decoder computes alone: names, training, output formats, defaults of text generation (which
// belong to generation_config.json).
constexpr auto kHarmlessKeys = std::to_array<std::string_view>({
    // identity and bookkeeping
    "transformers_version",
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "task_specific_params",
    "finetuning_task",
    "tokenizer_class",
    "prefix",
    "license",
    "unsloth_fixed",
    "unsloth_version",
    "transformers.js_config",
    "is_llama_config",
    "_from_model_config",
    "pad_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "max_sequence_length",
    "model_max_length",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "padding_side",
    "dtype",
    "torch_dtype",
    // training
    "initializer_range",
    "attention_dropout",
    "hidden_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "gradient_checkpointing",
    "router_aux_loss_coef",
    "neftune_noise_alpha",
    // how other programs run it: splitting a product over ranks or in time does not change it
    "pretraining_tp",
    "use_cache",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_flash_attn_2_enabled",
    "_experts_implementation",
    "experts_implementation",
    "torchscript",
    "use_bfloat16",
    "chunk_size_feed_forward",
    "tf_legacy_loss",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "is_decoder",
    "tie_last_hidden_states",
    // text generation
    "max_length",
    "min_length",
    "max_new_tokens",
    "do_sample",
    "early_stopping",
    "num_beams",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "num_beam_groups",
    "diversity_penalty",
});

// Runs a Json accessor; its complaint gets the key in front.
template <class T>
T typed(const std::string& source, std::string_view key, const Json& json, T (Json::*read)() const) {
  try {
    return (json.*read)();
  } catch (const Error& error) {
    WJ_FAIL(corrupt, source, ": ", key, ": ", error.message());
  }
}

// A null stands for a key that is absent, in the file as here.
Json overridden(Json config, std::string_view overrides) {
  if (overrides.empty() || !config.is_object()) return config;
  const Json changes = Json::parse(overrides, {.source = "hf_overrides"});
  WJ_REQUIRE(changes.is_object(), invalid_argument, "hf_overrides must be a JSON object, got ",
             to_string(changes.kind()));
  Json out{Json::Object{}};
  for (const auto& [key, value] : config.as_object()) {
    if (changes.find(key) == nullptr) out.set(key, value);
  }
  for (const auto& [key, value] : changes.as_object()) {
    if (!value.is_null()) out.set(key, value);
  }
  return out;
}

}  // namespace

HfConfig HfConfig::load(const std::filesystem::path& directory, std::string_view overrides) {
  const std::filesystem::path file = directory / "config.json";
  return from_json(overridden(Json::load(file), overrides), file.string());
}

HfConfig HfConfig::from_json(Json config, std::string source) {
  HfConfig out = object(std::move(config), std::move(source));
  WJ_REQUIRE(out.take("auto_map") == nullptr, unsupported, out.source_,
             ": auto_map: the checkpoint brings its own code, which is never run");
  out.read_quantisation();
  out.read_architecture();
  return out;
}

HfConfig HfConfig::object(Json json, std::string source) {
  WJ_REQUIRE(json.is_object(), corrupt, source, ": expected an object, got ", to_string(json.kind()));
  HfConfig out;
  out.json_ = std::move(json);
  out.source_ = std::move(source);
  return out;
}

void HfConfig::read_architecture() {
  const std::string type = text_or("model_type", "");
  if (const Json* names = take("architectures")) {
    const bool listed = names->is_array() && !names->as_array().empty() && names->as_array().front().is_string();
    WJ_REQUIRE(listed, corrupt, source_, ": architectures: expected a list of names, got ", quote(names->dump()));
    architecture_ = names->as_array().front().as_string();
  }
  for (const Family* family : families()) {
    if (architecture_.empty() && family->model_type == type) architecture_ = family->architecture;
    WJ_REQUIRE(architecture_ != family->architecture || type.empty() || type == family->model_type, corrupt, source_,
               ": model_type: ", quote(type), " contradicts architectures, which says ", architecture_);
  }
  if (architecture_.empty()) architecture_ = type;
  for (const Family* family : families()) {
    constexpr std::string_view kHead = "ForCausalLM";
    const std::string_view stem = family->architecture.substr(0, family->architecture.size() - kHead.size());
    if (architecture_ != cat(stem, "Model")) continue;
    architecture_ = family->architecture;
    headless_ = true;
  }
  WJ_REQUIRE(!architecture_.empty(), corrupt, source_, ": architectures: missing, and so is model_type");
}

const Json* HfConfig::take(std::string_view key) {
  const Json* value = json_.find(key);
  if (value == nullptr) return nullptr;
  taken_.emplace_back(key);
  return value->is_null() ? nullptr : value;
}

std::int64_t HfConfig::integer_or(std::string_view key, std::int64_t fallback, Limits limits) {
  const Json* json = take(key);
  if (json == nullptr) return fallback;
  const std::int64_t value = typed(source_, key, *json, &Json::as_int);
  const auto wide = static_cast<double>(value);
  WJ_REQUIRE(wide >= limits.low && wide <= limits.high, corrupt, source_, ": ", key, ": expected ", limits.low, " to ",
             limits.high, ", got ", value);
  return value;
}

double HfConfig::real_or(std::string_view key, double fallback, Limits limits) {
  const Json* json = take(key);
  if (json == nullptr) return fallback;
  const double value = typed(source_, key, *json, &Json::as_double);
  WJ_REQUIRE(value >= limits.low && value <= limits.high, corrupt, source_, ": ", key, ": expected ", limits.low,
             " to ", limits.high, ", got ", value);  // NaN is in no range
  return value;
}

std::int64_t HfConfig::integer(std::string_view key, Limits limits) {
  const Json* json = json_.find(key);
  WJ_REQUIRE(json != nullptr && !json->is_null(), corrupt, source_, ": ", key, ": missing");
  return integer_or(key, 0, limits);
}

double HfConfig::real(std::string_view key, Limits limits) {
  const Json* json = json_.find(key);
  WJ_REQUIRE(json != nullptr && !json->is_null(), corrupt, source_, ": ", key, ": missing");
  return real_or(key, 0, limits);
}

bool HfConfig::flag_or(std::string_view key, bool fallback) {
  const Json* json = take(key);
  return json == nullptr ? fallback : typed(source_, key, *json, &Json::as_bool);
}

std::string HfConfig::text_or(std::string_view key, std::string fallback) {
  const Json* json = take(key);
  return json == nullptr ? fallback : typed<const std::string&>(source_, key, *json, &Json::as_string);
}

std::vector<std::int32_t> HfConfig::token_ids(std::string_view key) {
  const Json* json = take(key);
  if (json == nullptr) return {};
  const Json::Array single{*json};
  std::vector<std::int32_t> ids;
  for (const Json& item : json->is_array() ? json->as_array() : single) {
    const std::int64_t id = typed(source_, key, item, &Json::as_int);
    WJ_REQUIRE(id >= 0 && id <= kMaxTokenId, corrupt, source_, ": ", key, ": expected token ids from 0, got ", id);
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

std::optional<DType> HfConfig::dtype() {
  const std::string old_name = text_or("torch_dtype", "auto");
  const std::string name = text_or("dtype", old_name);
  if (name == "auto") return std::nullopt;
  const std::optional<DType> dtype = dtype_from_string(name);
  WJ_REQUIRE(dtype && is_float(*dtype), unsupported, source_, ": ", has("dtype") ? "dtype" : "torch_dtype", ": ",
             quote(name), " is not supported; there are float32, float16 and bfloat16");
  return dtype;
}

HfConfig HfConfig::section(std::string_view key) {
  const Json* json = take(key);
  return object(json == nullptr ? Json(Json::Object{}) : *json, cat(source_, ": ", key));
}

void HfConfig::expect_flag(std::string_view key, bool value) {
  WJ_REQUIRE(flag_or(key, value) == value, unsupported, source_, ": ", key, ": only ", value ? "true" : "false",
             " is supported");
}

void HfConfig::expect_number(std::string_view key, double value) {
  constexpr double kAny = 1e300;
  const double found = real_or(key, value, {-kAny, kAny});
  WJ_REQUIRE(found == value, unsupported, source_, ": ", key, ": only ", value, " is supported, got ", found);
}

void HfConfig::expect_absent(std::string_view key) {
  WJ_REQUIRE(take(key) == nullptr, unsupported, source_, ": ", key, ": only null is supported");
}

void HfConfig::require_taken(std::span<const std::string_view> harmless) const {
  constexpr int kMostNamed = 8;
  std::string names;
  int count = 0;
  for (const auto& [key, value] : json_.as_object()) {
    const bool known =
        value.is_null() || taken(key) || std::find(harmless.begin(), harmless.end(), key) != harmless.end();
    if (known) continue;
    if (++count <= kMostNamed) names += cat(names.empty() ? "" : ", ", quote(key));
  }
  WJ_REQUIRE(count == 0, unsupported, source_, ": ", count, " unknown key(s) ", names,
             count > kMostNamed ? ", ..." : "", ": they may change the result");
}

bool HfConfig::taken(std::string_view key) const {
  return std::find(taken_.begin(), taken_.end(), key) != taken_.end();
}

std::vector<LayerKind> HfConfig::layer_kinds(std::size_t layers, const std::function<LayerKind(std::size_t)>& every) {
  std::vector<LayerKind> kinds;
  const Json* types = take("layer_types");
  if (types == nullptr) {
    for (std::size_t i = 0; i < layers; ++i) kinds.push_back(every(i));
    return kinds;
  }
  WJ_REQUIRE(types->is_array() && types->as_array().size() == layers, corrupt, source_,
             ": layer_types: expected a list of num_hidden_layers=", layers, " names");
  for (const Json& type : types->as_array()) {
    const std::string name = type.is_string() ? type.as_string() : type.dump();
    const bool sliding = name == to_string(LayerKind::sliding_attention);
    WJ_REQUIRE(sliding || name == to_string(LayerKind::full_attention), unsupported, source_,
               ": layer_types: ", quote(name), " is not supported; there are full_attention and sliding_attention");
    kinds.push_back(sliding ? LayerKind::sliding_attention : LayerKind::full_attention);
  }
  return kinds;
}

// What a family does not read of sliding windows must say what the family does.
void HfConfig::expect_windows(const ModelSpec& spec) {
  const auto slides = [](const LayerSpec& layer) { return layer.attention().window > 0; };
  const bool sliding = std::any_of(spec.layers.begin(), spec.layers.end(), slides);
  if (!taken("use_sliding_window")) expect_flag("use_sliding_window", sliding);
  const bool switched_off = take("use_sliding_window") != nullptr && !sliding;
  if (switched_off) {
    take("sliding_window");
    take("max_window_layers");
  }
  const Json* types = taken("layer_types") ? nullptr : take("layer_types");
  if (types == nullptr) return;
  const auto says = [&](const Json& type, const LayerSpec& layer) {
    return type.is_string() && type.as_string() == (slides(layer) ? "sliding_attention" : "full_attention");
  };
  const bool agree = types->is_array() && std::equal(types->as_array().begin(), types->as_array().end(),
                                                     spec.layers.begin(), spec.layers.end(), says);
  WJ_REQUIRE(agree, unsupported, source_, ": layer_types: ", spec.architecture, " has ",
             sliding ? "sliding_attention" : "full_attention", " in each of its ", spec.layers.size(), " layers");
}

void HfConfig::finish(const ModelSpec& spec) {
  expect_windows(spec);
  expect_flag("add_cross_attention", false);
  expect_flag("is_encoder_decoder", false);
  expect_flag("is_causal", true);
  expect_flag("rope_interleaved", false);
  expect_flag("tie_encoder_decoder", false);
  expect_flag("use_mrope", false);
  expect_number("partial_rotary_factor", 1);
  require_taken(kHarmlessKeys);
}

GenerationConfig load_generation_config(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "generation_config.json";
  if (!path_exists(file)) return {};
  // Its other keys are defaults of sampling, which Python reads.
  HfConfig config = HfConfig::object(Json::load(file), file.string());
  GenerationConfig out{.eos_token_ids = config.token_ids("eos_token_id"), .bos_token_id = std::nullopt};
  const std::vector<std::int32_t> bos = config.token_ids("bos_token_id");
  if (!bos.empty()) out.bos_token_id = bos.front();
  return out;
}

}  // namespace warpjet
