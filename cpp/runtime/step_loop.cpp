// The step loop and the life of a request.
//
// A request is `live` from submit() until each of its samples has had its final output. Everything that ends a sample
// goes through finish(): it releases the sequence, marks the pending output as final, and drops the request with its
// last sample. Outputs collected during a step are handed over at its end, one wake-up a queue.
#include <algorithm>
#include <array>
#include <atomic>
#include <future>
#include <map>
#include <thread>
#include <unordered_map>

#include "runtime/runtime.h"

namespace warpjet {
namespace {

double milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

}  // namespace

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

StepLoop::State::State(const Config& config, std::unique_ptr<Executor> executor)
    : config_(config),
      executor_(std::move(executor)),
      pool_(config.num_blocks),
      tree_(pool_, config.engine.block_size),
      scheduler_({.max_num_seqs = config.engine.max_num_seqs,
                  .max_batched_tokens = config.engine.max_num_batched_tokens,
                  .block_size = config.engine.block_size,
                  .prefix_caching = config.engine.enable_prefix_caching,
                  .chunked_prefill = config.engine.enable_chunked_prefill,
                  .policy = config_.engine.scheduling_policy},
                 pool_, tree_) {
  publish_stats();
  thread_ = std::thread([this] { run(); });
}

// --- User threads
// -----------------------------------------------------------------------------------------------------

RequestId StepLoop::State::submit(Request request, std::shared_ptr<OutputQueue::State> queue) {
  validate_request(request, config_.engine, config_.model);
  const auto tokens = static_cast<std::int64_t>(request.prompt.size());
  WJ_REQUIRE(reserve(tokens), overloaded, "the queue is full: limits are ", config_.engine.max_num_queued_reqs,
             " requests and ", config_.engine.max_num_queued_tokens,
             " prompt tokens; try again when some have finished");
  auto live = std::make_unique<Live>();
  const RequestId id = next_id_.fetch_add(1);
  live->id = id;
  live->request = std::move(request);
  live->queue = std::move(queue);
  live->submitted = Clock::now();
  try {
    post({.kind = Command::Kind::submit, .live = std::move(live)});
  } catch (...) {
    unreserve(tokens);
    throw;
  }
  return id;
}

bool StepLoop::State::reserve(std::int64_t tokens) {
  const bool room = (num_live_.fetch_add(1) < config_.engine.max_num_queued_reqs) &
                    (num_live_tokens_.fetch_add(tokens) + tokens <= config_.engine.max_num_queued_tokens);
  if (!room) unreserve(tokens);
  return room;
}

void StepLoop::State::unreserve(std::int64_t tokens) {
  num_live_.fetch_sub(1);
  num_live_tokens_.fetch_sub(tokens);
}

void StepLoop::State::post(Command command) {
  {
    const std::lock_guard lock(inbox_mutex_);
    if (closing_ || health() != Health::serving) {
      if (command.kind == Command::Kind::cancel) return;
      WJ_FAIL(closed, "the engine is ", to_string(health()), "; it takes no more requests");
    }
    inbox_.push_back(std::move(command));
    inbox_filled_.store(true, std::memory_order_release);
  }
  inbox_ready_.notify_one();
}

void StepLoop::State::reset_prefix_cache() {
  std::promise<void> done;
  post({.kind = Command::Kind::reset_prefix_cache, .done = &done});
  done.get_future().wait();
}

Stats StepLoop::State::stats() const {
  Stats stats;
  std::size_t i = 0;
  for_each_field<Stats>([&](const auto& field) {
    auto& value = stats.*(field.member);
    value = static_cast<std::remove_reference_t<decltype(value)>>(published_[i++].load(std::memory_order_relaxed));
  });
  return stats;
}

void StepLoop::State::close() {
  const std::lock_guard once(close_mutex_);
  {
    const std::lock_guard lock(inbox_mutex_);
    closing_ = true;
    inbox_filled_.store(true, std::memory_order_release);
  }
  inbox_ready_.notify_one();
  if (thread_.joinable()) thread_.join();
}

// --- Engine thread
// ------------------------------------------------------------------------------------------------------

void StepLoop::State::run() {
  try {
    run_until_closed();
    health_.store(Health::closed, std::memory_order_release);
    finish_all(FinishReason::abort, ErrorCode::closed, "the engine was closed");
  } catch (const std::exception& e) {
    const Error* error = dynamic_cast<const Error*>(&e);
    WJ_LOG(error, "engine failed: ", e.what());
    health_.store(Health::failed, std::memory_order_release);
    finish_all(FinishReason::error, error ? error->code() : ErrorCode::internal, e.what());
  }
}

void StepLoop::State::run_until_closed() {
  while (take_commands()) {
    for (Command& command : commands_) obey(command);
    commands_.clear();
    expire();
    if (!scheduler_.idle()) step();
    publish_stats();
    deliver();
  }
}

bool StepLoop::State::take_commands() {
  if (!scheduler_.idle() && !inbox_filled_.load(std::memory_order_acquire)) return true;
  std::unique_lock lock(inbox_mutex_);
  inbox_ready_.wait(lock, [&] { return closing_ || !inbox_.empty() || !scheduler_.idle(); });
  std::swap(inbox_, commands_);
  inbox_filled_.store(closing_, std::memory_order_release);
  return !closing_;
}

void StepLoop::State::obey(Command& command) {
  switch (command.kind) {
    case Command::Kind::submit:
      return start(adopt(std::move(command.live)));
    case Command::Kind::cancel:
      return command.sample ? finish_sample(command.id, *command.sample)
                            : finish_request(command.id, FinishReason::abort);
    case Command::Kind::reset_prefix_cache:
      pool_.drop_cached(tree_);
      command.done->set_value();
      command.done = nullptr;
  }
}

// From here on every sample of the request is owed a final output.
StepLoop::State::Live& StepLoop::State::adopt(std::unique_ptr<Live> owned) {
  Live& live = *owned;
  live_.emplace(live.id, std::move(owned));
  live.num_running = live.request.sampling.n;
  live.samples.resize(live.num_running);
  for (int i = 0; i < live.num_running; ++i) {
    live.samples[i].live = &live;
    live.samples[i].index = i;
  }
  if (live.request.deadline != Clock::time_point::max()) deadlines_.emplace(live.request.deadline, live.id);
  return live;
}

void StepLoop::State::start(Live& live) {
  const SamplingParams& p = live.request.sampling;
  const int vocab = config_.model.vocab_size;
  const auto resolved = [&](const std::optional<int>& count) {
    return !count ? -1 : *count < 0 ? vocab : std::min(*count, vocab);
  };
  if (!p.ignore_eos) live.banned_before_min = config_.model.eos_token_ids;
  live.banned_before_min.insert(live.banned_before_min.end(), p.stop_token_ids.begin(), p.stop_token_ids.end());

  // Without a seed of its own a request is seeded by the engine's seed and its number.
  const std::uint64_t seed =
      p.seed ? static_cast<std::uint64_t>(*p.seed)
             : random_key(static_cast<std::uint64_t>(config_.engine.seed), static_cast<std::uint32_t>(live.id));
  const SequenceId leader = next_sequence_;
  for (Sample& sample : live.samples) {
    sample.state = {.params = &p,
                    .key = random_key(seed, static_cast<std::uint32_t>(sample.index)),
                    .banned_before_min = live.banned_before_min,
                    .logprobs = resolved(p.logprobs),
                    .prompt_logprobs = sample.index == 0 ? resolved(p.prompt_logprobs) : -1};
    auto sequence = make_sequence(live, static_cast<int>(live.request.prompt.size()));
    sequence->id = next_sequence_++;
    // The logits of cached prompt tokens are gone, so whoever wants them computes the prompt anew.
    sequence->read_prefix_cache = !p.skip_reading_prefix_cache && sample.state.prompt_logprobs < 0;
    sequence->leader = sample.index == 0 ? 0 : leader;
    sequence->user = &sample;
    try {
      sample.sequence = &scheduler_.add(std::move(sequence));
    } catch (const Error& e) {
      return finish_request(live.id, FinishReason::error, e.code(), e.message());
    }
  }
}

std::unique_ptr<Sequence> StepLoop::State::make_sequence(const Live& live, int prompt_length) const {
  const SamplingParams& p = live.request.sampling;
  const std::int64_t limit = config_.model.max_model_len;
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = live.request.prompt;
  sequence->prompt_length = prompt_length;
  const std::int64_t wanted = p.max_tokens ? std::int64_t{prompt_length} + std::max(1, *p.max_tokens) : limit;
  sequence->max_length = static_cast<int>(std::min(limit, wanted));
  sequence->priority = live.request.priority;
  sequence->salt = live.request.cache_salt;
  if (config_.rope_original > 0 && prompt_length > config_.rope_original) {
    sequence->salt += cat('\0', "rope length ", prompt_length);
  }
  return sequence;
}

void StepLoop::State::expire() {
  if (deadlines_.empty()) return;
  const Clock::time_point now = Clock::now();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const RequestId id = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    finish_request(id, FinishReason::error, ErrorCode::deadline_exceeded, "the deadline has passed");
  }
}

void StepLoop::State::step() {
  scheduler_.schedule(batch_);
  if (batch_.chunks.empty()) return;
  states_.clear();
  const Clock::time_point now = Clock::now();
  for (const Chunk& chunk : batch_.chunks) {
    Sample& sample = *static_cast<Sample*>(chunk.sequence->user);
    states_.push_back(sample.state);
    if (sample.live->scheduled == Clock::time_point{}) sample.live->scheduled = now;
  }
  executor_->execute(batch_, states_, result_);
  retire();
}

void StepLoop::State::retire() {
  ++counters_.steps;
  tokens_.clear();
  for (const SampledRow& row : result_.sampled) tokens_.push_back(row.token);
  scheduler_.commit(batch_, tokens_);

  std::size_t next_sampled = 0, next_scored = 0;
  for (const Chunk& chunk : batch_.chunks) {
    Sample& sample = *static_cast<Sample*>(chunk.sequence->user);
    counters_.prompt_tokens += std::clamp(chunk.sequence->prompt_length - chunk.start, 0, chunk.count);
    if (sample.state.prompt_logprobs >= 0) take_prompt_logprobs(*sample.live, chunk, next_scored);
    if (chunk.sampled) take_token(sample, result_.sampled[next_sampled++]);
  }
}

// A preempted sequence computes its prompt again; the log-probabilities are kept by position, so twice is harmless.
void StepLoop::State::take_prompt_logprobs(Live& live, const Chunk& chunk, std::size_t& next_scored) {
  if (chunk.start >= chunk.sequence->prompt_length) return;
  live.prompt_logprobs.resize(live.request.prompt.size());
  for (int i = 0; i < num_scored(chunk); ++i) {
    live.prompt_logprobs[chunk.start + 1 + i] = std::move(result_.scored[next_scored++].logprobs);
  }
}

void StepLoop::State::take_token(Sample& sample, SampledRow& row) {
  Live& live = *sample.live;
  const SamplingParams& p = live.request.sampling;
  const Sequence& sequence = *sample.sequence;
  if (row.token < 0) {
    return finish(sample, FinishReason::error, ErrorCode::internal,
                  "the model gave no finite logit for the next token (broken weights, or every token banned)");
  }
  const bool first = live.first_token == Clock::time_point{};
  if (first) live.first_token = Clock::now();
  Output& output = pending_output(sample);
  if (p.max_tokens && *p.max_tokens == 0) return finish(sample, FinishReason::length);  // only the prompt was wanted

  output.tokens.push_back(row.token);
  if (sample.state.logprobs >= 0) output.logprobs.push_back(std::move(row.logprobs));
  ++counters_.generated_tokens;

  const auto contains = [&](const std::vector<std::int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), row.token) != ids.end();
  };
  if (sequence.output_length() >= p.min_tokens) {
    if (!p.ignore_eos && contains(config_.model.eos_token_ids)) return finish(sample, FinishReason::stop);
    if (contains(p.stop_token_ids)) {
      output.stop_token = row.token;
      return finish(sample, FinishReason::stop);
    }
  }
  if (sequence.length() >= sequence.max_length) finish(sample, FinishReason::length);
}

Output& StepLoop::State::pending_output(Sample& sample) {
  if (!sample.pending) {
    Live& live = *sample.live;
    outputs_.emplace_back(&sample, std::make_unique<Output>());
    sample.pending = outputs_.back().second.get();
    Output& output = *sample.pending;
    output.id = live.id;
    output.sample = sample.index;
    output.sequence = sample.outputs++;
    output.prompt_tokens = static_cast<int>(live.request.prompt.size());
    output.cached_tokens = sample.sequence ? sample.sequence->cached : 0;
    if (live.scheduled != Clock::time_point{}) output.queue_ms = milliseconds(live.scheduled - live.submitted);
    if (live.first_token != Clock::time_point{}) output.ttft_ms = milliseconds(live.first_token - live.submitted);
    if (sample.index == 0) output.prompt_logprobs = std::exchange(live.prompt_logprobs, {});
  }
  return *sample.pending;
}

void StepLoop::State::finish(Sample& sample, FinishReason reason, ErrorCode code, std::string error) {
  Output& output = pending_output(sample);
  output.finish = reason;
  output.error_code = code;
  output.error = std::move(error);
  ++counters_.finished;
  sample.ended = true;
  if (sample.sequence) {
    counters_.cached_tokens += sample.sequence->cached;
    // After a failure the scheduler may have been left in the middle of a step: nobody touches it again.
    if (health() != Health::failed) scheduler_.remove(*sample.sequence);
    sample.sequence = nullptr;
  }

  Live& live = *sample.live;
  if (--live.num_running > 0) return;
  unreserve(static_cast<std::int64_t>(live.request.prompt.size()));
  if (live.request.deadline != Clock::time_point::max()) {
    const auto [begin, end] = deadlines_.equal_range(live.request.deadline);
    const auto entry = std::find_if(begin, end, [&](const auto& item) { return item.second == live.id; });
    if (entry != end) deadlines_.erase(entry);
  }
  const auto found = live_.find(live.id);
  ended_.push_back(std::move(found->second));
  live_.erase(found);
}

void StepLoop::State::finish_sample(RequestId id, int index) {
  const auto found = live_.find(id);
  if (found == live_.end() || index < 0 || index >= std::ssize(found->second->samples)) return;
  Sample& sample = found->second->samples[index];
  if (!sample.ended) finish(sample, FinishReason::abort);
}

void StepLoop::State::finish_request(RequestId id, FinishReason reason, ErrorCode code, std::string error) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  Live& live = *found->second;
  for (Sample& sample : live.samples) {
    if (!sample.ended) finish(sample, reason, code, error);
  }
}

// Runs when the loop has ended: after this nothing is live and nothing can be submitted.
void StepLoop::State::finish_all(FinishReason reason, ErrorCode code, const std::string& error) {
  {
    const std::lock_guard lock(inbox_mutex_);
    closing_ = true;
    for (Command& command : inbox_) commands_.push_back(std::move(command));
    inbox_.clear();
  }
  for (Command& command : commands_) {
    if (command.live) adopt(std::move(command.live));
    if (command.done) command.done->set_value();
  }
  commands_.clear();
  std::vector<RequestId> ids;
  for (const auto& [id, live] : live_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (RequestId id : ids) finish_request(id, reason, code, error);
  publish_stats();
  deliver();
}

// One push, hence one wake-up, for each queue that has something.
void StepLoop::State::deliver() {
  const auto by_queue = [](const auto& a, const auto& b) { return a.first->live->queue < b.first->live->queue; };
  std::stable_sort(outputs_.begin(), outputs_.end(), by_queue);
  for (std::size_t i = 0; i < outputs_.size();) {
    OutputQueue::State* queue = outputs_[i].first->live->queue.get();
    delivery_.clear();
    for (; i < outputs_.size() && outputs_[i].first->live->queue.get() == queue; ++i) {
      outputs_[i].first->pending = nullptr;
      delivery_.push_back(outputs_[i].second.get());
    }
    queue->push(delivery_);
  }
  outputs_.clear();
  ended_.clear();
}

void StepLoop::State::publish_stats() {
  counters_.preemptions = scheduler_.num_preemptions();
  counters_.running = scheduler_.num_running();
  counters_.waiting = scheduler_.num_waiting();
  counters_.kv_blocks = pool_.num_blocks() - 1;
  counters_.kv_blocks_used = pool_.num_active();
  counters_.kv_blocks_cached = pool_.num_cached();
  std::size_t i = 0;
  for_each_field<Stats>(
      [&](const auto& field) { published_[i++].store(counters_.*(field.member), std::memory_order_relaxed); });
}

// --- The public face
// -----------------------------------------------------------------------------------------------------

StepLoop::StepLoop(const Config& config, std::unique_ptr<Executor> executor)
    : state_(std::make_unique<State>(config, std::move(executor))) {}
StepLoop::~StepLoop() = default;
RequestId StepLoop::submit(Request request, std::shared_ptr<OutputQueue::State> queue) {
  return state_->submit(std::move(request), std::move(queue));
}
void StepLoop::cancel(RequestId id, std::optional<int> sample) {
  state_->cancel(id, sample);
}
void StepLoop::reset_prefix_cache() {
  state_->reset_prefix_cache();
}
Stats StepLoop::stats() const {
  return state_->stats();
}
Health StepLoop::health() const {
  return state_->health();
}
void StepLoop::close() {
  state_->close();
}

}  // namespace warpjet
