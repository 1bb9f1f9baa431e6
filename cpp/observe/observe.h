// What an engine reports of itself: metrics, the last steps, and the trace.
#pragma once

#include <warpjet/engine.h>
#include <warpjet/snapshot.h>

#include "schedule/schedule.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace warpjet {

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
  void accepted(int samples);     // any thread
  void rejected(ErrorCode code);  // any thread

  // The text exposition format of Prometheus: names "warpjet:*", labels model_name and engine; gauges from `stats`.
  std::string prometheus(const Stats& stats, std::string_view model_name) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// What the last steps did, for snapshots: kept in rings, and only while somebody looks. Engine thread.
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

}  // namespace warpjet
