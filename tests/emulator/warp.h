// Warp instructions as meetings: each lane leaves its operands, the last one computes for all, all go on.
#pragma once

#include "emulator/machine.h"

#include <algorithm>

namespace emu {

using warpjet::kWarpSize;

constexpr std::uint32_t kAllLanes = 0xffffffffu;

std::string hex(std::uint32_t value);

// Checks that the caller may be here and leaves its operands.
Meeting& join_meeting(Machine& machine, const char* name, std::uint32_t mask, Site site, void* slot);
// Merges what the lanes know, wakes them and forgets the meeting.
void end_meeting(Machine& machine, Meeting& meeting);

// Calls combine(slots, mask) once, when every lane of the mask has come; slots[i] is lane i's.
template <class Slot, class Combine>
void meet(const char* name, std::uint32_t mask, Site site, Slot& slot, Combine combine) {
  Machine& machine = Machine::current();
  Meeting& meeting = join_meeting(machine, name, mask, site, &slot);
  if (meeting.arrived != mask) return machine.wait(name, mask, site);
  count_traffic(machine, *machine.lane().warp);
  Slot* slots[kWarpSize];
  for (int i = 0; i < kWarpSize; ++i) slots[i] = static_cast<Slot*>(meeting.slots[i]);
  combine(slots, mask);
  end_meeting(machine, meeting);
}

template <class Function>
void for_each_lane(std::uint32_t mask, Function function) {
  for (int i = 0; i < kWarpSize; ++i) {
    if (mask >> i & 1) function(i);
  }
}

}  // namespace emu
