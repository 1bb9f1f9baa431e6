// The state of a running launch: a gang (one cluster) of blocks, their warps and lanes, and who waits for what.
#pragma once

#include "emulator/emulator.h"
#include "emulator/fiber.h"
#include "emulator/shared.h"

#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace emu {

struct Block;
struct Warp;

using Clock = std::vector<std::uint32_t>;  // one entry a warp of the gang, see below

// A cp.async under way. Whether the bytes have arrived is nobody's business before copy_wait.
struct Copy {
  std::byte* to;
  const std::byte* from;
  int bytes, valid;
  std::int64_t group;
  bool performed;
  Site site;
};

// A piece of work of the async proxy, done at a random moment.
struct AsyncOp {
  std::function<void()> perform;
  bool performed = false;
  bool fills_shared = false;  // must be over before its block ends
};

struct BulkStore {
  std::shared_ptr<AsyncOp> op;
  int offset, bytes;  // in shared memory
  std::int64_t group;
};

// One CUDA thread.
struct Lane {
  enum class State : std::uint8_t { runnable, waiting, done };

  std::unique_ptr<Fiber> fiber;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int id = 0;  // in the gang
  int in_warp = 0;
  Dim3 thread;
  State state = State::runnable;
  const char* waits_for = "";  // while waiting: what, which one, and where
  std::uint32_t which = 0;
  Site site;
  Clock clock;
  std::vector<Copy> copies;
  std::int64_t open_group = 0;
  std::uint32_t fenced_time = 0;  // own time at the last fence_async()
  std::vector<BulkStore> bulk_stores;
  std::int64_t open_bulk_group = 0;
  std::int64_t open_wgmma_group = 0;
  bool wgmma_fenced = false;
};

// A warp instruction that some lanes have reached and others have not.
struct Meeting {
  const char* name;
  Site site;
  std::uint32_t mask, arrived = 0;
  void* slots[warpjet::kWarpSize] = {};
};

// One wrapper access of one lane, kept until the warp's next meeting to see what the warp as a whole touched.
struct Access {
  Site site;
  std::uintptr_t address;
  int occurrence;  // the how manieth of its lane at its site
  std::int16_t lane;
  std::uint8_t bytes;
  bool shared;
};

struct Warp {
  Block* block = nullptr;
  int id = 0;  // in the gang
  std::vector<Lane*> lanes;
  std::vector<std::unique_ptr<Meeting>> meetings;
  std::vector<Access> accesses;
};

struct Barrier {
  int threads = 0, arrived = 0;  // 0: nobody there
  Site first;
  std::vector<Lane*> waiting;
  Clock clock;
};

// An mbarrier, by its place in shared memory.
struct PhaseBarrier {
  struct Waiter {
    Lane* lane;
    int parity;
  };
  struct Range {
    int offset, bytes;
  };
  int arrivals = 0, missing = 0;  // a phase's, and those still to come
  std::int64_t missing_bytes = 0;
  std::uint32_t phase = 0;
  Clock arriving, complete;   // what those who arrived knew; what those who waited learn
  std::vector<Range> landed;  // in this phase
  std::vector<Waiter> waiters;
};

// One warpgroup's products, in order.
struct Wgmma {
  Widen widen;
  int n;
  float* d[128];
  std::uint64_t a, b;
  bool a_in_registers, b_is_mn_major, accumulate;
  std::uint32_t a_registers[128][4];
  std::int64_t group;
  bool performed = false;
  int warps_waited = 0;
  std::vector<int> pieces;  // offsets of the 16-byte pieces of shared memory that it reads
};
struct Warpgroup {
  int arrived = 0;
  Site site;
  struct Slot {
    float* d;
    const std::uint32_t* a;
  } slots[128] = {};
  std::vector<Lane*> waiting;
  std::deque<Wgmma> products;
};

struct Block {
  Dim3 idx;
  int rank = 0;  // in the cluster
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<Warp> warps;
  std::map<int, Barrier> barriers;
  std::map<int, PhaseBarrier> phase_barriers;
  std::map<int, Warpgroup> warpgroups;
  std::unique_ptr<SharedMemory> shared;
  int live = 0;
  bool grid_waited = false;
};

class Machine {
 public:
  Machine(const Launch& launch, const std::function<void()>& body, std::uint64_t seed);
  void run();

  static Machine& current();  // throws Failure outside a launch
  Lane& lane() { return *lane_; }
  Lane& lane_of(int id);  // by its number in the gang
  std::vector<Block>& gang() { return gang_; }
  Barrier& cluster_barrier() { return cluster_barrier_; }
  std::uint32_t next_agent_time() { return ++agent_time_; }
  std::shared_ptr<AsyncOp> start(std::function<void()> perform, bool fills_shared);
  const Launch& launch() const { return launch_; }
  Counters& counters() { return counters_; }
  bool chance(int one_in) { return random_() % static_cast<unsigned>(one_in) == 0; }
  std::uint64_t random() { return random_(); }

  // Suspends the current lane until wake(). The deadlock report tells what it waits for and which one (an id or mask).
  void wait(const char* what, std::uint32_t which, Site site);
  void wake(Lane& lane);
  void yield();  // lets others run first, perhaps
  [[noreturn]] void fail(Site site, const std::string& what);

 private:
  void run_gang(int first_block);
  bool perform_some_async();
  void set_up(Block& block, int index, int rank);
  static void enter(void* lane);
  void finish(Lane& lane);
  std::string deadlock_report() const;

  const Launch launch_;
  const std::function<void()>& body_;
  const std::uint64_t seed_;
  std::mt19937_64 random_;
  Counters counters_;
  std::vector<Block> gang_;
  std::vector<Lane*> runnable_;
  std::vector<std::shared_ptr<AsyncOp>> async_;
  Barrier cluster_barrier_;
  std::uint32_t agent_time_ = 0;
  Lane* lane_ = nullptr;
  std::exception_ptr failure_;
};

// --- Clocks: who may know of whose accesses
// --------------------------------------------------------------------------- Vector clocks (Lamport 1978, Mattern
// 1989), one entry a warp. A lane's access at its warp's time c happened before everything of lanes whose clock has
// that warp beyond c; meeting at a barrier merges clocks and moves each one's time on.

inline std::uint32_t& own_time(Lane& lane) {
  return lane.clock[static_cast<std::size_t>(lane.warp->id)];
}
// The lane tells whoever acquires `clock` all that it has done; what it does next is not part of that.
void release_to(Clock& clock, Lane& lane);
void acquire_from(const Clock& clock, Lane& lane);

// --- Parts of a launch
// ------------------------------------------------------------------------------------------------

void perform_some_copies(Machine& machine, Lane& lane);  // copies.cpp
void perform_all_copies(Lane& lane);
void check_global(Machine& machine, const void* address, int bytes, Site site, const char* what);  // global.cpp
void note_access(Lane& lane, const void* address, int bytes, bool shared, Site site);              // traffic.cpp
void count_traffic(Machine& machine, Warp& warp);
int bank_conflicts(std::span<const std::uintptr_t> words);  // extra passes over the 32 banks
void perform_some_wgmma(Machine& machine, Lane& lane);      // wgmma.cpp
void check_wgmma_without(Machine& machine, Lane& lane);
void check_meetings_without(Machine& machine, Lane& lane);  // warp.cpp
void check_barriers_without(Machine& machine, Lane& lane);  // barrier.cpp
void check_guard_bands();                                   // global.cpp

std::string describe(const Site& site);
std::string describe(const Lane& lane);  // "block (0,0,0) thread 5 (warp 0 lane 5)"

}  // namespace emu
