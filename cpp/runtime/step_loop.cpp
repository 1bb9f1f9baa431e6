// The step loop: commands in, batches through the executor, and the engine's three ways to end: closed, failed, and not
// at all.
#include <algorithm>

#include "runtime/step_loop.h"

namespace warpjet {

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

// --- User threads -------------------------------------------------------------------------------------------------

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

// --- Engine thread ------------------------------------------------------------------------------------------------

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

// --- The public face ----------------------------------------------------------------------------------------------

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
