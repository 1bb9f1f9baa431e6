// Micro-benchmarks of the host side alone, on a device that computes nothing: what the engine itself costs.
#pragma once

#include <warpjet/error.h>

#include <cstdint>
#include <functional>
#include <string>

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

}  // namespace warpjet
