// What an engine takes of its device's memory, decided before anything is allocated.
#pragma once

#include "execute/execute.h"

namespace warpjet {

struct MemoryPlan {
  std::int64_t budget = 0;  // what the engine may take in all
  std::int64_t weights = 0;
  std::int64_t activations = 0;  // and the workspace of kernels
  std::int64_t slots = 0;        // texts, block tables, sampling
  std::int64_t reserve = 0;      // kernels' code, graphs
  std::int64_t block_bytes = 0;
  std::int64_t num_blocks = 0;  // the null block included
  std::int64_t others() const { return weights + activations + slots + reserve; }
  std::int64_t kv() const { return num_blocks * block_bytes; }
};
std::string to_string(const MemoryPlan& plan);  // for the log: "weights 14.96 GiB, ..."

// Most likely tokens that a request may ask for. Throws unsupported when the device cannot report so many.
int most_logprobs(const EngineConfig& config, const ModelFacts& model, const DeviceInfo& device);

// The groups of the plan's layers, for texts as long as the engine takes.
KvLayout layout_of(const Plan& plan, const EngineConfig& config);

// Fills in what the configuration left to be chosen (max_model_len, sizes of the KV cache) and checks the
// rest against model and device. Throws invalid_argument, naming the fields to change and to what, when it does not
// fit.
MemoryPlan plan_memory(EngineConfig& config, const Plan& plan, const KvCache::Config& kv, const Catalogs& catalogs,
                       const DeviceInfo& device);

}  // namespace warpjet
