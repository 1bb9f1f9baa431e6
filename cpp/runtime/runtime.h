// The runtime: requests in, outputs out.
//
// Threads, and who owns what.
//   user threads   validate and submit requests, cancel, read outputs. They touch the inbox (lock-free, many writers),
//                  output queues (lock-free towards the engine) and atomics; nothing else.
//   engine thread  owns sequences, blocks, tree, policies and the record of every request. It plans step n+1 while the
//                  device runs step n, polls for results, and never waits for the device: when there is nothing to plan
//                  and nothing has come back it waits for the doorbell, which the inbox, the device and readers ring.
//   device thread  owns the runner: slots, KV tensors, weights. It takes batches in order and gives back results in
//   order.
// Batches and results live in a ring of `max_steps_in_flight` entries; an entry belongs to one side at a time. In a
// steady step nothing allocates, locks, logs or makes a system call.
//
// A request's record lives from submit() until its last final output was handed over. That a sample has ended, and that
// its slot and the object of its sequence are free, are two events: the final output goes out with the first, once, and
// nothing follows it.
#pragma once

#include <warpjet/engine.h>
#include <warpjet/snapshot.h>

#include "execute/execute.h"
#include "runtime/output_queue.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace warpjet {

// Throws invalid_argument or unsupported, naming the field, unless this engine can run the request. (request.cpp)
void validate_request(const Request& request, const EngineConfig& engine, const ModelInfo& model);

// Throws invalid_argument unless a mask has one bit for each token of the vocabulary, in whole words. (request.cpp)
void validate_mask(std::span<const std::int32_t> mask, const ModelInfo& model);
bool allows_any(std::span<const std::int32_t> mask, const ModelInfo& model);

// The step loop on its thread: inbox -> batch -> launch, poll -> retire -> outputs. An Engine is this plus a model;
// tests give it a runner of their own.
class StepLoop {
 public:
  struct Config {
    EngineConfig engine;  // resolved
    ModelInfo model;
    int num_blocks = 0;              // the null block included
    int num_host_blocks = 0;         // usable ones
    std::vector<int> windows = {0};  // of each group of layers; 0 = it sees everything
    int rope_original = 0;           // "dynamic" rope: keys of a longer prompt depend on its length; 0 = they never do
    // For tests and benches:
    FaultPlan* faults = nullptr;
    bool check = false;                          // every invariant after every transaction
    bool manual = false;                         // no engine thread: turn() drives the loop
    const std::atomic<Micros>* clock = nullptr;  // instead of the steady clock
  };
  StepLoop(const Config& config, std::unique_ptr<Executor> executor, std::shared_ptr<Doorbell> bell);
  ~StepLoop();  // close()

  // The contracts are those of Engine.
  RequestId submit(Request request, std::shared_ptr<OutputQueue::State> queue,
                   std::shared_ptr<OutputQueue::State> guide = nullptr);
  void cancel(RequestId id, std::optional<int> sample = std::nullopt);
  void pause(RequestId id);
  void resume(RequestId id);
  void guide(std::vector<Guidance> answers);
  void reset_prefix_cache();
  std::vector<KvEvent> kv_events(std::uint64_t number);
  Snapshot snapshot(std::uint64_t since_step);
  Stats stats() const;
  std::string metrics() const;
  Health health() const;
  void close();

  // Manual mode: one turn of the loop; false = it has ended.
  bool turn();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace warpjet