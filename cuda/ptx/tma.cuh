// Bulk copies by the tensor memory accelerator: boxes of tensors and plain runs of bytes, issued by one thread. 9.0 and
// newer.
#pragma once

#include "cuda/ptx/mbarrier.cuh"

namespace warpjet::ptx {

// How 16-byte pieces are permuted within a tile: piece p of 128-byte line l goes to p ^ (l % 8) (b128), to p ^ (l / 2 %
// 4) of 64-byte rows (b64) or p ^ (l / 4 % 2) of 32-byte rows (b32), in absolute shared addresses. wgmma reads such
// tiles without bank conflicts.
enum class Swizzle : std::uint8_t { none, b32, b64, b128 };

// A tensor in global memory and the box that one copy moves. Axis 0 is the innermost, which is dense.
struct TensorMapDesc {
  const void* data = nullptr;  // 16-byte aligned
  int element_bytes = 2;
  int rank = 2;
  std::int64_t extents[5] = {1, 1, 1, 1, 1};
  std::int64_t strides[5] = {0, 0, 0, 0, 0};  // bytes, multiples of 16; strides[0] is not looked at
  int box[5] = {1, 1, 1, 1, 1};  // at most 256 each; box[0] in bytes is a multiple of 16 and within the swizzle
  Swizzle swizzle = Swizzle::none;
};

// What a kernel takes as `const __grid_constant__ TensorMap`. Made by make_tensor_map.
struct TensorMap {
#if defined(__CUDACC__)
  alignas(64) std::uint64_t opaque[16];  // as the driver wants it
#else
  TensorMapDesc desc;
#endif
};

// The next use of the map finds it in the cache. (prefetch.tensormap)
WJ_DEVICE void prefetch(const TensorMap& map) {
#if defined(__CUDACC__)
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#else
  static_cast<void>(map);
#endif
}

// The box at these coordinates (innermost first) to shared memory, 128-byte aligned; zeros where it leaves the tensor.
// Its bytes count at `full`. The innermost coordinate must be a multiple of 16 bytes, negative ones too: an H100
// answers any other with an illegal instruction. (cp.async.bulk.tensor)
template <int rank>
WJ_DEVICE void tma_load(void* to, const TensorMap& map, Mbarrier& full, const int (&at)[rank],
                        Site site = Site::here()) {
  static_assert(rank >= 1 && rank <= 3, "tensors of up to three axes, so far");
#if defined(__CUDACC__)
  const std::uint32_t target = shared_address(to), barrier = shared_address(&full);
  if constexpr (rank == 1)
    asm volatile(
        "cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3}], [%2];" ::"r"(
            target),
        "l"(&map), "r"(barrier), "r"(at[0])
        : "memory");
  else if constexpr (rank == 2)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            target),
        "l"(&map), "r"(barrier), "r"(at[0]), "r"(at[1])
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(target),
        "l"(&map), "r"(barrier), "r"(at[0]), "r"(at[1]), "r"(at[2])
        : "memory");
#else
  emu::tma_load(to, map.desc, &full, at, rank, 0, site);
#endif
}

// The same box to the same place of every block of the cluster that the mask names, counting at each one's barrier.
// (cp.async.bulk.tensor.multicast::cluster)
WJ_DEVICE void tma_load_multicast(void* to, const TensorMap& map, Mbarrier& full, const int (&at)[2],
                                  std::uint16_t blocks, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(&full)), "r"(at[0]), "r"(at[1]), "h"(blocks)
      : "memory");
#else
  emu::tma_load(to, map.desc, &full, at, 2, blocks, site);
#endif
}

// Bytes in a row: addresses and size multiples of 16. (cp.async.bulk)
WJ_DEVICE void bulk_load(void* to, const void* from, int bytes, Mbarrier& full, Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(&full))
               : "memory");
#else
  emu::bulk_load(to, from, bytes, &full, site);
#endif
}

// The box from shared memory; what leaves the tensor is dropped. The writers of the tile have called fence_async().
// (cp.async.bulk.tensor)
WJ_DEVICE void tma_store(const TensorMap& map, const void* from, const int (&at)[2], Site site = Site::here()) {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(from)), "r"(at[0]), "r"(at[1])
               : "memory");
#else
  emu::tma_store(map.desc, from, at, 2, site);
#endif
}

// Ends a group of this thread's bulk stores. (cp.async.bulk.commit_group)
WJ_DEVICE void bulk_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  emu::bulk_commit();
#endif
}

// Returns when all but the `pending` newest groups have read their shared memory, which may then be written again.
// Writes to global memory are visible to the next grid in any case. (cp.async.bulk.wait_group.read)
template <int pending>
WJ_DEVICE void bulk_wait_read() {
#if defined(__CUDACC__)
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
#else
  emu::bulk_wait(pending);
#endif
}

}  // namespace warpjet::ptx
