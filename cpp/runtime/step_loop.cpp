// The step loop on the engine thread: commands in, plans to the device, results back; and the engine's three ways to
// end: closed, failed, and not at all.
#include "runtime/step_loop.h"

#include <algorithm>

namespace warpjet {

namespace {

constexpr std::size_t kTraceEvents = 1 << 20;
constexpr Micros kPrefixPoll = 10'000;   // how often waits for a prefix are looked at when nothing else happens
constexpr int kMaxFruitlessTurns = 100;  // nothing runs, nothing is in flight, and yet nothing can be planned

SchedulerConfig scheduler_config(const StepLoop::Config& config) {
  const EngineConfig& e = config.engine;
  const bool swap = e.preemption_mode == "swap" || (e.preemption_mode == "auto" && config.num_host_blocks > 0);
  return {.max_num_seqs = e.max_num_seqs,
          .max_batched_tokens = e.max_num_batched_tokens,
          .max_in_flight = e.max_steps_in_flight,
          .chunked_prefill = e.enable_chunked_prefill,
          .policy = e.scheduling_policy,
          .admission_quantile = e.admission_quantile,
          .preemption = swap ? Preemption::swap : Preemption::recompute,
          .step_target = static_cast<Micros>(e.itl_target_ms * 1000)};
}

KvBlocks::Config kv_config(const StepLoop::Config& config) {
  return {.num_blocks = config.num_blocks,
          .num_host_blocks = config.num_host_blocks,
          .block_size = config.engine.block_size,
          .windows = config.windows,
          .prefix_caching = config.engine.enable_prefix_caching,
          .max_events = config.engine.kv_events,
          .hash_key = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()),
          .faults = config.faults};
}

}  // namespace

StepLoop::State::State(const Config& config, std::unique_ptr<Executor> executor, std::shared_ptr<Doorbell> bell)
    : config_(config),
      bell_(std::move(bell)),
      kv_(kv_config(config)),
      scheduler_(scheduler_config(config_), kv_),
      limits_(config_.engine),
      masks_(config_.engine.guide_timeout),
      executor_(std::move(executor)) {
  if (!config_.engine.trace.empty()) trace_ = std::make_unique<Trace>(config_.engine.trace, kTraceEvents);
  scheduler_.set_observer(trace_.get());
  started_ = now_ = now();
  progress_ = now_;
  publish_stats();
  if (!config_.manual) thread_ = std::thread([this] { run(); });
}

Micros StepLoop::State::now() const {
  if (config_.clock) return config_.clock->load(std::memory_order_relaxed);
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
}

// --- Engine thread ------------------------------------------------------------------------------------------------

void StepLoop::State::run() {
  for (;;) {
    const std::uint32_t seen = bell_->seen();
    const std::uint64_t before = launched_ + retired_ + commands_;
    if (!turn()) return;
    if (launched_ + retired_ + commands_ == before) wait(seen);
  }
}

bool StepLoop::State::turn() {
  if (health_.load(std::memory_order_relaxed) != Health::serving) return false;
  try {
    if (!closing_.load(std::memory_order_acquire)) {
      run_turn();
      return true;
    }
    health_.store(Health::closed, std::memory_order_release);
    end_all(FinishReason::abort, ErrorCode::closed, "the engine was closed");
  } catch (const std::exception& cause) {
    fail(cause);
  }
  if (trace_) write_trace();
  return false;
}

void StepLoop::State::run_turn() {
  take_commands();
  if (!deadlines_.empty()) expire();
  if (!unread_.empty()) watch_readers();
  retire_ready();
  if (!masks_.empty()) watch_guides();
  const bool planned = plan_ahead();
  require_progress(planned);
  publish_stats();
  outbox_.deliver();
  ended_.clear();
}

// A command stays in the inbox until it has been obeyed: when that fails, so does the engine, and answers it.
void StepLoop::State::take_commands() {
  inbox_.receive();
  now_ = now();  // not before any of these was submitted
  for (; !inbox_.empty(); inbox_.pop(), ++commands_) {
    obey(inbox_.front());
    if (config_.check) scheduler_.check();
  }
}

void StepLoop::State::obey(Command& command) {
  switch (command.kind) {
    case Kind::submit:
      return start(command);
    case Kind::cancel:
      return command.sample ? finish_sample(command.id, *command.sample)
                            : finish_request(command.id, FinishReason::abort);
    case Kind::pause:
      return set_paused(command.id, true);
    case Kind::resume:
      return set_paused(command.id, false);
    case Kind::guide:
      for (const Guidance& answer : command.answers) take_guidance(answer);
      return;
    case Kind::ask:
      return answer(*command.question);
  }
}

// What cannot be told for want of memory is the asker's loss, not the engine's.
void StepLoop::State::answer(Question& question) {
  try {
    question.answer();
    question.done.set_value();
  } catch (const std::bad_alloc&) {
    question.done.set_exception(std::current_exception());
  }
}

bool StepLoop::State::plan_ahead() {
  bool planned = false;
  while (scheduler_.num_in_flight() < config_.engine.max_steps_in_flight) {
    const Micros start = now_ = now();
    if (!scheduler_.schedule(batch_, start)) break;
    if (config_.check) scheduler_.check();
    launches_[batch_.step % launches_.size()] = {.planned = start,
                                                 .tokens = batch_.num_tokens,
                                                 .decodes = batch_.num_decodes,
                                                 .chunks = static_cast<int>(batch_.chunks.size())};
    launched_ = batch_.step;
    Micros& launched = launches_[batch_.step % launches_.size()].launched;
    executor_->launch(batch_);
    launched = now();
    planned = true;
  }
  return planned;
}

void StepLoop::State::retire_ready() {
  while (scheduler_.num_in_flight() > 0) {
    StepResult* result = executor_->poll();
    if (!result) return;
    if (config_.faults && config_.faults->hit()) WJ_FAIL(device, "injected fault: result");
    if (result->error) std::rethrow_exception(result->error);
    retire(*result);
  }
}

void StepLoop::State::retire(StepResult& result) {
  const Micros start = now_ = now();
  ++counters_.steps;
  ++retired_;
  outbox_.begin_step();
  const std::span<const Scheduler::Row> rows = scheduler_.retire(result.sampled, now_);
  scheduler_.observe_time(result.us);

  const bool watched = recorder_.begin_step(retired_, now_);
  const Launch& launch = launches_[retired_ % launches_.size()];
  int next_sample = 0, next_chunk = 0, index = 0;
  for (const Scheduler::Row& row : rows) {
    const bool is_chunk = index++ >= launch.decodes && row.count > 0;
    const Range scored = is_chunk ? result.scored.range(next_chunk++) : Range{};
    const int sampled = row.sampled ? next_sample++ : -1;
    if (!row.sequence) continue;
    Sample& sample = *static_cast<Sample*>(row.sequence->user);
    if (watched) recorder_.row({sample.live->id, sample.index, row.start, row.count});
    counters_.prompt_tokens += std::clamp(row.sequence->prompt_length - row.start, 0, row.count);
    if (sample.live->scheduled < 0) sample.live->scheduled = launch.planned;
    if (scored.count > 0) take_prompt_logprobs(*sample.live, row, result.scored, scored);
    if (sampled >= 0) take_sample(sample, result, sampled);
  }

  if (config_.check) scheduler_.check();
  record_step(result, rows.size(), start);
}

void StepLoop::State::record_step(const StepResult& result, std::size_t num_rows, Micros start) {
  const Launch& launch = launches_[retired_ % launches_.size()];
  const Micros device_us = static_cast<Micros>(result.us);
  recorder_.end_step(start - device_us, device_us);
  const Micros end = now();
  const Micros host_us = launch.launched - launch.planned + end - start;
  metrics_.step(launch.tokens, static_cast<int>(num_rows), result.us, static_cast<double>(host_us), result.idle_us);
  counters_.device_us += device_us;
  counters_.host_us += host_us;
  if (trace_) {
    trace_->step(retired_, launch.planned, launch.launched, start, result.us, launch.tokens, launch.decodes,
                 launch.chunks);
  }
  const Micros expected = expected_step_.load(std::memory_order_relaxed);
  expected_step_.store(expected + (device_us - expected) / 8, std::memory_order_relaxed);
  progress_.store(end, std::memory_order_relaxed);
}

// The progress rule's last resort: whoever goes first fits an empty pool, so if nothing is running, nothing in flight
// and nothing can be planned, the world is broken for the first in line, and the others need not wait for it.
void StepLoop::State::require_progress(bool planned) {
  const bool busy = scheduler_.num_in_flight() > 0 || scheduler_.num_running() > 0;
  if (!busy_.load(std::memory_order_relaxed) || planned || scheduler_.num_waiting() == 0) fruitless_turns_ = 0;
  if (planned && !busy_.load(std::memory_order_relaxed)) progress_.store(now_, std::memory_order_relaxed);
  // Who waits for a guide is no work of the engine's.
  const bool has_work = scheduler_.num_in_flight() > 0 || scheduler_.num_running() > scheduler_.num_held();
  busy_.store(has_work || scheduler_.num_waiting() > 0, std::memory_order_relaxed);
  if (busy) {
    const double idle = 1e-6 * static_cast<double>(now_ - progress_.load(std::memory_order_relaxed));
    WJ_REQUIRE(scheduler_.num_in_flight() == 0 || idle < config_.engine.watchdog_timeout, device,
               "the device has not finished a step for ", idle, " s (watchdog_timeout)");
    return;
  }
  if (planned || scheduler_.num_waiting() == 0 || ++fruitless_turns_ < kMaxFruitlessTurns) return;
  fruitless_turns_ = 0;
  if (const Sequence* first = scheduler_.first_waiting()) {
    finish_request(static_cast<Sample*>(first->user)->live->id, FinishReason::error, ErrorCode::out_of_memory,
                   "no KV blocks could be had for this request although nothing else is running");
  }
}

void StepLoop::State::wait(std::uint32_t seen) {
  std::chrono::nanoseconds timeout = std::chrono::seconds(1);
  if (!deadlines_.empty())
    timeout = std::min<std::chrono::nanoseconds>(timeout, deadlines_.begin()->first - Clock::now());
  if (!masks_.empty())
    timeout = std::min<std::chrono::nanoseconds>(timeout, std::chrono::microseconds(masks_.due() - now_));
  if (scheduler_.num_waiting() > 0)
    timeout = std::min<std::chrono::nanoseconds>(timeout, std::chrono::microseconds(kPrefixPoll));
  bell_->wait(seen, std::max(timeout, std::chrono::nanoseconds(0)));
}

// --- The ends -----------------------------------------------------------------------------------------------------

// The scheduler may have been left in the middle of a step: nobody touches it or its sequences again.
void StepLoop::State::fail(const std::exception& cause) {
  const Error* error = dynamic_cast<const Error*>(&cause);
  const bool memory = dynamic_cast<const std::bad_alloc*>(&cause) != nullptr;
  health_.store(Health::failed, std::memory_order_release);
  const ErrorCode code = error ? error->code() : memory ? ErrorCode::out_of_memory : ErrorCode::internal;
  for (auto& [id, live] : live_) {
    for (Sample& sample : live->samples) sample.sequence = nullptr;
  }
  outbox_.begin_step();
  // Each try answers some, and a request is answered once: so this ends, unless memory is gone for good.
  for (int tries = 0; tries < 100; ++tries) {
    try {
      end_all(FinishReason::error, code, cause.what());
      WJ_LOG(error, "engine failed: ", cause.what());
      return;
    } catch (const std::bad_alloc&) {
    }
  }
}

// After this nothing is live and nothing can be submitted.
void StepLoop::State::end_all(FinishReason reason, ErrorCode code, std::string_view error) {
  now_ = now();
  inbox_.close();
  for (; !inbox_.empty(); inbox_.pop()) {
    Command& command = inbox_.front();
    if (command.live) adopt(command.live);
    if (command.question) {
      const Error ended(ErrorCode::closed, cat("the engine is ", to_string(health())), __FILE__, __LINE__);
      command.question->done.set_exception(std::make_exception_ptr(ended));
    }
  }
  while (!live_.empty()) {
    const auto first = std::ranges::min_element(live_, {}, [](const auto& entry) { return entry.first; });
    finish_request(first->first, reason, code, error);
  }
  busy_.store(false, std::memory_order_relaxed);
  publish_stats();
  outbox_.deliver();
}

void StepLoop::State::write_trace() {
  try {
    trace_->write();
  } catch (const std::exception& e) {
    WJ_LOG(error, "the trace was not written: ", e.what());
  }
}

void StepLoop::State::publish_stats() {
  counters_.preemptions = scheduler_.num_preemptions();
  counters_.swaps = scheduler_.num_swaps();
  counters_.running = scheduler_.num_running();
  counters_.waiting = scheduler_.num_waiting();
  counters_.paused = scheduler_.num_paused();
  counters_.steps_in_flight = scheduler_.num_in_flight();
  counters_.kv_blocks = kv_.device().num_blocks() - 1;
  counters_.kv_blocks_used = kv_.device().num_held();
  counters_.kv_blocks_cached = kv_.device().num_cached();
  counters_.kv_host_blocks = kv_.host().num_blocks() - 1;
  counters_.kv_host_blocks_used = kv_.host().num_held() + kv_.host().num_cached();
  counters_.kv_blocks_offloaded = kv_.num_offloaded();
  counters_.kv_blocks_restored = kv_.num_restored();
  std::size_t i = 0;
  for_each_field<Stats>(
      [&](const auto& field) { published_[i++].store(counters_.*(field.member), std::memory_order_relaxed); });
}

}  // namespace warpjet
