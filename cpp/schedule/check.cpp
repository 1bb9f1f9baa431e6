// What must hold between any two calls: invariant I9 of tests/README.md, and the scheduler's own counts.
#include <algorithm>

#include "schedule/schedule.h"

namespace warpjet {

void Scheduler::check() const {
  WJ_CHECK(std::ranges::is_sorted(running_, Before{}) && num_running() <= config_.max_num_seqs);
  std::vector<const BlockTable*> tables;
  std::size_t parked = 0;
  int reserved = 0, held = 0;
  const auto look = [&](const Owned& sequence, SequenceState state) {
    check_sequence(*sequence, state);
    tables.push_back(&sequence->table);
    reserved += sequence->reserved;
  };
  for (const Owned& s : running_) {
    look(s, SequenceState::running);
    held += s->held >= 0;
  }
  for (const Owned& s : waiting_) look(s, SequenceState::waiting);
  for (const auto& [other, list] : parked_) {
    WJ_CHECK(live_.contains(other) && !list.empty(), "parked for ", other);
    for (const Owned& s : list) look(s, SequenceState::parked);
    parked += list.size();
  }
  for (const auto& [id, s] : paused_) look(s, SequenceState::paused);
  for (const auto& [id, s] : draining_) {
    WJ_CHECK(s->state == SequenceState::draining && s->in_flight > 0 && !live_.contains(id), "sequence=", id);
    WJ_CHECK(s->table.holds_nothing(), "sequence ", id, " has ended and holds blocks");
  }
  WJ_CHECK(static_cast<int>(parked) == num_parked_);
  WJ_CHECK(live_.size() == running_.size() + waiting_.size() + parked + paused_.size(), "live=", live_.size());
  WJ_CHECK(reserved == reserved_, "reserved=", reserved_, " counted=", reserved);
  WJ_CHECK(held == num_held_, "held=", num_held_, " counted=", held);

  int used = 0;
  for (Slot slot = 0; slot < num_slots(); ++slot) {
    if (!slots_[slot]) continue;
    ++used;
    WJ_CHECK(slots_[slot]->slot == slot, "slot=", slot);
    WJ_CHECK(slots_[slot]->state == SequenceState::running || slots_[slot]->in_flight > 0, "slot=", slot);
  }
  WJ_CHECK(used + std::ssize(free_slots_) == num_slots(), "used=", used, " free=", free_slots_.size());
  std::int64_t context = 0;
  for (std::size_t i = 0; i < decoding_.size(); ++i) {
    WJ_CHECK(decoding_[i]->decode_index == static_cast<int>(i), "sequence=", decoding_[i]->id);
    WJ_CHECK(decoding_[i]->state == SequenceState::running, "sequence=", decoding_[i]->id);
    context += decoding_[i]->planned;
  }
  WJ_CHECK(context == decode_context_, "context=", decode_context_, " counted=", context);
  kv_.check(tables);
}

void Scheduler::check_sequence(const Sequence& s, SequenceState state) const {
  const auto found = live_.find(s.id);
  WJ_CHECK(found != live_.end() && found->second == &s && s.state == state, "sequence=", s.id);
  WJ_CHECK(s.length() <= s.max_length && s.pending <= s.in_flight && s.in_flight <= num_in_flight_, "sequence=", s.id);
  WJ_CHECK(s.held < 0 || (s.guided && s.in_flight == 0 && s.decode_index < 0), "sequence=", s.id);
  WJ_CHECK(!s.stands_aside() || state == SequenceState::running || state == SequenceState::paused, "sequence=", s.id);
  const int num_blocks = s.table.size();
  if (state != SequenceState::running) {
    WJ_CHECK(num_blocks == 0 && s.planned == 0 && s.computed == 0 && s.reserved == 0, "sequence ", s.id, " is ",
             to_string(state), " and holds blocks");
    WJ_CHECK((s.slot == kNoSlot) == (s.in_flight == 0) && s.decode_index < 0, "sequence=", s.id);
    return;
  }
  WJ_CHECK(s.slot != kNoSlot && slots_[s.slot] == &s, "sequence=", s.id);
  WJ_CHECK(s.computed <= s.planned && s.planned <= s.length() + s.pending, "sequence=", s.id);
  WJ_CHECK(s.decode_index < 0 || s.planned == s.length() + s.pending - 1, "sequence=", s.id);
  WJ_CHECK(s.planned <= num_blocks * kv_.block_size(), "sequence=", s.id);
  WJ_CHECK(s.table.published * kv_.block_size() <= std::max(s.computed, s.planned), "sequence=", s.id);
}

std::uint64_t Scheduler::digest() const {
  std::uint64_t state = kv_.digest();
  const auto mix = [&](std::initializer_list<std::int64_t> words) {
    state = hash64(std::as_bytes(std::span(words.begin(), words.size())), state);
  };
  const auto mix_sequence = [&](const Sequence& s) {
    mix({static_cast<std::int64_t>(s.id), static_cast<std::int64_t>(s.state), s.key, s.slot, s.decode_index, s.planned,
         s.computed, s.pending, s.in_flight, s.choosing, s.held, s.reserved, s.swapped_tokens, s.length()});
    for (const BlockList& list : s.table.groups) {
      for (const BlockId block : list.blocks) mix({block});
      for (const BlockId block : list.swapped) mix({block});
    }
  };
  for (const Owned& s : running_) mix_sequence(*s);
  for (const Owned& s : waiting_) mix_sequence(*s);
  for (const Sequence* s : decoding_) mix({static_cast<std::int64_t>(s->id)});
  for (const Slot slot : free_slots_) mix({slot});
  mix({num_parked_, num_paused(), num_in_flight_, reserved_, decode_context_, static_cast<std::int64_t>(steps_)});
  return state;
}

}  // namespace warpjet
