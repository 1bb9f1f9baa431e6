// Barriers with phases, the fences of the async proxy, and clusters.
#include "emulator/bulk.h"
#include "emulator/machine.h"

#include <algorithm>

namespace emu {
namespace {

constexpr int kBytes = 8;

PhaseBarrier& find(Machine& machine, Block& block, int offset, Site site) {
  const auto found = block.phase_barriers.find(offset);
  if (found == block.phase_barriers.end()) machine.fail(site, "no barrier was initialised here");
  return found->second;
}

void complete_if_due(Machine& machine, Block& block, PhaseBarrier& barrier) {
  if (barrier.missing > 0 || barrier.missing_bytes != 0) return;
  barrier.missing = barrier.arrivals;
  ++barrier.phase;
  const std::uint32_t time = machine.next_agent_time();
  for (const auto& range : barrier.landed) block.shared->land(range.offset, range.bytes, time);
  if (!barrier.landed.empty()) {
    barrier.arriving.resize(machine.lane_of(0).clock.size());
    barrier.arriving.back() = std::max(barrier.arriving.back(), time + 1);
  }
  barrier.landed.clear();
  barrier.complete = barrier.arriving;
  std::erase_if(barrier.waiters, [&](const PhaseBarrier::Waiter& waiter) {
    if (static_cast<int>(barrier.phase & 1) == waiter.parity) return false;
    acquire_from(barrier.complete, *waiter.lane);
    machine.wake(*waiter.lane);
    return true;
  });
}

}  // namespace

// The word is written like any other by whoever initialises it and read by all who use it: so the shadow sees an
// initialisation that no barrier orders before the first use.
void mbarrier_init(void* barrier, int arrivals, Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  if (arrivals <= 0) machine.fail(site, "a barrier needs at least one arrival");
  lane.block->shared->write(lane, barrier, kBytes, site);
  PhaseBarrier& state = lane.block->phase_barriers[lane.block->shared->offset_of(barrier, kBytes, kBytes, site)];
  if (!state.waiters.empty()) machine.fail(site, "initialises a barrier that threads wait at");
  state = {.arrivals = arrivals, .missing = arrivals};
}

void fence_init() {
  fence_async();
}

void fence_async() {
  Lane& lane = Machine::current().lane();
  lane.fenced_time = ++own_time(lane);
}

void mbarrier_arrive(void* barrier, int rank, int expected_bytes, Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  const int offset = lane.block->shared->offset_of(barrier, kBytes, kBytes, site);
  Block& block = rank < 0 ? *lane.block : machine.gang().at(static_cast<std::size_t>(rank));
  if (rank < 0) lane.block->shared->read(lane, barrier, kBytes, site);
  if (block.live == 0) machine.fail(site, "arrives at a barrier of a block that has left the kernel");
  PhaseBarrier& state = find(machine, block, offset, site);
  if (state.missing == 0) machine.fail(site, "one arrival more than the phase has");
  release_to(state.arriving, lane);
  --state.missing;
  state.missing_bytes += expected_bytes;
  complete_if_due(machine, block, state);
}

void mbarrier_wait(void* barrier, int parity, Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  lane.block->shared->read(lane, barrier, kBytes, site);
  PhaseBarrier& state = find(machine, *lane.block, lane.block->shared->offset_of(barrier, kBytes, kBytes, site), site);
  ++machine.counters().barrier_waits;
  if (static_cast<int>(state.phase & 1) != parity) {
    state.complete.resize(lane.clock.size());
    return acquire_from(state.complete, lane);
  }
  state.waiters.push_back({&lane, parity});
  machine.wait(parity ? "mbarrier phase 1 at offset" : "mbarrier phase 0 at offset",
               lane.block->shared->offset_of(barrier, kBytes, kBytes, site), site);
}

void deliver(Machine& machine, Block& block, int barrier, int offset, int bytes, Site site) {
  PhaseBarrier& state = find(machine, block, barrier, site);
  state.landed.push_back({offset, bytes});
  state.missing_bytes -= bytes;
  complete_if_due(machine, block, state);
}

// --- Clusters -------------------------------------------------------------------------------------------------------

int cluster_rank() {
  return Machine::current().lane().block->rank;
}

void sync_cluster(Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  Barrier& barrier = machine.cluster_barrier();
  ++machine.counters().barrier_waits;
  release_to(barrier.clock, lane);
  if (++barrier.arrived < machine.launch().block.count() * machine.launch().cluster) {
    barrier.waiting.push_back(&lane);
    return machine.wait("sync_cluster", 0, site);
  }
  for (Lane* other : barrier.waiting) {
    acquire_from(barrier.clock, *other);
    machine.wake(*other);
  }
  acquire_from(barrier.clock, lane);
  barrier = Barrier();
}

}  // namespace emu
