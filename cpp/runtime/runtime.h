// The runtime: requests in, outputs out.
//
// Threads, and who owns what.
//   user threads   validate and submit requests, cancel, read outputs. They touch the inbox (lock-free, many writers),
//                  output queues (lock-free towards the engine) and atomics; nothing else.
//   engine thread  owns sequences, blocks, tree, policies and the record of every request. It plans step n+1 while the
//                  device runs step n, polls for results, and never waits for the device: when there is nothing to plan
//                  and nothing has come back it waits for the doorbell, which the inbox, the device and readers ring.
//   device thread  owns the runner: slots, KV tensors, weights. It takes plans in order and gives back results in
//   order.
// Plans and results live in a ring of `max_steps_in_flight` entries; an entry belongs to one side at a time. In a
// steady step nothing allocates, locks, logs or makes a system call.
//
// A request's record lives from submit() until its last final output was handed over and the last step that knew of it
// has retired. That a sample has ended, and that its resources are free, are two events: the final output goes out with
// the first, once, and nothing follows it.
#pragma once

#include <warpjet/engine.h>
#include <warpjet/snapshot.h>

#include "decode/decode.h"
#include "memory/kv_cache.h"
#include "plan/plan.h"
#include "schedule/schedule.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace warpjet {

// --- The device's side ----------------------------------------------------------------------------------------------

// What one step computed.
struct StepResult {
  std::vector<SampledRow> sampled;       // one per sample of the plan, in its order
  std::vector<SampledRow> scored;        // one per prompt token that follows a token of a chunk with prompt_logprobs
  std::vector<std::size_t> scored_ends;  // of each chunk of the plan: where its rows end in `scored`
  double us = 0;                         // how long the device worked on it
  std::exception_ptr error;              // the step failed; the rest is meaningless
};

// Runs plans in order: the seam between scheduling and computing. start() takes up a plan and returns at once where the
// device works by itself; done() tells, without waiting, whether the oldest started plan is through; finish() waits for
// it and completes its result. Plan and result stay where they are in between. Throws when the device fails. Tests put
// a pure function here, which does everything in start().
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  virtual void start(const StepPlan& plan, StepResult& result) = 0;
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
    int max_in_flight = 1;     // plans that are started and not finished
    int max_graph_tokens = 0;  // 0: no graphs
  };
  ModelRunner(const Config& config, Runner runner, KvCache kv, const Catalogs& catalogs, Device& device);
  ~ModelRunner() override;
  void start(const StepPlan& plan, StepResult& result) override;
  bool done() override;
  void finish() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// An in-order device as the engine thread sees it. launch() returns at once and takes the plan as it is (swapping it
// for an old one, whose memory is used again); poll() gives the oldest result that is there and has not been given yet,
// or null; it is valid until the next poll().
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void launch(StepPlan& plan) = 0;
  virtual StepResult* poll() = 0;
};

// A device that computes nothing: results are there at once, and every row draws a token that depends on its place in
// the text alone. The tokens are made up, from the middle of the vocabulary, and none of them ends a text.
class NullExecutor final : public Executor {
 public:
  // Throws invalid_argument when the vocabulary has nothing but end tokens.
  NullExecutor(int depth, int num_slots, const ModelInfo& model);
  void launch(StepPlan& plan) override;
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

// Runs a StepRunner on a thread of its own; rings the bell when a result is there. At most `depth` plans are in flight,
// launched or polled but not yet replaced. Destruction waits for the steps that were started.
class DeviceThread final : public Executor {
 public:
  DeviceThread(std::unique_ptr<StepRunner> runner, int depth, std::shared_ptr<Doorbell> bell,
               FaultPlan* faults = nullptr);
  ~DeviceThread() override;
  void launch(StepPlan& plan) override;
  StepResult* poll() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// --- Outputs --------------------------------------------------------------------------------------------------------

// How much of a request's output has been read. Belongs to its queue, from submit() until the reader took its last
// final output.
struct ReadCredit {
  std::atomic<std::int64_t> read{0};  // tokens, by the reader
  std::atomic<bool> wanted{false};    // the engine waits for the reader: ring
  std::shared_ptr<Doorbell> bell;     // the engine's
  int finals_left = 0;                // the reader's
};

// One thing that happened to a sample, as it travels to the reader, who assembles Outputs from them. A token without
// details is this alone, and costs no memory.
struct OutputEvent {
  RequestId id = 0;
  ReadCredit* credit = nullptr;
  std::int32_t sample = 0;
  std::int32_t token = -1;          // -1: none
  std::uint32_t sequence = 0;       // of the Output that it begins or continues: all events of a step share one
  std::unique_ptr<Output> details;  // log-probabilities, first-token and final facts; its tokens are unused
};

// Where outputs wait for their reader: one writer (the engine thread), readers behind a mutex of their own. The writer
// never waits: events go into segments that are used again.
struct OutputQueue::State {
  State();
  ~State();

  // User threads.
  ReadCredit* open(int samples, std::shared_ptr<Doorbell> bell);  // for a request that will be submitted
  void close(ReadCredit* credit);                                 // it was not, after all
  std::vector<Output> poll(std::chrono::nanoseconds timeout);

  // Engine thread. push() either takes the event or throws bad_alloc and leaves it as it was; publish() makes
  // everything that was pushed visible, with at most one wake-up.
  void push(OutputEvent&& event);
  void publish();

  bool in_delivery = false;  // the engine's: it has pushed and not published yet
  int event_fd = -1;
  struct Rest;
  std::unique_ptr<Rest> rest;
};

// --- What is measured -----------------------------------------------------------------------------------------------

// Counters and histograms of an engine. One writer, the engine thread; any reader. Nothing here allocates or locks
// while it counts.
class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds) : bounds_(bounds), counts_(bounds.size() + 1) {}
  void add(double value);
  std::span<const double> bounds() const { return bounds_; }
  std::int64_t count(std::size_t bucket) const { return counts_[bucket].load(std::memory_order_relaxed); }
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  std::span<const double> bounds_;  // ascending upper bounds; one more bucket for what is above
  std::vector<std::atomic<std::int64_t>> counts_;
  std::atomic<double> sum_{0};
};

class Metrics {
 public:
  Metrics();
  // What happened, told by the engine thread.
  void step(int tokens, int seqs, double device_us, double host_us, double idle_us);
  void first_token(double ttft_s);
  void next_token(double seconds);  // since the one before
  void finished(FinishReason reason, const SamplingParams& params, int prompt_tokens, int output_tokens,
                const RequestTimes& times);
  void rejected(ErrorCode code);  // any thread

  // The text exposition format of Prometheus: names "warpjet:*", labels model_name and engine; gauges from `stats`.
  std::string prometheus(const Stats& stats, std::string_view model_name) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// What the last steps did, for snapshots: kept in rings, and only while somebody looks. Engine thread. (snapshot.cpp)
class Recorder {
 public:
  // Somebody looks: records from here on, for a while. Throws bad_alloc, the first time.
  void watch(Micros now);
  bool watched(Micros now) const { return now < until_; }

  // A step has retired: its rows, and what happens in between, are its own; what happens later is the next one's.
  bool begin_step(std::uint64_t step, Micros now);  // false: nobody wants to know its rows
  void row(const Snapshot::Row& row);
  void end_step(Micros began, Micros us);

  void first_token(Snapshot::FirstToken event, Micros now);
  void finished(Snapshot::End event, Micros now);

  void read(std::uint64_t since_step, Snapshot& out) const;  // what is newer

 private:
  struct Step {
    std::uint64_t step = 0;
    Micros us = 0, began = 0;
    std::size_t rows = 0;
  };
  // The newest of what was pushed.
  template <class T>
  struct Ring {
    std::vector<T> items;
    std::size_t pushed = 0;
    void push(const T& item) { items[pushed++ % items.size()] = item; }
    T& newest() { return items[(pushed - 1) % items.size()]; }
    template <class Visit>
    void for_each(Visit visit) const {  // the oldest first: visit(item, its place)
      for (std::size_t i = pushed - std::min(pushed, items.size()); i < pushed; ++i) {
        visit(items[i % items.size()], i % items.size());
      }
    }
  };

  Micros until_ = 0;
  std::uint64_t step_ = 1;  // whose events are recorded now
  bool in_step_ = false;    // which is recorded
  Ring<Step> steps_;
  std::vector<Snapshot::Row> rows_;  // [kMaxSteps, kMaxRows], as steps_
  Ring<Snapshot::FirstToken> first_tokens_;
  Ring<Snapshot::End> ends_;
};

// What an engine did, step by step and request by request, as a Chrome trace ("JSON object format"), which Perfetto
// opens: one track for the device's steps, one for the host's, and one a request, whose spans are its states and why it
// was in them. Keeps the newest `max_events` in memory; writes them when asked. Engine thread.
class Trace final : public Observer {
 public:
  Trace(std::filesystem::path path, std::size_t max_events);
  ~Trace() override;
  void on_state(const Sequence& sequence, SequenceState from, Micros now) override;
  void step(std::uint64_t step, Micros planned, Micros launched, Micros retired, double device_us, int tokens,
            int decodes, int chunks);
  void write() const;  // throws io

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// --- The step loop --------------------------------------------------------------------------------------------------

// Throws invalid_argument or unsupported, naming the field, unless this engine can run the request. (request.cpp)
void validate_request(const Request& request, const EngineConfig& engine, const ModelInfo& model);

// Throws invalid_argument unless a mask has one bit for each token of the vocabulary, in whole words. (request.cpp)
void validate_mask(std::span<const std::int32_t> mask, const ModelInfo& model);
bool allows_any(std::span<const std::int32_t> mask, const ModelInfo& model);

// The step loop on its thread: inbox -> plan -> launch, poll -> retire -> outputs. An Engine is this plus a model;
// tests give it a runner of their own.
class StepLoop {
 public:
  struct Config {
    EngineConfig engine;  // resolved
    ModelInfo model;
    int num_blocks = 0;       // the null block included
    int num_host_blocks = 0;  // usable ones
    int window = 0;           // of every layer; 0 = some layer sees everything
    int rope_original = 0;    // "dynamic" rope: keys of a longer prompt depend on its length; 0 = they never do
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
