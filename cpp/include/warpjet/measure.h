// Micro-benchmarks: the host side alone, on a device that computes nothing, and kernels alone, on a GPU.
#pragma once

#include <warpjet/config.h>
#include <warpjet/error.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace warpjet {

struct MeasureOptions {
  int repeats = 31;  // the median of so many is reported
  // Heap allocations of the calling thread so far, if the program counts them (by its own operator new).
  std::int64_t (*allocations)() = nullptr;
};

// Calls row(JSON text) for every row: {"bench": name, "batch": n, "host_us": us, ...}; host_us is for one operation.
//   step       one step of `batch` decoding requests, from results to the next plan: retire, outputs, plan
//   schedule   schedule() + retire() alone, with `waiting` requests that do not fit
//   evict      evict and take one block, with `blocks` in the pool
//   match      look up a cached prefix of `tokens` tokens
//   submit     hand over a request of 128 tokens;  admit: from there to its first scheduled step
WJ_API void measure_engine(const MeasureOptions& options, const std::function<void(const std::string&)>& row);

struct KernelMeasureOptions {
  std::vector<std::int64_t> rows = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};
  std::int64_t context = 1024;  // of each sequence that decodes
  bool all = false;             // every kernel that supports a problem, not only the one that the model would use
};

// Times every kernel of a model's steps on a GPU: up to 64 rows as decoding sequences, more as one prompt. Calls
// row(JSON text) for each: {"step", "op", "problem", "kernel", "rows", "us", "flops", "bytes"}, `us` as in a graph of
// eight launches over the weights of different layers; flops and bytes are the least that the problem needs. With
// config.load_format "dummy" a directory with config.json is enough. Throws unsupported on a CPU.
WJ_API void measure_kernels(const std::filesystem::path& model, const EngineConfig& config,
                            const KernelMeasureOptions& options, const std::function<void(const std::string&)>& row);

}  // namespace warpjet
