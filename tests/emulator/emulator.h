// The CUDA execution model on one CPU thread: what the wrappers of cuda/ptx/ call when no CUDA compiler is at work, and
// what tests ask. A launch runs its blocks as fibers that are scheduled at random from a seed; whatever a GPU leaves
// undefined and we can see (races, missing waits, lanes that a mask names in vain) throws Failure with the place.
#pragma once

#include "cuda/ptx/platform.cuh"
#include "emulator/number.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace warpjet::ptx {
struct TensorMapDesc;
}

namespace emu {

constexpr bool kOnGpu = false;  // tests/gpu has the same tests on a GPU

using warpjet::Dim3;
using Site = warpjet::ptx::Site;

// What a kernel did wrong: where, which thread, and the seed that repeats it.
class Failure : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// --- Launch and observe ---------------------------------------------------------------------------------------------

struct Launch {
  Dim3 grid, block;
  int cluster = 1;  // neighbouring blocks along x that run together
  int smem_bytes = 0;
  bool pdl = false;  // the grid before may still run: grid_wait() is due
};

// Runs body once a thread. Throws Failure; the kernel's objects are not unwound then, only forgotten.
void launch(const Launch& launch, const std::function<void()>& body);

// The next launch schedules by this seed, the one after by the next number.
void set_seed(std::uint64_t seed);

// Of the emulated chip, as this thread sees it: what persistent kernels size their grids by. At first 2.
int multiprocessors();
void set_multiprocessors(int count);

// What the last launch of this thread did through the wrappers.
struct Counters {
  std::int64_t global_read_bytes = 0, global_written_bytes = 0;
  std::int64_t global_sectors = 0;         // 32-byte pieces a warp's accesses touch: 4 for 128 neighbouring bytes
  std::int64_t shared_bank_conflicts = 0;  // extra passes over the 32 banks
  std::int64_t barrier_waits = 0;          // one a thread
  std::int64_t mma = 0;                    // one a warp
};
const Counters& counters();

// Device memory for tests: poisoned with `fill` and between guard bands. An access through the wrappers that leaves it
// is a Failure at once; any other write into a band is one at the end of the launch.
class GlobalBuffer {
 public:
  explicit GlobalBuffer(std::size_t bytes, std::uint8_t fill = 0xff);
  ~GlobalBuffer();
  GlobalBuffer(const GlobalBuffer&) = delete;
  GlobalBuffer& operator=(const GlobalBuffer&) = delete;

  template <class T = std::byte>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* data_;
  std::size_t bytes_;
};

// --- For the wrappers -----------------------------------------------------------------------------------------------

Dim3 thread_idx();
Dim3 block_idx();
Dim3 block_dim();
Dim3 grid_dim();
void* shared_memory(std::size_t bytes);

void sync_threads(Site site);
void barrier_sync(int id, int threads, Site site);
void barrier_arrive(int id, int threads, Site site);

enum class Reduction : std::uint8_t { add, min, max };
void sync_warp(std::uint32_t mask, Site site);
std::uint32_t shuffle(std::uint32_t value, int source, std::uint32_t mask, Site site);
std::uint32_t ballot(bool predicate, std::uint32_t mask, Site site);
std::uint32_t match_any(std::uint32_t value, std::uint32_t mask, Site site);
int reduce(Reduction reduction, int value, std::uint32_t mask, Site site);

void load_global(const void* from, void* to, int bytes, Site site);
void store_global(void* to, const void* from, int bytes, Site site);
void load_volatile(const void* from, void* to, int bytes, Site site);
void load_flag(const void* from, void* to, Site site);
void store_flag(void* to, const void* from, Site site);
int atomic_add(int* counter, int value, Site site);
void atomic_add(std::uint64_t* sum, std::uint64_t value, Site site);
void grid_wait();

void load_shared(const void* from, void* to, int bytes, Site site);
void store_shared(void* to, const void* from, int bytes, Site site);
enum class Atomic : std::uint8_t { add, bit_and };
std::uint32_t atomic_shared(Atomic operation, std::uint32_t* word, std::uint32_t value, Site site);  // the old value

void copy_async(void* to, const void* from, int bytes, int valid, Site site);
void copy_commit();
void copy_wait(int pending);

using Widen = float (*)(std::uint16_t);
void mma(Widen widen, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Site site);
void mma_s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Site site);
void load_matrix(std::uint32_t* r, int count, bool transposed, const void* row, Site site);
void store_matrix(const std::uint32_t* r, int count, bool transposed, void* row, Site site);

// --- Hopper's -------------------------------------------------------------------------------------------------------

void mbarrier_init(void* barrier, int arrivals, Site site);
void mbarrier_arrive(void* barrier, int rank, int expected_bytes, Site site);  // rank -1: the block's own
void mbarrier_wait(void* barrier, int parity, Site site);
void fence_init();
void fence_async();
int cluster_rank();
void sync_cluster(Site site);

void tma_load(void* to, const warpjet::ptx::TensorMapDesc& map, void* barrier, const int* at, int rank,
              std::uint16_t blocks, Site site);  // blocks 0: the own one
void bulk_load(void* to, const void* from, int bytes, void* barrier, Site site);
void tma_store(const warpjet::ptx::TensorMapDesc& map, const void* from, const int* at, int rank, Site site);
void bulk_commit();
void bulk_wait(int pending);

std::uint32_t shared_offset(const void* pointer);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);
// a_registers null: a comes by its descriptor.
void wgmma(Widen widen, int n, float* d, std::uint64_t a, const std::uint32_t* a_registers, std::uint64_t b,
           bool b_is_mn_major, bool accumulate, Site site);

}  // namespace emu
