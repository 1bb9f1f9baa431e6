// The arithmetic of the sampling kernels, as plain functions: the reference's bits.
#include "cuda/number.cuh"

#include "emulator/emulator.h"
#include "ops/sampling.h"

#include <gtest/gtest.h>

#include <cmath>

namespace warpjet {
namespace {

TEST(Number, NoiseHasTheBitsOfTheReference) {
  for (std::uint32_t position = 0; position < 4; ++position) {
    const std::uint64_t key = random_key(7, position);
    for (std::uint32_t token = 0; token < 200000; token += 4) {
      const auto words = philox(token / 4, position, key);
      for (int i = 0; i < 4; ++i) {
        const auto id = token + static_cast<std::uint32_t>(i);
        ASSERT_EQ(bit_cast<std::uint32_t>(noise_of(words[i])), bit_cast<std::uint32_t>(gumbel(key, position, id)))
            << "token " << id;
      }
    }
  }
}

TEST(Number, NoiseIsFiniteAtBothEnds) {
  EXPECT_NEAR(noise_of(0), 33 * std::log(2.0), 1e-5);
  EXPECT_NEAR(noise_of(0xffffffffu), -std::log(24 * std::log(2.0)), 1e-5);
}

TEST(Number, ExponentialsAndLogarithmsAreClose) {
  for (float x = -80; x < 80; x += 0.0137f) EXPECT_NEAR(exp_f32(x) / std::exp(static_cast<double>(x)), 1, 1e-6);
  for (float x = 1e-37f; x < 1e37f; x *= 1.37f) EXPECT_NEAR(log_f32(x), std::log(static_cast<double>(x)), 1e-5);
  EXPECT_EQ(mass_of(0.0f), 1u << 30);
  EXPECT_EQ(mass_of(-30.0f), 0u);
  EXPECT_EQ(mass_of(kNever), 0u);
}

TEST(Number, WhatIsNotFiniteNeverWins) {
  for (const float x : {kNever, -kNever, std::nanf("")}) EXPECT_EQ(finite_or_never(x), kNever);
  for (const float x : {kLargest, -kLargest, 0.0f}) EXPECT_EQ(finite_or_never(x), x);
}

}  // namespace
}  // namespace warpjet
