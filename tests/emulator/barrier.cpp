// Block barriers: counted, and picky about who comes from where.
#include "emulator/machine.h"

namespace emu {
namespace {

constexpr int kBarriers = 16;  // of a block; 0 is sync_threads

// Counts the lane in; returns true if it completed the barrier, in which case everybody has been woken.
bool arrive(Machine& machine, Barrier& barrier, int threads, Site site) {
  if (barrier.arrived == 0) {
    barrier.threads = threads;
    barrier.first = site;
  }
  if (barrier.threads != threads)
    machine.fail(site, "a barrier of " + std::to_string(threads) + " threads, but those at " + describe(barrier.first) +
                           " expect " + std::to_string(barrier.threads));
  release_to(barrier.clock, machine.lane());
  if (++barrier.arrived < threads) return false;
  for (Lane* lane : barrier.waiting) {
    acquire_from(barrier.clock, *lane);
    machine.wake(*lane);
  }
  acquire_from(barrier.clock, machine.lane());
  barrier = Barrier();
  return true;
}

void sync(Machine& machine, int id, int threads, const char* name, Site site) {
  ++machine.counters().barrier_waits;
  Lane& lane = machine.lane();
  Barrier& barrier = lane.block->barriers[id];
  if (arrive(machine, barrier, threads, site)) return;
  barrier.waiting.push_back(&lane);
  machine.wait(name, static_cast<std::uint32_t>(id), site);
}

void check(Machine& machine, int id, int threads, Site site) {
  if (id <= 0 || id >= kBarriers) machine.fail(site, "named barriers are 1..15, not " + std::to_string(id));
  if (threads <= 0 || threads % warpjet::kWarpSize != 0)
    machine.fail(site, "a barrier counts whole warps, not " + std::to_string(threads) + " threads");
}

}  // namespace

// Hardware lets threads that have left not count, and different places pair up; a kernel that relies on either is one
// edit away from a hang, so here both are failures.
void sync_threads(Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  Block& block = *lane.block;
  const Barrier& barrier = block.barriers[0];
  if (barrier.arrived > 0 && barrier.first != site)
    machine.fail(site, "divergent sync_threads: other threads of the block wait at " + describe(barrier.first));
  if (block.live < static_cast<int>(block.lanes.size()))
    machine.fail(site, "sync_threads after threads of the block have left the kernel");
  sync(machine, 0, static_cast<int>(block.lanes.size()), "sync_threads", site);
}

void barrier_sync(int id, int threads, Site site) {
  Machine& machine = Machine::current();
  check(machine, id, threads, site);
  sync(machine, id, threads, "barrier_sync", site);
}

void barrier_arrive(int id, int threads, Site site) {
  Machine& machine = Machine::current();
  check(machine, id, threads, site);
  arrive(machine, machine.lane().block->barriers[id], threads, site);
}

void check_barriers_without(Machine& machine, Lane& lane) {
  const auto found = lane.block->barriers.find(0);
  if (found != lane.block->barriers.end() && found->second.arrived > 0)
    machine.fail(found->second.first, "a thread left the kernel while others of its block wait in sync_threads");
}

}  // namespace emu
