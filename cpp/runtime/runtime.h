// The runtime: requests in, outputs out.
//
// Threads. User threads touch the inbox and the output queues (both behind a mutex of their own) and atomics. The
// engine thread owns everything else: sequences, scheduler, blocks, tree, executor. It drains the inbox between steps,
// asks the scheduler for a batch, lets the executor run it, commits the result and hands outputs to their queues. A
// request's record lives from submit() to its last final output; that one place decides that it is the last.
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
#include <optional>
#include <span>
#include <vector>

namespace warpjet {

// What the executor needs to know of a chunk's request.
struct SampleState {
  const SamplingParams* params = nullptr;
  std::uint64_t key = 0;
  std::span<const std::int32_t> banned_before_min;  // tokens that may not be drawn before min_tokens are out
  int logprobs = -1;                                // most likely tokens to report with each token; -1 is none wanted
  int prompt_logprobs = -1;                         // the same for the prompt
};

// The result of one step.
struct StepResult {
  std::vector<SampledRow> sampled;  // one per sampled chunk, in order
  std::vector<SampledRow>
      scored;  // one per prompt token that follows a token of a chunk with prompt_logprobs, in order
};

// Runs batches on a device. The seam between scheduling and computing: tests put a pure function here.
class Executor {
 public:
  virtual ~Executor() = default;
  // states[i] belongs to batch.chunks[i].
  virtual void execute(const Batch& batch, std::span<const SampleState> states, StepResult& result) = 0;
};

// How many tokens of a chunk have a following prompt token, hence a prompt log-probability.
int num_scored(const Chunk& chunk);

// The real executor: batch -> inputs -> runner -> sampler.
class ModelExecutor final : public Executor {
 public:
  struct Config {
    int max_tokens = 0, max_seqs = 0, max_model_len = 0;
  };
  ModelExecutor(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device);
  ~ModelExecutor() override;
  void execute(const Batch& batch, std::span<const SampleState> states, StepResult& result) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Where outputs wait for their reader.
struct OutputQueue::State {
  State();
  ~State();
  void push(std::span<Output*> batch);  // moves them in; one wake-up a batch

  std::mutex mutex;
  std::condition_variable ready;
  std::vector<Output> outputs;
  int event_fd = -1;
};

// Throws invalid_argument or unsupported, naming the field, unless this engine can run the request. (request.cpp)
void validate_request(const Request& request, const EngineConfig& engine, const ModelInfo& model);

// The step loop on its thread: inbox -> schedule -> execute -> commit -> outputs. An Engine is this plus a model; tests
// give it an executor of their own.
class StepLoop {
 public:
  struct Config {
    EngineConfig engine;  // resolved
    ModelInfo model;
    int num_blocks = 0;
    int rope_original = 0;  // "dynamic" rope: keys of a longer prompt depend on its length; 0 = they never do
  };
  StepLoop(const Config& config, std::unique_ptr<Executor> executor);
  ~StepLoop();  // close()

  // The contracts are those of Engine.
  RequestId submit(Request request, std::shared_ptr<OutputQueue::State> queue);
  void cancel(RequestId id, std::optional<int> sample = std::nullopt);
  void reset_prefix_cache();
  Stats stats() const;
  Health health() const;
  void close();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace warpjet
