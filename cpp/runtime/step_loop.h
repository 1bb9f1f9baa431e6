// The step loop's state: private to step_loop.cpp (threads and steps) and lifecycle.cpp (the life of a request).
//
// A request is `live` from submit() until each of its samples has had its final output. Everything that ends a sample
// goes through finish(): it releases the sequence, marks the pending output as final, and drops the request with its
// last sample. Outputs collected during a step are handed over at its end, one wake-up a queue.
#pragma once

#include <array>
#include <atomic>
#include <future>
#include <map>
#include <thread>
#include <unordered_map>

#include "runtime/runtime.h"

namespace warpjet {

class StepLoop::State {
 public:
  State(const Config& config, std::unique_ptr<Executor> executor);
  ~State() { close(); }

  RequestId submit(Request request, std::shared_ptr<OutputQueue::State> queue);
  void cancel(RequestId id, std::optional<int> sample) {
    post({.kind = Command::Kind::cancel, .id = id, .sample = sample});
  }
  void reset_prefix_cache();
  Stats stats() const;
  Health health() const { return health_.load(std::memory_order_acquire); }
  void close();

 private:
  struct Live;
  struct Sample {
    Live* live = nullptr;
    int index = 0;
    Sequence* sequence = nullptr;  // owned by the scheduler
    bool ended = false;
    SampleState state;
    Output* pending = nullptr;  // this step's output, if any
    std::uint32_t outputs = 0;  // delivered so far
  };
  struct Live {
    RequestId id = 0;
    Request request;
    std::shared_ptr<OutputQueue::State> queue;
    std::vector<Sample> samples;
    int num_running = 0;
    std::vector<std::int32_t> banned_before_min;
    std::vector<std::vector<TokenLogprob>> prompt_logprobs;
    Clock::time_point submitted, scheduled{}, first_token{};
  };
  struct Command {
    enum class Kind : std::uint8_t { submit, cancel, reset_prefix_cache } kind;
    RequestId id = 0;
    std::optional<int> sample = std::nullopt;
    std::unique_ptr<Live> live = {};
    std::promise<void>* done = nullptr;
  };

  // User threads.
  bool reserve(std::int64_t tokens);
  void unreserve(std::int64_t tokens);
  void post(Command command);

  // Engine thread.
  void run();
  void run_until_closed();
  void step();
  bool take_commands();  // waits when there is nothing to do; false: closing
  void obey(Command& command);
  Live& adopt(std::unique_ptr<Live> live);
  void start(Live& live);
  std::unique_ptr<Sequence> make_sequence(const Live& live, int prompt_length) const;
  void expire();
  void retire();
  void take_prompt_logprobs(Live& live, const Chunk& chunk, std::size_t& next_scored);
  void take_token(Sample& sample, SampledRow& row);
  void finish(Sample& sample, FinishReason reason, ErrorCode code = ErrorCode::internal, std::string error = {});
  void finish_sample(RequestId id, int index);
  void finish_request(RequestId id, FinishReason reason, ErrorCode code = ErrorCode::internal, std::string error = {});
  void finish_all(FinishReason reason, ErrorCode code, const std::string& error);
  Output& pending_output(Sample& sample);
  void deliver();
  void publish_stats();

  const Config config_;
  std::unique_ptr<Executor> executor_;
  BlockPool pool_;
  PrefixTree tree_;
  Scheduler scheduler_;

  std::mutex inbox_mutex_;
  std::condition_variable inbox_ready_;
  std::vector<Command> inbox_;             // under inbox_mutex_
  bool closing_ = false;                   // under inbox_mutex_
  std::atomic<bool> inbox_filled_{false};  // spares the step loop the lock
  std::atomic<Health> health_{Health::serving};
  std::atomic<int> num_live_{0};
  std::atomic<std::int64_t> num_live_tokens_{0};
  std::atomic<RequestId> next_id_{1};

  std::unordered_map<RequestId, std::unique_ptr<Live>> live_;
  std::multimap<Clock::time_point, RequestId> deadlines_;
  std::vector<std::unique_ptr<Live>> ended_;  // kept until their outputs are delivered
  SequenceId next_sequence_ = 1;
  Batch batch_;
  std::vector<SampleState> states_;
  StepResult result_;
  std::vector<std::int32_t> tokens_;
  std::vector<Command> commands_;
  std::vector<std::pair<Sample*, std::unique_ptr<Output>>> outputs_;  // of this step
  std::vector<Output*> delivery_;

  Stats counters_;  // engine thread's copy
  std::array<std::atomic<std::int64_t>, std::tuple_size_v<decltype(Stats::fields())>> published_{};

  std::mutex close_mutex_;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace warpjet
