// cp.async: bytes move at some random moment between the copy and the wait that orders it.
#include "emulator/machine.h"

#include <algorithm>

namespace emu {
namespace {

void perform(Copy& copy) {
  if (copy.performed) return;
  std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.valid));
  std::memset(copy.to + copy.valid, 0, static_cast<std::size_t>(copy.bytes - copy.valid));
  copy.performed = true;
}

}  // namespace

void copy_async(void* to, const void* from, int bytes, int valid, Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  if (valid < 0 || valid > bytes)
    machine.fail(site, "copies " + std::to_string(valid) + " valid bytes of " + std::to_string(bytes));
  if (reinterpret_cast<std::uintptr_t>(from) % static_cast<unsigned>(bytes) != 0)
    machine.fail(site, "the source of a " + std::to_string(bytes) + "-byte copy is not aligned to it");
  if (valid > 0) {
    check_global(machine, from, valid, site, "copies from");
    note_access(lane, from, valid, false, site);
    machine.counters().global_read_bytes += valid;
  }
  lane.block->shared->begin_copy(lane, to, bytes, site);
  lane.copies.push_back(
      {static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes, valid, lane.open_group, false, site});
}

void copy_commit() {
  ++Machine::current().lane().open_group;
}

void copy_wait(int pending) {
  Lane& lane = Machine::current().lane();
  const std::int64_t newest_done = lane.open_group - 1 - pending;  // copies outside a group are not waited for
  std::erase_if(lane.copies, [&](Copy& copy) {
    if (copy.group > newest_done) return false;
    perform(copy);
    lane.block->shared->end_copy(lane, copy.to, copy.bytes, copy.site);
    return true;
  });
}

void perform_some_copies(Machine& machine, Lane& lane) {
  if (lane.copies.empty() || !machine.chance(2)) return;
  perform(lane.copies[machine.random() % lane.copies.size()]);
}

// A block's shared memory outlives its copies, so a thread may leave before they are done.
void perform_all_copies(Lane& lane) {
  for (Copy& copy : lane.copies) perform(copy);
}

}  // namespace emu
