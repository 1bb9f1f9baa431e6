// Warpgroup products: descriptors are decoded bit by bit, so that a wrong one gives a wrong result.
#include "emulator/warp.h"

#include <algorithm>
#include <memory>

namespace emu {
namespace {

constexpr int kLanes = 128, kRows = 64, kDepth = 16, kElementBytes = 2, kPieceBytes = 16;

// Shared offset of element (row, k) of the tile that a matrix descriptor names.
int place_of(std::uint64_t descriptor, int row, int k, bool mn_major) {
  const auto field = [&](int shift) { return static_cast<int>(descriptor >> shift & 0x3fff) << 4; };
  const int start = field(0), leading = field(16), stride = field(32), mode = static_cast<int>(descriptor >> 62);
  constexpr int kSpan[] = {16, 128, 64, 32};  // bytes of a swizzled row by mode
  const int span = kSpan[mode];
  int offset;
  if (mn_major) {
    constexpr int kColumns = 64;  // of a 128-byte row
    offset = start + row / kColumns * leading + k / 8 * stride + k % 8 * span + row % kColumns * kElementBytes;
  } else if (mode == 0) {
    offset = start + row / 8 * stride + row % 8 * span + k / 8 * leading + k % 8 * kElementBytes;
  } else {
    offset = start + row / 8 * stride + row % 8 * span + k * kElementBytes;
  }
  return offset ^ ((offset >> 7 & (span / kPieceBytes - 1)) << 4);
}

void collect_pieces(std::vector<int>& pieces, std::uint64_t descriptor, int rows, bool mn_major) {
  for (int row = 0; row < rows; row += mn_major ? 8 : 1) {
    for (int k = 0; k < kDepth; k += mn_major ? 1 : 8) pieces.push_back(place_of(descriptor, row, k, mn_major));
  }
}

void perform(const SharedMemory& shared, Wgmma& product) {
  if (product.performed) return;
  product.performed = true;
  std::vector<float> a(kRows * kDepth), b(static_cast<std::size_t>(product.n * kDepth));
  const auto element = [&](std::uint64_t descriptor, int row, int k, bool mn_major) {
    std::uint16_t bits;
    std::memcpy(&bits, shared.data() + place_of(descriptor, row, k, mn_major), sizeof bits);
    return product.widen(bits);
  };
  for (int row = 0; row < product.n; ++row) {
    for (int k = 0; k < kDepth; ++k)
      b[static_cast<std::size_t>(row * kDepth + k)] = element(product.b, row, k, product.b_is_mn_major);
  }
  for (int row = 0; row < kRows && !product.a_in_registers; ++row) {
    for (int k = 0; k < kDepth; ++k) a[static_cast<std::size_t>(row * kDepth + k)] = element(product.a, row, k, false);
  }
  for (int lane = 0; lane < kLanes && product.a_in_registers; ++lane) {
    for (int i = 0; i < 8; ++i) {  // register i / 2, half i % 2
      const int row = lane / 32 * 16 + lane % 32 / 4 + i / 2 % 2 * 8, k = lane % 4 * 2 + i % 2 + i / 4 * 8;
      a[static_cast<std::size_t>(row * kDepth + k)] =
          product.widen(static_cast<std::uint16_t>(product.a_registers[lane][i / 2] >> (16 * (i % 2))));
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < product.n / 2; ++i) {
      const int row = lane / 32 * 16 + lane % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double sum = 0;  // as mma does it: both give the same bits
      const float* x = &a[static_cast<std::size_t>(row * kDepth)];
      const float* y = &b[static_cast<std::size_t>(column * kDepth)];
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(x[k]) * y[k];
      product.d[lane][i] = static_cast<float>((product.accumulate ? product.d[lane][i] : 0.0f) + sum);
    }
  }
}

Warpgroup& group_of(Lane& lane) {
  return lane.block->warpgroups[(lane.id % static_cast<int>(lane.block->lanes.size())) / kLanes];
}

}  // namespace

std::uint32_t shared_offset(const void* pointer) {
  return static_cast<std::uint32_t>(Machine::current().lane().block->shared->offset_of(pointer, 0, kPieceBytes, {}));
}

void wgmma_fence() {
  Machine::current().lane().wgmma_fenced = true;
}

void wgmma_commit() {
  ++Machine::current().lane().open_wgmma_group;
}

void wgmma(Widen widen, int n, float* d, std::uint64_t a, const std::uint32_t* a_registers, std::uint64_t b,
           bool b_is_mn_major, bool accumulate, Site site) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  Warpgroup& group = group_of(lane);
  if (!lane.wgmma_fenced) machine.fail(site, "wgmma without wgmma_fence() since the last wait");
  if (group.arrived > 0 && group.site != site)
    machine.fail(site, "wgmma, but others of the warpgroup are at the one at " + describe(group.site));
  if (b_is_mn_major && b >> 62 != 1) machine.fail(site, "MN-major tiles are emulated with the 128-byte swizzle alone");
  group.site = site;
  group.slots[lane.id % kLanes] = {d, a_registers};
  if (++group.arrived < kLanes) {
    group.waiting.push_back(&lane);
    return machine.wait("the rest of its warpgroup in wgmma", 0, site);
  }
  Wgmma product = {.widen = widen,
                   .n = n,
                   .a = a,
                   .b = b,
                   .a_in_registers = a_registers != nullptr,
                   .b_is_mn_major = b_is_mn_major,
                   .accumulate = accumulate,
                   .group = lane.open_wgmma_group};
  for (int i = 0; i < kLanes; ++i) {
    product.d[i] = group.slots[i].d;
    if (a_registers != nullptr) std::copy_n(group.slots[i].a, 4, product.a_registers[i]);
  }
  if (a_registers == nullptr) collect_pieces(product.pieces, a, kRows, false);
  collect_pieces(product.pieces, b, n, b_is_mn_major);
  for (const int piece : product.pieces) {
    lane.block->shared->offset_of(lane.block->shared->data() + piece, kPieceBytes, kPieceBytes, site);
    lane.block->shared->begin_async_read(lane, piece, kPieceBytes, site);
  }
  ++machine.counters().mma;
  group.products.push_back(std::move(product));
  for (Lane* other : group.waiting) machine.wake(*other);
  group.waiting.clear();
  group.arrived = 0;
}

// A warp waits as one; the tiles are free when all four have.
void wgmma_wait(int pending) {
  Machine& machine = Machine::current();
  Lane& lane = machine.lane();
  lane.wgmma_fenced = false;
  Warpgroup& group = group_of(lane);
  const int warp_bit = 1 << lane.id % kLanes / kWarpSize;
  const std::int64_t newest_done = lane.open_wgmma_group - 1 - pending;
  std::int64_t slot = newest_done;
  meet("wgmma_wait", kAllLanes, Site{"wgmma_wait", pending}, slot, [&](std::int64_t**, std::uint32_t) {
    for (Wgmma& product : group.products) {
      if (product.group > newest_done) break;
      perform(*lane.block->shared, product);
      product.warps_waited |= warp_bit;
      if (product.warps_waited != 0xf) continue;
      for (const int piece : product.pieces) lane.block->shared->end_async_read(lane, piece, kPieceBytes);
    }
    while (!group.products.empty() && group.products.front().warps_waited == 0xf) group.products.pop_front();
  });
}

void perform_some_wgmma(Machine& machine, Lane& lane) {
  const auto found = lane.block->warpgroups.find((lane.id % static_cast<int>(lane.block->lanes.size())) / kLanes);
  if (found == lane.block->warpgroups.end() || !machine.chance(16)) return;
  for (Wgmma& product : found->second.products) {
    if (product.performed) continue;
    return perform(*lane.block->shared, product);
  }
}

void check_wgmma_without(Machine& machine, Lane& lane) {
  const auto found = lane.block->warpgroups.find((lane.id % static_cast<int>(lane.block->lanes.size())) / kLanes);
  if (found == lane.block->warpgroups.end()) return;
  const int warp_bit = 1 << lane.id % kLanes / kWarpSize;
  for (const Wgmma& product : found->second.products) {
    if (!(product.warps_waited & warp_bit)) machine.fail(found->second.site, "the kernel ends before wgmma_wait<0>()");
  }
}

}  // namespace emu
