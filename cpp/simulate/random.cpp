// Random numbers that are the same with every standard library.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "simulate/simulate.h"

namespace warpjet::sim {

double Random::exponential() {
  return -std::log(uniform());
}

double Random::normal() {  // Box and Muller
  const double radius = std::sqrt(2 * exponential());
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

// Marsaglia and Tsang (2000), for a shape below 1 by way of shape + 1.
double Random::gamma(double shape) {
  const double d = shape + (shape < 1 ? 1 : 0) - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = normal(), v = std::pow(1 + c * x, 3);
    if (v <= 0 || std::log(uniform()) >= x * x / 2 + d * (1 - v + std::log(v))) continue;
    const double boost = shape < 1 ? std::pow(uniform(), 1 / shape) : 1;
    return d * v * boost / shape;
  }
}

double Random::log_normal(double median, double sigma) {
  return median * std::exp(sigma * normal());
}

int Random::zipf(int n) {  // inverse of log(1 + i) / log(1 + n)
  return std::clamp(static_cast<int>(std::exp(uniform() * std::log1p(n))) - 1, 0, n - 1);
}

}  // namespace warpjet::sim
