// Meetings of lanes, and the shuffles, votes and reductions that are made of them.
#include "emulator/warp.h"

#include <bit>

namespace emu {

std::string hex(std::uint32_t value) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "0x";
  for (int shift = 28; shift >= 0; shift -= 4) text += kDigits[value >> shift & 15];
  return text;
}

namespace {

// The meeting of exactly these lanes, found or opened. Two lanes that name each other must be at the same instruction.
Meeting& find_meeting(Machine& machine, Warp& warp, const char* name, std::uint32_t mask, Site site) {
  const Lane& lane = machine.lane();
  for (auto& meeting : warp.meetings) {
    if (meeting->mask == mask && meeting->site == site && meeting->name == name) return *meeting;
    if (meeting->mask >> lane.in_warp & 1)
      machine.fail(site, std::string(name) + " with mask " + hex(mask) + ", but lanes " + hex(meeting->arrived) +
                             " of its warp wait for it in " + meeting->name + " with mask " + hex(meeting->mask) +
                             " at " + describe(meeting->site));
  }
  warp.meetings.push_back(std::make_unique<Meeting>());
  Meeting& meeting = *warp.meetings.back();
  meeting.name = name;
  meeting.mask = mask;
  meeting.site = site;
  return meeting;
}

}  // namespace

Meeting& join_meeting(Machine& machine, const char* name, std::uint32_t mask, Site site, void* slot) {
  Lane& lane = machine.lane();
  if (!(mask >> lane.in_warp & 1)) machine.fail(site, std::string(name) + ": mask " + hex(mask) + " lacks the caller");
  for (const Lane* other : lane.warp->lanes) {
    if (mask >> other->in_warp & 1 && other->state == Lane::State::done)
      machine.fail(site, std::string(name) + ": mask " + hex(mask) + " names lane " + std::to_string(other->in_warp) +
                             ", which has left the kernel");
  }
  Meeting& meeting = find_meeting(machine, *lane.warp, name, mask, site);
  meeting.arrived |= 1u << lane.in_warp;
  meeting.slots[lane.in_warp] = slot;
  return meeting;
}

void end_meeting(Machine& machine, Meeting& meeting) {
  Warp& warp = *machine.lane().warp;
  const auto member = [&](int i) -> Lane& { return *warp.lanes[static_cast<std::size_t>(i)]; };
  Clock clock;
  for_each_lane(meeting.mask, [&](int i) { release_to(clock, member(i)); });
  for_each_lane(meeting.mask, [&](int i) {
    acquire_from(clock, member(i));
    if (&member(i) != &machine.lane()) machine.wake(member(i));
  });
  std::erase_if(warp.meetings, [&](const auto& m) { return m.get() == &meeting; });
}

void check_meetings_without(Machine& machine, Lane& lane) {
  for (const auto& meeting : lane.warp->meetings) {
    if (meeting->mask >> lane.in_warp & 1)
      machine.fail(meeting->site, std::string(meeting->name) + ": mask " + hex(meeting->mask) + " names lane " +
                                      std::to_string(lane.in_warp) + ", which has left the kernel");
  }
}

void sync_warp(std::uint32_t mask, Site site) {
  char none = 0;
  meet("sync_warp", mask, site, none, [](char**, std::uint32_t) {});
}

std::uint32_t shuffle(std::uint32_t value, int source, std::uint32_t mask, Site site) {
  struct Slot {
    std::uint32_t value, result;
    int source;
  } slot = {value, 0, source};
  if (!(mask >> source & 1))
    Machine::current().fail(site,
                            "shuffle from lane " + std::to_string(source) + ", which mask " + hex(mask) + " lacks");
  meet("shuffle", mask, site, slot, [](Slot** slots, std::uint32_t lanes) {
    for_each_lane(lanes, [&](int i) { slots[i]->result = slots[slots[i]->source]->value; });
  });
  return slot.result;
}

std::uint32_t ballot(bool predicate, std::uint32_t mask, Site site) {
  std::uint32_t slot = predicate;
  meet("ballot", mask, site, slot, [](std::uint32_t** slots, std::uint32_t lanes) {
    std::uint32_t votes = 0;
    for_each_lane(lanes, [&](int i) { votes |= *slots[i] << i; });
    for_each_lane(lanes, [&](int i) { *slots[i] = votes; });
  });
  return slot;
}

std::uint32_t match_any(std::uint32_t value, std::uint32_t mask, Site site) {
  struct Slot {
    std::uint32_t value, result;
  } slot = {value, 0};
  meet("match_any", mask, site, slot, [](Slot** slots, std::uint32_t lanes) {
    for_each_lane(lanes, [&](int i) {
      for_each_lane(lanes, [&](int j) {
        if (slots[i]->value == slots[j]->value) slots[i]->result |= 1u << j;
      });
    });
  });
  return slot.result;
}

int reduce(Reduction reduction, int value, std::uint32_t mask, Site site) {
  struct Slot {
    int value;
    Reduction reduction;
  } slot = {value, reduction};
  meet("reduce", mask, site, slot, [](Slot** slots, std::uint32_t lanes) {
    const Slot& first = *slots[std::countr_zero(lanes)];
    std::int64_t sum = 0;
    int least = first.value, most = first.value;
    for_each_lane(lanes, [&](int i) {
      sum += slots[i]->value;
      least = std::min(least, slots[i]->value);
      most = std::max(most, slots[i]->value);
    });
    const int wrapped = static_cast<int>(static_cast<std::uint32_t>(sum));  // integers of a GPU wrap
    for_each_lane(lanes, [&](int i) {
      slots[i]->value = slots[i]->reduction == Reduction::add   ? wrapped
                        : slots[i]->reduction == Reduction::min ? least
                                                                : most;
    });
  });
  return slot.value;
}

}  // namespace emu
