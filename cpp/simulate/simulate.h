// The simulator: discrete events around the scheduler that serves for real.
//
//   arrivals -> router -> replicas (KvBlocks + Scheduler + a device that is a cost model) -> tallies -> report
//
// Replicas do not see each other. Between two looks of the router at their loads they run on threads, each replica on
// one at a time, so results do not depend on how many there are.
#pragma once

#include <warpjet/simulate.h>

#include "core/core.h"
#include "memory/memory.h"
#include "schedule/schedule.h"

#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace warpjet::sim {

constexpr Micros kForever = std::numeric_limits<Micros>::max();
inline Micros micros(double seconds) {
  return std::llround(seconds * 1e6);
}

// --- Random numbers -------------------------------------------------------------------------------------------------

constexpr std::uint64_t mix(std::uint64_t x) {  // splitmix64's last step
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mix(seed + 0x9e3779b97f4a7c15u)) {}
  std::uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15u); }
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }  // in (0, 1)
  double exponential();                                                             // mean 1
  double normal();
  double gamma(double shape);  // mean 1
  double log_normal(double median, double sigma);
  int zipf(int n);  // 0 .. n-1, weight of i is 1 / (i + 1)

 private:
  std::uint64_t state_;
};

// --- Arrivals -------------------------------------------------------------------------------------------------------

struct Segment {  // tokens that others may have too: they are a function of the key
  std::uint64_t key = 0;
  int length = 0;
};

// A request to come. Its prompt: `num_segments` segments, then tokens of its own.
struct Arrival {
  Micros time = 0;
  std::int32_t input = 0, output = 0;  // tokens
  std::uint32_t first_segment = 0;
  std::uint32_t key = 0;  // of its own tokens
  std::uint16_t num_segments = 0, tenant = 0;
  std::int16_t priority = 0;
  bool session = false;  // others have this key too: they go on from this one's text
};

// All of them, by time.
struct Workload {
  std::string name;
  std::vector<Arrival> arrivals;
  std::vector<Segment> segments;
  std::vector<std::string> tenants;
  Micros duration = 0;  // none arrives later

  std::span<const Segment> prefix(const Arrival& arrival) const {
    return std::span(segments).subspan(arrival.first_segment, arrival.num_segments);
  }
  std::vector<std::int32_t> prompt(const Arrival& arrival, int capacity) const;
};

// Synthetic ones: a row of THE TABLE of presets.
struct Preset {
  std::string_view name;
  double rate;                // requests a second
  double (*input)(double u);  // quantile functions of the lengths
  double (*output)(double u);
  void (*fill)(const Preset& preset, const SimConfig& config, Workload& workload);
};
std::span<const Preset> presets();
const Preset& find_preset(const std::string& name);  // throws invalid_argument listing the names

Workload make_workload(const SimConfig& config);  // by config.trace; throws invalid_argument when nobody arrives
Workload read_trace(const std::string& path);     // throws invalid_argument naming line and field, or io

// --- Cost of a step -------------------------------------------------------------------------------------------------

// What a step has to do.
struct StepWork {
  std::int64_t tokens = 0;
  std::int64_t decode_keys = 0;                     // keys that decodes read
  std::int64_t chunk_keys = 0;                      // and chunks, once for all their tokens
  double chunk_pairs = 0;                           // (query, key) pairs of chunks
  std::int64_t device_copies = 0, host_copies = 0;  // blocks
};

// The formula of SimConfig. A table of measured steps is fitted to the same one.
class CostModel {
 public:
  explicit CostModel(const SimConfig& config);  // throws invalid_argument and io
  Micros step_us(const StepWork& work) const;   // at least 1
  Json describe() const;

 private:
  void fit(const std::string& path);

  double overhead_us_ = 0, weights_us_ = 0, token_us_ = 0, decode_key_us_ = 0, chunk_key_us_ = 0, chunk_pair_us_ = 0;
  double device_block_us_ = 0, host_block_us_ = 0;
  std::string source_ = "roofline";
  double rms_error_ = 0;  // relative, of the fit
};

// --- Tallies --------------------------------------------------------------------------------------------------------

// Durations in us, in bins of at most 1/64 of their value. Sums and extremes are exact.
class Histogram {
 public:
  void add(Micros value, std::int64_t count = 1);
  void add(const Histogram& other);
  std::int64_t count() const { return count_; }
  double mean() const { return count_ > 0 ? static_cast<double>(sum_) / static_cast<double>(count_) : 0; }
  Micros max() const { return max_; }
  double quantile(double q) const;  // straight lines within bins; 0 when empty
  Json cdf() const;                 // [[ms, share that is not above it], ...], at most some 200 points

 private:
  static constexpr int kPerOctave = 64, kBins = kPerOctave * 36;
  static int bin_of(Micros value);
  static double bin_begin(int bin);
  std::array<std::int64_t, kBins> bins_{};
  std::int64_t count_ = 0, sum_ = 0;
  Micros max_ = 0;
};

// Of the time when requests arrive, in kPoints equal parts.
struct Point {
  std::int64_t running = 0, waiting = 0, kv_blocks = 0;  // at its end
  std::int64_t arrived = 0, output_tokens = 0;           // during it
};
constexpr int kPoints = 200;

// What happened. "in_window": while requests arrive.
struct Tally {
  std::int64_t requests = 0, finished = 0, refused = 0, good = 0;
  std::int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  std::int64_t steps = 0, step_tokens = 0, step_decodes = 0, preemptions = 0, swaps = 0;
  std::int64_t busy_in_window = 0, output_in_window = 0, prompt_in_window = 0;
  std::int64_t least_busy = kForever, most_busy = 0;  // of replicas, in window
  Micros end = 0;                                     // of the last step
  Histogram ttft, itl, tpot, e2e;
  std::array<Point, kPoints> points{};

  void add(const Tally& other);
};

// --- A replica ------------------------------------------------------------------------------------------------------

// Misses that a search can afford; the run is given up when they are used up.
struct MissBudget {
  std::atomic<std::int64_t> left{kForever};
  void miss() { left.fetch_sub(1, std::memory_order_relaxed); }
  bool spent() const { return left.load(std::memory_order_relaxed) < 0; }
};

// What all replicas have in common.
struct Setup {
  explicit Setup(const SimConfig& config);  // throws invalid_argument and io
  std::int64_t misses_allowed() const;      // requests that may miss the objective
  SimConfig config;
  Workload workload;
  CostModel cost;
  SchedulerConfig scheduler;
  KvBlocks::Config kv;
  Micros host = 0;                      // from a plan to the step's earliest begin
  Micros ttft = 0, itl = 0, point = 0;  // limits; length of a Point
};

// What the device would know: enough to say what a batch costs. The texts' lengths by slot, from the batch's changes.
class DeviceMirror {
 public:
  explicit DeviceMirror(int num_slots) : slots_(static_cast<std::size_t>(num_slots)) {}
  StepWork run(const Batch& batch);

 private:
  struct State {
    std::int64_t length = 0;  // of the text; of a decoding slot, at `since`
    std::int64_t since = -1;  // the step from which on it decodes; -1: it does not
  };
  void change(const SlotChange& change, const Batch& batch);
  std::vector<State> slots_;
  std::int64_t step_ = 0, decode_keys_ = 0;
  int decoding_ = 0;
};

// One engine: the scheduler, its KV blocks, a clock, and steps that end when the cost model says. One thread at a time.
class Replica {
 public:
  Replica(const Setup& setup, MissBudget& budget);

  void submit(std::uint32_t arrival) { inbox_.push_back(arrival); }  // by time
  void advance(Micros until);                                        // everything that happens before `until`
  bool done() const { return next_arrival_ == inbox_.size() && scheduler_.idle(); }
  int load() const;       // requests submitted and not ended
  const Tally& finish();  // it is done

 private:
  struct Live {                               // a request that the scheduler has
    Micros arrival = 0, first = 0, last = 0;  // first and last token so far
    int got = 0, wanted = 0;                  // tokens
  };
  struct Flight {  // a step in flight
    Micros us = 0, end = 0;
    int samples = 0;
  };
  Micros next_event() const;
  void sample_until(Micros time);
  void arrive(const Arrival& arrival);
  void plan();
  void launch();
  void retire();
  void take_token(Sequence& sequence);
  void end(Sequence& sequence);

  const Setup& setup_;
  MissBudget& budget_;
  KvBlocks kv_;
  Scheduler scheduler_;
  DeviceMirror device_;
  Tally tally_;

  std::vector<std::uint32_t> inbox_;
  std::size_t next_arrival_ = 0;
  std::deque<Live> lives_;
  std::vector<Live*> free_lives_;
  int num_live_ = 0, looks_ = 0;
  SequenceId next_id_ = 1;

  Micros now_ = 0, busy_until_ = 0, look_again_ = kForever;
  std::vector<Flight> flights_;  // a ring
  int first_flight_ = 0, num_flights_ = 0;
  Batch batch_;
  TokenRanges sampled_;
  std::vector<Sequence*> ended_;
  std::uint32_t next_token_ = 0;
  int next_point_ = 0;
};

// --- The router -----------------------------------------------------------------------------------------------------

class Router {
 public:
  virtual ~Router() = default;
  virtual int choose(const Arrival& arrival) = 0;
  virtual void observe(std::span<const int> loads) { static_cast<void>(loads); }
};

// A row of THE TABLE of routers.
struct RouterKind {
  std::string_view name;
  bool needs_loads;
  std::unique_ptr<Router> (*make)(const Workload& workload, int replicas);
};
const RouterKind& find_router(std::string_view name);  // throws invalid_argument listing the names

// --- All together ---------------------------------------------------------------------------------------------------

// Threads that take items off a list. The caller's thread is one of them, and polls between items.
class Team {
 public:
  Team(int threads, std::function<void()> poll);
  ~Team();
  // work(item) for every item in [0, count); what one throws comes out here, when all are through.
  void run(int count, const std::function<void(int)>& work);
  void poll();  // no effect on other threads than the caller's

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

struct Probe {  // of the search
  int replicas = 0;
  bool met = false;
};
Json report(const Setup& setup, int replicas, std::span<const Probe> search, const Tally& tally);

}  // namespace warpjet::sim
