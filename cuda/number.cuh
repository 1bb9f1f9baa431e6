// exp, log and the noise of sampling, operation for operation as the reference computes them (ops/ref/number.h and
// sampling.cpp), without contraction on either side: they give the same bits.
#pragma once

#include "cuda/ptx/math.cuh"

namespace warpjet {

constexpr float kNever = -__builtin_huge_valf();
constexpr float kLargest = 0x1.fffffep127f;
constexpr float kSmallest = 0x1p-126f;  // the least normal float

WJ_DEVICE float finite_or_never(float logit) {
  return logit <= kLargest && logit >= -kLargest ? logit : kNever;
}

// Rounded twice.
WJ_DEVICE float multiply_add(float a, float b, float c) {
  return ptx::add(ptx::mul(a, b), c);
}

constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;

WJ_DEVICE float exp_f32(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the rounded integer in the low bits
  x = x < -160.0f ? -160.0f : x;
  x = x > 130.0f ? 130.0f : x;
  const float shifted = multiply_add(x, 0x1.715476p0f, kRound);
  const float n = ptx::add(shifted, -kRound);
  const float r = multiply_add(-n, kLn2Low, multiply_add(-n, kLn2High, x));
  float series = 1.0f / 5040;
  series = multiply_add(series, r, 1.0f / 720);
  series = multiply_add(series, r, 1.0f / 120);
  series = multiply_add(series, r, 1.0f / 24);
  series = multiply_add(series, r, 1.0f / 6);
  series = multiply_add(series, r, 0.5f);
  series = multiply_add(series, r, 1.0f);
  series = multiply_add(series, r, 1.0f);
  const int power = bit_cast<int>(shifted) - bit_cast<int>(kRound);
  const int half = power >> 1;
  const float low = bit_cast<float>((half + 127) << 23), high = bit_cast<float>((power - half + 127) << 23);
  return ptx::mul(ptx::mul(series, low), high);
}

// Of a positive normal x.
WJ_DEVICE float log_f32(float x) {
  constexpr std::uint32_t kRootHalf = 0x3f3504f3u;
  const std::uint32_t shifted = bit_cast<std::uint32_t>(x) - kRootHalf;
  const float e = static_cast<float>(static_cast<int>(shifted) >> 23);
  const float m = bit_cast<float>((shifted & 0x7fffffu) + kRootHalf);
  const float s = ptx::add(m, -1.0f) / ptx::add(m, 1.0f);
  const float square = ptx::mul(s, s);
  float series = 2.0f / 9;
  series = multiply_add(series, square, 2.0f / 7);
  series = multiply_add(series, square, 2.0f / 5);
  series = multiply_add(series, square, 2.0f / 3);
  series = ptx::mul(ptx::mul(series, square), s);
  return multiply_add(e, kLn2High, multiply_add(e, kLn2Low, ptx::add(series, ptx::mul(2.0f, s))));
}

// The mass of a token whose logit is x below the largest, in units of 2^-30.
WJ_DEVICE std::uint32_t mass_of(float x) {
  return static_cast<std::uint32_t>(multiply_add(exp_f32(x), 0x1p30f, 0.5f));
}

// Four words of Philox4x32-10: those of tokens 4 counter .. 4 counter + 3.
WJ_DEVICE Vec<std::uint32_t, 4> philox(std::uint32_t counter, std::uint32_t position, std::uint64_t key) {
  Vec<std::uint32_t, 4> c = {counter, position, 0, 0};
  std::uint32_t low = static_cast<std::uint32_t>(key), high = static_cast<std::uint32_t>(key >> 32);
  WJ_UNROLL
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xd2511f53u} * c[0], b = std::uint64_t{0xcd9e8d57u} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ low, static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ high, static_cast<std::uint32_t>(a)};
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
  return c;
}

// A standard Gumbel variate of a word.
WJ_DEVICE float noise_of(std::uint32_t word) {
  const float fraction = ptx::mul(ptx::add(static_cast<float>(word), 0.5f), 0x1p-32f);
  const float w = fraction < 0x1.fffffep-1f ? fraction : 0x1.fffffep-1f;
  const float u = ptx::add(1.0f, -w);
  const float lost = ptx::add(1.0f, -u);
  const float exponential = ptx::mul(-log_f32(u), w / (lost > 0.0f ? lost : 1.0f));
  return -log_f32(lost > 0.0f ? exponential : w);
}

}  // namespace warpjet
