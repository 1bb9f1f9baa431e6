// The step loop's state: private to front_door.cpp (user threads), step_loop.cpp (the engine thread's loop),
// lifecycle.cpp (the life of a request), beam.cpp (several hypotheses of one) and snapshot.cpp (what all that looks
// like).
//
// A request is `live` from submit() until each of its samples has had its final output. Everything that ends a sample
// goes through finish(): it hands over the final output and removes the sequence. The record goes at the end of that
// turn: steps in flight know nothing of it.
#pragma once

#include <array>
#include <functional>
#include <future>
#include <map>
#include <thread>
#include <unordered_map>

#include "observe/observe.h"
#include "runtime/live.h"
#include "runtime/masks.h"
#include "runtime/outbox.h"
#include "runtime/queue_limits.h"
#include "runtime/runtime.h"

namespace warpjet {

// Commands from user threads to the engine thread: a stack that many push to and one takes whole (Treiber 1986). Once
// closed it takes nothing, and nothing that it took is lost. Items are linked by their `next`.
template <class Item>
class Inbox {
 public:
  ~Inbox() {
    move_to_front(head_.load());
    while (!empty()) pop();
  }

  // Any thread. False: closed; the item is still the caller's.
  bool push(std::unique_ptr<Item>& item) {
    Item* head = head_.load(std::memory_order_relaxed);
    do {
      if (head == closed()) return false;
      item->next = head;
    } while (!head_.compare_exchange_weak(head, item.get(), std::memory_order_release, std::memory_order_relaxed));
    item.release();
    return true;
  }

  // The one taker: looks for news, then works from the front.
  void receive() {
    Item* head = head_.load(std::memory_order_relaxed);
    if (head != nullptr && head != closed()) move_to_front(head_.exchange(nullptr, std::memory_order_acquire));
  }
  void close() { move_to_front(head_.exchange(closed(), std::memory_order_acq_rel)); }
  bool empty() const { return front_ == nullptr; }
  Item& front() { return *front_; }
  void pop() { delete std::exchange(front_, front_->next); }

 private:
  Item* closed() const { return reinterpret_cast<Item*>(const_cast<Inbox*>(this)); }  // no item lies here

  void move_to_front(Item* newest) {
    if (newest == closed()) return;
    Item* oldest = nullptr;
    while (newest) {
      Item* next = std::exchange(newest->next, oldest);
      oldest = std::exchange(newest, next);
    }
    Item** end = &front_;
    while (*end) end = &(*end)->next;
    *end = oldest;
  }

  std::atomic<Item*> head_{nullptr};
  Item* front_ = nullptr;
};

class StepLoop::State {
  using QueueState = std::shared_ptr<OutputQueue::State>;

 public:
  State(const Config& config, std::unique_ptr<Executor> executor, std::shared_ptr<Doorbell> bell);
  ~State() { close(); }

  RequestId submit(Request request, QueueState queue, QueueState guide);
  void guide(std::vector<Guidance> answers);
  void cancel(RequestId id, std::optional<int> sample) { post({.kind = Kind::cancel, .id = id, .sample = sample}); }
  void pause(RequestId id) { post({.kind = Kind::pause, .id = id}); }
  void resume(RequestId id) { post({.kind = Kind::resume, .id = id}); }
  void reset_prefix_cache() {
    ask([&] { kv_.reset_cache(); });
  }
  std::vector<KvEvent> kv_events(std::uint64_t number);
  Snapshot snapshot(std::uint64_t since_step);
  Stats stats() const;
  std::string metrics() const { return metrics_.prometheus(stats(), config_.model.architecture); }
  Health health() const;
  void close();
  bool turn();

 private:
  static constexpr const char* kBrokenRow =
      "the model gave no finite logit for the next token (broken weights, or every token banned)";
  static constexpr const char* kNothingAllowed =
      "no token can follow: the guide's mask, allowed_token_ids, bad_words and min_tokens together leave none";
  enum class Kind : std::uint8_t { submit, cancel, pause, resume, guide, ask };
  // A function that the engine thread calls between two steps, while its caller waits.
  struct Question {
    std::function<void()> answer;
    std::promise<void> done;
  };
  struct Command {
    Kind kind = Kind::cancel;
    RequestId id = 0;
    std::optional<int> sample = std::nullopt;
    std::unique_ptr<Live> live = {};
    Question* question = nullptr;  // its caller's
    std::vector<Guidance> answers = {};
    Command* next = nullptr;
  };

  // User threads. (front_door.cpp)
  double seconds_a_request() const;
  std::unique_ptr<Live> make_live(Request request, QueueState queue, QueueState guide);
  void post(Command command);
  void ask(std::function<void()> answer);
  Micros now() const;

  // Engine thread: the loop. (step_loop.cpp)
  void run();
  void run_turn();
  void take_commands();
  void obey(Command& command);
  void answer(Question& question);
  void retire_ready();
  bool plan_ahead();
  void retire(StepResult& result);
  void record_step(const StepResult& result, std::size_t num_rows, Micros start);
  void require_progress(bool planned);
  void wait(std::uint32_t seen);
  void publish_stats();
  void fail(const std::exception& cause);
  void end_all(FinishReason reason, ErrorCode code, std::string_view error);
  void write_trace();

  // The life of a request. (lifecycle.cpp)
  void adopt(std::unique_ptr<Live>& owned);
  void start(Command& command);
  std::vector<std::unique_ptr<Sequence>> make_sequences(Live& live);
  std::unique_ptr<Sequence> make_sequence(Sample& sample, std::vector<std::int32_t> tokens);
  void expire();
  void watch_readers();
  void set_paused(RequestId id, bool paused);
  void apply_pause(Live& live);
  void take_guidance(const Guidance& answer);
  void watch_guides();
  void take_prompt_logprobs(Live& live, const Scheduler::Row& row, TokenRanges& scored, Range range);
  void take_sample(Sample& sample, StepResult& result, int index);
  void take_token(Sample& sample, std::int32_t token, std::vector<TokenLogprob> logprobs, int length);
  void first_token(const Live& live);
  void take_embedding(Sample& sample, std::vector<float> embedding);
  bool is_read(Live& live);
  void push_token(Sample& sample, std::int32_t token, std::unique_ptr<Output> details);
  std::unique_ptr<Output> make_details(const Sample& sample) const;
  void fill_details(const Sample& sample, Output& details) const;
  RequestTimes times_of(const Sample& sample) const;
  void finish(Sample& sample, FinishReason reason, ErrorCode code = ErrorCode::internal, std::string_view error = {},
              std::int32_t stop_token = -1);
  int output_length(const Sample& sample, const Sequence* sequence) const;
  void finish_sample(RequestId id, int index);
  void finish_request(RequestId id, FinishReason reason, ErrorCode code = ErrorCode::internal,
                      std::string_view error = {});
  void end(Live& live);

  // Beam search. (beam.cpp)
  void take_choices(Sample& sample, std::int32_t token, std::vector<TokenLogprob> logprobs);
  void advance_beams(Live& live);
  void finish_beams(Live& live);
  void add_hypothesis(Live& live, int beam, double score, std::int32_t last, bool ends);

  // For who watches. (snapshot.cpp)
  void take_snapshot(std::uint64_t since_step, Snapshot& out);
  void describe(const Sequence& sequence, Snapshot::Sequence& out) const;

  const Config config_;
  std::shared_ptr<Doorbell> bell_;
  KvBlocks kv_;
  Scheduler scheduler_;
  Metrics metrics_;
  Recorder recorder_;
  std::unique_ptr<Trace> trace_;

  Inbox<Command> inbox_;
  std::atomic<bool> closing_{false};
  std::atomic<Health> health_{Health::serving};
  std::atomic<RequestId> next_id_{1};
  QueueLimits limits_;

  std::unordered_map<RequestId, std::unique_ptr<Live>> live_;
  std::multimap<Clock::time_point, RequestId> deadlines_;
  std::vector<RequestId> unread_;  // requests that wait for their reader
  Masks masks_;
  std::vector<std::unique_ptr<Live>> ended_;  // until the turn is over; has room for all of live_
  Outbox outbox_;
  SequenceId next_sequence_ = 1;
  struct Launch {
    Micros planned = 0, launched = 0;
    int tokens = 0, decodes = 0, chunks = 0;
  };
  std::array<Launch, 4> launches_;  // of steps in flight, by step
  Batch batch_;
  Micros started_ = 0, now_ = 0;  // the engine; this turn
  std::uint64_t launched_ = 0, retired_ = 0;
  std::uint64_t commands_ = 0;
  int fruitless_turns_ = 0;

  Stats counters_;  // engine thread's copy
  std::array<std::atomic<std::int64_t>, std::tuple_size_v<decltype(Stats::fields())>> published_{};
  std::atomic<Micros> progress_{0}, expected_step_{0};
  std::atomic<bool> busy_{false};

  std::mutex close_mutex_;
  std::unique_ptr<Executor> executor_;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace warpjet
