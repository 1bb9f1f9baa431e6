// The front door: what user threads do. They validate, count, and hand over; what comes back they read from atomics.
#include "runtime/step_loop.h"

#include <algorithm>

namespace warpjet {

namespace {

constexpr Micros kSlow = 2'000'000;  // without a result for longer, and longer than ten steps, health is degraded

}  // namespace

RequestId StepLoop::State::submit(Request request, QueueState queue, QueueState guide) {
  std::optional<QueueLimits::Place> place;
  try {
    validate_request(request, config_.engine, config_.model);
    WJ_REQUIRE(request.mask.empty() == (guide == nullptr) && guide != queue, invalid_argument,
               "mask and guide: a guided request has both, and the guide a queue of its own");
    place.emplace(limits_, request, seconds_a_request());
  } catch (const Error& error) {
    metrics_.rejected(error.code());
    throw;
  }
  auto command = std::make_unique<Command>();
  command->kind = Kind::submit;
  command->live = make_live(std::move(request), std::move(queue), std::move(guide));
  const RequestId id = command->live->id;
  const int samples = command->live->num_running;
  if (!inbox_.push(command)) {
    for (Reader* reader : {&command->live->reader, &command->live->guide}) reader->close();
    metrics_.rejected(ErrorCode::closed);
    WJ_FAIL(closed, "the engine is ", to_string(health()), "; it takes no more requests");
  }
  place->hand_over();
  metrics_.accepted(samples);
  bell_->ring();
  return id;
}

// From one end of a request to the next, so far.
double StepLoop::State::seconds_a_request() const {
  const std::int64_t finished = stats().finished;
  return finished > 0 ? 1e-6 * static_cast<double>(now() - started_) / static_cast<double>(finished) : 1.0;
}

// Everything that ending the request will need is made here, where running out of memory harms nobody.
std::unique_ptr<Live> StepLoop::State::make_live(Request request, QueueState queue, QueueState guide) {
  auto live = std::make_unique<Live>();
  live->id = next_id_.fetch_add(1);
  live->prompt_length = static_cast<int>(request.prompt.size());
  live->request = std::move(request);
  const SamplingParams& p = live->request.sampling;
  live->samples.resize(std::max(p.n, p.beam_width));
  live->num_running = static_cast<int>(live->samples.size());
  for (int i = 0; i < live->num_running; ++i) {
    Sample& sample = live->samples[i];
    sample.live = live.get();
    sample.index = i;
    sample.said.final = std::make_unique<Output>();
    if (guide) sample.told.final = std::make_unique<Output>();
  }
  try {
    live->reader.open(std::move(queue), live->num_running, bell_);
    if (guide) live->guide.open(std::move(guide), live->num_running, bell_);
  } catch (...) {
    live->reader.close();
    throw;
  }
  live->submitted = now();
  return live;
}

// A mask without a token is the guide's mistake, and its sample's alone.
void StepLoop::State::guide(std::vector<Guidance> answers) {
  for (Guidance& answer : answers) {
    if (answer.kind != Guidance::Kind::go_on) continue;
    validate_mask(answer.mask, config_.model);
    if (allows_any(answer.mask, config_.model)) continue;
    answer.kind = Guidance::Kind::fail;
    answer.error = cat("the guide allows no token at position ", answer.position, " of the output");
  }
  post({.kind = Kind::guide, .answers = std::move(answers)});
}

void StepLoop::State::post(Command command) {
  auto owned = std::make_unique<Command>(std::move(command));
  if (inbox_.push(owned)) bell_->ring();  // an engine that has ended has nothing to cancel
}

// Throws closed when the engine ends before it has answered, and bad_alloc when the answer did.
void StepLoop::State::ask(std::function<void()> answer) {
  Question question{.answer = std::move(answer), .done = {}};
  auto done = question.done.get_future();
  auto command = std::make_unique<Command>();
  command->kind = Kind::ask;
  command->question = &question;
  WJ_REQUIRE(inbox_.push(command), closed, "the engine is ", to_string(health()));
  bell_->ring();
  while (config_.manual && done.wait_for(std::chrono::seconds(0)) != std::future_status::ready) turn();
  done.get();
}

std::vector<KvEvent> StepLoop::State::kv_events(std::uint64_t number) {
  std::vector<KvEvent> events;
  ask([&] { kv_.events_since(number, events); });
  return events;
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

// What the loop did last is looked at from outside, so an engine thread that hangs is seen too.
Health StepLoop::State::health() const {
  const Health health = health_.load(std::memory_order_acquire);
  if (health != Health::serving || !busy_.load(std::memory_order_relaxed)) return health;
  const Micros patience = std::max(kSlow, 10 * expected_step_.load(std::memory_order_relaxed));
  return now() - progress_.load(std::memory_order_relaxed) > patience ? Health::degraded : Health::serving;
}

void StepLoop::State::close() {
  const std::lock_guard once(close_mutex_);
  closing_.store(true);
  bell_->ring();
  if (thread_.joinable()) thread_.join();
  if (config_.manual) {
    while (turn()) {
    }
  }
}

// --- The public face ----------------------------------------------------------------------------------------------

StepLoop::StepLoop(const Config& config, std::unique_ptr<Executor> executor, std::shared_ptr<Doorbell> bell)
    : state_(std::make_unique<State>(config, std::move(executor), std::move(bell))) {}
StepLoop::~StepLoop() = default;
RequestId StepLoop::submit(Request request, std::shared_ptr<OutputQueue::State> queue,
                           std::shared_ptr<OutputQueue::State> guide) {
  return state_->submit(std::move(request), std::move(queue), std::move(guide));
}
void StepLoop::guide(std::vector<Guidance> answers) {
  state_->guide(std::move(answers));
}
void StepLoop::cancel(RequestId id, std::optional<int> sample) {
  state_->cancel(id, sample);
}
void StepLoop::pause(RequestId id) {
  state_->pause(id);
}
void StepLoop::resume(RequestId id) {
  state_->resume(id);
}
void StepLoop::reset_prefix_cache() {
  state_->reset_prefix_cache();
}
std::vector<KvEvent> StepLoop::kv_events(std::uint64_t number) {
  return state_->kv_events(number);
}
Snapshot StepLoop::snapshot(std::uint64_t since_step) {
  return state_->snapshot(since_step);
}
Stats StepLoop::stats() const {
  return state_->stats();
}
std::string StepLoop::metrics() const {
  return state_->metrics();
}
Health StepLoop::health() const {
  return state_->health();
}
void StepLoop::close() {
  state_->close();
}
bool StepLoop::turn() {
  return state_->turn();
}

}  // namespace warpjet
