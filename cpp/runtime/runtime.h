// The runtime: requests in, outputs out.
//
// Threads. User threads touch the inbox and the output queues (both behind a mutex of their own) and atomics. The engine
// thread owns everything else: sequences, scheduler, blocks, tree, executor. It drains the inbox between steps, asks the
// scheduler for a batch, lets the executor run it, commits the result and hands outputs to their queues. A request's
// record lives from submit() to its last final output; that one place decides that it is the last.
#pragma once

#include <warpjet/engine.h>

#include "decode/decode.h"
#include "memory/memory.h"
#include "plan/plan.h"
#include "schedule/schedule.h"

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace warpjet {

// What the executor needs of a sequence besides its tokens.
struct SampleState {
  const SamplingParams* params = nullptr;
  std::uint64_t key = 0;
  std::span<const std::int32_t> banned_before_min;
  int logprobs = -1;
  int prompt_logprobs = -1;
};

// The result of one step: one entry per sampled chunk, and the scored prompt tokens of chunks that asked for them.
struct StepResult {
  std::vector<SampledRow> sampled;               // in order of the batch's sampled chunks
  std::vector<std::vector<SampledRow>> scored;   // by chunk: for tokens start+1 .. start+count that are prompt tokens
};

// Runs batches on a device. The seam between scheduling and computing: tests put a pure function here.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void execute(const Batch& batch, std::span<const SampleState> chunks, StepResult& result) = 0;
};

// The real one: inputs -> runner -> sampler.
class ModelExecutor final : public Executor {
 public:
  struct Config {
    std::int64_t max_tokens = 0, max_seqs = 0, max_sampled = 0, max_blocks_per_seq = 0;
    bool rope_by_length = false;  // "dynamic" rope scaling
  };
  ModelExecutor(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device);
  ~ModelExecutor() override;
  void execute(const Batch& batch, std::span<const SampleState> chunks, StepResult& result) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Where outputs wait for their reader.
struct OutputQueue::State {
  State();
  ~State();
  void push(std::vector<Output>&& batch);  // one wake-up a batch

  std::mutex mutex;
  std::condition_variable ready;
  std::vector<Output> outputs;
  int event_fd = -1;
};

}  // namespace warpjet
