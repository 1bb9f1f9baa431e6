// Tensor cores and their matrix loads and stores. Fragment layouts are written down in cuda/ptx/mma.cuh.
#include "emulator/warp.h"

#include <utility>

namespace emu {

void mma(Widen widen, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Site site) {
  struct Slot {
    float* d;
    const std::uint32_t *a, *b;
    Widen widen;
  } slot = {d, a, b, widen};
  meet("mma", kAllLanes, site, slot, [](Slot** slots, std::uint32_t) {
    ++Machine::current().counters().mma;
    float left[16][16], right[8][16];
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const Slot& s = *slots[lane];
      const int g = lane / 4, t = lane % 4;
      for (int half = 0; half < 2; ++half) {
        const auto element = [&](std::uint32_t r) { return s.widen(static_cast<std::uint16_t>(r >> (16 * half))); };
        for (int i = 0; i < 4; ++i) left[g + i % 2 * 8][2 * t + half + i / 2 * 8] = element(s.a[i]);
        for (int i = 0; i < 2; ++i) right[g][2 * t + half + i * 8] = element(s.b[i]);
      }
    }
    // The sixteen products are exact and summed as good as exactly, then added once: closer to the hardware, which
    // aligns them and truncates, than sixteen roundings would be.
    for (int lane = 0; lane < kWarpSize; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = 0;
        for (int k = 0; k < 16; ++k) sum += static_cast<double>(left[row][k]) * right[column][k];
        slots[lane]->d[i] = static_cast<float>(slots[lane]->d[i] + sum);
      }
    }
  });
}

void mma_s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Site site) {
  struct Slot {
    std::int32_t* d;
    const std::uint32_t *a, *b;
  } slot = {d, a, b};
  meet("mma_s8", kAllLanes, site, slot, [](Slot** slots, std::uint32_t) {
    ++Machine::current().counters().mma;
    int left[16][32], right[8][32];
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const Slot& s = *slots[lane];
      const int g = lane / 4, t = lane % 4;
      for (int byte = 0; byte < 4; ++byte) {
        const auto element = [&](std::uint32_t r) { return static_cast<std::int8_t>(r >> (8 * byte)); };
        for (int i = 0; i < 4; ++i) left[g + i % 2 * 8][4 * t + byte + i / 2 * 16] = element(s.a[i]);
        for (int i = 0; i < 2; ++i) right[g][4 * t + byte + i * 16] = element(s.b[i]);
      }
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        std::uint32_t sum = static_cast<std::uint32_t>(slots[lane]->d[i]);
        for (int k = 0; k < 32; ++k) sum += static_cast<std::uint32_t>(left[row][k] * right[column][k]);
        slots[lane]->d[i] = static_cast<std::int32_t>(sum);
      }
    }
  });
}

// --- Matrix loads and stores ----------------------------------------------------------------------------------------

namespace {

constexpr int kRows = 8, kRowBytes = 16;  // of one matrix of 16-bit elements

// The eight rows of a matrix move in one pass if they cover all banks.
void count_row_conflicts(Machine& machine, const std::byte* const (&rows)[kRows]) {
  std::uintptr_t words[kRows * 4];
  for (int i = 0; i < kRows * 4; ++i)
    words[i] = reinterpret_cast<std::uintptr_t>(rows[i / 4]) / 4 + static_cast<unsigned>(i % 4);
  machine.counters().shared_bank_conflicts += bank_conflicts(words);
}

// Lane and half of a register that hold element (row, column) of a matrix.
struct Place {
  int lane, half;
};
Place place_of(int row, int column, bool transposed) {
  if (transposed) std::swap(row, column);
  return {row * 4 + column / 2, column % 2};
}

struct MatrixSlot {
  std::uint32_t* r;
  const std::byte* row;
  int count;
  bool transposed;
  Site site;
};

template <class Move>
void move_matrices(MatrixSlot** slots, Move move) {
  Machine& machine = Machine::current();
  for (int m = 0; m < slots[0]->count; ++m) {
    const std::byte* rows[kRows];
    for (int row = 0; row < kRows; ++row) rows[row] = slots[m * kRows + row]->row;
    count_row_conflicts(machine, rows);
    for (int row = 0; row < kRows; ++row) move(machine, m, row, const_cast<std::byte*>(rows[row]));
  }
}

}  // namespace

void load_matrix(std::uint32_t* r, int count, bool transposed, const void* row, Site site) {
  MatrixSlot slot = {r, static_cast<const std::byte*>(row), count, transposed, site};
  meet("load_matrix", kAllLanes, site, slot, [](MatrixSlot** slots, std::uint32_t) {
    move_matrices(slots, [&](Machine& machine, int m, int row, std::byte* from) {
      Lane& owner = machine.lane();
      owner.block->shared->read(*owner.warp->lanes[static_cast<std::size_t>(m * kRows + row)], from, kRowBytes,
                                slots[0]->site);
      for (int column = 0; column < 8; ++column) {
        const Place place = place_of(row, column, slots[0]->transposed);
        std::memcpy(reinterpret_cast<std::byte*>(slots[place.lane]->r + m) + 2 * place.half, from + 2 * column, 2);
      }
    });
  });
}

void store_matrix(const std::uint32_t* r, int count, bool transposed, void* row, Site site) {
  MatrixSlot slot = {const_cast<std::uint32_t*>(r), static_cast<const std::byte*>(row), count, transposed, site};
  meet("store_matrix", kAllLanes, site, slot, [](MatrixSlot** slots, std::uint32_t) {
    move_matrices(slots, [&](Machine& machine, int m, int row, std::byte* to) {
      Lane& owner = machine.lane();
      owner.block->shared->write(*owner.warp->lanes[static_cast<std::size_t>(m * kRows + row)], to, kRowBytes,
                                 slots[0]->site);
      for (int column = 0; column < 8; ++column) {
        const Place place = place_of(row, column, slots[0]->transposed);
        std::memcpy(to + 2 * column, reinterpret_cast<const std::byte*>(slots[place.lane]->r + m) + 2 * place.half, 2);
      }
    });
  });
}

}  // namespace emu
