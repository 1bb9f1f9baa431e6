// The shadow of shared memory.
#include "emulator/shared.h"

#include "emulator/machine.h"

#include <algorithm>

namespace emu {
namespace {

constexpr int kAlignment = 1024, kGuardBytes = 1024;
constexpr std::byte kGuard{0xa5};
constexpr std::byte kPoison{0xff};  // NaN in every float type, for whoever bypasses the wrappers

}  // namespace

SharedMemory::SharedMemory(int bytes)
    : bytes_(bytes),
      storage_(static_cast<std::size_t>(bytes + 2 * kGuardBytes + kAlignment), kGuard),
      shadow_(static_cast<std::size_t>(bytes)) {
  const auto start = reinterpret_cast<std::uintptr_t>(storage_.data()) + kGuardBytes;
  data_ = storage_.data() + kGuardBytes + (kAlignment - start % kAlignment) % kAlignment;
  std::fill_n(data_, bytes, kPoison);
}

bool SharedMemory::contains(const void* pointer) const {
  const auto offset = static_cast<const std::byte*>(pointer) - data_;
  return offset >= 0 && offset < bytes_;
}

std::uint16_t SharedMemory::number_of(Site site) {
  for (std::size_t i = sites_.size(); i-- > 0;) {
    if (sites_[i] == site) return static_cast<std::uint16_t>(i);
  }
  sites_.push_back(site);
  return static_cast<std::uint16_t>(sites_.size() - 1);
}

int SharedMemory::place(const void* pointer, int bytes, Site site, const char* what) const {
  const auto offset = static_cast<const std::byte*>(pointer) - data_;
  if (offset < 0 || offset + bytes > bytes_)
    Machine::current().fail(site, std::string(what) + " of " + std::to_string(bytes) + " bytes at offset " +
                                      std::to_string(offset) + " of a block with " + std::to_string(bytes_) +
                                      " bytes of shared memory");
  if (offset % bytes != 0)
    Machine::current().fail(site, std::string(what) + " of " + std::to_string(bytes) +
                                      " shared bytes is not aligned to them: offset " + std::to_string(offset));
  return static_cast<int>(offset);
}

void SharedMemory::expect_after(Lane& lane, const Touch& earlier, int offset, Site site, const char* now,
                                const char* then) const {
  if (earlier.lane == kNobody || earlier.lane == lane.id) return;
  if (earlier.lane == kAgent) {
    if (lane.clock.back() > earlier.time) return;
    Machine::current().fail(site, std::string("race: ") + now + " shared byte " + std::to_string(offset) +
                                      " of a copy issued at " + describe(sites_[earlier.site]) +
                                      " without waiting for its barrier");
  }
  const auto warp = static_cast<std::size_t>(earlier.lane / warpjet::kWarpSize);
  if (lane.clock[warp] > earlier.time) return;
  Machine::current().fail(site, std::string("race: ") + now + " shared byte " + std::to_string(offset) +
                                    ", which warp " + std::to_string(warp) + " lane " +
                                    std::to_string(earlier.lane % warpjet::kWarpSize) + " " + then + " at " +
                                    describe(sites_[earlier.site]) + " with no barrier between");
}

void SharedMemory::read(Lane& lane, const void* from, int bytes, Site site) {
  const int offset = place(from, bytes, site, "a load");
  const Touch touch = {own_time(lane), static_cast<std::uint16_t>(lane.id), number_of(site), 0};
  for (int i = offset; i < offset + bytes; ++i) {
    Byte& byte = shadow_[static_cast<std::size_t>(i)];
    if (byte.state == State::unwritten)
      Machine::current().fail(site, "reads shared byte " + std::to_string(i) + ", which nobody wrote");
    if (byte.state == State::in_flight)
      Machine::current().fail(site, "reads shared byte " + std::to_string(i) + " of a copy issued at " +
                                        describe(sites_[byte.write.site]) + " that was not waited for");
    expect_after(lane, byte.write, i, site, "reads", "wrote");
    byte.read = touch;
  }
}

void SharedMemory::write(Lane& lane, const void* to, int bytes, Site site) {
  const int offset = place(to, bytes, site, "a store");
  const Touch touch = {own_time(lane), static_cast<std::uint16_t>(lane.id), number_of(site), 0};
  for (int i = offset; i < offset + bytes; ++i) {
    Byte& byte = shadow_[static_cast<std::size_t>(i)];
    if (byte.state == State::in_flight)
      Machine::current().fail(site, "writes shared byte " + std::to_string(i) + " under a copy issued at " +
                                        describe(sites_[byte.write.site]) + " that was not waited for");
    expect_unread(byte, i, site);
    expect_after(lane, byte.write, i, site, "writes", "wrote");
    expect_after(lane, byte.read, i, site, "writes", "read");
    byte = {touch, Touch(), State::written, 0};
  }
}

void SharedMemory::change(Lane& lane, const void* word, Site site) {
  const int bytes = 4, offset = place(word, bytes, site, "an atomic change");
  const Touch touch = {own_time(lane), static_cast<std::uint16_t>(lane.id), number_of(site), 0, 1};
  for (int i = offset; i < offset + bytes; ++i) {
    Byte& byte = shadow_[static_cast<std::size_t>(i)];
    if (byte.state != State::written)
      Machine::current().fail(site, "changes shared byte " + std::to_string(i) + ", which nobody wrote");
    expect_unread(byte, i, site);
    if (!byte.write.atomic) expect_after(lane, byte.write, i, site, "changes", "wrote");
    expect_after(lane, byte.read, i, site, "changes", "read");
    byte = {touch, Touch(), State::written, 0};
  }
}

void SharedMemory::begin_copy(Lane& lane, const void* to, int bytes, Site site) {
  write(lane, to, bytes, site);
  const auto offset = static_cast<const std::byte*>(to) - data_;
  for (int i = 0; i < bytes; ++i) shadow_[static_cast<std::size_t>(offset + i)].state = State::in_flight;
}

void SharedMemory::end_copy(Lane& lane, const void* to, int bytes, Site site) {
  const auto offset = static_cast<const std::byte*>(to) - data_;
  const Touch touch = {own_time(lane), static_cast<std::uint16_t>(lane.id), number_of(site), 0};
  for (int i = 0; i < bytes; ++i) {
    shadow_[static_cast<std::size_t>(offset + i)] = {touch, Touch(), State::written, 0};
  }
}

// --- The async proxy ------------------------------------------------------------------------------------------------

int SharedMemory::offset_of(const void* pointer, int bytes, int alignment, Site site) const {
  const auto offset = static_cast<const std::byte*>(pointer) - data_;
  if (offset < 0 || offset + bytes > bytes_)
    Machine::current().fail(site, std::to_string(bytes) + " bytes at offset " + std::to_string(offset) +
                                      " leave the block's shared memory of " + std::to_string(bytes_));
  if (offset % alignment != 0)
    Machine::current().fail(
        site, "shared offset " + std::to_string(offset) + " is not a multiple of " + std::to_string(alignment));
  return static_cast<int>(offset);
}

void SharedMemory::expect_fenced(const Touch& earlier, int offset, Site site, const char* now, const char* then) const {
  if (earlier.lane == kNobody || earlier.async) return;
  if (Machine::current().lane_of(earlier.lane).fenced_time > earlier.time) return;
  Machine::current().fail(site, std::string("the async proxy ") + now + " shared byte " + std::to_string(offset) +
                                    ", which a thread " + then + " at " + describe(sites_[earlier.site]) +
                                    " without a fence after it");
}

void SharedMemory::expect_fenced_barrier(int offset, Site site) const {
  expect_fenced(shadow_[static_cast<std::size_t>(offset)].write, offset, site, "counts at the barrier of",
                "initialised");
}

void SharedMemory::expect_unread(const Byte& byte, int offset, Site site) const {
  if (byte.async_readers > 0)
    Machine::current().fail(site, "overwrites shared byte " + std::to_string(offset) +
                                      ", which a wgmma or a bulk store that was not waited for still reads");
}

void SharedMemory::begin_async_write(Lane& lane, int offset, int bytes, Site site) {
  const std::uint16_t number = number_of(site);
  for (int i = offset; i < offset + bytes; ++i) {
    Byte& byte = shadow_[static_cast<std::size_t>(i)];
    if (byte.state == State::in_flight)
      Machine::current().fail(site, "overwrites shared byte " + std::to_string(i) + " of a copy issued at " +
                                        describe(sites_[byte.write.site]) + " that is still under way");
    expect_unread(byte, i, site);
    expect_after(lane, byte.write, i, site, "refills", "wrote");
    expect_after(lane, byte.read, i, site, "refills", "read");
    expect_fenced(byte.write, i, site, "refills", "wrote");
    expect_fenced(byte.read, i, site, "refills", "read");
    byte = {{0, kAgent, number, 1}, Touch(), State::in_flight, 0};
  }
}

void SharedMemory::land(int offset, int bytes, std::uint32_t agent_time) {
  for (int i = offset; i < offset + bytes; ++i) {
    Byte& byte = shadow_[static_cast<std::size_t>(i)];
    byte.write.time = agent_time;
    byte.state = State::written;
  }
}

void SharedMemory::begin_async_read(Lane& lane, int offset, int bytes, Site site) {
  for (int i = offset; i < offset + bytes; ++i) {
    Byte& byte = shadow_[static_cast<std::size_t>(i)];
    if (byte.state == State::unwritten)
      Machine::current().fail(site, "reads shared byte " + std::to_string(i) + ", which nobody wrote");
    if (byte.state == State::in_flight)
      Machine::current().fail(site, "reads shared byte " + std::to_string(i) + " of a copy issued at " +
                                        describe(sites_[byte.write.site]) + " that was not waited for");
    expect_after(lane, byte.write, i, site, "reads", "wrote");
    expect_fenced(byte.write, i, site, "reads", "wrote");
    ++byte.async_readers;
  }
}

void SharedMemory::end_async_read(Lane& lane, int offset, int bytes) {
  for (int i = offset; i < offset + bytes; ++i) {
    Byte& byte = shadow_[static_cast<std::size_t>(i)];
    --byte.async_readers;
    byte.read = {own_time(lane), static_cast<std::uint16_t>(lane.id), byte.write.site, 1};
  }
}

void SharedMemory::check_guard_bands() const {
  const auto is_guard = [](std::byte b) { return b == kGuard; };
  const std::byte *begin = data_, *end = begin + bytes_;
  if (!std::all_of(begin - kGuardBytes, begin, is_guard) || !std::all_of(end, end + kGuardBytes, is_guard))
    throw Failure("a plain store left the block's shared memory");
}

// --- Loads and stores -----------------------------------------------------------------------------------------------

void load_shared(const void* from, void* to, int bytes, Site site) {
  Lane& lane = Machine::current().lane();
  lane.block->shared->read(lane, from, bytes, site);
  note_access(lane, from, bytes, true, site);
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

void store_shared(void* to, const void* from, int bytes, Site site) {
  Lane& lane = Machine::current().lane();
  lane.block->shared->write(lane, to, bytes, site);
  note_access(lane, to, bytes, true, site);
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

std::uint32_t atomic_shared(Atomic operation, std::uint32_t* word, std::uint32_t value, Site site) {
  Machine& machine = Machine::current();
  machine.yield();
  Lane& lane = machine.lane();
  lane.block->shared->change(lane, word, site);
  const std::uint32_t old = *word;
  *word = operation == Atomic::add ? old + value : old & value;
  return old;
}

}  // namespace emu
