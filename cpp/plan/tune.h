// Kernels timed on their device, and the choice among them.
#pragma once

#include "plan/plan.h"

namespace warpjet {

// One kernel on one problem of a plan. `us` is the median of whole launches in a row, over the weights of several
// layers, so that none of them is still in a cache.
struct KernelTime {
  std::string step, op, problem, kernel;  // step: the first of those with this problem
  std::int64_t rows = 0;
  double us = 0, flops = 0, bytes = 0;
};

struct TuneOptions {
  std::vector<std::int64_t> rows = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};
  std::int64_t context = 1024;  // of each sequence that decodes, in attention
  std::int64_t block_size = 32;
  bool alternatives = true;   // every kernel that supports a problem; else the plan's own
  bool choices_only = false;  // only problems with more than one kernel
  int launches = 8, repeats = 5;
};

// Up to 64 rows are sequences that decode, more are one prompt. Takes the device memory of a runner and of a KV cache
// for the largest case, and gives it back. Needs a device with graphs.
std::vector<KernelTime> time_kernels(const Plan& plan, Weights weights, const Catalogs& catalogs, Device& device,
                                     const TuneOptions& options);

// The fastest kernel of each step for each number of rows that was timed.
void choose_tactics(Plan& plan, std::span<const KernelTime> times, std::int64_t block_size);

}  // namespace warpjet
