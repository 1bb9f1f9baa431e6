// Where outputs wait for their reader: a list of segments that the engine thread fills and readers empty, and an
// eventfd for who sleeps.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <unordered_map>
#include <utility>

#include "core/core.h"
#include "runtime/output_queue.h"

namespace warpjet {
namespace {

constexpr std::size_t kSegmentEvents = 256;  // 10 KiB: a queue that is hardly used costs little

struct Segment {
  std::array<OutputEvent, kSegmentEvents> events;
  Segment* next = nullptr;  // the one that was filled after it, or the next empty one
};

// One thread's place in the list. Both stay behind the last event until there is one more: only then is `next` known.
struct Cursor {
  Segment* segment = nullptr;
  std::size_t used = 0;     // events of the segment
  std::uint64_t total = 0;  // events of all
};

bool continues(const Output& output, const OutputEvent& event) {
  return output.id == event.id && output.sample == event.sample && output.sequence == event.sequence;
}

// The details become the output, which keeps its tokens and log-probabilities. When memory is short nothing changes.
void take_details(Output& output, Output& details) {
  output.logprobs.insert(output.logprobs.end(), std::make_move_iterator(details.logprobs.begin()),
                         std::make_move_iterator(details.logprobs.end()));
  details.id = output.id;
  details.sample = output.sample;
  details.sequence = output.sequence;
  details.tokens = std::move(output.tokens);
  details.logprobs = std::move(output.logprobs);
  if (details.prompt_logprobs.empty()) details.prompt_logprobs = std::move(output.prompt_logprobs);
  output = std::move(details);
}

}  // namespace

struct OutputQueue::State::Rest {
  // The engine thread's. Segments are never freed: those that were read come back.
  Cursor write;
  Segment* empty = nullptr;  // a list
  std::vector<std::unique_ptr<Segment>> segments;

  // Between the two.
  alignas(64) std::atomic<std::uint64_t> published{0};  // events that readers may read
  std::atomic<bool> armed{true};                        // a reader has seen them all: the next ones wake it
  std::atomic<Segment*> returned{nullptr};              // a list of read segments

  // Readers', and those of who opens and closes credits.
  alignas(64) std::mutex mutex;
  Cursor read;
  std::vector<Output> outputs;  // read, not handed out yet: memory may be short in between
  std::unordered_map<ReadCredit*, std::unique_ptr<ReadCredit>> credits;
  std::shared_ptr<Doorbell> bell;  // of the credits' engine
  bool engine_waits = false;       // for what was read

  Rest() { write.segment = read.segment = add_segment(); }
  Segment* add_segment();
  Segment* take_empty();
  void give_back(Segment* segment);
  void read_event(OutputEvent& event);
  std::vector<Output> take_all(int event_fd);
};

// --- The engine thread ----------------------------------------------------------------------------------------------

void OutputQueue::State::push(OutputEvent&& event) {
  Cursor& w = rest->write;
  if (w.used == kSegmentEvents) {
    Segment* next = rest->take_empty();
    w.segment->next = next;
    w.segment = next;
    w.used = 0;
  }
  w.segment->events[w.used++] = std::move(event);
  ++w.total;
}

// Sequentially consistent with take_all(): either the reader sees these events, or they see that it has armed.
void OutputQueue::State::publish() {
  if (rest->published.load(std::memory_order_relaxed) == rest->write.total) return;
  rest->published.store(rest->write.total, std::memory_order_seq_cst);
  if (!rest->armed.load(std::memory_order_seq_cst) || !rest->armed.exchange(false, std::memory_order_seq_cst)) return;
  const std::uint64_t one = 1;
  // Fails only when the counter is full, and then the descriptor is readable anyway.
  [[maybe_unused]] const auto written = ::write(event_fd, &one, sizeof one);
}

// Takes over the whole list of returned ones: who takes all of a list cannot be fooled by a head that was taken off and
// put back.
Segment* OutputQueue::State::Rest::take_empty() {
  if (!empty) empty = returned.exchange(nullptr, std::memory_order_acquire);
  return empty ? std::exchange(empty, empty->next) : add_segment();
}

Segment* OutputQueue::State::Rest::add_segment() {
  return segments.emplace_back(std::make_unique<Segment>()).get();
}

// --- Readers --------------------------------------------------------------------------------------------------------

// Everything there is. Arms before it looks, so that whatever comes later makes the descriptor readable.
std::vector<Output> OutputQueue::State::Rest::take_all(int event_fd) {
  const std::lock_guard lock(mutex);
  std::uint64_t count;
  [[maybe_unused]] const auto drained = ::read(event_fd, &count, sizeof count);
  armed.store(true, std::memory_order_seq_cst);
  const std::uint64_t end = published.load(std::memory_order_seq_cst);
  while (read.total < end) {
    if (read.used == kSegmentEvents) {
      give_back(std::exchange(read.segment, read.segment->next));
      read.used = 0;
    }
    read_event(read.segment->events[read.used]);
    ++read.used;
    ++read.total;
  }
  if (std::exchange(engine_waits, false)) bell->ring();
  return std::exchange(outputs, {});
}

// Each part is taken off the event once it was read: when memory is short in between, the next poll goes on from there.
void OutputQueue::State::Rest::read_event(OutputEvent& event) {
  if (outputs.empty() || !continues(outputs.back(), event)) {
    outputs.push_back({.id = event.id, .sample = event.sample, .sequence = event.sequence});
  }
  Output& output = outputs.back();
  ReadCredit* credit = event.credit;
  if (event.token >= 0) {
    output.tokens.push_back(std::exchange(event.token, -1));
    credit->read.fetch_add(1);  // before it is asked whether the engine waits for that
    engine_waits |= credit->wanted.load();
  }
  if (event.details) {
    take_details(output, *event.details);
    event.details.reset();
    if (output.is_final() && --credit->finals_left == 0) credits.erase(credit);
  }
}

void OutputQueue::State::Rest::give_back(Segment* segment) {
  segment->next = returned.load(std::memory_order_relaxed);
  while (
      !returned.compare_exchange_weak(segment->next, segment, std::memory_order_release, std::memory_order_relaxed)) {
  }
}

// Several threads may wait here: the descriptor stays readable until one of them has read everything.
std::vector<Output> OutputQueue::State::poll(std::chrono::nanoseconds timeout) {
  const auto start = std::chrono::steady_clock::now();
  timeout = std::max(timeout, std::chrono::nanoseconds(0));
  for (;;) {
    std::vector<Output> outputs = rest->take_all(event_fd);
    const std::chrono::nanoseconds left = timeout - (std::chrono::steady_clock::now() - start);
    if (!outputs.empty() || left.count() <= 0) return outputs;
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec wait = {.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
    pollfd readable = {.fd = event_fd, .events = POLLIN, .revents = 0};
    ::ppoll(&readable, 1, &wait, nullptr);
  }
}

// Events of two engines would need two writers.
ReadCredit* OutputQueue::State::open(int samples, std::shared_ptr<Doorbell> bell) {
  const std::lock_guard lock(rest->mutex);
  WJ_REQUIRE(rest->credits.empty() || rest->bell == bell, invalid_argument,
             "this queue has requests of another engine; use a queue for each");
  auto credit = std::make_unique<ReadCredit>();
  credit->bell = bell;
  credit->finals_left = samples;
  ReadCredit* const opened = credit.get();
  rest->credits.emplace(opened, std::move(credit));
  rest->bell = std::move(bell);
  return opened;
}

void OutputQueue::State::close(ReadCredit* credit) {
  const std::lock_guard lock(rest->mutex);
  rest->credits.erase(credit);
}

// --- The queue ------------------------------------------------------------------------------------------------------

OutputQueue::State::State() : rest(std::make_unique<Rest>()) {
  event_fd = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  WJ_REQUIRE(event_fd >= 0, io, "cannot create an eventfd: ", std::strerror(errno));
}

OutputQueue::State::~State() {
  ::close(event_fd);
}

OutputQueue::OutputQueue() : state_(std::make_shared<State>()) {}
OutputQueue::~OutputQueue() = default;
OutputQueue::OutputQueue(OutputQueue&&) noexcept = default;
OutputQueue& OutputQueue::operator=(OutputQueue&&) noexcept = default;

std::vector<Output> OutputQueue::poll(std::chrono::nanoseconds timeout) {
  return state_->poll(timeout);
}

int OutputQueue::wait_fd() const {
  return state_->event_fd;
}

}  // namespace warpjet
