// A step: schedule() and retire().
#include <algorithm>

#include "schedule/schedule.h"

namespace warpjet {

namespace {

// Several prompts share a step, but not in smaller pieces than this.
constexpr int kLeastShare = 256;

// With a target for the length of steps, prompts still get this many tokens: else they would never end.
constexpr int kLeastBudget = 16;
constexpr int kFirstBudget = 256;  // and this many until the time of a step is known

// Who is held for longer makes room for others when nothing else can be planned.
constexpr Micros kHeldPatience = 20'000;

void require_positive(std::string_view name, int value) {
  WJ_REQUIRE(value > 0, invalid_argument, "the scheduler needs ", name, " > 0, got ", value);
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, KvBlocks& kv)
    : config_(config), policy_(find_policy(config.policy)), kv_(kv) {
  require_positive("max_num_seqs", config.max_num_seqs);
  require_positive("max_batched_tokens", config.max_batched_tokens);
  require_positive("max_in_flight", config.max_in_flight);
  // Every running sequence gets at least a token in every step.
  config_.max_num_seqs = std::min(config.max_num_seqs, config.max_batched_tokens);
  const int slots = warpjet::num_slots(config_.max_num_seqs, config.max_in_flight);
  slots_.resize(slots);
  for (Slot slot = slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  flights_.resize(config.max_in_flight);
  for (Flight& flight : flights_) flight.rows.reserve(2 * config_.max_num_seqs);
  last_.rows.reserve(2 * config_.max_num_seqs);
  for (auto* list : {&decoding_, &producers_, &starters_, &stoppers_}) list->reserve(config_.max_num_seqs);
  running_.reserve(config_.max_num_seqs);
  next_.changes.reserve(4 * config_.max_num_seqs);
}

// --- Planning -------------------------------------------------------------------------------------------------------

bool Scheduler::schedule(Batch& batch, Micros now) {
  WJ_CHECK(num_in_flight_ < config_.max_in_flight, "steps in flight=", num_in_flight_);
  unpark_late(now);
  budget_ = prefill_budget();
  undecided_ = num_running() - static_cast<int>(decoding_.size()) - num_held_;
  producers_.clear();
  const bool blocks_are_short = plan_running(now);
  start_siblings(now);
  if (!blocks_are_short && !stalled_) admit_waiting(now);
  while (has_nothing_to_do(now) && !waiting_.empty() && !running_.empty()) {
    preempt_last(now);
    admit_waiting(now);
  }
  if (decoding_.empty() && chunk_rows_.empty()) {
    batch.clear();
    return false;
  }
  finish_batch(batch);
  return true;
}

// All that are running are choosing, perhaps between what they have computed and what those will who find no room; or
// wait for their guides, who are late.
bool Scheduler::has_nothing_to_do(Micros now) const {
  if (!decoding_.empty() || !chunk_rows_.empty() || num_in_flight_ > 0) return false;
  return num_held_ == 0 || std::ranges::none_of(running_, [&](const Owned& sequence) {
           return sequence->held >= 0 && now - sequence->held < kHeldPatience;
         });
}

// In policy order, so whoever is preempted comes later than all that is planned already.
bool Scheduler::plan_running(Micros now) {
  const std::int64_t preemptions = preemptions_;
  for (int i = 0; i < num_running(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.computed < sequence.prompt_length) producers_.push_back(&sequence);
    if (sequence.decode_index >= 0) {
      if (!plan_decode(sequence, now)) return true;
      continue;
    }
    if (sequence.held >= 0) continue;
    --undecided_;
    if (sequence.planned >= sequence.length() || budget_ <= 0) continue;
    const int count = prefill_share(sequence);
    if (!make_room(sequence, sequence.planned + count, now)) return true;
    plan_chunk(sequence, count);
  }
  return preemptions_ > preemptions;
}

bool Scheduler::plan_decode(Sequence& sequence, Micros now) {
  if (!make_room(sequence, sequence.planned + 1, now)) return false;
  ++sequence.planned;
  ++sequence.pending;
  ++sequence.in_flight;
  const bool ends = sequence.length() + sequence.pending == sequence.max_length;
  if (ends || sequence.guided) stoppers_.push_back(&sequence);
  return true;
}

void Scheduler::plan_chunk(Sequence& sequence, int count) {
  const bool sampled = sequence.planned + count == sequence.length();
  next_.chunks.push_back(
      {.slot = sequence.slot, .start = sequence.planned, .count = count, .num_samples = sampled ? 1 : 0});
  chunk_rows_.push_back({.sequence = &sequence, .start = sequence.planned, .count = count, .sampled = sampled});
  budget_ -= count;
  sequence.planned += count;
  ++sequence.in_flight;
  if (!sampled) return;

  ++sequence.pending;
  if (goes_on_alone(sequence)) starters_.push_back(&sequence);
  if (sequence.planned == sequence.prompt_length && parked_.contains(sequence.id)) {
    leaders_.push_back(static_cast<int>(next_.chunks.size()) - 1);
  }
}

// With the next token in every step, until its text ends.
bool Scheduler::goes_on_alone(const Sequence& sequence) {
  const bool ends = sequence.length() + sequence.pending >= sequence.max_length;
  return !ends && !sequence.lockstep && !sequence.guided;
}

// Blocks for `tokens` tokens. When there are none, the last in order is preempted; false: that was this one. With a
// window it rather waits for its own rows in flight: once they have retired it can let go of blocks.
bool Scheduler::make_room(Sequence& sequence, int tokens, Micros now) {
  while (!grow(sequence, tokens)) {
    const bool itself = running_.back().get() == &sequence;
    if (itself && kv_.has_windows() && sequence.in_flight > 0) {
      stop_decoding(sequence);  // until then; it starts again with a chunk of one token
      return false;
    }
    preempt_last(now);
    if (itself) return false;
  }
  return true;
}

// Prompt tokens beside the decodes. All running sequences together are at most as many as the step has tokens, and who
// does not decode wants some of the rest: so there is some.
int Scheduler::prefill_budget() const {
  const int decodes = static_cast<int>(decoding_.size());
  const int room = config_.max_batched_tokens - decodes;
  if (config_.step_target == 0) return room;
  if (!time_.known()) return std::min(room, kFirstBudget);
  const double tokens = time_.tokens_within(static_cast<double>(config_.step_target), decodes, decode_context_);
  return std::min<int>(room, static_cast<int>(std::clamp<double>(tokens, kLeastBudget, 1 << 30)));
}

// Unless the decodes alone leave too little room for it: it must not wait for them to end.
bool Scheduler::is_whole(const Sequence& sequence) const {
  const int room = config_.max_batched_tokens - static_cast<int>(decoding_.size());
  return !config_.chunked_prefill && sequence.length() - sequence.planned <= room;
}

// Half of what is left, while somebody behind may want the other half; so a long prompt does not keep short ones out.
int Scheduler::prefill_share(const Sequence& sequence) const {
  const int left = sequence.length() - sequence.planned;
  const bool others = undecided_ > 0 || (!waiting_.empty() && !stalled_ && num_running() < config_.max_num_seqs);
  const int most = others ? std::max((budget_ + 1) / 2, std::min(budget_, kLeastShare)) : budget_;
  return std::min(left, is_whole(sequence) ? budget_ : most);
}

// The siblings of one prompt draw their first tokens from the same logits, and share its blocks. Those that find no
// slot or block now start on their own when the prompt is published.
void Scheduler::start_siblings(Micros now) {
  for (const int chunk : leaders_) {
    Sequence& leader = *chunk_rows_[chunk].sequence;
    std::vector<Owned>& parked = parked_.at(leader.id);
    std::size_t kept = 0;
    for (Owned& sequence : parked) {
      if (sequence->leader == leader.id && try_share_prompt(leader, *sequence)) {
        sibling_rows_.emplace_back(chunk, sequence.get());
        --num_parked_;
        start_running(std::move(sequence), now);
      } else {
        std::swap(parked[kept++], sequence);
      }
    }
    parked.resize(kept);
    if (parked.empty()) parked_.erase(leader.id);
  }
  leaders_.clear();
}

bool Scheduler::try_share_prompt(const Sequence& leader, Sequence& sibling) {
  const int length = leader.prompt_length;
  if (free_slots_.empty() || num_running() >= config_.max_num_seqs) return false;
  if (!fits(kv_.num_groups(), resident_blocks(expected_length(sibling)) - resident_blocks(length))) return false;
  if (!kv_.try_fork(leader.table, length, sibling.table)) return false;
  if (length % kv_.block_size() != 0) {  // the blocks to be copied, one of each group, are written by this step
    std::vector<Copy>& copies = kv_.copies();
    late_copies_.insert(late_copies_.end(), copies.end() - kv_.num_groups(), copies.end());
    copies.resize(copies.size() - kv_.num_groups());
  }
  sibling.admitted = true;
  sibling.cached = leader.cached;
  sibling.planned = length;
  sibling.pending = sibling.in_flight = 1;
  join(sibling, leader.slot, length);
  if (goes_on_alone(sibling)) starters_.push_back(&sibling);
  return true;
}

// What the device gets; and what changes from the next step on.
void Scheduler::finish_batch(Batch& batch) {
  Flight& flight = flights_[(first_flight_ + num_in_flight_++) % flights_.size()];
  const int decodes = static_cast<int>(decoding_.size());
  flight.rows.resize(decodes);
  for (int i = 0; i < decodes; ++i) {
    flight.rows[i] = {.sequence = decoding_[i], .start = decoding_[i]->planned - 1, .count = 1, .sampled = true};
  }
  flight.tokens = decodes;
  flight.context = static_cast<double>(decode_context_);
  decode_context_ += decodes;
  auto sibling = sibling_rows_.begin();
  for (std::size_t i = 0; i < chunk_rows_.size(); ++i) {
    const Row& row = chunk_rows_[i];
    flight.rows.push_back(row);
    flight.tokens += row.count;
    flight.context += row.start + row.count;
    if (row.sampled) next_.sample_slots.push_back(row.sequence->slot);
    for (; sibling != sibling_rows_.end() && sibling->first == static_cast<int>(i); ++sibling) {
      flight.rows.push_back({.sequence = sibling->second, .start = row.start + row.count, .count = 0, .sampled = true});
      next_.sample_slots.push_back(sibling->second->slot);
      ++next_.chunks[i].num_samples;
    }
  }
  chunk_rows_.clear();
  sibling_rows_.clear();

  next_.step = ++steps_;
  next_.num_decodes = decodes;
  next_.num_tokens = static_cast<int>(flight.tokens);
  std::swap(next_.copies, kv_.copies());
  std::swap(batch, next_);
  next_.clear();
  kv_.copies().clear();
  std::swap(kv_.copies(), late_copies_);
  for (Sequence* sequence : starters_) start_decoding(*sequence);
  for (Sequence* sequence : stoppers_) stop_decoding(*sequence);
  starters_.clear();
  stoppers_.clear();
}

// --- Retiring -------------------------------------------------------------------------------------------------------

std::span<const Scheduler::Row> Scheduler::retire(const TokenRanges& sampled, Micros now) {
  WJ_CHECK(num_in_flight_ > 0, "no step is in flight");
  std::swap(last_, flights_[first_flight_]);
  first_flight_ = (first_flight_ + 1) % static_cast<int>(flights_.size());
  --num_in_flight_;
  int next = 0;
  for (Row& row : last_.rows) {
    WJ_CHECK(!row.sampled || next < sampled.size(), "got ", sampled.size(), " samples");
    retire_row(row, row.sampled ? sampled.at(next++) : std::span<const std::int32_t>(), now);
  }
  WJ_CHECK(next == sampled.size(), "got ", sampled.size(), " samples, planned ", next);
  return last_.rows;
}

void Scheduler::retire_row(Row& row, std::span<const std::int32_t> tokens, Micros now) {
  Sequence& sequence = *row.sequence;
  --sequence.in_flight;
  sequence.pending -= row.sampled;
  if (sequence.state == SequenceState::draining) {
    row.sequence = nullptr;
    if (sequence.in_flight > 0) return;
    free_slot(sequence);
    enter(sequence, SequenceState::finished, now);
    draining_.erase(sequence.id);
    return;
  }
  const int known = sequence.length();
  sequence.choosing = row.sampled && sequence.lockstep;
  for (const std::int32_t token : tokens) {
    if (token >= 0 && !sequence.lockstep) sequence.tokens.push_back(token);
  }
  if (row.sampled && sequence.guided) hold(sequence, now);
  if (sequence.state != SequenceState::running) {  // it was preempted or paused after this was planned
    if (sequence.in_flight == 0) free_slot(sequence);
    if (sequence.stands_aside() && sequence.state == SequenceState::waiting) {
      wait(take_out(sequence), now, WaitReason::preempted);
    }
    stalled_ = false;
    return;
  }
  const bool decoded = row.count == 1 && sequence.decode_index >= 0;
  if (sequence.length() > known) {  // all of it but the newest token was computed
    const int more = sequence.length() - known - 1;
    row.start = known - row.count;
    row.count += more;
    sequence.planned += more;
    if (sequence.decode_index >= 0) decode_context_ += more;
  }
  sequence.computed = row.start + row.count;
  if ((sequence.table.published + 1) * kv_.block_size() <= sequence.computed) publish(sequence);
  if (decoded) return;
  stalled_ = false;  // a prompt made progress: others may now share its blocks
  if (!parked_.empty()) unpark(sequence, now);
}

void Scheduler::list(std::size_t most, std::vector<const Sequence*>& out) const {
  out.reserve(std::min(most, live_.size()));
  const auto add = [&](const Owned& sequence) {
    if (out.size() < most) out.push_back(sequence.get());
    return out.size() < most;
  };
  if (!std::ranges::all_of(running_, add)) return;
  for (const auto& [id, sequence] : paused_) {
    if (!add(sequence)) return;
  }
  for (const auto& [id, sequences] : parked_) {
    if (!std::ranges::all_of(sequences, add)) return;
  }
  std::ranges::all_of(waiting_, add);
}

void Scheduler::observe_time(double us) {
  time_.add(last_.tokens, last_.context, us);
}

}  // namespace warpjet
