#include "execute/device_state.h"

#include <algorithm>

namespace warpjet {

DeviceState::Places::Places(const Config& config)
    : max_text(align_up<std::int64_t>(config.max_text, 4)),
      max_blocks(ceil_div<std::int64_t>(config.max_text, config.block_size)) {
  end = 0;
  const auto reserve = [&](std::int64_t& place, std::int64_t width) {
    constexpr std::int64_t kAlignment = 64;
    place = end;
    end += align_up(config.num_slots * width, kAlignment);
  };
  reserve(texts, max_text);
  reserve(tables, config.num_groups * max_blocks);
  for (std::int64_t* place : {&lengths, &prompt_lengths, &alive, &decoding}) reserve(*place, 1);
}

std::int64_t DeviceState::bytes(const Config& config) {
  return Places(config).end * static_cast<std::int64_t>(sizeof(std::int32_t));
}

DeviceState::DeviceState(const Config& config, const Catalogs& catalogs, Device& device)
    : config_(config),
      at_(config),
      stream_(device.stream()),
      kernel_(catalogs.of<Edit>().select({.count = 1}, device.info())),
      slots_(config.num_slots) {
  constexpr std::int64_t kMostWords = std::int64_t{1} << 32;  // kernels tell places apart by 32 bits
  WJ_REQUIRE(at_.end < kMostWords, unsupported, "max_num_seqs times max_model_len needs room for ", at_.end,
             " tokens; at most ", kMostWords, " are supported; lower one of them");
  memory_ = device.allocate(static_cast<std::size_t>(bytes(config)));
  edit_memory_ = device.allocate(kMaxEdits * sizeof(Entry));
  edits_.reserve(kMaxEdits);
  decoding_.reserve(config.num_slots);
}

void DeviceState::apply(const SlotChange& change, const Batch& batch, Staging& staging) {
  WJ_CHECK(change.slot >= 0 && change.slot < config_.num_slots, "slot ", change.slot, " of ", config_.num_slots);
  Slot& slot = slots_[change.slot];
  switch (change.kind) {
    case SlotChange::Kind::join:
      return join(change.slot, batch.joins[change.a], batch, staging);
    case SlotChange::Kind::block:
      WJ_CHECK(change.a >= 0 && change.a < at_.max_blocks, "block ", change.a, " of ", at_.max_blocks);
      WJ_CHECK(change.group >= 0 && change.group < config_.num_groups, "group ", change.group);
      return edit(
          at_.tables + (std::int64_t{change.group} * config_.num_slots + change.slot) * at_.max_blocks + change.a,
          change.b, staging);
    case SlotChange::Kind::token:
      WJ_CHECK(change.a >= 0 && change.a < config_.max_text, "token ", change.a, " of ", config_.max_text);
      edit(at_.texts + change.slot * at_.max_text + change.a, change.b, staging);
      edit(at_.lengths + change.slot, change.a + 1, staging);
      edit(at_.alive + change.slot, 1, staging);
      slot.text_edited = flushes_;
      return;
    case SlotChange::Kind::mask:
      return;  // the sampler's
    case SlotChange::Kind::decode:
      slot.decode_index = static_cast<std::int32_t>(decoding_.size());
      decoding_.push_back(change.slot);
      return edit(at_.decoding + slot.decode_index, change.slot, staging);
    case SlotChange::Kind::pause:
      return pause(slot, staging);
    case SlotChange::Kind::leave:
      slot.taken = false;
      slot.decode_index = -1;
      return;
  }
}

// The text comes by copies, which overtake the edits that are still being gathered: those of this slot's text, and of
// the text that it begins with, go first.
void DeviceState::join(warpjet::Slot slot, const Join& join, const Batch& batch, Staging& staging) {
  const std::span<const std::int32_t> tokens = batch.at(join.tokens);
  const std::int32_t length = join.prefix + join.tokens.count;
  WJ_CHECK(length <= config_.max_text, "a text of ", length, " tokens, room for ", config_.max_text);
  const bool waits =
      slots_[slot].text_edited == flushes_ || (join.prefix > 0 && slots_[join.source].text_edited == flushes_);
  if (waits) flush(staging);
  constexpr std::size_t kWord = sizeof(std::int32_t);
  std::int32_t* text = word(at_.texts + slot * at_.max_text);
  if (join.prefix > 0)
    stream_.copy(text, word(at_.texts + join.source * at_.max_text), static_cast<std::size_t>(join.prefix) * kWord);
  if (!tokens.empty()) {
    const std::span<std::int32_t> staged = staging.room<std::int32_t>(tokens.size());
    std::ranges::copy(tokens, staged.begin());
    stream_.copy(text + join.prefix, staged.data(), staged.size_bytes());
  }
  Slot& taken = slots_[slot];
  taken.taken = true;
  taken.record = read_record(batch.at(join.record));
  taken.decode_index = -1;
  edit(at_.lengths + slot, length, staging);
  edit(at_.prompt_lengths + slot, taken.record.sampling.prompt_length, staging);
  edit(at_.alive + slot, 1, staging);
}

// The last one takes its place.
void DeviceState::pause(Slot& slot, Staging& staging) {
  WJ_CHECK(slot.decode_index >= 0, "a slot that is not decoding pauses");
  const warpjet::Slot last = decoding_.back();
  decoding_[slot.decode_index] = last;
  slots_[last].decode_index = slot.decode_index;
  edit(at_.decoding + slot.decode_index, last, staging);
  decoding_.pop_back();
  slot.decode_index = -1;
}

void DeviceState::edit(std::int64_t place, std::int64_t value, Staging& staging) {
  if (edits_.size() == kMaxEdits) flush(staging);
  edits_.push_back({place, value});
}

void DeviceState::flush(Staging& staging) {
  ++flushes_;
  if (edits_.empty()) return;
  const std::span<Entry> staged = staging.room<Entry>(edits_.size());
  std::copy(edits_.begin(), edits_.end(), staged.begin());
  stream_.copy(edit_memory_.data(), staged.data(), staged.size_bytes());
  const auto count = static_cast<std::int64_t>(edits_.size());
  kernel_.run({.problem = {.count = count},
               .edits = TensorView(edit_memory_.data(), DType::i64, {count, 2}),
               .state = TensorView(memory_.data(), DType::i32, {at_.end})},
              stream_);
  edits_.clear();
}

}  // namespace warpjet
