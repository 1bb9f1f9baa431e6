// Execution of steps: batches in, results out. The engine thread calls Executor; everything else runs on the device
// thread.
#pragma once

#include "decode/decode.h"
#include "memory/kv_cache.h"
#include "plan/plan.h"
#include "schedule/schedule.h"

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

namespace warpjet {

// What one step computed.
struct StepResult {
  TokenRanges sampled;  // of each sample of the batch; nothing where the text had ended, or is pooled
  TokenRanges scored;   // of each chunk with prompt_logprobs: the prompt's tokens that follow one of the chunk's
  std::vector<std::vector<float>> embeddings;  // of each sample, when one of them is pooled
  double us = 0;                               // how long the device worked on it
  double idle_us = -1;                         // the device had no work before it; negative: unknown
  std::exception_ptr error;                    // the step failed; the rest is meaningless
};

// Runs batches in order: the seam between scheduling and computing. start() takes up a batch and returns at once where
// the device works by itself; done() tells, without waiting, whether the oldest started batch is through; finish()
// waits for it and completes its result. Batch and result stay where they are in between. Throws when the device fails.
// Tests put a pure function here, which does everything in start().
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  virtual void start(const Batch& batch, StepResult& result) = 0;
  virtual bool done() { return true; }
  virtual void finish() {}
};

// How many tokens of a chunk have a following prompt token, hence a prompt log-probability.
int num_scored(const Chunk& chunk, int prompt_length);

// The real runner: slots -> rows -> forward -> sampler. Everything that a step needs of the steps before it stays on
// the device: the texts of the slots, their block tables and their sampling. So steps are started without knowing what
// the ones before computed, and steady decoding sends nothing to the device but the order to go on. Where the device
// has graphs, steps of up to `max_graph_tokens` are padded to a few sizes, and each size is captured when it is first
// needed. All memory is taken when it is made.
class ModelRunner final : public StepRunner {
 public:
  struct Config {
    int max_tokens = 0, max_seqs = 0, max_model_len = 0, num_slots = 0, max_logprobs = 0;
    int max_in_flight = 1;     // batches that are started and not finished
    int max_graph_tokens = 0;  // 0: no graphs
  };
  ModelRunner(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device);
  ~ModelRunner() override;
  void start(const Batch& batch, StepResult& result) override;
  bool done() override;
  void finish() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// An in-order device as the engine thread sees it. launch() returns at once and takes the batch as it is (swapping it
// for an old one, whose memory is used again); poll() gives the oldest result that is there and has not been given yet,
// or null; it is valid until the next poll().
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void launch(Batch& batch) = 0;
  virtual StepResult* poll() = 0;
};

// A device that computes nothing: results are there at once, and every row draws a token that depends on its place in
// the text alone. The tokens are made up, from the middle of the vocabulary, and none of them ends a text.
class NullExecutor final : public Executor {
 public:
  // Throws invalid_argument when the vocabulary has nothing but end tokens.
  NullExecutor(int depth, int num_slots, const ModelInfo& model);
  void launch(Batch& batch) override;
  StepResult* poll() override { return taken_ == launched_ ? nullptr : &results_[taken_++ % results_.size()]; }

 private:
  void apply(const SlotChange& change);
  std::int32_t draw(Slot slot, int length) {
    lengths_[slot] = length + 1;
    return tokens_[static_cast<std::size_t>(length) % kTokens];
  }

  static constexpr std::size_t kTokens = 4096;
  std::array<std::int32_t, kTokens> tokens_;  // by the length of the text so far
  std::vector<int> lengths_;                  // of the slots' texts
  std::vector<Slot> decoding_;
  std::vector<int> decode_indices_;  // of the slots
  std::vector<StepResult> results_;
  std::size_t launched_ = 0, taken_ = 0;
};

// Runs a StepRunner on a thread of its own; rings the bell when a result is there. At most `depth` batches are in
// flight, launched or polled but not yet replaced. Destruction waits for the steps that were started.
class DeviceThread final : public Executor {
 public:
  DeviceThread(std::unique_ptr<StepRunner> runner, int depth, std::shared_ptr<Doorbell> bell,
               FaultPlan* faults = nullptr);
  ~DeviceThread() override;
  void launch(Batch& batch) override;
  StepResult* poll() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace warpjet
