// The scheduler: which tokens of which sequences run in the next step. Pure host logic over the block pool and the prefix
// tree: no device, no clock, no thread of its own. There are no phases: a sequence has tokens it knows and tokens it has
// computed, and a step computes some of the difference (a chunk of a prompt, or the one new token of a decode).
//
//   schedule() -> Batch -> (the model runs) -> commit(batch, results) -> finished sequences
//
// Owned by the engine thread.
#pragma once

#include "memory/memory.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace warpjet {

using SequenceId = std::uint64_t;

// One sample of one request.
struct Sequence {
  SequenceId id = 0;
  std::vector<std::int32_t> tokens;  // prompt, then output
  int prompt_length = 0;
  int max_length = 0;                // prompt + max_tokens, at most the model's limit
  int priority = 0;
  std::string salt;                  // exact part of the prefix key: cache salt and what else changes the KV
  bool read_prefix_cache = true;
  SequenceId leader = 0;             // a sibling (n > 1) waits until its leader's prompt is computed; 0 = none
  void* user = nullptr;              // the runtime's record

  // Owned by the scheduler.
  enum class State : std::uint8_t { waiting, running, finished };
  State state = State::waiting;
  std::uint64_t arrival = 0;         // order of add(); kept over preemption
  int computed = 0;                  // tokens whose keys and values are in the cache
  int cached = 0;                    // prompt tokens found in the prefix cache at first admission
  int published = 0;                 // blocks of this sequence known to the tree, from the front
  bool admitted = false;             // has been scheduled before
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

// One step's work, printable. Chunks are in arrival order.
struct Batch {
  std::vector<Chunk> chunks;
  int num_tokens = 0;
  int num_sampled = 0;
  void clear() {
    chunks.clear();
    num_tokens = num_sampled = 0;
  }
};

// A row of THE TABLE of policies: true when `a` goes before `b`.
struct Policy {
  std::string_view name;
  bool (*before)(const Sequence& a, const Sequence& b);
};
std::span<const Policy> policies();
const Policy& find_policy(std::string_view name);  // throws invalid_argument listing the names

struct SchedulerConfig {
  int max_num_seqs = 256;
  int max_batched_tokens = 2048;
  int block_size = 32;
  bool prefix_caching = true;
  bool chunked_prefill = true;  // off: a prompt runs whole in one step (or alone, when longer than the budget)
  std::string_view policy = "fcfs";
};

class Scheduler {
 public:
  Scheduler(const SchedulerConfig& config, BlockPool& pool, PrefixTree& tree);
  ~Scheduler();

  // Takes the sequence into the waiting list. Throws invalid_argument when it can never run: no tokens, or more blocks
  // at max_length than the pool has.
  Sequence& add(std::unique_ptr<Sequence> sequence);

  // Ends a sequence at any point and releases its blocks; the object is handed back. Never called between schedule() and
  // commit() (the runtime defers cancels to the step boundary).
  std::unique_ptr<Sequence> remove(Sequence& sequence);

  // Fills `batch` with the next step. Order: running sequences first, then waiting ones, each by policy; when a running
  // sequence finds no block the last in order is preempted (its blocks released, to be computed again). An empty batch
  // means that nothing can run, which happens only when nothing is left.
  void schedule(Batch& batch);

  // The batch was computed; sampled[i] is the token of the i-th sampled chunk. Appends tokens, advances `computed`,
  // publishes blocks that became full. Does not finish anything: the runtime decides and calls remove().
  void commit(const Batch& batch, std::span<const std::int32_t> sampled);

  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  int num_running() const { return static_cast<int>(running_.size()); }
  std::int64_t num_preemptions() const { return preemptions_; }
  bool idle() const { return waiting_.empty() && running_.empty(); }

  // Throws internal when sequences and blocks disagree. Tests call it after every step.
  void check() const;

 private:
  bool grow(Sequence& sequence, int length);  // blocks for `length` tokens; false = none left
  bool admit(Sequence& sequence);             // prefix match
  void preempt(Sequence& sequence);
  void release(Sequence& sequence);           // the one release path
  void publish(Sequence& sequence);
  bool leader_ready(const Sequence& sequence) const;

  SchedulerConfig config_;
  const Policy& policy_;
  BlockPool& pool_;
  PrefixTree& tree_;
  std::vector<std::unique_ptr<Sequence>> waiting_, running_;  // both in policy order
  std::uint64_t arrivals_ = 0;
  std::int64_t preemptions_ = 0;
};

}  // namespace warpjet
