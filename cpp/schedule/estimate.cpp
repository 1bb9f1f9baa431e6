// What the scheduler learns from what it has seen: how long outputs get, and how long steps take.
#include <algorithm>
#include <bit>
#include <cmath>

#include "schedule/schedule.h"

namespace warpjet {

// --- Lengths of outputs ---------------------------------------------------------------------------------------------

namespace {

constexpr float kForget = 0.999f;  // of a class, at each output: about the last thousand count

int class_of(int asked) {
  return std::bit_width(static_cast<unsigned>(std::max(asked, 1) - 1));  // 2^class >= asked
}

}  // namespace

void OutputLengths::add(int asked, int got) {
  const int c = std::min(class_of(asked), kClasses - 1);
  const std::int64_t width = std::int64_t{1} << c;
  const auto bin = static_cast<int>(std::clamp<std::int64_t>(got * std::int64_t{kBins} / width, 0, kBins - 1));
  for (float& count : bins_[c]) count *= kForget;
  totals_[c] = totals_[c] * kForget + 1;
  bins_[c][bin] += 1;
}

int OutputLengths::quantile(int asked, double q) const {
  const int c = std::min(class_of(asked), kClasses - 1);
  constexpr float kEnough = 8;
  if (totals_[c] < kEnough) return 0;
  const std::int64_t width = std::int64_t{1} << c;
  double below = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    below += bins_[c][bin];
    if (below < q * totals_[c]) continue;
    return static_cast<int>(std::min<std::int64_t>(asked, ceil_div<std::int64_t>((bin + 1) * width, kBins)));
  }
  return asked;
}

// --- Time of steps --------------------------------------------------------------------------------------------------

// A Kalman filter whose weights drift (Haykin, Adaptive Filter Theory, ch. 14), in units of one step, 256 tokens and
// 2^16 keys, so that the numbers are of one size. The drift makes it follow a machine that changes; about the last
// hundred steps count.
namespace {

constexpr double kTokenUnit = 256, kContextUnit = 65536;
constexpr double kNoise = 100, kDrift = 0.01, kMostUncertain = 1e8;  // variances, us^2

std::array<double, 3> features(double tokens, double context) {
  return {1, tokens / kTokenUnit, context / kContextUnit};
}

}  // namespace

StepTimeModel::StepTimeModel() {
  for (int i = 0; i < 3; ++i) covariance_[4 * i] = kMostUncertain;
}

void StepTimeModel::add(double tokens, double context, double us) {
  const std::array<double, 3> x = features(tokens, context);
  std::array<double, 3> px{};
  double variance = kNoise;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) px[i] += covariance_[3 * i + j] * x[j];
    variance += x[i] * px[i];
  }
  const double error = us - predict(tokens, context);
  for (int i = 0; i < 3; ++i) {
    weights_[i] += px[i] / variance * error;
    for (int j = 0; j < 3; ++j) covariance_[3 * i + j] -= px[i] * px[j] / variance;
    if (covariance_[4 * i] < kMostUncertain) covariance_[4 * i] += kDrift;
  }
  ++samples_;
}

double StepTimeModel::predict(double tokens, double context) const {
  const std::array<double, 3> x = features(tokens, context);
  return weights_[0] * x[0] + weights_[1] * x[1] + weights_[2] * x[2];
}

double StepTimeModel::tokens_within(double us, double tokens, double context) const {
  const double per_token = weights_[1] / kTokenUnit;
  const double left = us - predict(tokens, context);
  if (left <= 0) return 0;
  return per_token > 0 ? left / per_token : 1e9;
}

}  // namespace warpjet
