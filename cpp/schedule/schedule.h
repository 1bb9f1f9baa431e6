// The scheduler: which tokens of which sequences run in the next step. Pure host logic over the block pool and the
// prefix tree: no device, no clock, no thread of its own. There are no phases: a sequence has tokens it knows and
// tokens it has computed, and a step computes some of the difference (a chunk of a prompt, or the one new token of a
// decode).
//
//   schedule() -> Batch -> (the model runs) -> commit(batch, results) -> finished sequences
//
// Progress. Sequences have one strict order (the policy's). Only the last running one is ever preempted, and add()
// refused what the empty pool could not hold, so the first running one always gets its blocks and at least one token a
// step; it loses its place only to one that goes before it. Hence every step brings some sequence nearer to its end,
// for good.
//
// Owned by the engine thread.
#pragma once

#include "memory/memory.h"

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace warpjet {

using SequenceId = std::uint64_t;

// One sample of one request. The upper half is set by whoever adds it, the lower half belongs to the scheduler.
struct Sequence {
  SequenceId id = 0;                 // unique among those in the scheduler
  std::vector<std::int32_t> tokens;  // prompt, then output
  int prompt_length = 0;
  int max_length = 0;  // prompt + max_tokens, at most the model's limit
  int priority = 0;
  std::string salt;               // exact part of the prefix key: cache salt and what else changes the KV
  bool read_prefix_cache = true;  // off: computes everything itself; what it computes is still published
  SequenceId leader = 0;          // a sibling (n > 1) waits until its leader's prompt is computed; 0 = none
  void* user = nullptr;           // the runtime's record

  enum class State : std::uint8_t { parked, waiting, running, finished };  // parked: waits for its leader
  State state = State::waiting;
  std::uint64_t arrival = 0;  // order of add(); kept over preemption
  int computed = 0;           // tokens whose keys and values are in the cache
  int cached = 0;             // prompt tokens found in the prefix cache at first admission
  int published = 0;          // leading blocks that are in the tree: a chain of it, all held by this sequence
  bool admitted = false;      // has been scheduled before
  std::vector<BlockId> blocks;

  int length() const { return static_cast<int>(tokens.size()); }
  int output_length() const { return length() - prompt_length; }
};

// A run of one sequence's tokens in a step: tokens[start, start + count). When it reaches the last known token the row
// is sampled.
struct Chunk {
  Sequence* sequence = nullptr;
  int start = 0, count = 0;
  bool sampled = false;
};

// One step's work. First the chunks of sequences that were running, then those of newly admitted ones, each in the
// policy's order.
struct Batch {
  std::vector<Chunk> chunks;
  int num_tokens = 0;
  int num_sampled = 0;
  void clear() {
    chunks.clear();
    num_tokens = num_sampled = 0;
  }
  void add(Sequence& sequence, int count) {
    const bool last = sequence.computed + count == sequence.length();
    chunks.push_back({&sequence, sequence.computed, count, last});
    num_tokens += count;
    num_sampled += last;
  }
};

// A row of THE TABLE of policies: true when `a` goes before `b`. A strict total order: arrivals are unique.
struct Policy {
  std::string_view name;
  bool (*before)(const Sequence& a, const Sequence& b);
};
std::span<const Policy> policies();
const Policy& find_policy(std::string_view name);  // throws invalid_argument listing the names

struct SchedulerConfig {
  int max_num_seqs = 256;
  int max_batched_tokens = 2048;  // a hard limit, whatever the other fields say
  int block_size = 32;
  bool prefix_caching = true;
  bool chunked_prefill = true;  // off: a prompt runs whole in one step; only one longer than the budget is split
  std::string_view policy = "fcfs";
};

class Scheduler {
 public:
  // Throws invalid_argument on limits < 1, a block size that is not the tree's, or an unknown policy. Pool and tree
  // must outlive the scheduler, which does not give blocks back when destroyed: remove sequences first if the pool
  // lives on.
  Scheduler(const SchedulerConfig& config, BlockPool& pool, PrefixTree& tree);

  // Takes the sequence into the waiting list. Throws invalid_argument, and has no effect, when it can never run: no
  // tokens, a max_length below its length or of more blocks than the pool has; or when its id is taken.
  Sequence& add(std::unique_ptr<Sequence> sequence);

  // Ends a sequence at any point and releases its blocks; the object is handed back. Never called between schedule()
  // and commit() (the runtime defers cancels to the step boundary), unless that batch is given up: a batch that is
  // never committed leaves nothing behind and is scheduled again.
  std::unique_ptr<Sequence> remove(Sequence& sequence);

  // Fills `batch` with the next step. Order: running sequences first, then waiting ones, each by policy; when a running
  // sequence finds no block the last in order is preempted (its blocks released, to be computed again), and then
  // nothing is admitted in this step. An empty batch means that nothing can run, which happens only when nothing is
  // left.
  void schedule(Batch& batch);

  // The batch was computed; sampled[i] is the token of the i-th sampled chunk. Appends tokens, advances `computed`,
  // publishes blocks that became full (a block may be exchanged for an equal one that is in the tree already). Does not
  // finish anything: the runtime decides, and calls remove() before a sequence would grow beyond max_length.
  void commit(const Batch& batch, std::span<const std::int32_t> sampled);

  int num_waiting() const { return static_cast<int>(waiting_.size()) + num_parked_; }
  int num_running() const { return static_cast<int>(running_.size()); }
  std::int64_t num_preemptions() const { return preemptions_; }
  bool idle() const { return live_.empty(); }

  // Throws internal when sequences and blocks disagree. Tests call it after every step.
  void check() const;

 private:
  using Owned = std::unique_ptr<Sequence>;
  struct Before {
    using is_transparent = void;
    bool (*before)(const Sequence& a, const Sequence& b);
    bool operator()(const Sequence& a, const Sequence& b) const { return before(a, b); }
    bool operator()(const Owned& a, const Owned& b) const { return before(*a, *b); }
    bool operator()(const Owned& a, const Sequence& b) const { return before(*a, b); }
    bool operator()(const Sequence& a, const Owned& b) const { return before(a, *b); }
  };

  bool schedule_running(Batch& batch);  // true when something was preempted
  bool admit_first(Batch& batch);       // the first of waiting_; false = it does not fit now
  void match(Sequence& sequence);
  bool fits(const Sequence& sequence) const;
  bool grow(Sequence& sequence, int length);  // blocks for `length` tokens; false = none left
  void preempt_last();
  void release(Sequence& sequence);  // the one release path
  void publish(Sequence& sequence);
  void wait(Owned sequence);
  void unpark(SequenceId leader);
  Owned take_running(const Sequence& sequence);
  Owned take_parked(const Sequence& sequence);
  int blocks_for(int length) const { return static_cast<int>(ceil_div<std::int64_t>(length, config_.block_size)); }
  void check_sequence(const Sequence& sequence, Sequence::State state) const;

  SchedulerConfig config_;
  Before before_;
  BlockPool& pool_;
  PrefixTree& tree_;
  std::vector<Owned> running_;                                 // in policy order
  std::set<Owned, Before> waiting_;                            // as many as there are; only the front is looked at
  std::unordered_map<SequenceId, std::vector<Owned>> parked_;  // by leader
  std::unordered_map<SequenceId, Sequence*> live_;             // all of them
  int num_parked_ = 0;
  bool stalled_ = false;  // the first of waiting_ did not fit, and nothing has changed that
  std::uint64_t arrivals_ = 0;
  std::int64_t preemptions_ = 0;
};

}  // namespace warpjet
