// Who starts to run: what that takes, whether it is there, and what is counted on.
#include <algorithm>

#include "memory/kv_layout.h"
#include "schedule/schedule.h"

namespace warpjet {

namespace {

// Room for output that a sequence gets when it starts to run, so that steady decoding does not allocate. Bounded: most
// requests may grow to the model's limit and few do.
constexpr int kReservedTokens = 4096;

}  // namespace

void Scheduler::admit_waiting(Micros now) {
  while (!waiting_.empty() && budget_ > 0) {
    if (num_running() >= config_.max_num_seqs || free_slots_.empty()) {
      explain(**waiting_.begin(), WaitReason::seqs, now);
      return;
    }
    if (admit_first(now) == Admission::later) return;
  }
}

// A transaction: the lease holds what is known of the text, then everything is counted, and only then is anything
// taken. Until then nothing has happened.
Scheduler::Admission Scheduler::admit_first(Micros now) {
  Sequence& sequence = **waiting_.begin();
  if (sequence.in_flight > 0) return Admission::later;  // a token of its last life is still to come
  Lease lease = find_prefix(sequence);
  if (const Sequence* producer = find_producer(sequence, lease)) {
    lease.drop();
    auto node = waiting_.extract(waiting_.begin());
    park(std::move(node.value()), *producer, now);
    return Admission::parked;
  }
  // Who is alone fits, but perhaps not beside a block that it only copies from, nor with what it had in flight when it
  // was swapped out.
  if (num_running() == 0 && !fits(blocks_to_admit(sequence, lease), 0)) {
    lease.drop_copy();
    if (swaps_in(sequence, lease)) {
      lease.drop();
      release(sequence, sequence.cache_class);
      return admit_first(now);
    }
  }
  const int known = swaps_in(sequence, lease) ? sequence.swapped_tokens : lease.tokens();
  const bool too_long = is_whole(sequence) && sequence.length() - known > budget_;
  const int blocks = blocks_to_admit(sequence, lease);
  const int expected = resident_blocks(expected_length(sequence)) - resident_blocks(sequence.length());
  if (too_long || !fits(blocks, expected)) {
    stalled_ = !too_long;
    explain(sequence, sequence.preemptions > 0 ? WaitReason::preempted : WaitReason::blocks, now);
    return Admission::later;
  }

  auto node = waiting_.extract(waiting_.begin());
  take_prefix(sequence, std::move(lease));
  if (!sequence.admitted) {
    sequence.admitted = true;
    sequence.cached = sequence.planned;
    sequence.tokens.reserve(sequence.length() + std::min(sequence.max_length - sequence.length(), kReservedTokens) + 1);
    for (int group = 0; group < kv_.num_groups(); ++group) {
      sequence.table.groups[group].blocks.reserve(kv_.blocks_for(static_cast<int>(sequence.tokens.capacity())));
    }
  }
  join(sequence, kNoSlot, 0);
  start_running(std::move(node.value()), now);
  if (sequence.planned < sequence.prompt_length) producers_.push_back(&sequence);
  const int count = prefill_share(sequence);
  if (!grow(sequence, sequence.planned + count)) {  // it was counted, so the world is broken: nobody else pays for it
    Owned back = take_out(sequence);
    give_way(sequence);
    wait(std::move(back), now, WaitReason::blocks);
    return Admission::later;
  }
  plan_chunk(sequence, count);
  start_siblings(now);
  return Admission::admitted;
}

// What is known of its text, but for the last token, whose logits are wanted. Of one that was swapped out that is what
// lies before, unless the cache knows more by now.
Lease Scheduler::find_prefix(const Sequence& sequence) const {
  const auto match = [&](int tokens) { return kv_.match(sequence.tokens, sequence.domain, tokens); };
  const int most = sequence.read_prefix_cache ? sequence.length() - 1 : 0;
  if (sequence.swapped_tokens == 0) return match(most);
  Lease all = match(most);
  if (all.tokens() >= sequence.swapped_tokens) return all;
  all.drop();
  Lease front = match(sequence.table.swapped_first() * kv_.block_size());
  if (swaps_in(sequence, front)) return front;
  front.drop();
  return match(most);
}

bool Scheduler::swaps_in(const Sequence& sequence, const Lease& lease) const {
  return sequence.swapped_tokens > lease.tokens() && kv_.can_swap_in(sequence.table, lease);
}

// Blocks for all known tokens, although the first chunk may take fewer.
int Scheduler::blocks_to_admit(const Sequence& sequence, const Lease& lease) const {
  const bool swapped = swaps_in(sequence, lease);
  const int size = swapped ? kv_.blocks_for(sequence.swapped_tokens) : lease.num_blocks();
  int blocks = swapped ? kv_.swap_in_needed(sequence.table, lease) : lease.blocks_needed();
  for (int group = 0; group < kv_.num_groups(); ++group) {
    const int back = swapped ? static_cast<int>(sequence.table.groups[group].swapped.size()) : 0;
    blocks += growth(group, size, lease.num_held(group) + back, sequence.length());
  }
  return blocks;
}

// Blocks that a list of `size` blocks, `held` of them not behind the window, takes until it holds `length` tokens. With
// a window it releases some meanwhile, but not before the first chunk.
int Scheduler::growth(int group, int size, int held, int length) const {
  const int all = std::max(0, kv_.blocks_for(length) - size);
  if (kv_.windows()[group] == 0) return all;
  const int chunk = kv_.blocks_for(config_.max_batched_tokens) + 1;
  return std::min(all, std::max(resident_blocks(group, length) - held, chunk));
}

// Besides what it takes now: room for what it and the running ones are expected to take later, and a block more of each
// group for each of those, because expectations fail. Who is alone always fits: add() saw to that.
bool Scheduler::fits(int blocks, int blocks_expected) const {
  const int available = kv_.num_available();
  if (num_running() == 0) return available >= blocks;
  const bool certain = config_.admission_quantile >= 1;
  return available >=
         blocks + std::max(0, blocks_expected) + reserved_ + (certain ? 0 : num_running() * kv_.num_groups());
}

int Scheduler::expected_length(const Sequence& sequence) const {
  if (config_.admission_quantile >= 1) return sequence.max_length;
  if (config_.admission_quantile <= 0) return sequence.length();
  const int asked = sequence.max_length - sequence.prompt_length;
  const int output = lengths_.quantile(asked, config_.admission_quantile);
  return std::clamp(sequence.prompt_length + output, sequence.length(), sequence.max_length);
}

int Scheduler::resident_blocks(int group, int length) const {
  return warpjet::resident_blocks(kv_.windows()[group], length, config_.max_batched_tokens, kv_.block_size());
}

int Scheduler::resident_blocks(int length) const {
  return static_cast<int>(
      warpjet::resident_blocks(kv_.windows(), length, config_.max_batched_tokens, kv_.block_size()));
}

// Another sequence that is about to publish the block which this one would have to compute next.
const Sequence* Scheduler::find_producer(const Sequence& sequence, const Lease& lease) const {
  if (!kv_.prefix_caching() || !sequence.read_prefix_cache || sequence.waited_prefix || sequence.swapped_tokens > 0) {
    return nullptr;
  }
  const int size = kv_.block_size(), begin = lease.tokens() / size * size;
  if (begin + size > sequence.length() - 1) return nullptr;
  const auto equal_block = [&](const Sequence& other) {
    return other.prompt_length >= begin + size && other.domain == sequence.domain &&
           std::equal(sequence.tokens.begin() + begin, sequence.tokens.begin() + begin + size,
                      other.tokens.begin() + begin);
  };
  for (const Sequence* other : producers_) {
    const bool same_place = other->table.node == lease.node() && other->table.published * size == begin;
    if (same_place && equal_block(*other)) return other;
  }
  return nullptr;
}

void Scheduler::take_prefix(Sequence& sequence, Lease lease) {
  if (swaps_in(sequence, lease)) {
    kv_.swap_in(std::move(lease), sequence.table);
    sequence.planned = sequence.computed = sequence.swapped_tokens;
  } else {
    kv_.release(sequence.table, sequence.cache_class);  // what was swapped out is of no use
    sequence.planned = sequence.computed = lease.tokens();
    kv_.adopt(std::move(lease), sequence.table);
  }
  sequence.swapped_tokens = 0;
}

}  // namespace warpjet
