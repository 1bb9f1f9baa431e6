// What the emulator's tests share: kernels written as lambdas, correct ones and broken ones.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/sync.cuh"
#include "emulator/emulator.h"

#include <gtest/gtest.h>

#include <string>

namespace emu {

constexpr int kSeeds = 20;  // schedules that a test tries: what depends on luck must not need much of it

template <class Kernel>
void run(const Launch& launch, Kernel kernel) {
  emu::launch(launch, kernel);
}

// A sound kernel is sound in every order.
template <class Kernel, class Check>
void in_every_order(const Launch& launch, Kernel kernel, Check check) {
  for (int seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    set_seed(static_cast<std::uint64_t>(seed));
    run(launch, kernel);
    check();
  }
}

// A broken kernel is caught in every order, with these words.
template <class Kernel>
void expect_caught(const std::string& words, const Launch& launch, Kernel kernel) {
  for (int seed = 1; seed <= kSeeds; ++seed) {
    set_seed(static_cast<std::uint64_t>(seed));
    try {
      run(launch, kernel);
      ADD_FAILURE() << "not caught with seed " << seed << ": " << words;
    } catch (const Failure& failure) {
      EXPECT_NE(std::string(failure.what()).find(words), std::string::npos) << failure.what();
    }
  }
}

}  // namespace emu
