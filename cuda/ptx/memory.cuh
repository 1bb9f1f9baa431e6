// Loads, stores and asynchronous copies. Kernels touch global and shared memory only through these, which is how the
// emulator can check and count every access.
#pragma once

#include "cuda/ptx/thread.cuh"

namespace warpjet::ptx {

// What a load leaves behind in the caches.
enum class Cache : std::uint8_t {
  normal,
  once,    // read or written once by one block: do not displace what L1 holds
  weights  // written before this kernel's predecessor began: the read-only path, fetching 256 bytes into L2
};

#if defined(__CUDACC__)
// Generic to shared, for instructions that take a 32-bit shared address. (cvta.to.shared)
WJ_DEVICE std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

// --- Global memory --------------------------------------------------------------------------------------------------

// 1 to 16 bytes, aligned to their size. (ld.global; with Cache::weights ld.global.nc)
template <Cache cache = Cache::normal, class T>
WJ_DEVICE T load(const T* from, Site site = Site::here()) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16,
                "one load instruction moves 1, 2, 4, 8 or 16 bytes");
#if defined(__CUDACC__)
  if constexpr (cache == Cache::normal || sizeof(T) < 4) {
    return *from;
  } else if constexpr (sizeof(T) == 4) {
    std::uint32_t r;
    if constexpr (cache == Cache::once)
      asm volatile("ld.global.L1::no_allocate.b32 %0, [%1];" : "=r"(r) : "l"(from) : "memory");
    else
      asm("ld.global.nc.L1::no_allocate.L2::256B.b32 %0, [%1];" : "=r"(r) : "l"(from));
    return bit_cast<T>(r);
  } else if constexpr (sizeof(T) == 8) {
    Vec<std::uint32_t, 2> r;
    if constexpr (cache == Cache::once)
      asm volatile("ld.global.L1::no_allocate.v2.b32 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "l"(from) : "memory");
    else
      asm("ld.global.nc.L1::no_allocate.L2::256B.v2.b32 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "l"(from));
    return bit_cast<T>(r);
  } else {
    Vec<std::uint32_t, 4> r;
    if constexpr (cache == Cache::once)
      asm volatile("ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "l"(from)
                   : "memory");
    else
      asm("ld.global.nc.L1::no_allocate.L2::256B.v4.b32 {%0, %1, %2, %3}, [%4];"
          : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
          : "l"(from));
    return bit_cast<T>(r);
  }
#else
  T value;
  emu::load_global(from, &value, sizeof(T), site);
  return value;
#endif
}

// 1 to 16 bytes, aligned to their size. (st.global)
template <Cache cache = Cache::normal, class T>
WJ_DEVICE void store(T* to, const T& value, Site site = Site::here()) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16,
                "one store instruction moves 1, 2, 4, 8 or 16 bytes");
  static_assert(cache != Cache::weights, "weights are not written");
#if defined(__CUDACC__)
  if constexpr (cache == Cache::once && sizeof(T) == 16) {
    const auto r = bit_cast<Vec<std::uint32_t, 4>>(value);
    asm volatile("st.global.L1::no_allocate.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(r[0]), "r"(r[1]), "r"(r[2]),
                 "r"(r[3])
                 : "memory");
  } else {
    *to = value;
  }
#else
  emu::store_global(to, &value, sizeof(T), site);
#endif
}

// Polls and flags, 32 bits: acquire and release at device scope. (ld.acquire; st.release)
template <class T>
WJ_DEVICE T load_acquire(const T* from, Site site = Site::here()) {
  static_assert(sizeof(T) == 4, "flags have 32 bits");
#if defined(__CUDACC__)
  std::uint32_t r;
  asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(r) : "l"(from) : "memory");
  return bit_cast<T>(r);
#else
  T value;
  emu::load_flag(from, &value, site);
  return value;
#endif
}
template <class T>
WJ_DEVICE void store_release(T* to, T value, Site site = Site::here()) {
  static_assert(sizeof(T) == 4, "flags have 32 bits");
#if defined(__CUDACC__)
  asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(to), "r"(bit_cast<std::uint32_t>(value)) : "memory");
#else
  emu::store_flag(to, &value, site);
#endif
}

// A 16-byte load that is never cached in L1 nor merged with another: data that other GPUs push. (ld.volatile)
template <class T>
WJ_DEVICE T load_volatile(const T* from, Site site = Site::here()) {
  static_assert(sizeof(T) == 16, "pushed data comes in 16-byte pieces");
#if defined(__CUDACC__)
  Vec<std::uint32_t, 4> r;
  asm volatile("ld.volatile.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "l"(from)
               : "memory");
  return bit_cast<T>(r);
#else
  T value;
  emu::load_volatile(from, &value, sizeof(T), site);
  return value;
#endif
}

// A hint only. (prefetch.global.L2)
WJ_DEVICE void prefetch_l2(const void* from) {
#if defined(__CUDACC__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#else
  static_cast<void>(from);
#endif
}

// --- Shared memory --------------------------------------------------------------------------------------------------

// 1 to 16 bytes, aligned to their size. (ld.shared; st.shared)
template <class T>
WJ_DEVICE T load_shared(const T* from, Site site = Site::here()) {
#if defined(__CUDACC__)
  return *from;
#else
  T value;
  emu::load_shared(from, &value, sizeof(T), site);
  return value;
#endif
}
template <class T>
WJ_DEVICE void store_shared(T* to, const T& value, Site site = Site::here()) {
#if defined(__CUDACC__)
  *to = value;
#else
  emu::store_shared(to, &value, sizeof(T), site);
#endif
}

// Whole numbers that many threads of a block change at once, in any order: the result has none. Both return the old
// value. (atom.relaxed.cta.shared.add.u32 and .and.b32)
WJ_DEVICE std::uint32_t atomic_add_shared(std::uint32_t* sum, std::uint32_t value, Site site = Site::here()) {
#if defined(__CUDACC__)
  std::uint32_t old;
  asm volatile("atom.relaxed.cta.shared.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "r"(shared_address(sum)), "r"(value)
               : "memory");
  return old;
#else
  return emu::atomic_shared(emu::Atomic::add, sum, value, site);
#endif
}
WJ_DEVICE std::uint32_t atomic_and_shared(std::uint32_t* bits, std::uint32_t value, Site site = Site::here()) {
#if defined(__CUDACC__)
  std::uint32_t old;
  asm volatile("atom.relaxed.cta.shared.and.b32 %0, [%1], %2;"
               : "=r"(old)
               : "r"(shared_address(bits)), "r"(value)
               : "memory");
  return old;
#else
  return emu::atomic_shared(emu::Atomic::bit_and, bits, value, site);
#endif
}

// --- Asynchronous copies, global to shared --------------------------------------------------------------------------
// A thread sees its own copies after copy_wait; the others after that and a barrier.

#if defined(__CUDACC__)
// What is read once makes room in L2 first. The compiler makes it once a kernel. (createpolicy.fractional)
WJ_DEVICE std::uint64_t evict_first() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
  return policy;
}
#endif

// Copies the first `valid` bytes of `bytes` and fills the rest with zeros; with valid = 0 the source is not read and
// may be anywhere. 16 bytes bypass L1; with Cache::weights they are the first to leave L2. (cp.async)
template <int bytes, Cache cache = Cache::normal>
WJ_DEVICE void copy_async(void* to_shared, const void* from_global, int valid = bytes, Site site = Site::here()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async moves 4, 8 or 16 bytes");
#if defined(__CUDACC__)
  if constexpr (bytes == 16 && cache == Cache::weights) {
    asm volatile(
        "cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2, %3;" ::"r"(shared_address(to_shared)),
        "l"(from_global), "r"(valid), "l"(evict_first())
        : "memory");
  } else if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)),
                 "l"(from_global), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to_shared)), "l"(from_global),
                 "n"(bytes), "r"(valid)
                 : "memory");
  }
#else
  emu::copy_async(to_shared, from_global, bytes, valid, site);
#endif
}

// Ends a group of this thread's copies; a group may be empty. (cp.async.commit_group)
WJ_DEVICE void copy_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emu::copy_commit();
#endif
}

// Returns when at most the `pending` newest groups are still under way. (cp.async.wait_group)
template <int pending>
WJ_DEVICE void copy_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#else
  emu::copy_wait(pending);
#endif
}

}  // namespace warpjet::ptx
