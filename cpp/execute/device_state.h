// The slots' state on the device, and how a batch's changes get there.
#pragma once

#include "execute/execute.h"

namespace warpjet {

// Host memory of one step in flight, from which the device copies when it gets there. Given out from front to back;
// who asks for more than is left waits for the device and starts again at the front.
class Staging {
 public:
  Staging(Device& device, std::size_t bytes) : stream_(device.stream()), memory_(device.allocate_host(bytes)) {}
  void reset() { used_ = 0; }

  template <class T>
  std::span<T> room(std::size_t count) {
    constexpr std::size_t kAlignment = 16;
    const std::size_t bytes = align_up(count * sizeof(T), kAlignment);
    WJ_CHECK(bytes <= memory_.bytes(), "staging of ", bytes, " bytes, room for ", memory_.bytes());
    if (used_ + bytes > memory_.bytes()) {
      stream_.synchronize();
      used_ = 0;
    }
    T* data = reinterpret_cast<T*>(memory_.at(static_cast<std::int64_t>(used_)));
    used_ += bytes;
    return {data, count};
  }

 private:
  Stream& stream_;
  Buffer memory_;
  std::size_t used_ = 0;
};

// Texts, block tables and the list of decoding slots, as arrays of one piece of memory, so that a change of any of them
// is an edit {place, value}. The host keeps of a slot only what the work of a step depends on.
class DeviceState {
 public:
  struct Config {
    int num_slots = 0, max_text = 0, block_size = 0, num_groups = 1;
  };
  // What the host knows of the sequence in a slot.
  struct Slot {
    bool taken = false;
    SampleRecord record;
    std::int32_t decode_index = -1;
    std::uint64_t text_edited = 0;  // the flush of edits that last changes its text
  };

  DeviceState(const Config& config, const Catalogs& catalogs, Device& device);
  static std::int64_t bytes(const Config& config);

  // Gives the batch's changes to the stream. Calls joined(slot, record) for every slot that is taken, and masked(slot,
  // mask) for every one whose mask has changed.
  template <class Joined, class Masked>
  void apply(const Batch& batch, Staging& staging, Joined joined, Masked masked) {
    for (const SlotChange& change : batch.changes) {
      apply(change, batch, staging);
      if (change.kind == SlotChange::Kind::join)
        joined(change.slot, read_record(batch.at(batch.joins[change.a].record)));
      if (change.kind == SlotChange::Kind::mask) masked(change.slot, batch.at({change.a, change.b}));
    }
    flush(staging);
  }

  // One that is taken; throws internal else.
  const Slot& slot(warpjet::Slot slot) const {
    WJ_CHECK(slots_[slot].taken, "slot ", slot, " is empty");
    return slots_[slot];
  }
  std::span<const warpjet::Slot> decoding_slots() const { return decoding_; }

  TensorView texts() const { return matrix(at_.texts, at_.max_text); }
  TensorView block_tables() const {  // [groups, slots, max_blocks]
    return {word(at_.tables), DType::i32, {config_.num_groups, config_.num_slots, at_.max_blocks}};
  }
  TensorView lengths() const { return vector(at_.lengths); }
  TensorView prompt_lengths() const { return vector(at_.prompt_lengths); }
  TensorView alive() const { return vector(at_.alive); }
  TensorView decoding() const { return vector(at_.decoding); }

 private:
  struct Entry {
    std::int64_t place, value;
  };
  // Where the arrays begin, in words, and how wide the rows of a slot are.
  struct Places {
    explicit Places(const Config& config);
    std::int64_t max_text, max_blocks;
    std::int64_t texts, tables, lengths, prompt_lengths, alive, decoding, end;
  };
  static constexpr std::size_t kMaxEdits = 4096;  // of one launch

  void apply(const SlotChange& change, const Batch& batch, Staging& staging);
  void join(warpjet::Slot slot, const Join& join, const Batch& batch, Staging& staging);
  void pause(Slot& slot, Staging& staging);
  void edit(std::int64_t place, std::int64_t value, Staging& staging);
  void flush(Staging& staging);

  std::int32_t* word(std::int64_t place) const { return static_cast<std::int32_t*>(memory_.data()) + place; }
  TensorView vector(std::int64_t place) const { return {word(place), DType::i32, {config_.num_slots}}; }
  TensorView matrix(std::int64_t place, std::int64_t width) const {
    return {word(place), DType::i32, {config_.num_slots, width}};
  }

  const Config config_;
  const Places at_;
  Stream& stream_;
  const Kernel<Edit>& kernel_;
  Buffer memory_, edit_memory_;
  std::vector<Slot> slots_;
  std::vector<warpjet::Slot> decoding_;
  std::vector<Entry> edits_;  // not given to the stream yet
  std::uint64_t flushes_ = 1;
};

}  // namespace warpjet
