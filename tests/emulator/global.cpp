// Global memory: any host memory; guarded buffers are checked.
#include "emulator/machine.h"

#include <algorithm>

namespace emu {
namespace {

constexpr std::size_t kGuardBytes = 512;  // a multiple of every alignment that a kernel asks for
constexpr std::byte kGuard{0xa5};
constexpr std::align_val_t kAlignment{256};  // cudaMalloc's

// Every guarded buffer of this thread by the address of its first guard byte.
thread_local std::map<std::uintptr_t, const GlobalBuffer*> buffers;

std::uintptr_t address_of(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

void check_written_after_wait(Machine& machine, Site site) {
  if (machine.launch().pdl && !machine.lane().block->grid_waited)
    machine.fail(site, "writes global memory before grid_wait(): the grid before may still read it");
}

}  // namespace

GlobalBuffer::GlobalBuffer(std::size_t bytes, std::uint8_t fill) : bytes_(bytes) {
  auto* start = static_cast<std::byte*>(::operator new(bytes + 2 * kGuardBytes, kAlignment));
  std::fill_n(start, bytes + 2 * kGuardBytes, kGuard);
  data_ = start + kGuardBytes;
  std::fill_n(data_, bytes, std::byte{fill});
  buffers[address_of(start)] = this;
}

GlobalBuffer::~GlobalBuffer() {
  buffers.erase(address_of(data_ - kGuardBytes));
  ::operator delete(data_ - kGuardBytes, kAlignment);
}

void check_guard_bands() {
  const auto is_guard = [](std::byte b) { return b == kGuard; };
  for (const auto& [start, buffer] : buffers) {
    const std::byte *begin = buffer->as<>(), *end = begin + buffer->bytes();
    if (!std::all_of(begin - kGuardBytes, begin, is_guard) || !std::all_of(end, end + kGuardBytes, is_guard))
      throw Failure("a plain store left a buffer of " + std::to_string(buffer->bytes()) + " bytes");
  }
}

void check_global(Machine& machine, const void* address, int bytes, Site site, const char* what) {
  if (machine.lane().block->shared->contains(address))
    machine.fail(site, std::string(what) + " shared memory, as if it were global");
  const std::uintptr_t at = address_of(address);
  auto after = buffers.upper_bound(at);
  if (after == buffers.begin()) return;
  const GlobalBuffer& buffer = *std::prev(after)->second;
  const std::uintptr_t begin = address_of(buffer.as<>()), end = begin + buffer.bytes();
  if (at >= end + kGuardBytes) return;  // memory that nobody guards
  if (at < begin || at + static_cast<unsigned>(bytes) > end)
    machine.fail(site, std::string(what) + " byte " + std::to_string(static_cast<std::int64_t>(at - begin)) + ".." +
                           std::to_string(static_cast<std::int64_t>(at - begin) + bytes - 1) + " of a buffer of " +
                           std::to_string(buffer.bytes()) + " bytes");
}

namespace {

void check_access(Machine& machine, const void* address, int bytes, Site site, const char* what) {
  if (address_of(address) % static_cast<unsigned>(bytes) != 0)
    machine.fail(site, std::string(what) + " " + std::to_string(bytes) + " bytes that are not aligned to them");
  check_global(machine, address, bytes, site, what);
  note_access(machine.lane(), address, bytes, false, site);
}

}  // namespace

void load_global(const void* from, void* to, int bytes, Site site) {
  Machine& machine = Machine::current();
  check_access(machine, from, bytes, site, "loads");
  machine.counters().global_read_bytes += bytes;
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

void store_global(void* to, const void* from, int bytes, Site site) {
  Machine& machine = Machine::current();
  check_written_after_wait(machine, site);
  check_access(machine, to, bytes, site, "stores");
  machine.counters().global_written_bytes += bytes;
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

// Polling loads let the others run first, or the loop around them would never end.
void load_volatile(const void* from, void* to, int bytes, Site site) {
  Machine::current().yield();
  load_global(from, to, bytes, site);
}

void load_flag(const void* from, void* to, Site site) {
  load_volatile(from, to, 4, site);
}

void store_flag(void* to, const void* from, Site site) {
  store_global(to, from, 4, site);
}

namespace {

void begin_atomic(const void* address, int bytes, Site site) {
  Machine& machine = Machine::current();
  machine.yield();
  check_written_after_wait(machine, site);
  check_access(machine, address, bytes, site, "adds to");
}

}  // namespace

void atomic_add(std::uint64_t* sum, std::uint64_t value, Site site) {
  begin_atomic(sum, sizeof *sum, site);
  *sum += value;
}

int atomic_add(int* counter, int value, Site site) {
  begin_atomic(counter, sizeof *counter, site);
  const int old = *counter;
  *counter = static_cast<int>(static_cast<std::uint32_t>(old) + static_cast<std::uint32_t>(value));
  return old;
}

}  // namespace emu
