// Slots as the kernels of sampling see them.
#pragma once

#include "cuda/common.cuh"
#include "cuda/ptx/memory.cuh"
#include "ops/sampling.h"

namespace warpjet::sm80 {

template <class T>
struct Rows {
  T* data;
  std::int64_t stride;  // elements
  WJ_DEVICE T* operator[](std::int64_t row) const { return data + row * stride; }
};

template <class T>
Rows<T> rows_of(const TensorView& view) {
  return {view.as<T>(), view.row_stride};
}

// SlotViews, and which slot each row works for.
struct Slots {
  const std::int32_t* of_rows;
  Rows<const std::byte> params;
  Rows<std::int32_t> texts;
  std::int32_t *lengths, *alive;
  Rows<const std::int32_t> lists;
  Rows<const std::uint32_t> masks;

  // The slot that a row works for; negative: it has no work.
  WJ_DEVICE int at_work(int row) const {
    const int slot = ptx::load(of_rows + row);
    return slot >= 0 && ptx::load(alive + slot) != 0 ? slot : -1;
  }
  WJ_DEVICE const SlotSampling* sampling(int slot) const { return reinterpret_cast<const SlotSampling*>(params[slot]); }
};

inline Slots slots_of(const TensorView& slots, const SlotViews& views) {
  return {.of_rows = slots.as<const std::int32_t>(),
          .params = rows_of<const std::byte>(views.params),
          .texts = rows_of<std::int32_t>(views.texts),
          .lengths = views.lengths.as<std::int32_t>(),
          .alive = views.alive.as<std::int32_t>(),
          .lists = rows_of<const std::int32_t>(views.lists),
          .masks = rows_of<const std::uint32_t>(views.masks)};
}

// --- Rows of logits, in pieces --------------------------------------------------------------------------------------
// One block works on one piece of a row. Pieces depend on the vocabulary alone, and nothing that is made of several of
// them depends on their order.

constexpr int kThreads = 256, kGroup = 4, kGroups = 4;
constexpr int kPiece = kThreads * kGroup * kGroups;  // tokens: 16 KiB of logits, four 16-byte loads a thread
constexpr int kMaxPieces = 128;

using Group = Vec<float, kGroup>;  // logits of neighbouring tokens; the first one's id is a multiple of four

// The first token of this thread's group `g` of the block's piece.
WJ_DEVICE int group_start(int g) {
  return ptx::block_idx().x * kPiece + (g * kThreads + ptx::thread_idx().x) * kGroup;
}

WJ_DEVICE bool is_aligned(const void* row) {
  return reinterpret_cast<std::uintptr_t>(row) % kVectorBytes == 0;
}

// Logits first .. first + 4 of a row, `beyond` behind its end.
template <ptx::Cache cache = ptx::Cache::normal>
WJ_DEVICE Group load_group(const float* row, int first, int vocab, float beyond) {
  if (is_aligned(row) && first + kGroup <= vocab) return ptx::load<cache>(reinterpret_cast<const Group*>(row + first));
  Group group;
  for (int i = 0; i < kGroup; ++i) group[i] = first + i < vocab ? ptx::load<cache>(row + first + i) : beyond;
  return group;
}

WJ_DEVICE void store_group(float* row, int first, int vocab, const Group& group) {
  if (is_aligned(row) && first + kGroup <= vocab) {
    ptx::store(reinterpret_cast<Group*>(row + first), group);
    return;
  }
  for (int i = 0; i < kGroup; ++i) {
    if (first + i < vocab) ptx::store(row + first + i, group[i]);
  }
}

inline int num_pieces(std::int64_t vocab) {
  return static_cast<int>(ceil_div<std::int64_t>(vocab, kPiece));
}

inline LaunchConfig one_block_a_piece(std::int64_t rows, std::int64_t vocab, int smem_bytes) {
  return {
      .grid = {num_pieces(vocab), static_cast<int>(rows)}, .block = {kThreads}, .smem_bytes = smem_bytes, .pdl = true};
}

inline bool fits(std::int64_t rows, std::int64_t vocab) {
  constexpr std::int64_t kMostRows = 65535;  // of grid.y, a limit of CUDA
  return rows <= kMostRows && vocab > 0 && vocab <= std::int64_t{kMaxPieces} * kPiece;
}

}  // namespace warpjet::sm80
