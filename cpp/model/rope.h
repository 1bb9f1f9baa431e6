// The rotary embedding as data, and its frequencies.
#pragma once

#include "core/core.h"

#include <string>
#include <vector>

namespace warpjet {

// Rotary embedding (Su et al. 2021) and how its frequencies are stretched beyond the trained context.
struct RopeSpec {
  std::string scaling = "none";  // none linear dynamic yarn llama3
  double theta = 10000.0;
  double factor = 1.0;
  int original_max_positions = 0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;
  double beta_fast = 32.0, beta_slow = 1.0;
  double attention_factor = 1.0;  // resolved: yarn's default and mscale are already applied
  bool truncate = true;

  static constexpr auto fields() {
    using C = RopeSpec;
    return std::tuple{Field{"scaling", &C::scaling, "none, linear, dynamic, yarn or llama3"},
                      Field{"theta", &C::theta, "base of the frequencies"},
                      Field{"factor", &C::factor, "stretch of the context"},
                      Field{"original_max_positions", &C::original_max_positions, "context before stretching"},
                      Field{"low_freq_factor", &C::low_freq_factor, "llama3"},
                      Field{"high_freq_factor", &C::high_freq_factor, "llama3"},
                      Field{"beta_fast", &C::beta_fast, "yarn"},
                      Field{"beta_slow", &C::beta_slow, "yarn"},
                      Field{"attention_factor", &C::attention_factor, "multiplies cos and sin"},
                      Field{"truncate", &C::truncate, "yarn: whole-number correction range"}};
  }
  bool operator==(const RopeSpec&) const = default;
};

// The rotary frequencies, [head_dim / 2] in fp32, as transformers computes them (rope.cpp). For "dynamic" these are the
// frequencies of text within original_max_positions; longer text is adjusted when it runs (ops RopeTable).
std::vector<float> rope_frequencies(const RopeSpec& rope, int head_dim);

}  // namespace warpjet
