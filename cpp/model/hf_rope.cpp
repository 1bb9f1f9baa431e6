// The rotary embedding in a config.json. transformers 4 writes rope_theta beside rope_scaling {"type" or "rope_type",
// ...}; transformers 5 writes all of it into rope_parameters. Defaults and precedence are those of transformers 5.
#include "model/model.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace warpjet {
namespace {

constexpr double kMaxRopePositions = 1 << 30;
constexpr HfConfig::Limits kPositions{1, kMaxRopePositions};
constexpr HfConfig::Limits kPositive{1e-6, 1e6};
constexpr HfConfig::Limits kNotNegative{0, 1e6};
constexpr HfConfig::Limits kTheta{1.01, 1e15};  // 1 would rotate every pair alike and yarn divides by its logarithm

// Growth of the attention logits that keeps their entropy when the context is stretched (Peng et al. 2023,
// section 3.4).
double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double yarn_attention_factor(HfConfig& params, double factor) {
  const double mscale = params.real_or("mscale", 0, kNotNegative);
  const double mscale_all_dim = params.real_or("mscale_all_dim", 0, kNotNegative);
  const bool both = mscale > 0 && mscale_all_dim > 0;
  const double implied =
      both ? yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim) : yarn_mscale(factor, 1);
  return params.real_or("attention_factor", implied, kNotNegative);
}

// 0 means the default, as in transformers.
double beta(HfConfig& params, std::string_view key, double fallback) {
  const double value = params.real_or(key, fallback, kNotNegative);
  return value == 0 ? fallback : value;
}

int scaled(const HfConfig& params, double positions) {
  WJ_REQUIRE(positions >= 1 && positions <= kMaxRopePositions, corrupt, params.source(),
             ": factor: makes a context of ", positions, " tokens, expected 1 to ", kMaxRopePositions);
  return static_cast<int>(positions);
}

}  // namespace

// rope_parameters may hold an object for each kind of layer.
HfConfig HfConfig::rope_section(std::string_view key, LayerKind kind) {
  HfConfig all = section(key);
  const Json* own = all.json_.find(to_string(kind));
  if (own == nullptr || !own->is_object()) return all;
  HfConfig section = all.section(to_string(kind));
  all.require_taken(names_of(kind));
  return section;
}

RopeSpec HfConfig::sliding_rope(double theta) {
  HfConfig params = rope_section("rope_parameters", LayerKind::sliding_attention);
  const double outer = real_or("rope_local_base_freq", theta, kTheta);
  const std::string type = params.text_or("rope_type", "default");
  WJ_REQUIRE(type == "default", unsupported, params.source(), ": rope type ", quote(type),
             " of sliding layers is not supported; there is default");
  return {.theta = params.real_or("rope_theta", outer, kTheta)};
}

RopeSpec HfConfig::rope(int head_dim, int& max_positions, double theta) {
  const Json* old = take("rope_scaling");
  const bool has_old = old != nullptr && !(old->is_object() && old->as_object().empty());
  HfConfig unused = section(has_old ? "rope_parameters" : "rope_scaling");
  HfConfig params = rope_section(has_old ? "rope_scaling" : "rope_parameters", LayerKind::full_attention);

  const double outer_theta = real_or("rope_theta", theta, kTheta);
  RopeSpec rope{.theta = params.real_or("rope_theta", outer_theta, kTheta), .original_max_positions = max_positions};
  const std::string old_type = params.text_or("type", "default");
  const std::string type = params.text_or("rope_type", old_type);
  rope.scaling = type == "default" ? "none" : type;
  params.expect_number("partial_rotary_factor", 1);

  const std::int64_t inner = params.integer_or("original_max_position_embeddings", max_positions, kPositions);
  const std::int64_t original = integer_or("original_max_position_embeddings", inner, kPositions);
  if (type == "linear" || type == "dynamic") {
    rope.factor = params.real("factor", kPositive);
    max_positions = scaled(params, max_positions * rope.factor);
    WJ_REQUIRE(type != "dynamic" || head_dim > 2, unsupported, params.source(), ": dynamic needs head_dim above 2");
  } else if (type == "yarn") {
    rope.original_max_positions = static_cast<int>(original);
    const double ratio = static_cast<double>(max_positions) / static_cast<double>(original);
    rope.factor = params.real_or("factor", ratio, kPositive);
    rope.attention_factor = yarn_attention_factor(params, rope.factor);
    rope.beta_fast = beta(params, "beta_fast", 32);
    rope.beta_slow = beta(params, "beta_slow", 1);
    rope.truncate = params.flag_or("truncate", true);
    max_positions = std::max(max_positions, scaled(params, static_cast<double>(original) * rope.factor));
  } else if (type == "llama3") {
    rope.original_max_positions = static_cast<int>(original);
    rope.factor = params.real("factor", kPositive);
    rope.low_freq_factor = params.real("low_freq_factor", kPositive);
    rope.high_freq_factor = params.real("high_freq_factor", kPositive);
    WJ_REQUIRE(rope.high_freq_factor > rope.low_freq_factor, corrupt, params.source(),
               ": high_freq_factor: must be above low_freq_factor=", rope.low_freq_factor, ", got ",
               rope.high_freq_factor);
  } else {
    WJ_REQUIRE(type == "default", unsupported, params.source(), ": rope type ", quote(type),
               " is not supported; there are default, linear, dynamic, yarn and llama3");
  }
  // Parameters of one type under another have no effect in transformers either.
  constexpr auto kOthers = std::to_array<std::string_view>({"factor", "attention_factor", "beta_fast", "beta_slow",
                                                            "mscale", "mscale_all_dim", "truncate", "low_freq_factor",
                                                            "high_freq_factor", "finetuned"});
  params.require_taken(kOthers);
  return rope;
}

}  // namespace warpjet
