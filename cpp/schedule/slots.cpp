// What the device is told of a running sequence: its slot, its block tables, and whether it decodes.
#include "schedule/schedule.h"

#include <algorithm>
#include <utility>

namespace warpjet {

void Scheduler::join(Sequence& sequence, Slot source, int prefix) {
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  slots_[sequence.slot] = &sequence;
  next_.joins.push_back({.source = source,
                         .prefix = prefix,
                         .tokens = next_.add(std::span(sequence.tokens).subspan(prefix)),
                         .record = next_.add(sequence.record)});
  next_.changes.push_back(
      {.kind = SlotChange::Kind::join, .slot = sequence.slot, .a = static_cast<std::int32_t>(next_.joins.size()) - 1});
  set_blocks(sequence, 0);
}

void Scheduler::free_slot(Sequence& sequence) {
  if (sequence.slot == kNoSlot) return;
  slots_[sequence.slot] = nullptr;
  free_slots_.push_back(std::exchange(sequence.slot, kNoSlot));
}

void Scheduler::start_decoding(Sequence& sequence) {
  sequence.decode_index = static_cast<int>(decoding_.size());
  decoding_.push_back(&sequence);
  decode_context_ += sequence.planned;
  next_.changes.push_back({.kind = SlotChange::Kind::decode, .slot = sequence.slot});
}

void Scheduler::stop_decoding(Sequence& sequence) {
  if (sequence.decode_index < 0) return;
  Sequence* last = decoding_.back();
  last->decode_index = sequence.decode_index;
  decoding_[sequence.decode_index] = last;
  decoding_.pop_back();
  sequence.decode_index = -1;
  decode_context_ -= sequence.planned;
  next_.changes.push_back({.kind = SlotChange::Kind::pause, .slot = sequence.slot});
}

bool Scheduler::grow(Sequence& sequence, int tokens) {
  BlockTable& table = sequence.table;
  const int held = table.size();
  if (tokens <= held * kv_.block_size()) return true;
  WJ_CHECK(tokens <= sequence.max_length, "sequence ", sequence.id, " has ", tokens, " tokens and was not removed");
  if (kv_.has_windows()) {
    kv_.release_behind_window(table, sequence.planned, sequence.cache_class);
    stalled_ = false;
  }
  if (!kv_.try_grow(table, tokens)) return false;
  set_blocks(sequence, held);
  reserve(sequence);
  return true;
}

void Scheduler::set_blocks(const Sequence& sequence, int first) {
  for (int i = first; i < sequence.table.size(); ++i) {
    for (int group = 0; group < kv_.num_groups(); ++group) {
      set_block(sequence, group, i, sequence.table.groups[group].blocks[i]);
    }
  }
}

void Scheduler::set_block(const Sequence& sequence, int group, int index, BlockId block) {
  next_.changes.push_back({.kind = SlotChange::Kind::block,
                           .group = static_cast<std::int16_t>(group),
                           .slot = sequence.slot,
                           .a = index,
                           .b = block});
}

// What it is expected to take beyond what it holds.
void Scheduler::reserve(Sequence& sequence) {
  int wanted = 0;
  for (int group = 0; group < kv_.num_groups(); ++group) {
    const int held = sequence.table.size() - sequence.table.groups[group].first;
    wanted += std::max(0, resident_blocks(group, sequence.expected_length) - held);
  }
  reserved_ += wanted - sequence.reserved;
  sequence.reserved = wanted;
}

// Siblings that start with the chunk in flight hold the same blocks: they exchange them at once too, so that who holds
// a published block holds what it builds on.
void Scheduler::publish(Sequence& sequence) {
  if (!kv_.prefix_caching()) return;
  const int index = sequence.table.published;
  const BlockId first = sequence.table.groups[0].blocks[index];
  const bool is_shared = sequence.computed < sequence.prompt_length && kv_.device().holders(first) > 1;
  publish(sequence, sequence.computed);
  if (!is_shared) return;
  for (const Owned& other : running_) {
    const BlockTable& table = other->table;
    const bool shares = other->leader == sequence.id && index < table.size() && table.groups[0].blocks[index] == first;
    if (shares) publish(*other, sequence.computed);
  }
}

void Scheduler::publish(Sequence& sequence, int computed) {
  kv_.publish(sequence.table, sequence.tokens, computed, sequence.domain,
              [&](int group, int index, BlockId block) { set_block(sequence, group, index, block); });
}

}  // namespace warpjet
