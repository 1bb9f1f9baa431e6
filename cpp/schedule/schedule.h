// The scheduler: which tokens of which sequences run in the next step. Pure host logic over KvBlocks: no device, no
// thread, and the time is told to it, so the same code runs in production, in the simulator and under the fuzzer.
//
// There are no phases: a sequence has tokens that are known (or on their way) and tokens whose keys and values have
// been planned, and a step plans some of the difference: a chunk of a prompt, or the one next token of a decode.
//
//   schedule() -> Batch -> the device runs it -> retire(tokens), in the same order; several batches may be in flight
//
// Planning runs ahead of knowing: the token that a step samples is the next step's input, and stays on the device. What
// the host learns at retire() are the tokens themselves; only then are blocks published and sequences ended. A row
// that was planned for a sequence which turns out to have ended is surplus: its token is dropped.
//
// Progress. Sequences have one strict order (the policy's). Only the last running one is ever preempted, and add()
// refused what the empty pool could not hold, so the first running one always gets its blocks and at least one token a
// step; it loses its place only to one that goes before it. Hence every step brings some sequence nearer to its end,
// for good.
//
// Owned by the engine thread.
#pragma once

#include "memory/memory.h"
#include "schedule/batch.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace warpjet {

using SequenceId = std::uint64_t;
using Micros = std::int64_t;  // a monotonic time or a duration

// --- Sequences ------------------------------------------------------------------------------------------------------

enum class SequenceState : std::uint8_t { parked, waiting, running, paused, draining, finished };
std::string_view to_string(SequenceState state);
constexpr int kNumSequenceStates = 6;

// Why a sequence is not running.
enum class WaitReason : std::uint8_t { none, queue, seqs, blocks, prefix, preempted, reader, guide };
std::string_view to_string(WaitReason reason);

// One sample of one request.
struct Sequence {
  // Set by whoever adds it.
  SequenceId id = 0;                 // unique among those in the scheduler
  std::vector<std::int32_t> tokens;  // prompt, then output as far as it is known
  int prompt_length = 0;
  int max_length = 0;  // prompt + max_tokens, at most the model's limit
  int priority = 0;    // lower goes first, under the policies that look at it
  std::string tenant;
  PrefixDomain domain;
  int cache_class = kDefaultCacheClass;
  bool read_prefix_cache = true;  // off: computes everything itself; what it computes is still published
  bool lockstep = false;          // its next tokens are not those that are sampled: they come by choose()
  bool guided = false;            // after each token it waits for let_go_on(): what may follow is not known before
  bool swappable = true;          // off: preempted, it computes everything again, since the device adds something up
  SequenceId leader = 0;          // a sibling (n > 1) starts from its leader's prompt; 0 = none
  std::span<const std::int32_t> record;  // how it is sampled, for the device; stays where it is
  void* user = nullptr;                  // the runtime's record

  // The scheduler's. Public to be read.
  SequenceState state = SequenceState::waiting;
  WaitReason reason = WaitReason::queue;
  std::int64_t key = 0;       // the policy's; smaller goes first
  std::int64_t start = 0;     // when its service starts, under "fair"
  std::uint64_t arrival = 0;  // order of add(); breaks ties, kept over preemption
  Slot slot = kNoSlot;
  int decode_index = -1;    // in the list of decoding slots; -1 = not there
  int planned = 0;          // tokens whose keys and values are computed, or will be by a step in flight
  int computed = 0;         // those of retired steps
  int pending = 0;          // sampled tokens in flight
  int in_flight = 0;        // rows in flight
  int cached = 0;           // prompt tokens that it found in the cache, at first admission
  int expected_length = 0;  // what admission counted on
  int reserved = 0;         // blocks of that still to be taken
  int preemptions = 0;
  bool admitted = false;       // has been scheduled before
  bool choosing = false;       // of lockstep: all is computed, and the next token not chosen yet
  Micros held = -1;            // of guided: since when it waits for let_go_on(); -1: it does not
  int wake_at = 0;             // parked for a prefix: published tokens of the other that are worth waiting for
  int swapped_tokens = 0;      // tokens whose keys and values lie in table.swapped and in what was published
  bool waited_prefix = false;  // has waited for another's prefix once
  BlockTable table;
  Micros queued = 0;                               // spent waiting before it ran for the first time
  Micros since = 0;                                // of the state
  std::array<Micros, kNumSequenceStates> spent{};  // in each state before this one

  bool stands_aside() const { return choosing || held >= 0; }  // nothing of it can be planned until the runtime says so
  int length() const { return static_cast<int>(tokens.size()); }
  int output_length() const { return length() - prompt_length; }
  Micros time_in(SequenceState which, Micros now) const {
    return spent[static_cast<int>(which)] + (state == which ? now - since : 0);
  }
};

// A row of THE TABLE of policies: the key is fixed when a sequence is added. Ties go by arrival.
class TenantClocks;
struct Policy {
  std::string_view name;
  std::int64_t (*key)(Sequence& sequence, TenantClocks& clocks);
};
std::span<const Policy> policies();
const Policy& find_policy(std::string_view name);  // throws invalid_argument listing the names

// Start-time fair queueing (Goyal, Vin & Cheng 1996), in tokens of service. A request starts where its tenant's last
// one ends, or now if that is past; "now" is the start of the latest admitted. So a tenant that floods the queue only
// delays itself, and who arrives later with a larger start never goes before: waiting is bounded by the work that had
// smaller starts.
constexpr std::int64_t kOutputCost = 2;  // of a token, which takes a step, against one of a prompt, which shares it
class TenantClocks {
 public:
  std::int64_t start(const std::string& tenant, std::int64_t cost);  // of a request that comes now
  void give_back(const std::string& tenant, std::int64_t cost);      // it turned out to cost less
  void admitted(std::int64_t start) { now_ = std::max(now_, start); }
  void enter(const std::string& tenant) { ++tenants_[tenant].live, ++live_; }  // one request more
  void leave(const std::string& tenant);                                       // and one less

 private:
  struct Tenant {
    std::int64_t end = 0;
    int live = 0;
  };
  std::unordered_map<std::string, Tenant> tenants_;
  std::int64_t now_ = 0, live_ = 0, leaves_ = 0;
};

// How long outputs turn out to be, by the length that was asked for: a histogram per power of two that forgets slowly.
class OutputLengths {
 public:
  void add(int asked, int got);
  int quantile(int asked, double q) const;  // at most `asked`; 0 while little is known

 private:
  static constexpr int kClasses = 22, kBins = 64;
  std::array<std::array<float, kBins>, kClasses> bins_{};  // bin b: outputs up to (b + 1) / kBins of 2^class
  std::array<float, kClasses> totals_{};
};

// How long a step takes: t = base + per_token * tokens + per_context * (keys read), fitted to the steps that ran. Says
// how many more tokens fit a step of a given length.
class StepTimeModel {
 public:
  StepTimeModel();
  void add(double tokens, double context, double us);
  double predict(double tokens, double context) const;                   // us
  double tokens_within(double us, double tokens, double context) const;  // beside these
  bool known() const { return samples_ >= 16; }

 private:
  std::array<double, 3> weights_{};
  std::array<double, 9> covariance_{};
  int samples_ = 0;
};

// --- The scheduler --------------------------------------------------------------------------------------------------

enum class Preemption : std::uint8_t { recompute, swap };

struct SchedulerConfig {
  int max_num_seqs = 256;         // in one step; never more than max_batched_tokens
  int max_batched_tokens = 2048;  // a hard limit
  int max_in_flight = 2;          // steps
  bool chunked_prefill = true;    // off: a prompt runs whole in one step, if one has room for it beside the decodes
  std::string_view policy = "fcfs";
  double admission_quantile = 0.9;  // outputs are expected to be this long; 1: as long as they may be, so that nobody
                                    // is ever preempted; 0: admit whoever fits now
  Preemption preemption = Preemption::recompute;
  Micros step_target = 0;  // > 0: prompts get only as many tokens as keep a step that short
};

class Observer;  // told of every change of state; the runtime's trace

class Scheduler {
 public:
  // Throws invalid_argument on limits < 1 or an unknown policy. `kv` must outlive the scheduler, which does not give
  // blocks back when destroyed: remove sequences first if it lives on.
  Scheduler(const SchedulerConfig& config, KvBlocks& kv);

  // Takes the sequence into the waiting list. Throws invalid_argument, and has no effect, when it can never run: no
  // tokens, a max_length below its length or of more blocks than there are; or when its id is taken.
  Sequence& add(std::unique_ptr<Sequence> sequence, Micros now);

  // Adds a sequence whose text begins with the first parent.computed tokens of the parent's; nothing of the parent is
  // in flight. It shares the parent's blocks and runs at once if there are a slot and a block for it, else it waits.
  Sequence& fork(Sequence& parent, std::unique_ptr<Sequence> child, Micros now);

  // The next token of a lockstep sequence that is `choosing`. While it is, it may be paused to make room for others:
  // resume() it then.
  void choose(Sequence& sequence, std::int32_t token);

  // A guided sequence that is `held` may be planned again: `mask` is the next token's, which its record now holds too.
  // It may have been paused meanwhile to make room for others: resume() it then.
  void let_go_on(Sequence& sequence, std::span<const std::int32_t> mask);

  // Ends a sequence, in whatever state. Its blocks are released now; the object goes when its rows in flight have
  // retired, and belongs to the scheduler until then.
  void remove(Sequence& sequence, Micros now);

  // Takes a sequence out of the running (its blocks are released as if it were preempted) until resume().
  void pause(Sequence& sequence, Micros now, WaitReason reason);
  void resume(Sequence& sequence, Micros now);

  // Plans the next step; false, and an empty batch, when there is nothing to plan now (everything waits for a step in
  // flight, or nothing is left). Running sequences go before waiting ones, each by policy; when a running sequence
  // finds no block the last in order is preempted, and then nobody is admitted in this step.
  bool schedule(Batch& batch, Micros now);

  // What a batch computed, in its order: first a row for each decoding slot, then the chunks, each followed by a row
  // without tokens for each sibling that starts there.
  struct Row {
    Sequence* sequence = nullptr;  // null: surplus, the sequence has ended
    std::int32_t start = 0, count = 0;
    bool sampled = false;
  };

  // The oldest batch in flight was computed, and range i of `sampled` was drawn for its i-th sample: nothing for one
  // whose text had ended; with several tokens its row is longer than planned. Appends tokens, publishes blocks that
  // became full. Does not end anything: the caller looks at the rows, valid until the next call, and removes sequences
  // that are through before it plans again. A negative token (no finite logit) is not appended.
  std::span<const Row> retire(const TokenRanges& sampled, Micros now);

  void observe_time(double us);  // how long the step that retired last took on the device
  void set_observer(Observer* observer) { observer_ = observer; }

  int num_waiting() const { return static_cast<int>(waiting_.size()) + num_parked_; }
  int num_running() const { return static_cast<int>(running_.size()); }
  int num_paused() const { return static_cast<int>(paused_.size()); }
  int num_held() const { return num_held_; }            // of the running ones
  int num_in_flight() const { return num_in_flight_; }  // steps
  int num_slots() const { return static_cast<int>(slots_.size()); }
  std::int64_t num_preemptions() const { return preemptions_; }
  std::int64_t num_swaps() const { return swaps_; }
  bool idle() const { return live_.empty(); }
  const Sequence* first_waiting() const { return waiting_.empty() ? nullptr : waiting_.begin()->get(); }
  // The first `most` of all that are live: those that run, then the paused, the parked and the waiting ones; the first
  // and the last in their order.
  void list(std::size_t most, std::vector<const Sequence*>& out) const;
  const StepTimeModel& step_time() const { return time_; }

  // Throws internal when sequences, slots and blocks disagree. Tests call it after every call.
  void check() const;
  std::uint64_t digest() const;  // of all that schedule() decides by

 private:
  using Owned = std::unique_ptr<Sequence>;
  static bool goes_before(const Sequence& a, const Sequence& b) {
    return a.key != b.key ? a.key < b.key : a.arrival < b.arrival;
  }
  struct Before {
    using is_transparent = void;
    bool operator()(const Owned& a, const Owned& b) const { return goes_before(*a, *b); }
    bool operator()(const Owned& a, const Sequence& b) const { return goes_before(*a, b); }
    bool operator()(const Sequence& a, const Owned& b) const { return goes_before(a, *b); }
  };
  struct Flight {  // a step in flight
    std::vector<Row> rows;
    double tokens = 0, context = 0;
  };

  // A step, in the order of schedule(). (scheduler.cpp)
  bool plan_running(Micros now);  // true when blocks were short: nobody is admitted then
  void admit_waiting(Micros now);
  enum class Admission : std::uint8_t { admitted, parked, later };
  Admission admit_first(Micros now);
  void finish_batch(Batch& batch);

  bool plan_decode(Sequence& sequence, Micros now);  // false: it lost its place
  bool has_nothing_to_do(Micros now) const;
  void plan_chunk(Sequence& sequence, int count);
  static bool goes_on_alone(const Sequence& sequence);
  bool make_room(Sequence& sequence, int tokens, Micros now);  // preempts whoever goes after it
  void start_siblings(Micros now);
  bool try_share_prompt(const Sequence& leader, Sequence& sibling);
  int prefill_budget() const;
  int prefill_share(const Sequence& sequence) const;
  bool is_whole(const Sequence& sequence) const;  // runs in one chunk or not at all

  // Admission: what it takes, whether that is there, and what it counts on. (admission.cpp)
  Lease find_prefix(const Sequence& sequence) const;
  bool swaps_in(const Sequence& sequence, const Lease& lease) const;
  int blocks_to_admit(const Sequence& sequence, const Lease& lease) const;
  int growth(int group, int size, int held, int length) const;
  bool fits(int blocks, int blocks_expected) const;
  int expected_length(const Sequence& sequence) const;
  int resident_blocks(int group, int length) const;  // blocks that a sequence of this length holds at most
  int resident_blocks(int length) const;             // of all groups
  const Sequence* find_producer(const Sequence& sequence, const Lease& lease) const;
  void take_prefix(Sequence& sequence, Lease lease);

  // Moves between states. (moves.cpp)
  void enter(Sequence& sequence, SequenceState state, Micros now, WaitReason reason = WaitReason::none);
  void explain(Sequence& sequence, WaitReason reason, Micros now);
  Sequence& adopt(Owned& sequence, Micros now);  // into live_ alone; the caller puts it somewhere
  void queue(Owned sequence);
  void wait(Owned sequence, Micros now, WaitReason reason);
  void park(Owned sequence, const Sequence& other, Micros now);
  void unpark(const Sequence& other, Micros now);  // whoever need not wait for it any more
  void unpark_all(SequenceId other, Micros now);
  void unpark_late(Micros now);
  Owned take_out(Sequence& sequence);  // of whatever list its state says
  void start_running(Owned sequence, Micros now);
  void stop_running(Sequence& sequence);
  void give_way(Sequence& sequence);
  void preempt_last(Micros now);
  void release(Sequence& sequence, int cache_class);  // the one release path
  void hold(Sequence& sequence, Micros now);

  // Slots and blocks. (slots.cpp)
  void join(Sequence& sequence, Slot source, int prefix);
  void free_slot(Sequence& sequence);
  void start_decoding(Sequence& sequence);
  void stop_decoding(Sequence& sequence);
  bool grow(Sequence& sequence, int tokens);
  void set_blocks(const Sequence& sequence, int first);
  void set_block(const Sequence& sequence, int group, int index, BlockId block);
  void reserve(Sequence& sequence);
  void publish(Sequence& sequence);
  void publish(Sequence& sequence, int computed);

  void retire_row(Row& row, std::span<const std::int32_t> tokens, Micros now);
  void validate(const Sequence& sequence) const;
  void check_sequence(const Sequence& sequence, SequenceState state) const;

  SchedulerConfig config_;
  const Policy& policy_;
  KvBlocks& kv_;
  Observer* observer_ = nullptr;
  TenantClocks clocks_;
  OutputLengths lengths_;
  StepTimeModel time_;

  std::vector<Owned> running_;                                 // in policy order
  std::vector<Sequence*> decoding_;                            // in the device's order
  std::set<Owned, Before> waiting_;                            // as many as there are; only the front is looked at
  std::unordered_map<SequenceId, std::vector<Owned>> parked_;  // by the sequence that they wait for
  std::deque<std::pair<Micros, SequenceId>> prefix_waits_;     // when to give up waiting for a prefix
  std::unordered_map<SequenceId, Owned> paused_;
  std::unordered_map<SequenceId, Owned> draining_;
  std::unordered_map<SequenceId, Sequence*> live_;  // all but the draining ones
  std::vector<Sequence*> slots_;                    // null: free
  std::vector<Slot> free_slots_;

  // The batch in the making. Changes pile up in it between steps too.
  Batch next_;
  std::vector<Row> chunk_rows_;                          // one a chunk
  std::vector<int> leaders_;                             // chunks that end a prompt that siblings wait for
  std::vector<std::pair<int, Sequence*>> sibling_rows_;  // who starts from which chunk, in its order
  std::vector<Sequence*> producers_;                     // running ones whose prompt is not all published yet
  std::vector<Sequence*> starters_, stoppers_;           // of decoding, from the step after this on
  std::vector<Copy> late_copies_;                        // that need this step's writes
  int budget_ = 0;                                       // prompt tokens that may still be planned
  int undecided_ = 0;                                    // running sequences that may still want some of it

  std::vector<Flight> flights_;  // a ring
  Flight last_;                  // the one that retired last
  int first_flight_ = 0, num_in_flight_ = 0;
  std::uint64_t steps_ = 0;
  int num_parked_ = 0, num_held_ = 0;
  int reserved_ = 0;                 // over all running sequences
  std::int64_t decode_context_ = 0;  // keys that the decoding sequences read in a step
  bool stalled_ = false;             // the first of waiting_ did not fit, and nothing has changed that
  std::uint64_t arrivals_ = 0;
  std::int64_t preemptions_ = 0, swaps_ = 0;
};

// What the trace wants to know.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on_state(const Sequence& sequence, SequenceState from, Micros now) = 0;  // `sequence` is in its new one
};

}  // namespace warpjet
