// Frequencies of the rotary embedding. Steps and roundings follow transformers, which works in fp32 with scalars in
// double: positions multiply the frequencies, so at position 100000 a relative error of 1e-7 is already 0.01 radians.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/model.h"

namespace warpjet {
namespace {

// theta^(2i/d), the inverse of the unstretched frequency of pair i.
std::vector<float> periods(double theta, int head_dim) {
  std::vector<float> out(static_cast<std::size_t>(head_dim) / 2);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    out[i] = static_cast<float>(std::pow(static_cast<double>(static_cast<float>(theta)), exponent));
  }
  return out;
}

// The pair that turns `rotations` times over the original context, as a real number.
double yarn_pair(const RopeSpec& rope, int head_dim, double rotations) {
  const double turns = rope.original_max_positions / (rotations * 2 * std::numbers::pi);
  return head_dim * std::log(turns) / (2 * std::log(rope.theta));
}

// YaRN (Peng et al. 2023): fast pairs keep their frequency, slow ones are divided by the factor, with a ramp between.
std::vector<float> yarn_frequencies(const RopeSpec& rope, int head_dim) {
  double low = yarn_pair(rope, head_dim, rope.beta_fast);
  double high = yarn_pair(rope, head_dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;  // a step instead of a division by zero
  std::vector<float> out = periods(rope.theta, head_dim);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float ramp = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    const float stretched = 1.0f / (static_cast<float>(rope.factor) * out[i]);
    out[i] = stretched * (1.0f - kept) + (1.0f / out[i]) * kept;
  }
  return out;
}

// Llama 3.1: the same idea with the ramp over wavelengths instead of pairs.
float llama3_frequency(const RopeSpec& rope, float frequency) {
  const auto low = static_cast<float>(rope.low_freq_factor), factor = static_cast<float>(rope.factor);
  const auto longest = static_cast<float>(rope.original_max_positions / rope.low_freq_factor);
  const auto shortest = static_cast<float>(rope.original_max_positions / rope.high_freq_factor);
  const float wavelength = (1.0f / frequency) * static_cast<float>(2 * std::numbers::pi);
  if (wavelength > longest) return frequency / factor;
  if (wavelength < shortest) return frequency;
  const auto ramp_width = static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  const float turns = (1.0f / wavelength) * static_cast<float>(rope.original_max_positions);
  const float smooth = (turns - low) / ramp_width;
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

std::vector<float> rope_frequencies(const RopeSpec& rope, int head_dim) {
  WJ_REQUIRE(head_dim >= 2 && head_dim % 2 == 0, invalid_argument, "rotary embedding needs an even head_dim, got ",
             head_dim);
  if (rope.scaling == "yarn") return yarn_frequencies(rope, head_dim);
  std::vector<float> out = periods(rope.theta, head_dim);
  for (float& value : out) value = 1.0f / value;
  if (rope.scaling == "linear") {
    for (float& frequency : out) frequency /= static_cast<float>(rope.factor);
  } else if (rope.scaling == "llama3") {
    for (float& frequency : out) frequency = llama3_frequency(rope, frequency);
  } else {
    WJ_REQUIRE(rope.scaling == "none" || rope.scaling == "dynamic", unsupported, "rope scaling ", quote(rope.scaling),
               " is not known");
  }
  return out;
}

}  // namespace warpjet
