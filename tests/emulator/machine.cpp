// The scheduler: blocks in a random order, their threads as fibers, always one of the runnable ones at random.
#include "emulator/machine.h"

#include <algorithm>
#include <numeric>
#include <sstream>
#include <utility>

namespace emu {
namespace {

thread_local Machine* running = nullptr;
thread_local std::uint64_t next_seed = 1;
thread_local int multiprocessor_count = 2;
thread_local Counters last_counters;
thread_local std::vector<std::unique_ptr<Fiber>> idle_fibers;  // stacks are reused from launch to launch

std::unique_ptr<Fiber> take_fiber() {
  if (idle_fibers.empty()) return std::make_unique<Fiber>();
  std::unique_ptr<Fiber> fiber = std::move(idle_fibers.back());
  idle_fibers.pop_back();
  return fiber;
}

Dim3 unflatten(int index, const Dim3& extents) {
  return {index % extents.x, index / extents.x % extents.y, index / extents.x / extents.y};
}

}  // namespace

void launch(const Launch& launch, const std::function<void()>& body) {
  const std::uint64_t seed = next_seed++;
  Machine machine(launch, body, seed);
  running = &machine;
  try {
    machine.run();
  } catch (...) {
    running = nullptr;
    throw;
  }
  running = nullptr;
  last_counters = machine.counters();
  check_guard_bands();
}

void set_seed(std::uint64_t seed) {
  next_seed = seed;
}

int multiprocessors() {
  return multiprocessor_count;
}

void set_multiprocessors(int count) {
  multiprocessor_count = count;
}

const Counters& counters() {
  return last_counters;
}

Machine::Machine(const Launch& launch, const std::function<void()>& body, std::uint64_t seed)
    : launch_(launch), body_(body), seed_(seed), random_(seed) {
  const int threads = launch.block.count();
  if (launch.grid.count() <= 0 || launch.grid.y > 65535 || launch.grid.z > 65535)
    throw Failure("grids have extents of at least 1, and at most 65535 along y and z");
  if (threads % warpjet::kWarpSize != 0 || threads <= 0 || threads > 1024)
    throw Failure("blocks are whole warps and at most 1024 threads, not " + std::to_string(threads));
  if (launch.grid.x % launch.cluster != 0) throw Failure("the grid is not a whole number of clusters");
  if (launch.smem_bytes > 227 << 10) throw Failure("no GPU gives a block more than 227 KiB of shared memory");
}

Machine& Machine::current() {
  if (running == nullptr || running->lane_ == nullptr) throw Failure("a wrapper was called outside a launch");
  return *running;
}

void Machine::run() {
  std::vector<int> order(static_cast<std::size_t>(launch_.grid.count() / launch_.cluster));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random_);
  for (const int gang : order) run_gang(gang * launch_.cluster);
}

void Machine::set_up(Block& block, int index, int rank) {
  const int threads = launch_.block.count(), warps = threads / warpjet::kWarpSize;
  block.idx = unflatten(index, launch_.grid);
  block.rank = rank;
  block.shared = std::make_unique<SharedMemory>(launch_.smem_bytes);
  block.live = threads;
  block.warps.resize(static_cast<std::size_t>(warps));
  for (int i = 0; i < warps; ++i) {
    block.warps[static_cast<std::size_t>(i)].block = &block;
    block.warps[static_cast<std::size_t>(i)].id = rank * warps + i;
  }
  for (int i = 0; i < threads; ++i) {
    auto lane = std::make_unique<Lane>();
    lane->fiber = take_fiber();
    lane->block = &block;
    lane->warp = &block.warps[static_cast<std::size_t>(i / warpjet::kWarpSize)];
    lane->id = rank * threads + i;
    lane->in_warp = i % warpjet::kWarpSize;
    lane->thread = unflatten(i, launch_.block);
    lane->clock.assign(static_cast<std::size_t>(warps * launch_.cluster + 1), 0);
    own_time(*lane) = 1;
    lane->warp->lanes.push_back(lane.get());
    lane->fiber->start(&Machine::enter, lane.get());
    runnable_.push_back(lane.get());
    block.lanes.push_back(std::move(lane));
  }
}

void Machine::run_gang(int first_block) {
  gang_ = std::vector<Block>(static_cast<std::size_t>(launch_.cluster));
  runnable_.clear();
  for (int rank = 0; rank < launch_.cluster; ++rank) {
    set_up(gang_[static_cast<std::size_t>(rank)], first_block + rank, rank);
  }
  async_.clear();
  cluster_barrier_ = Barrier();
  while (!failure_) {
    const bool performed = perform_some_async();
    if (runnable_.empty() && performed) continue;
    if (runnable_.empty()) break;
    std::swap(runnable_[random_() % runnable_.size()], runnable_.back());
    lane_ = runnable_.back();
    runnable_.pop_back();
    perform_some_copies(*this, *lane_);
    perform_some_wgmma(*this, *lane_);
    lane_->fiber->resume();
  }
  lane_ = nullptr;
  const bool stuck = std::any_of(gang_.begin(), gang_.end(), [](const Block& block) { return block.live > 0; });
  const std::string report = stuck && !failure_ ? deadlock_report() : std::string();
  for (Block& block : gang_) {
    for (auto& lane : block.lanes) idle_fibers.push_back(std::move(lane->fiber));
  }
  if (failure_) std::rethrow_exception(failure_);
  if (stuck) throw Failure(report);
  for (const Block& block : gang_) block.shared->check_guard_bands();
}

Lane& Machine::lane_of(int id) {
  const int threads = launch_.block.count();
  return *gang_[static_cast<std::size_t>(id / threads)].lanes[static_cast<std::size_t>(id % threads)];
}

std::shared_ptr<AsyncOp> Machine::start(std::function<void()> perform, bool fills_shared) {
  async_.push_back(std::make_shared<AsyncOp>(AsyncOp{std::move(perform), false, fills_shared}));
  return async_.back();
}

// Now and then, and whenever nobody else can run. Returns whether something was done.
bool Machine::perform_some_async() {
  std::erase_if(async_, [](const auto& op) { return op->performed; });
  if (async_.empty() || (!runnable_.empty() && !chance(8))) return false;
  AsyncOp& op = *async_[random_() % async_.size()];
  op.performed = true;
  try {
    op.perform();
  } catch (...) {
    failure_ = std::current_exception();
  }
  return true;
}

void Machine::enter(void* argument) {
  Machine& machine = *running;
  Lane& lane = *static_cast<Lane*>(argument);
  try {
    machine.body_();
    machine.finish(lane);
  } catch (...) {
    machine.failure_ = std::current_exception();
  }
}

void Machine::finish(Lane& lane) {
  perform_all_copies(lane);
  lane.state = Lane::State::done;
  check_meetings_without(*this, lane);
  check_barriers_without(*this, lane);
  check_wgmma_without(*this, lane);
  const auto& lanes = lane.warp->lanes;
  if (std::all_of(lanes.begin(), lanes.end(), [](const Lane* l) { return l->state == Lane::State::done; })) {
    count_traffic(*this, *lane.warp);
  }
  --lane.block->live;
  const bool filling =
      std::any_of(async_.begin(), async_.end(), [](const auto& op) { return op->fills_shared && !op->performed; });
  if (filling && std::all_of(gang_.begin(), gang_.end(), [](const Block& b) { return b.live == 0; }))
    fail(lane.site, "the block ended while bulk copies still fill its shared memory");
  if (lane.block->live == 0 && launch_.pdl && !lane.block->grid_waited)
    fail(lane.site, "the block ended without grid_wait(): the grid after it may overtake the one before it");
}

void Machine::wait(const char* what, std::uint32_t which, Site site) {
  Lane& lane = *lane_;
  lane.state = Lane::State::waiting;
  lane.waits_for = what;
  lane.which = which;
  lane.site = site;
  lane.fiber->suspend();
}

void Machine::wake(Lane& lane) {
  lane.state = Lane::State::runnable;
  runnable_.push_back(&lane);
}

void Machine::yield() {
  runnable_.push_back(lane_);
  lane_->fiber->suspend();
}

// --- Reports --------------------------------------------------------------------------------------------------------

std::string describe(const Site& site) {
  return std::string(site.file) + ":" + std::to_string(site.line);
}

std::string describe(const Lane& lane) {
  std::ostringstream out;
  const Dim3& b = lane.block->idx;
  out << "block (" << b.x << "," << b.y << "," << b.z << ") warp " << lane.warp - lane.block->warps.data() << " lane "
      << lane.in_warp;
  return out.str();
}

void Machine::fail(Site site, const std::string& what) {
  throw Failure(describe(site) + ": " + what + " [" + describe(*lane_) + ", seed " + std::to_string(seed_) + "]");
}

// One line for each group of lanes of a warp that wait for the same.
std::string Machine::deadlock_report() const {
  std::ostringstream out;
  out << "deadlock: every thread waits [seed " << seed_ << "]";
  for (const Block& block : gang_) {
    for (const Warp& warp : block.warps) {
      std::uint32_t told = 0;
      for (const Lane* lane : warp.lanes) {
        if (told >> lane->in_warp & 1 || lane->state != Lane::State::waiting) continue;
        std::uint32_t same = 0;
        for (const Lane* other : warp.lanes) {
          if (other->state == Lane::State::waiting && other->site == lane->site && other->which == lane->which)
            same |= 1u << other->in_warp;
        }
        told |= same;
        out << "\n  " << describe(*lane) << " (lanes 0x" << std::hex << same << ") waits for " << lane->waits_for
            << " 0x" << lane->which << std::dec << " at " << describe(lane->site);
      }
    }
  }
  return out.str();
}

// --- Clocks ---------------------------------------------------------------------------------------------------------

void release_to(Clock& clock, Lane& lane) {
  clock.resize(lane.clock.size());
  ++own_time(lane);
  for (std::size_t i = 0; i < clock.size(); ++i) clock[i] = std::max(clock[i], lane.clock[i]);
}

void acquire_from(const Clock& clock, Lane& lane) {
  for (std::size_t i = 0; i < clock.size(); ++i) lane.clock[i] = std::max(lane.clock[i], clock[i]);
}

// --- Registers ------------------------------------------------------------------------------------------------------

Dim3 thread_idx() {
  return Machine::current().lane().thread;
}
Dim3 block_idx() {
  return Machine::current().lane().block->idx;
}
Dim3 block_dim() {
  return Machine::current().launch().block;
}
Dim3 grid_dim() {
  return Machine::current().launch().grid;
}

void* shared_memory(std::size_t bytes) {
  Machine& machine = Machine::current();
  SharedMemory& shared = *machine.lane().block->shared;
  if (bytes > static_cast<std::size_t>(shared.bytes()))
    machine.fail({"smem", 0}, "the kernel wants " + std::to_string(bytes) + " bytes of shared memory, launched with " +
                                  std::to_string(shared.bytes()));
  return shared.data();
}

void grid_wait() {
  Machine::current().lane().block->grid_waited = true;
}

}  // namespace emu
