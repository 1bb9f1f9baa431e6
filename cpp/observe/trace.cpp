// The trace: what happened is kept as plain events in a ring; spans, names and text are made when it is written.
#include "core/core.h"
#include "observe/observe.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>
#include <unordered_map>
#include <unordered_set>

namespace warpjet {
namespace {

namespace fs = std::filesystem;

enum class Kind : std::uint8_t { device, plan, await, state };

// A span of a step's, or a sequence's change of state at `end`; it had been in the old one since `start`, or later.
struct TraceEvent {
  Micros start = 0, end = 0;
  std::uint64_t id = 0;  // of the step or sequence
  std::int32_t tokens = 0, decodes = 0, chunks = 0;
  Kind kind = Kind::device;
  SequenceState from = SequenceState::waiting, to = SequenceState::waiting;
  WaitReason reason = WaitReason::none;  // of `to`
};

// The newest `capacity` events.
class Ring {
 public:
  explicit Ring(std::size_t capacity) : events_(capacity) {}

  void push(const TraceEvent& event) noexcept {
    TraceEvent& place = events_[pushed_++ % events_.size()];
    if (pushed_ > events_.size()) lost_until_ = std::max(lost_until_, place.end);
    place = event;
  }
  std::size_t size() const { return std::min(pushed_, events_.size()); }
  const TraceEvent& operator[](std::size_t i) const { return events_[(pushed_ - size() + i) % events_.size()]; }
  Micros lost_until() const { return lost_until_; }  // when the latest event that was dropped happened

 private:
  std::vector<TraceEvent> events_;
  std::size_t pushed_ = 0;
  Micros lost_until_ = 0;
};

// A file of JSON text that appears whole or not at all. Nothing written here needs escapes: all names are ours.
class TextFile {
 public:
  explicit TextFile(const fs::path& path) : path_(path), part_(path.string() + ".part"), file_(part_) {}
  ~TextFile() {
    std::error_code ignored;
    if (!done_) fs::remove(part_, ignored);
  }

  template <class... Parts>
  void put(const Parts&... parts) {
    (append(parts), ...);
    if (text_.size() >= kFlushBytes) flush();
  }
  void close() {
    flush();
    file_.close();
    std::error_code error;
    fs::rename(part_, path_, error);
    WJ_REQUIRE(!error, io, "cannot move ", part_.string(), " to ", path_.string(), ": ", error.message());
    done_ = true;
  }

 private:
  static constexpr std::size_t kFlushBytes = 1 << 16;

  void append(std::string_view text) { text_ += text; }
  template <Integer T>
  void append(T value) {
    std::array<char, 24> buffer;
    text_.append(buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr);
  }
  void flush() {
    file_.write(std::as_bytes(std::span(text_)));
    text_.clear();
  }

  fs::path path_, part_;
  FileWriter file_;
  std::string text_;
  bool done_ = false;
};

// Chrome's trace events. Spans of one track lie apart or inside one another.
class TraceWriter {
 public:
  explicit TraceWriter(const fs::path& path) : file_(path) {
    file_.put(R"({"displayTimeUnit":"ms","traceEvents":[)", "\n");
    file_.put(R"({"ph":"M","pid":1,"name":"process_name","args":{"name":"warpjet"}})");
    file_.put(",\n", R"({"ph":"M","pid":2,"name":"process_name","args":{"name":"requests"}})");
    name_track(kSteps, kDevice, "device");
    name_track(kSteps, kHost, "host");
  }

  void step(const TraceEvent& event) {
    const bool on_device = event.kind == Kind::device;
    const std::string_view name = on_device ? "step " : event.kind == Kind::plan ? "plan " : "await ";
    begin_span(kSteps, on_device ? kDevice : kHost, event.start, event.end);
    file_.put(name, event.id, "\",\"args\":{\"step\":", event.id, ",\"tokens\":", event.tokens,
              ",\"decodes\":", event.decodes, ",\"chunks\":", event.chunks, "}}");
  }

  void state(SequenceId id, SequenceState state, WaitReason reason, Micros start, Micros end) {
    if (start >= end) return;
    if (named_.insert(id).second) name_track(kRequests, id, "request ", id);
    begin_span(kRequests, id, start, end);
    file_.put(to_string(state));
    if (reason != WaitReason::none) file_.put(": ", to_string(reason));
    file_.put("\"}");
  }

  void close() {
    file_.put("\n]}\n");
    file_.close();
  }

 private:
  static constexpr int kSteps = 1, kRequests = 2;  // processes
  static constexpr std::uint64_t kDevice = 1, kHost = 2;

  template <class... Name>
  void name_track(int process, std::uint64_t track, const Name&... name) {
    file_.put(",\n{\"ph\":\"M\",\"pid\":", process, ",\"tid\":", track,
              ",\"name\":\"thread_name\",\"args\":{\"name\":\"");
    file_.put(name..., "\"}}");
  }
  void begin_span(int process, std::uint64_t track, Micros start, Micros end) {  // up to the name
    file_.put(",\n{\"ph\":\"X\",\"pid\":", process, ",\"tid\":", track, ",\"ts\":", start, ",\"dur\":", end - start);
    file_.put(",\"name\":\"");
  }

  TextFile file_;
  std::unordered_set<SequenceId> named_;
};

// The state that a sequence is in.
struct Open {
  SequenceState state = SequenceState::waiting;
  WaitReason reason = WaitReason::none;
  Micros since = 0;
};

}  // namespace

struct Trace::State {
  fs::path path;
  Ring ring;
  Micros last = 0;          // the latest time that was told
  Micros device_until = 0;  // the step that retired last
  Micros retired = 0;       // when
};

Trace::Trace(std::filesystem::path path, std::size_t max_events) {
  WJ_REQUIRE(max_events > 0, invalid_argument, "a trace needs room for at least one event");
  state_ = std::make_unique<State>(State{.path = std::move(path), .ring = Ring(max_events)});
}

Trace::~Trace() = default;

void Trace::on_state(const Sequence& sequence, SequenceState from, Micros now) {
  state_->ring.push({.start = now - sequence.spent[static_cast<int>(from)],
                     .end = now,
                     .id = sequence.id,
                     .kind = Kind::state,
                     .from = from,
                     .to = sequence.state,
                     .reason = sequence.reason});
  state_->last = std::max(state_->last, now);
}

// The device works in order: it begins a step when that was launched, or when the one before is through. The host
// waits for one step at a time, and plans others meanwhile.
void Trace::step(std::uint64_t step, Micros planned, Micros launched, Micros retired, double device_us, int tokens,
                 int decodes, int chunks) {
  State& state = *state_;
  const Micros begin = std::max(launched, state.device_until);
  const Micros wait = std::max(launched, state.retired);
  state.device_until = std::min(begin + static_cast<Micros>(device_us), retired);
  state.retired = retired;
  state.last = std::max(state.last, retired);

  TraceEvent event{.id = step, .tokens = tokens, .decodes = decodes, .chunks = chunks};
  const auto push = [&](Kind kind, Micros start, Micros end) {
    event.kind = kind;
    event.start = start;
    event.end = end;
    state.ring.push(event);
  };
  push(Kind::plan, planned, launched);
  push(Kind::device, begin, state.device_until);
  push(Kind::await, wait, retired);
}

void Trace::write() const {
  const Ring& ring = state_->ring;
  TraceWriter writer(state_->path);
  std::unordered_map<SequenceId, Open> open;
  for (std::size_t i = 0; i < ring.size(); ++i) {
    const TraceEvent& event = ring[i];
    if (event.kind != Kind::state) {
      writer.step(event);
      continue;
    }
    // A sequence that is new here entered its old state before the first event that is left, or was never told of.
    const Micros since = std::max(event.start, ring.lost_until());
    Open& now = open.try_emplace(event.id, Open{.state = event.from, .since = since}).first->second;
    writer.state(event.id, now.state, now.reason, now.since, event.end);
    now = {.state = event.to, .reason = event.reason, .since = event.end};
    if (event.to == SequenceState::finished) open.erase(event.id);
  }
  for (const auto& [id, now] : open) writer.state(id, now.state, now.reason, now.since, state_->last);
  writer.close();
}

}  // namespace warpjet
