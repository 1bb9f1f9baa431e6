// Coming, going and changing places: every change of a sequence's state is in here.
//
//   add() -> waiting | parked            parked  waits for its leader's prompt, or for a prefix that another computes
//   parked -> waiting                    that is there now, or took too long
//   waiting -> running                   admitted: it has a slot and blocks
//   running -> waiting                   preempted
//   any of these <-> paused              by the caller; or when it gives way while its guide is asked
//   any -> draining                      removed: blocks are gone, rows are in flight
//   any -> finished                      nothing is left
#include <algorithm>

#include "schedule/schedule.h"

namespace warpjet {

namespace {

constexpr Micros kPrefixPatience = 50'000;  // how long to wait for another sequence to compute a common prefix

constexpr unsigned bit(SequenceState state) {
  return 1u << static_cast<int>(state);
}

// THE TABLE of moves, by the state that is left.
constexpr std::array<unsigned, kNumSequenceStates> kMoves = [] {
  using enum SequenceState;
  std::array<unsigned, kNumSequenceStates> moves{};
  const auto from = [&](SequenceState state) -> unsigned& { return moves[static_cast<int>(state)]; };
  from(parked) = bit(waiting) | bit(running) | bit(paused) | bit(finished);
  from(waiting) = bit(parked) | bit(running) | bit(paused) | bit(draining) | bit(finished);
  from(running) = bit(waiting) | bit(paused) | bit(draining) | bit(finished);
  from(paused) = bit(waiting) | bit(draining) | bit(finished);
  from(draining) = bit(finished);
  return moves;
}();

}  // namespace

void Scheduler::enter(Sequence& sequence, SequenceState state, Micros now, WaitReason reason) {
  const SequenceState from = sequence.state;
  WJ_CHECK(kMoves[static_cast<int>(from)] & bit(state), "sequence ", sequence.id, " cannot go from ", to_string(from),
           " to ", to_string(state));
  sequence.spent[static_cast<int>(from)] += now - sequence.since;
  if (!sequence.admitted) sequence.queued = sequence.spent[static_cast<int>(SequenceState::waiting)];
  sequence.since = now;
  sequence.state = state;
  sequence.reason = reason;
  if (observer_) observer_->on_state(sequence, from, now);
}

// Why it waits may change while it does.
void Scheduler::explain(Sequence& sequence, WaitReason reason, Micros now) {
  if (std::exchange(sequence.reason, reason) != reason && observer_) observer_->on_state(sequence, sequence.state, now);
}

// --- Coming ---------------------------------------------------------------------------------------------------------

void Scheduler::validate(const Sequence& s) const {
  WJ_REQUIRE(s.length() > 0, invalid_argument, "a sequence needs at least one token");
  WJ_REQUIRE(s.prompt_length > 0 && s.prompt_length <= s.length(), invalid_argument, "prompt_length is ",
             s.prompt_length, " of ", s.length(), " tokens");
  WJ_REQUIRE(s.max_length >= s.length(), invalid_argument, "max_length is ", s.max_length, ", below the prompt's ",
             s.length(), " tokens");
  const int capacity = kv_.device().num_blocks() - 1;
  WJ_REQUIRE(resident_blocks(s.max_length) <= capacity, invalid_argument, "prompt and max_tokens together take ",
             s.max_length, " tokens, the KV cache holds ",
             static_cast<std::int64_t>(capacity / kv_.num_groups()) * kv_.block_size(),
             "; lower max_tokens or give the KV cache more memory");
  WJ_REQUIRE(!live_.contains(s.id) && !draining_.contains(s.id), invalid_argument, "sequence id ", s.id, " is taken");
}

Sequence& Scheduler::adopt(std::unique_ptr<Sequence>& sequence, Micros now) {
  Sequence& s = *sequence;
  validate(s);
  live_.emplace(s.id, &s);
  clocks_.enter(s.tenant);
  s.arrival = arrivals_++;
  s.since = now;
  return s;
}

Sequence& Scheduler::add(std::unique_ptr<Sequence> sequence, Micros now) {
  Sequence& s = adopt(sequence, now);
  s.key = policy_.key(s, clocks_);
  const auto leader = live_.find(s.leader);
  const bool park_it = leader != live_.end() && leader->second->computed < leader->second->prompt_length;
  if (park_it) {
    s.wake_at = s.prompt_length;
    s.state = SequenceState::parked;
    s.reason = WaitReason::prefix;
    parked_[s.leader].push_back(std::move(sequence));
    ++num_parked_;
    if (observer_) observer_->on_state(s, SequenceState::parked, now);
  } else {
    s.state = SequenceState::waiting;
    s.reason = WaitReason::queue;
    if (observer_) observer_->on_state(s, SequenceState::waiting, now);
    queue(std::move(sequence));
  }
  return s;
}

Sequence& Scheduler::fork(Sequence& parent, std::unique_ptr<Sequence> child, Micros now) {
  WJ_CHECK(parent.in_flight == 0 && child->length() > parent.computed, "parent=", parent.id);
  Sequence& s = adopt(child, now);
  s.key = parent.key;
  s.state = SequenceState::waiting;
  s.admitted = true;  // it goes on with its parent's life
  s.cached = parent.cached;
  s.queued = parent.queued;
  s.spent = parent.spent;
  s.spent[static_cast<int>(parent.state)] += now - parent.since;
  const bool room = parent.state == SequenceState::running && num_running() < config_.max_num_seqs &&
                    !free_slots_.empty() && fits(kv_.num_groups(), 0);
  if (!room || !kv_.try_fork(parent.table, parent.computed, s.table)) {
    queue(std::move(child));
    return s;
  }
  s.planned = s.computed = parent.computed;
  join(s, parent.slot, parent.computed);
  start_running(std::move(child), now);
  return s;
}

void Scheduler::choose(Sequence& sequence, std::int32_t token) {
  WJ_CHECK(sequence.choosing && sequence.in_flight == 0, "sequence=", sequence.id);
  sequence.choosing = false;
  sequence.tokens.push_back(token);
  if (sequence.slot == kNoSlot) return;
  next_.changes.push_back(
      {.kind = SlotChange::Kind::token, .slot = sequence.slot, .a = sequence.length() - 1, .b = token});
}

// Until its guide has said what may follow.
void Scheduler::hold(Sequence& sequence, Micros now) {
  sequence.held = now;
  num_held_ += sequence.state == SequenceState::running;
}

void Scheduler::let_go_on(Sequence& sequence, std::span<const std::int32_t> mask) {
  WJ_CHECK(sequence.held >= 0 && sequence.in_flight == 0, "sequence=", sequence.id);
  sequence.held = -1;
  if (sequence.state != SequenceState::running) return;  // it comes back with the mask as it is now
  --num_held_;
  const Range words = next_.add(mask);
  next_.changes.push_back({.kind = SlotChange::Kind::mask, .slot = sequence.slot, .a = words.first, .b = words.count});
  start_decoding(sequence);
}

// --- Going ----------------------------------------------------------------------------------------------------------

void Scheduler::remove(Sequence& sequence, Micros now) {
  Owned owned = take_out(sequence);
  if (sequence.output_length() > 0)
    lengths_.add(sequence.max_length - sequence.prompt_length, sequence.output_length());
  if (sequence.state == SequenceState::running) stop_running(sequence);
  release(sequence, sequence.cache_class);
  live_.erase(sequence.id);
  clocks_.give_back(sequence.tenant, kOutputCost * (sequence.max_length - sequence.length()));
  clocks_.leave(sequence.tenant);
  stalled_ = false;
  const SequenceId id = sequence.id;
  if (sequence.in_flight > 0) {
    enter(sequence, SequenceState::draining, now);
    draining_.emplace(id, std::move(owned));
  } else {
    free_slot(sequence);
    enter(sequence, SequenceState::finished, now);
  }
  if (!parked_.empty()) unpark_all(id, now);
}

void Scheduler::pause(Sequence& sequence, Micros now, WaitReason reason) {
  if (sequence.state == SequenceState::paused) return;
  Owned owned = take_out(sequence);
  if (sequence.state == SequenceState::running) give_way(sequence);
  enter(sequence, SequenceState::paused, now, reason);
  paused_.emplace(sequence.id, std::move(owned));
  stalled_ = false;
  if (!parked_.empty()) unpark_all(sequence.id, now);
}

void Scheduler::resume(Sequence& sequence, Micros now) {
  const auto found = paused_.find(sequence.id);
  if (found == paused_.end() || found->second->stands_aside()) return;
  Owned owned = std::move(found->second);
  paused_.erase(found);
  wait(std::move(owned), now, WaitReason::queue);
}

Scheduler::Owned Scheduler::take_out(Sequence& sequence) {
  switch (sequence.state) {
    case SequenceState::parked: {
      for (auto place = parked_.begin(); place != parked_.end(); ++place) {
        const auto at = std::ranges::find(place->second, &sequence, &Owned::get);
        if (at == place->second.end()) continue;
        Owned owned = std::move(*at);
        place->second.erase(at);
        if (place->second.empty()) parked_.erase(place);
        --num_parked_;
        return owned;
      }
      break;
    }
    case SequenceState::waiting:
      return std::move(waiting_.extract(waiting_.find(sequence)).value());
    case SequenceState::running: {
      const auto at = std::lower_bound(running_.begin(), running_.end(), sequence, Before{});
      Owned owned = std::move(*at);
      running_.erase(at);
      return owned;
    }
    case SequenceState::paused:
      return std::move(paused_.extract(sequence.id).mapped());
    case SequenceState::draining:
    case SequenceState::finished:
      break;
  }
  WJ_FAIL(internal, "sequence ", sequence.id, " is ", to_string(sequence.state));
}

// --- Waiting --------------------------------------------------------------------------------------------------------

void Scheduler::queue(Owned sequence) {
  const auto place = waiting_.insert(std::move(sequence)).first;
  if (place == waiting_.begin()) stalled_ = false;
}

// Nothing can be done for one that is choosing or held: it stands aside, not in line.
void Scheduler::wait(Owned sequence, Micros now, WaitReason reason) {
  const bool aside = sequence->stands_aside();
  if (sequence->held >= 0) reason = WaitReason::guide;
  enter(*sequence, aside ? SequenceState::paused : SequenceState::waiting, now, reason);
  if (!aside) return queue(std::move(sequence));
  const SequenceId id = sequence->id;
  paused_.emplace(id, std::move(sequence));
}

// Until the other one has published what both begin with, or has gone on too slowly.
void Scheduler::park(Owned sequence, const Sequence& other, Micros now) {
  const auto end = sequence->tokens.begin() + std::min(sequence->length(), other.prompt_length);
  const auto common = std::mismatch(sequence->tokens.begin(), end, other.tokens.begin()).first;
  sequence->wake_at = static_cast<int>(common - sequence->tokens.begin()) / kv_.block_size() * kv_.block_size();
  sequence->waited_prefix = true;
  prefix_waits_.emplace_back(now + kPrefixPatience, sequence->id);
  enter(*sequence, SequenceState::parked, now, WaitReason::prefix);
  parked_[other.id].push_back(std::move(sequence));
  ++num_parked_;
}

void Scheduler::unpark(const Sequence& other, Micros now) {
  const auto found = parked_.find(other.id);
  if (found == parked_.end()) return;
  const bool done = other.computed >= other.prompt_length;
  const int published = other.table.published * kv_.block_size();
  std::vector<Owned>& parked = found->second;
  std::size_t kept = 0;
  for (Owned& sequence : parked) {
    if (done || published >= sequence->wake_at) {
      --num_parked_;
      wait(std::move(sequence), now, WaitReason::queue);
    } else {
      std::swap(parked[kept++], sequence);
    }
  }
  parked.resize(kept);
  if (parked.empty()) parked_.erase(found);
}

// The other one is gone, or will not go on for a while. Nobody waits for one that waits for it, so nobody is parked
// for ever.
void Scheduler::unpark_all(SequenceId other, Micros now) {
  auto parked = parked_.extract(other);
  if (parked.empty()) return;
  num_parked_ -= static_cast<int>(parked.mapped().size());
  for (Owned& sequence : parked.mapped()) wait(std::move(sequence), now, WaitReason::queue);
}

void Scheduler::unpark_late(Micros now) {
  while (!prefix_waits_.empty() && prefix_waits_.front().first <= now) {
    const auto found = live_.find(prefix_waits_.front().second);
    prefix_waits_.pop_front();
    if (found == live_.end() || found->second->state != SequenceState::parked) continue;
    wait(take_out(*found->second), now, WaitReason::queue);
  }
}

// --- Running --------------------------------------------------------------------------------------------------------

void Scheduler::start_running(Owned sequence, Micros now) {
  Sequence& s = *sequence;
  enter(s, SequenceState::running, now);
  s.expected_length = expected_length(s);
  clocks_.admitted(s.start);
  running_.insert(std::ranges::upper_bound(running_, sequence, Before{}), std::move(sequence));
  reserve(s);
}

// The slot is free for another once nothing of this one is in flight.
void Scheduler::stop_running(Sequence& sequence) {
  stop_decoding(sequence);
  num_held_ -= sequence.held >= 0;
  next_.changes.push_back({.kind = SlotChange::Kind::leave, .slot = sequence.slot});
}

// Its blocks go to whoever goes first; swapped out, or kept in the cache a class longer than its own.
void Scheduler::give_way(Sequence& sequence) {
  stop_running(sequence);
  const int cache_class = std::min(sequence.cache_class + 1, kNumCacheClasses - 1);
  const bool swap = config_.preemption == Preemption::swap && sequence.swappable;
  if (swap && kv_.try_swap_out(sequence.table, sequence.planned, cache_class)) {
    sequence.swapped_tokens = sequence.planned;
    ++swaps_;
  }
  const int swapped = sequence.swapped_tokens;
  if (swapped > 0) {
    reserved_ -= std::exchange(sequence.reserved, 0);
    sequence.planned = sequence.computed = 0;
  } else {
    release(sequence, cache_class);
  }
  if (sequence.in_flight == 0) free_slot(sequence);
  stalled_ = false;
}

void Scheduler::preempt_last(Micros now) {
  Owned sequence = std::move(running_.back());
  running_.pop_back();
  give_way(*sequence);
  ++sequence->preemptions;
  ++preemptions_;
  const SequenceId id = sequence->id;
  wait(std::move(sequence), now, WaitReason::preempted);
  if (!parked_.empty()) unpark_all(id, now);
}

void Scheduler::release(Sequence& sequence, int cache_class) {
  kv_.release(sequence.table, cache_class);
  reserved_ -= std::exchange(sequence.reserved, 0);
  sequence.planned = sequence.computed = sequence.swapped_tokens = 0;
}

}  // namespace warpjet
