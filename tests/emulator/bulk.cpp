// Bulk copies: boxes of tensors with swizzles and edges, runs of bytes, stores in groups.
#include "emulator/bulk.h"

#include "cuda/ptx/tma.cuh"

#include <algorithm>
#include <array>

namespace emu {
namespace {

using warpjet::ptx::Swizzle;
using warpjet::ptx::TensorMapDesc;

constexpr int kTileAlignment = 128, kPieceBytes = 16, kMostBox = 256;

int span_bytes(Swizzle swizzle) {
  return swizzle == Swizzle::b128 ? 128 : swizzle == Swizzle::b64 ? 64 : swizzle == Swizzle::b32 ? 32 : 0;
}

// Where the byte at this offset of a plain tile lies: bits 4.. are mixed with those from bit 7 on.
int swizzled(int offset, Swizzle swizzle) {
  const int mask = span_bytes(swizzle) > 0 ? span_bytes(swizzle) / kPieceBytes - 1 : 0;
  return offset ^ ((offset >> 7 & mask) << 4);
}

int box_bytes(const TensorMapDesc& map) {
  int bytes = map.element_bytes;
  for (int axis = 0; axis < map.rank; ++axis) bytes *= map.box[axis];
  return bytes;
}

void check(Machine& machine, const TensorMapDesc& map, const int* at, int rank, Site site) {
  const int inner = map.box[0] * map.element_bytes, span = span_bytes(map.swizzle);
  const auto require = [&](bool holds, const char* rule) {
    if (!holds) machine.fail(site, std::string("tensor map: ") + rule);
  };
  require(map.rank == rank, "the copy has another rank");
  require(at[0] * map.element_bytes % kPieceBytes == 0, "the innermost coordinate is not a multiple of 16 bytes");
  require(reinterpret_cast<std::uintptr_t>(map.data) % 16 == 0, "the tensor is not 16-byte aligned");
  require(inner % kPieceBytes == 0, "the innermost box extent is not a multiple of 16 bytes");
  require(span == 0 || inner <= span, "the innermost box extent is wider than the swizzle");
  for (int axis = 0; axis < rank; ++axis) {
    require(map.box[axis] > 0 && map.box[axis] <= kMostBox, "a box extent is not in 1..256");
    require(axis == 0 || map.strides[axis] % 16 == 0, "a stride is not a multiple of 16 bytes");
  }
}

// Calls move(shared offset within the tile before the swizzle, address of the run or null outside the tensor) for every
// element of the box.
template <class Move>
void for_each_element(const TensorMapDesc& map, const std::array<int, 5>& at, Move move) {
  const int count = box_bytes(map) / map.element_bytes;
  for (int i = 0; i < count; ++i) {
    const auto* address = static_cast<const std::byte*>(map.data);
    bool inside = true;
    for (int axis = 0, rest = i; axis < map.rank; rest /= map.box[axis++]) {
      const std::int64_t index = at[static_cast<std::size_t>(axis)] + rest % map.box[axis];
      inside = inside && index >= 0 && index < map.extents[axis];
      address += index * (axis == 0 ? map.element_bytes : map.strides[axis]);
    }
    move(i * map.element_bytes, inside ? address : nullptr);
  }
}

std::array<int, 5> coordinates(const int* at, int rank) {
  std::array<int, 5> all = {};
  std::copy_n(at, rank, all.begin());
  return all;
}

}  // namespace

void tma_load(void* to, const TensorMapDesc& map, void* barrier, const int* at, int rank, std::uint16_t blocks,
              Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  check(machine, map, at, rank, site);
  const int bytes = box_bytes(map), offset = lane.block->shared->offset_of(to, bytes, kTileAlignment, site);
  const int counter = lane.block->shared->offset_of(barrier, 8, 8, site);
  const std::array<int, 5> place = coordinates(at, rank);
  if (blocks == 0) blocks = static_cast<std::uint16_t>(1 << lane.block->rank);
  for_each_element(map, place, [&](int, const std::byte* from) {
    if (from == nullptr) return;
    check_global(machine, from, map.element_bytes, site, "a bulk copy reads");
    machine.counters().global_read_bytes += map.element_bytes;
  });
  for (int rank_of = 0; rank_of < machine.launch().cluster; ++rank_of) {
    if (!(blocks >> rank_of & 1)) continue;
    Block& block = machine.gang()[static_cast<std::size_t>(rank_of)];
    block.shared->expect_fenced_barrier(counter, site);
    block.shared->begin_async_write(lane, offset, bytes, site);
    machine.start(
        [&machine, &block, map, place, offset, bytes, counter, site] {
          for_each_element(map, place, [&](int i, const std::byte* from) {
            std::byte* target = block.shared->data() + swizzled(offset + i, map.swizzle);
            if (from != nullptr)
              std::memcpy(target, from, static_cast<std::size_t>(map.element_bytes));
            else
              std::memset(target, 0, static_cast<std::size_t>(map.element_bytes));
          });
          deliver(machine, block, counter, offset, bytes, site);
        },
        true);
  }
}

void bulk_load(void* to, const void* from, int bytes, void* barrier, Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  if (bytes <= 0 || bytes % kPieceBytes != 0 || reinterpret_cast<std::uintptr_t>(from) % kPieceBytes != 0)
    machine.fail(site, "bulk copies move multiples of 16 bytes from 16-byte aligned addresses");
  check_global(machine, from, bytes, site, "a bulk copy reads");
  machine.counters().global_read_bytes += bytes;
  Block& block = *lane.block;
  const int offset = block.shared->offset_of(to, bytes, kPieceBytes, site);
  const int counter = block.shared->offset_of(barrier, 8, 8, site);
  block.shared->expect_fenced_barrier(counter, site);
  block.shared->begin_async_write(lane, offset, bytes, site);
  machine.start(
      [&machine, &block, from, offset, bytes, counter, site] {
        std::memcpy(block.shared->data() + offset, from, static_cast<std::size_t>(bytes));
        deliver(machine, block, counter, offset, bytes, site);
      },
      true);
}

void tma_store(const TensorMapDesc& map, const void* from, const int* at, int rank, Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  check(machine, map, at, rank, site);
  Block& block = *lane.block;
  if (machine.launch().pdl && !block.grid_waited) machine.fail(site, "writes global memory before grid_wait()");
  const int bytes = box_bytes(map), offset = block.shared->offset_of(from, bytes, kTileAlignment, site);
  const std::array<int, 5> place = coordinates(at, rank);
  block.shared->begin_async_read(lane, offset, bytes, site);
  for_each_element(map, place, [&](int, const std::byte* to) {
    if (to == nullptr) return;
    check_global(machine, to, map.element_bytes, site, "a bulk store writes");
    machine.counters().global_written_bytes += map.element_bytes;
  });
  auto op = machine.start(
      [&block, map, place, offset] {
        for_each_element(map, place, [&](int i, const std::byte* to) {
          if (to == nullptr) return;
          std::memcpy(const_cast<std::byte*>(to), block.shared->data() + swizzled(offset + i, map.swizzle),
                      static_cast<std::size_t>(map.element_bytes));
        });
      },
      false);
  lane.bulk_stores.push_back({op, offset, bytes, lane.open_bulk_group});
}

void bulk_commit() {
  ++Machine::current().lane().open_bulk_group;
}

void bulk_wait(int pending) {
  Lane& lane = Machine::current().lane();
  const std::int64_t newest_done = lane.open_bulk_group - 1 - pending;
  std::erase_if(lane.bulk_stores, [&](BulkStore& store) {
    if (store.group > newest_done) return false;
    if (!store.op->performed) store.op->perform();
    store.op->performed = true;
    lane.block->shared->end_async_read(lane, store.offset, store.bytes);
    return true;
  });
}

}  // namespace emu
