// A history, run: one thread drives the engine, the device and the readers.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <mutex>
#include <set>

#include "history.h"
#include "history_guide.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
extern "C" void __sanitizer_set_death_callback(void (*callback)());
#else
static void __sanitizer_set_death_callback(void (*)()) {}
#endif

namespace warpjet::history {
namespace {

constexpr RequestId kUnknown = 1'000'000'000;

// What the engine logs as an error belongs to the run of this thread.
thread_local std::string* logged = nullptr;
void keep_errors(LogLevel level, std::string_view line) {
  if (level == LogLevel::error && logged && logged->size() + line.size() < 4000) logged->append(line).append("; ");
}

// A sanitizer ends the process: the script that it was running is all that is left.
thread_local const History* running = nullptr;
void print_running() {
  if (running) std::fprintf(stderr, "# the history that was running:\n%s", to_text(*running).c_str());
}

class Run {
 public:
  Run(const History& history, const Faults& faults)
      : history_(history),
        settings_(history.settings),
        faults_(faults),
        device_(device_config(settings_)),
        ledger_(ledger_config(settings_, faults.injected)) {
    for (auto& queue : queues_) queue = std::make_shared<OutputQueue::State>();
    guide_ = std::make_unique<ToyGuide>(device_config(settings_).rules);
    StepLoop::Config config = loop_config(settings_);
    config.faults = faults.device.plan;
    config.check = faults.check;
    config.clock = &clock_;
    config.engine.watchdog_timeout = faults.watchdog_s;
    auto executor = std::make_unique<StepwiseExecutor>(device_, settings_.depth, faults.device);
    executor_ = executor.get();
    loop_ = std::make_unique<StepLoop>(config, std::move(executor), std::make_shared<Doorbell>());
  }

  // Throws at the first thing that is wrong.
  void run() {
    for (const Command& command : history_.commands) obey(command);
    if (serving()) drain();
    if (serving()) check_empty();
    if (serving()) check_limits();
    if (!faults_.injected) WJ_CHECK(!failed(), "the engine failed");
    close();
    WJ_CHECK(ledger_.complete(), ledger_.num_live(), " samples have had no final output");
    WJ_CHECK(loop_->stats().finished == ledger_.num_finals(), "finished=", loop_->stats().finished, " got ",
             ledger_.num_finals());
    loop_.reset();
  }

  void report(Report& report) const;

 private:
  // Commands.
  void obey(const Command& command);
  void submit(int label, const Submission& submission);
  bool is_invalid(const Request& request) const;
  void check_refusal(const Error& error, const Request& request) const;
  void cancel(RequestId id, int sample);
  void pause(RequestId id, bool paused);
  void turn();
  void read(int queue);
  void guide(int count);
  void read_events();
  void reset();
  void close();
  RequestId id_of(int label) const;

  // Ends.
  void drain();
  void check_empty();
  void check_limits();
  bool failed() const { return loop_->health() == Health::failed; }
  bool serving() const { return !closed_ && !failed(); }

  const History& history_;
  const Settings& settings_;
  const Faults& faults_;
  std::atomic<Micros> clock_{1'000'000};
  ToyDevice device_;
  Ledger ledger_;
  std::array<std::shared_ptr<OutputQueue::State>, kNumQueues> queues_;
  std::unique_ptr<ToyGuide> guide_;
  std::unique_ptr<StepLoop> loop_;  // after what it works with
  StepwiseExecutor* executor_ = nullptr;
  std::map<int, RequestId> ids_;
  std::map<RequestId, int> labels_;
  std::map<RequestId, bool> paused_;
  bool closed_ = false;
  std::uint64_t next_event_ = 0;
  bool events_lost_ = false;
  std::array<std::set<std::pair<std::uint64_t, int>>, kNumTiers> cached_;  // by key and group, as the events tell it
  Stats stats_;
  Totals totals_;
};

// --- Commands -------------------------------------------------------------------------------------------------------

void Run::obey(const Command& command) {
  ++totals_.commands;
  switch (command.kind) {
    case Command::Kind::submit:
      return submit(command.a, command.submission);
    case Command::Kind::cancel:
      return cancel(id_of(command.a), command.b);
    case Command::Kind::pause:
      return pause(id_of(command.a), true);
    case Command::Kind::resume:
      return pause(id_of(command.a), false);
    case Command::Kind::turn:
      for (int i = 0; i < command.a; ++i) turn();
      return;
    case Command::Kind::complete:
      for (int i = 0; i < command.a; ++i) executor_->complete();
      return;
    case Command::Kind::step:
      for (int i = 0; i < command.a; ++i) {
        executor_->complete();
        turn();
      }
      return;
    case Command::Kind::read:
      return read(command.a % kNumQueues);
    case Command::Kind::clock:
      clock_ += command.a;
      return;
    case Command::Kind::reset:
      return reset();
    case Command::Kind::events:
      return read_events();
    case Command::Kind::guide:
      return guide(command.a);
    case Command::Kind::close:
      totals_.closes += serving();
      return close();
  }
}

RequestId Run::id_of(int label) const {
  const auto found = ids_.find(label);
  return found == ids_.end() ? kUnknown + label : found->second;
}

void Run::submit(int label, const Submission& submission) {
  const Request request = make_request(submission, device_config(settings_).rules, clock_.load());
  const auto guides = request.mask.empty() ? nullptr : guide_->queue();
  RequestId id = 0;
  try {
    id = loop_->submit(request, queues_[submission.queue % kNumQueues], guides);
  } catch (const Error& error) {
    ++totals_.refused;
    return check_refusal(error, request);
  }
  WJ_CHECK(serving() && !is_invalid(request), "request ", label, " was accepted");
  ids_[label] = id;
  labels_[id] = label;
  ledger_.accepted(request, id, submission.queue % kNumQueues);
  if (guides) guide_->accepted(request, id);
  ++totals_.requests;
}

bool Run::is_invalid(const Request& request) const {
  const auto& p = request.prompt;
  return p.empty() || std::cmp_greater_equal(p.size(), settings_.model_len) ||
         std::ranges::any_of(p, [](int token) { return token < 0 || token >= kVocab; }) ||
         request.sampling.max_tokens.value_or(0) > settings_.model_len ||
         (request.priority != 0 && settings_.policy == 0) ||
         request.sampling.beam_width > std::max(1, std::min(settings_.seqs, settings_.batch));
}

void Run::check_refusal(const Error& error, const Request& request) const {
  switch (error.code()) {
    case ErrorCode::invalid_argument:
      WJ_CHECK(is_invalid(request), error.what());
      return;
    case ErrorCode::closed:
      WJ_CHECK(!serving(), error.what());
      return;
    case ErrorCode::overloaded: {
      const int limit = settings_.queued_tenant;
      const bool full = ledger_.live_requests() >= settings_.queued ||
                        ledger_.live_tokens() + std::ssize(request.prompt) > settings_.queued_tokens ||
                        (limit > 0 && ledger_.live_requests(&request.tenant) >= limit);
      WJ_CHECK(full, error.what());
      return;
    }
    default:
      WJ_FAIL(internal, error.what());
  }
}

void Run::cancel(RequestId id, int sample) {
  ++totals_.cancels;
  const auto which = sample < 0 ? std::nullopt : std::optional(sample);
  loop_->cancel(id, which);
  ledger_.canceled(id, which);
}

void Run::pause(RequestId id, bool paused) {
  ++totals_.pauses;
  paused_[id] = paused;
  paused ? loop_->pause(id) : loop_->resume(id);
}

void Run::turn() {
  ++totals_.turns;
  clock_ += settings_.turn_us;
  const bool was_serving = serving();
  const bool goes_on = faults_.turn ? faults_.turn(*loop_) : loop_->turn();
  WJ_CHECK(goes_on == serving() && (was_serving || !goes_on), "turn() says ", goes_on, ", health is ",
           to_string(loop_->health()));
  ledger_.turned(clock_.load());
  if (failed()) ledger_.closed();
  WJ_CHECK(faults_.injected || !failed(), "the engine failed");
  const Stats stats = loop_->stats();
  WJ_CHECK(stats.running <= settings_.seqs && stats.steps_in_flight <= settings_.depth, "running=", stats.running);
  WJ_CHECK(stats.kv_blocks_used + stats.kv_blocks_cached <= stats.kv_blocks, "used=", stats.kv_blocks_used);
}

void Run::read(int queue) {
  ledger_.take_all(queues_[queue]->poll(std::chrono::nanoseconds(0)), queue);
}

void Run::guide(int count) {
  const std::vector<Guidance> answers = guide_->answer(count);
  for (const Guidance& answer : answers) {
    totals_.masks += answer.kind == Guidance::Kind::go_on;
    totals_.completed += answer.kind == Guidance::Kind::stop;
    totals_.dead_ends += answer.kind == Guidance::Kind::fail;
  }
  if (!answers.empty()) loop_->guide(answers);
}

// The events, replayed, are the cache.
void Run::read_events() {
  if (!serving() || settings_.events == 0) return;
  const std::vector<KvEvent> events = loop_->kv_events(next_event_);
  ledger_.turned(clock_.load());  // the call has made a turn
  for (const KvEvent& event : events) {
    events_lost_ |= event.number != next_event_;
    next_event_ = event.number + 1;
    ++totals_.events;
    if (events_lost_) continue;
    auto& keys = cached_[static_cast<int>(event.where)];
    const bool stored = event.kind == KvEvent::Kind::stored;
    WJ_CHECK(event.num_tokens == settings_.block_size);
    const std::pair key(event.key, event.group);
    WJ_CHECK(keys.contains(key) != stored, "event ", event.number, stored ? " stores" : " removes", " key ", event.key,
             " twice");
    if (stored) {
      keys.insert(key);
    } else {
      keys.erase(key);
    }
  }
}

void Run::reset() {
  if (!serving()) {
    bool refused = false;
    try {
      loop_->reset_prefix_cache();
    } catch (const Error& error) {
      refused = error.code() == ErrorCode::closed;
    }
    WJ_CHECK(refused, "an engine that has ended takes a reset");
    return;
  }
  loop_->reset_prefix_cache();
  if (!serving()) return;
  ledger_.turned(clock_.load());  // the call has made a turn
  read_events();
}

void Run::close() {
  if (serving()) stats_ = loop_->stats();
  loop_->close();
  closed_ = true;
  ledger_.closed();
  WJ_CHECK(!loop_->turn(), "a turn after close()");
  WJ_CHECK(loop_->health() == Health::closed || failed(), "health is ", to_string(loop_->health()));
  for (int queue = 0; queue < kNumQueues; ++queue) read(queue);
  guide(0);
  WJ_CHECK(guide_->num_live() == 0, "the guide was not told of ", guide_->num_live(), " ends");
}

// --- Ends -----------------------------------------------------------------------------------------------------------

// Nothing new comes, everybody reads and the device answers: so everything ends within a bound (I11). The first in
// order comes a token nearer to its end in every step, whatever is lost meanwhile by those behind it.
void Run::drain() {
  for (const auto& [id, paused] : paused_) {
    if (paused) loop_->resume(id);
  }
  const std::int64_t patience = 200 + 4 * ledger_.work();
  std::int64_t turns = 0;
  while (serving() && !(ledger_.complete() && executor_->in_flight() == 0 && loop_->stats().steps_in_flight == 0)) {
    WJ_CHECK(++turns < patience, "no end after ", turns, " turns; live=", ledger_.num_live(),
             " in flight=", executor_->in_flight(), " waiting=", loop_->stats().waiting,
             " running=", loop_->stats().running, " paused=", loop_->stats().paused);
    while (executor_->complete()) {
    }
    clock_ += 2000;
    guide(1000);
    turn();
    for (int queue = 0; queue < kNumQueues; ++queue) read(queue);
  }
}

// Nothing is held when nothing is left (I14), and the events tell what is cached (I15).
void Run::check_empty() {
  turn();
  read_events();
  if (!serving()) return;
  const Stats s = stats_ = loop_->stats();
  WJ_CHECK(s.running == 0 && s.waiting == 0 && s.paused == 0 && s.steps_in_flight == 0, "running=", s.running,
           " waiting=", s.waiting, " paused=", s.paused, " in flight=", s.steps_in_flight);
  WJ_CHECK(s.kv_blocks_used == 0, "kv_blocks_used=", s.kv_blocks_used);
  WJ_CHECK(s.kv_host_blocks_used <= s.kv_host_blocks, "kv_host_blocks_used=", s.kv_host_blocks_used);
  WJ_CHECK(ledger_.num_cached() == s.cached_tokens, "cached_tokens=", s.cached_tokens, " got ", ledger_.num_cached());
  WJ_CHECK(ledger_.num_tokens() == s.generated_tokens, "generated_tokens=", s.generated_tokens, " got ",
           ledger_.num_tokens());
  const bool told = settings_.events > 0 && !events_lost_;
  WJ_CHECK(!told || std::cmp_equal(cached_[0].size(), s.kv_blocks_cached), "events tell of ", cached_[0].size(),
           " cached blocks, there are ", s.kv_blocks_cached);
  WJ_CHECK(!told || std::cmp_equal(cached_[1].size(), s.kv_host_blocks_used), "events tell of ", cached_[1].size(),
           " blocks on the host, there are ", s.kv_host_blocks_used);
  reset();
  if (!serving()) return;
  turn();
  WJ_CHECK(loop_->stats().kv_blocks_cached == 0 && loop_->stats().kv_host_blocks_used == 0, "blocks after a reset");
  WJ_CHECK(!told || events_lost_ || (cached_[0].empty() && cached_[1].empty()), "events tell of blocks after a reset");
}

// As many requests as there were places at the start.
void Run::check_limits() {
  constexpr int kFirstLabel = 1'000'000, kEnough = 8;
  int places = std::min({settings_.queued, settings_.queued_tokens, kEnough});
  if (settings_.queued_tenant > 0) places = std::min(places, settings_.queued_tenant);
  for (int i = 0; i < places; ++i) {
    submit(kFirstLabel + i, {.prompt = {3}, .tenant = 1, .max_tokens = 1});
    WJ_CHECK(ids_.contains(kFirstLabel + i), "place ", i, " of ", places, " was not given back");
  }
  for (int i = 0; i < places; ++i) cancel(id_of(kFirstLabel + i), -1);
  turn();
  for (int queue = 0; queue < kNumQueues; ++queue) read(queue);
}

void Run::report(Report& report) const {
  const DeviceCounts& d = device_.counts();
  Totals& t = report.totals = totals_;
  t.histories = 1;
  t.samples = ledger_.num_finals();
  t.stopped = ledger_.count(FinishReason::stop);
  t.at_length = ledger_.count(FinishReason::length);
  t.aborted = ledger_.count(FinishReason::abort);
  t.errors = ledger_.count(FinishReason::error);
  t.late = ledger_.count(ErrorCode::deadline_exceeded);
  t.too_long = ledger_.count(ErrorCode::invalid_argument);
  t.broken = d.broken;
  t.no_memory = ledger_.count(ErrorCode::out_of_memory);
  t.steps = d.steps;
  t.rows = d.rows;
  t.surplus = d.surplus;
  t.joins = d.joins;
  t.forks = d.forks;
  t.siblings = d.siblings;
  t.exchanges = d.exchanges;
  t.rewrites = d.rewrites;
  t.copies = d.device_copies;
  t.offloads = d.offloads;
  t.restores = d.restores;
  t.beyond_window = d.beyond_window;
  t.grouped = d.grouped;
  t.tokens = ledger_.num_tokens();
  t.cached = stats_.cached_tokens;
  t.preemptions = stats_.preemptions;
  t.swaps = stats_.swaps;
  report.results = ledger_.results();
  report.labels = labels_;
}

}  // namespace

Report run(const History& history, const Faults& faults) {
  static std::once_flag once;
  std::call_once(once, [] {
    set_log_sink(keep_errors);
    __sanitizer_set_death_callback(print_running);
  });
  Report report;
  std::string errors;
  errors.reserve(4096);  // what is logged when memory is short needs none
  logged = &errors;
  running = &history;
  try {
    Run run(history, faults);
    try {
      run.run();
    } catch (const std::exception& e) {
      report.failure = e.what();
    }
    run.report(report);
  } catch (const std::exception& e) {
    report.failure = e.what();
  }
  logged = nullptr;
  running = nullptr;
  report.engine_failed = errors.find("engine failed") != errors.npos;
  if (!faults.injected && report.failure.empty() && !errors.empty()) report.failure = "the engine logged an error";
  if (!report.failure.empty() && !errors.empty()) report.failure += cat(" [log: ", errors, "]");
  return report;
}

}  // namespace warpjet::history
