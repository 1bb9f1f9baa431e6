#include "schedule/schedule.h"

#include <algorithm>

namespace warpjet {

namespace {

// Room for output that a sequence gets when it starts to run, so that steady decoding does not allocate. Bounded: most
// requests may grow to the model's limit and few do.
constexpr int kReservedTokens = 4096;

void require_positive(std::string_view name, int value) {
  WJ_REQUIRE(value > 0, invalid_argument, "the scheduler needs ", name, " > 0, got ", value);
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, BlockPool& pool, PrefixTree& tree)
    : config_(config), before_{find_policy(config.policy).before}, pool_(pool), tree_(tree), waiting_(before_) {
  require_positive("max_num_seqs", config.max_num_seqs);
  require_positive("max_batched_tokens", config.max_batched_tokens);
  WJ_REQUIRE(config.block_size == tree.block_size(), invalid_argument, "the scheduler's block_size is ",
             config.block_size, " and the prefix tree's ", tree.block_size());
}

// --- Coming and going -----------------------------------------------------------------------------------------------

Sequence& Scheduler::add(std::unique_ptr<Sequence> sequence) {
  Sequence& s = *sequence;
  WJ_REQUIRE(s.length() > 0, invalid_argument, "a sequence needs at least one token");
  WJ_REQUIRE(s.prompt_length == s.length(), invalid_argument, "prompt_length is ", s.prompt_length, " of ", s.length(),
             " tokens");
  WJ_REQUIRE(s.max_length >= s.length(), invalid_argument, "max_length is ", s.max_length, ", below the prompt's ",
             s.length(), " tokens");
  const int capacity = pool_.num_blocks() - 1;
  WJ_REQUIRE(blocks_for(s.max_length) <= capacity, invalid_argument, "prompt and max_tokens together take ",
             s.max_length, " tokens, the KV cache holds ", static_cast<std::int64_t>(capacity) * config_.block_size,
             "; lower max_tokens or give the KV cache more memory");
  const auto leader = live_.find(s.leader);
  const bool park = config_.prefix_caching && s.read_prefix_cache && leader != live_.end() &&
                    leader->second->computed < leader->second->prompt_length;
  WJ_REQUIRE(live_.try_emplace(s.id, &s).second, invalid_argument, "sequence id ", s.id, " is taken");
  s.arrival = arrivals_++;
  if (park) {
    s.state = Sequence::State::parked;
    parked_[s.leader].push_back(std::move(sequence));
    ++num_parked_;
  } else {
    wait(std::move(sequence));
  }
  return s;
}

std::unique_ptr<Sequence> Scheduler::remove(Sequence& sequence) {
  Owned owned;
  switch (sequence.state) {
    case Sequence::State::parked:
      owned = take_parked(sequence);
      break;
    case Sequence::State::waiting:
      owned = std::move(waiting_.extract(waiting_.find(sequence)).value());
      break;
    case Sequence::State::running:
      owned = take_running(sequence);
      break;
    case Sequence::State::finished:
      WJ_FAIL(internal, "sequence ", sequence.id, " was removed before");
  }
  release(sequence);
  sequence.state = Sequence::State::finished;
  live_.erase(sequence.id);
  unpark(sequence.id);
  stalled_ = false;
  return owned;
}

void Scheduler::wait(Owned sequence) {
  sequence->state = Sequence::State::waiting;
  const auto place = waiting_.insert(std::move(sequence)).first;
  if (place == waiting_.begin()) stalled_ = false;
}

// Siblings start once their leader's blocks are published, or when it is gone. A leader never waits for a sibling, so
// nobody is parked for ever.
void Scheduler::unpark(SequenceId leader) {
  if (parked_.empty()) return;
  auto siblings = parked_.extract(leader);
  if (siblings.empty()) return;
  num_parked_ -= static_cast<int>(siblings.mapped().size());
  for (Owned& sibling : siblings.mapped()) wait(std::move(sibling));
}

Scheduler::Owned Scheduler::take_running(const Sequence& sequence) {
  const auto at = std::lower_bound(running_.begin(), running_.end(), sequence, before_);
  Owned owned = std::move(*at);
  running_.erase(at);
  return owned;
}

Scheduler::Owned Scheduler::take_parked(const Sequence& sequence) {
  const auto siblings = parked_.find(sequence.leader);
  const auto at = std::ranges::find(siblings->second, &sequence, &Owned::get);
  Owned owned = std::move(*at);
  siblings->second.erase(at);
  if (siblings->second.empty()) parked_.erase(siblings);
  --num_parked_;
  return owned;
}

// --- A step ---------------------------------------------------------------------------------------------------------

void Scheduler::schedule(Batch& batch) {
  batch.clear();
  const bool preempted = schedule_running(batch);
  if (preempted || stalled_) return;
  while (!waiting_.empty() && num_running() < config_.max_num_seqs && batch.num_tokens < config_.max_batched_tokens) {
    stalled_ = !admit_first(batch);
    if (stalled_) return;
  }
}

bool Scheduler::schedule_running(Batch& batch) {
  bool preempted = false;
  for (int i = 0; i < num_running() && batch.num_tokens < config_.max_batched_tokens; ++i) {
    Sequence& sequence = *running_[i];
    // A long prompt leaves a token for everyone behind it, so that it does not stop their decoding.
    const int behind = num_running() - 1 - i;
    const int share = std::max(1, config_.max_batched_tokens - batch.num_tokens - behind);
    const int count = std::min(sequence.length() - sequence.computed, share);
    while (num_running() > i && !grow(sequence, sequence.computed + count)) {
      preempt_last();
      preempted = true;
    }
    if (num_running() == i) break;  // it was the last one itself
    batch.add(sequence, count);
  }
  return preempted;
}

bool Scheduler::admit_first(Batch& batch) {
  Sequence& sequence = **waiting_.begin();
  match(sequence);
  const int budget = config_.max_batched_tokens - batch.num_tokens;
  const int left = sequence.length() - sequence.computed;
  const bool whole = !config_.chunked_prefill && left <= config_.max_batched_tokens;
  if (!fits(sequence) || (whole && left > budget)) {
    release(sequence);
    return false;
  }
  const int count = std::min(left, budget);
  const bool grown = grow(sequence, sequence.computed + count);
  WJ_CHECK(grown, "sequence=", sequence.id);
  if (!sequence.admitted) {
    sequence.admitted = true;
    sequence.cached = sequence.computed;
    sequence.tokens.reserve(sequence.length() + std::min(sequence.max_length - sequence.length(), kReservedTokens) + 1);
    sequence.blocks.reserve(blocks_for(static_cast<int>(sequence.tokens.capacity())));
  }
  sequence.state = Sequence::State::running;
  auto node = waiting_.extract(waiting_.begin());
  running_.insert(std::ranges::upper_bound(running_, node.value(), before_), std::move(node.value()));
  batch.add(sequence, count);
  return true;
}

// The last known token is always computed, even when its block is in the tree: its logits are wanted.
void Scheduler::match(Sequence& sequence) {
  if (!config_.prefix_caching || !sequence.read_prefix_cache) return;
  const int most = (sequence.length() - 1) / config_.block_size;
  sequence.published = tree_.match_and_retain(sequence.tokens, sequence.salt, most, sequence.blocks);
  sequence.computed = sequence.published * config_.block_size;
}

// Room for all known tokens, although the first chunk may take fewer, and for a block more for everyone who runs: who
// is admitted sooner is preempted again at once.
bool Scheduler::fits(const Sequence& sequence) const {
  const int missing = blocks_for(sequence.length()) - static_cast<int>(sequence.blocks.size());
  return pool_.num_available() >= missing + num_running();
}

bool Scheduler::grow(Sequence& sequence, int length) {
  const int held = static_cast<int>(sequence.blocks.size());
  if (length <= held * config_.block_size) return true;
  WJ_CHECK(length <= sequence.max_length, "sequence ", sequence.id, " has ", length, " tokens and was not removed");
  return pool_.try_acquire(blocks_for(length) - held, sequence.blocks, tree_);
}

void Scheduler::preempt_last() {
  WJ_CHECK(num_running() > 1, "the first in order does not fit alone");
  Owned sequence = std::move(running_.back());
  running_.pop_back();
  release(*sequence);
  wait(std::move(sequence));
  ++preemptions_;
  stalled_ = false;
}

// Last block first: so a block is always evicted before the ones that it follows.
void Scheduler::release(Sequence& sequence) {
  for (auto block = sequence.blocks.rbegin(); block != sequence.blocks.rend(); ++block) pool_.release(*block);
  sequence.blocks.clear();
  sequence.computed = sequence.published = 0;
}

void Scheduler::commit(const Batch& batch, std::span<const std::int32_t> sampled) {
  WJ_CHECK(static_cast<int>(sampled.size()) == batch.num_sampled, "got ", sampled.size(), " tokens for ",
           batch.num_sampled, " rows");
  std::size_t next = 0;
  for (const Chunk& chunk : batch.chunks) {
    Sequence& sequence = *chunk.sequence;
    sequence.computed = chunk.start + chunk.count;
    if (chunk.sampled) sequence.tokens.push_back(sampled[next++]);
    if (config_.prefix_caching) publish(sequence);
    if (chunk.count > 1) stalled_ = false;  // a prompt made progress: others may now share its blocks
    if (sequence.computed >= sequence.prompt_length) unpark(sequence.id);
  }
}

void Scheduler::publish(Sequence& sequence) {
  const int size = config_.block_size;
  while ((sequence.published + 1) * size <= sequence.computed) {
    const int i = sequence.published++;
    const BlockId parent = i == 0 ? kNoBlock : sequence.blocks[i - 1];
    const auto tokens = std::span<const std::int32_t>(sequence.tokens).subspan(i * size, size);
    sequence.blocks[i] = tree_.publish(parent, tokens, sequence.salt, sequence.blocks[i]);
  }
}

// --- Invariants -----------------------------------------------------------------------------------------------------

void Scheduler::check() const {
  pool_.check();
  tree_.check();
  WJ_CHECK(std::ranges::is_sorted(running_, before_) && num_running() <= config_.max_num_seqs);
  std::size_t parked = 0;
  for (const Owned& s : running_) check_sequence(*s, Sequence::State::running);
  for (const Owned& s : waiting_) check_sequence(*s, Sequence::State::waiting);
  for (const auto& [leader, siblings] : parked_) {
    const auto found = live_.find(leader);
    WJ_CHECK(found != live_.end() && found->second->computed < found->second->prompt_length, "leader=", leader);
    WJ_CHECK(!siblings.empty(), "leader=", leader);
    for (const Owned& s : siblings) check_sequence(*s, Sequence::State::parked);
    parked += siblings.size();
  }
  WJ_CHECK(static_cast<int>(parked) == num_parked_);
  WJ_CHECK(live_.size() == running_.size() + waiting_.size() + parked, "live=", live_.size());

  std::vector<int> references(pool_.num_blocks());
  for (const Owned& s : running_) {
    for (const BlockId block : s->blocks) ++references[block];
  }
  for (BlockId block = 0; block < pool_.num_blocks(); ++block) {
    WJ_CHECK(references[block] == pool_.references(block), "block ", block, " has ", pool_.references(block),
             " references and ", references[block], " holders");
  }
}

void Scheduler::check_sequence(const Sequence& s, Sequence::State state) const {
  const auto found = live_.find(s.id);
  WJ_CHECK(found != live_.end() && found->second == &s && s.state == state, "sequence=", s.id);
  const int num_blocks = static_cast<int>(s.blocks.size());
  if (state != Sequence::State::running) {
    WJ_CHECK(num_blocks == 0 && s.computed == 0 && s.published == 0, "sequence=", s.id, " waits and holds blocks");
    return;
  }
  WJ_CHECK(s.computed < s.length() && blocks_for(s.computed) <= num_blocks, "sequence=", s.id);
  WJ_CHECK(num_blocks <= blocks_for(s.length()), "sequence=", s.id);
  WJ_CHECK(s.published == (config_.prefix_caching ? s.computed / config_.block_size : 0), "sequence=", s.id);
  for (int i = 0; i < num_blocks; ++i) {
    const BlockId block = s.blocks[i];
    WJ_CHECK(pool_.published(block) == (i < s.published), "sequence=", s.id, " block=", block);
    if (i >= s.published) WJ_CHECK(pool_.references(block) == 1, "writable block ", block, " has several holders");
    if (i >= s.published) continue;
    WJ_CHECK(tree_.parent(block) == (i == 0 ? kNoBlock : s.blocks[i - 1]), "sequence=", s.id, " block=", block);
  }
}

}  // namespace warpjet
