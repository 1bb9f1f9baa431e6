// Barriers in shared memory that count arrivals and the bytes of asynchronous copies; clusters; the fences between what
// threads access (the generic proxy) and what TMA and wgmma access (the async proxy). 9.0 and newer.
//
// A barrier runs through phases. A phase is complete when `arrivals` threads have arrived and all expected bytes have
// landed; wait(b, parity) returns once the phase of that parity is complete. A new barrier is in phase 0, so waiting
// for parity 1 returns at once: what a producer wants of an empty stage.
#pragma once

#include "cuda/ptx/memory.cuh"

namespace warpjet::ptx {

struct alignas(8) Mbarrier {
  std::uint64_t word;
};

// By one thread; then fence_init() by it and a barrier of the block (or cluster). (mbarrier.init)
WJ_DEVICE void init(Mbarrier& barrier, int arrivals, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
#else
  emu::mbarrier_init(&barrier, arrivals, site);
#endif
}

// Makes init() visible to the async proxy and the cluster. (fence.mbarrier_init)
WJ_DEVICE void fence_init() {
#if defined(__CUDACC__)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  emu::fence_init();
#endif
}

// One arrival. (mbarrier.arrive)
WJ_DEVICE void arrive(Mbarrier& barrier, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
#else
  emu::mbarrier_arrive(&barrier, -1, 0, site);
#endif
}

// One arrival at the same barrier of block `rank` of the cluster. (mapa, mbarrier.arrive)
WJ_DEVICE void arrive_remote(Mbarrier& barrier, int rank, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile(
      "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}" ::"r"(shared_address(&barrier)),
      "r"(rank)
      : "memory");
#else
  emu::mbarrier_arrive(&barrier, rank, 0, site);
#endif
}

// One arrival that announces bytes: as many as the copies of this phase deliver. A box that leaves its tensor still
// counts in full; with multicast each destination's barrier counts its own. (mbarrier.arrive.expect_tx)
WJ_DEVICE void arrive_expect(Mbarrier& barrier, int bytes, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes)
               : "memory");
#else
  emu::mbarrier_arrive(&barrier, -1, bytes, site);
#endif
}

// (mbarrier.try_wait.parity) The instruction sleeps for a while by itself, so the loop is not a hot one.
WJ_DEVICE void wait(Mbarrier& barrier, int parity, Site site = Site::here()) {
#if defined(__CUDACC__)
  std::uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred done;\nmbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\nselp.u32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
  } while (!done);
#else
  emu::mbarrier_wait(&barrier, parity, site);
#endif
}

// --- Proxies --------------------------------------------------------------------------------------------------------

// My accesses to shared memory until now come before async-proxy accesses that are ordered after this fence by a
// barrier. Every thread that wrote what TMA or wgmma will read calls it before that barrier. (fence.proxy.async)
WJ_DEVICE void fence_async() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  emu::fence_async();
#endif
}

// Arrives at an "empty" barrier after having read the stage with loads (ldmatrix, load_shared): the fence keeps the
// refill behind the reads. After wgmma alone, which is of the async proxy itself, arrive() is enough.
WJ_DEVICE void arrive_after_loads(Mbarrier& barrier, Site site = Site::here()) {
  fence_async();
  arrive(barrier, site);
}

// --- Clusters -------------------------------------------------------------------------------------------------------

// (%cluster_ctarank)
WJ_DEVICE int cluster_rank() {
#if defined(__CUDACC__)
  std::uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
#else
  return emu::cluster_rank();
#endif
}

// All threads of all blocks of the cluster. Due at the start, after init(), and at the end: no block may leave while
// others arrive at its barriers. (barrier.cluster.arrive, barrier.cluster.wait)
WJ_DEVICE void sync_cluster(Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  emu::sync_cluster(site);
#endif
}

}  // namespace warpjet::ptx
