// What moves keys, values and queries of paged attention into shared memory: asynchronous copies of 16 bytes.
#pragma once

#include "cuda/sm80/attention_tile.cuh"

namespace warpjet::sm80 {

// How caches lie in memory.
struct Pages {
  std::int64_t key_stride, value_stride;  // elements between blocks
  int block_shift;                        // a block has 1 << block_shift keys
  int head_dim;                           // elements of a key; kDim in shared memory, the rest zeros
};

// The keys and values of one sequence and kv head. In shared memory.
template <class T>
struct Source {
  const T *keys, *values;      // of block 0
  const std::int32_t* blocks;  // the sequence's row of the block table
  int begin, end;              // keys that anybody sees: no others are read, zeros take their place
};

// A ring of stages between copies and the tensor cores, for a warp (kThreads = 32, stages of 16 keys) or a block of
// four (stages of 64). Chunks come in the order in which attend_tile() takes them: a tile's keys, then its values.
template <class T, int kDim, int kThreads, int kStages>
class Feed {
 public:
  static constexpr int kKeys = kThreads / 2;  // of a stage

  // Starts with the first tile. All threads call, when none still reads the ring.
  WJ_DEVICE Feed(T* rings, const Pages& pages, const Source<T>& source)
      : memory_(rings), pages_(pages), source_(source), tile_(at(source.begin) / kTileKeys * kTileKeys) {
    load_blocks();
    for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage);
  }

  WJ_DEVICE const T* memory() const { return memory_; }

  // Where chunk `chunk` of the tile's keys or values is in the memory. All threads call; what they took before is free.
  WJ_DEVICE int take(int chunk) {
    constexpr int kStageChunks = kKeys / kChunkKeys;
    if (chunk % kStageChunks == 0) {
      ptx::copy_wait<kStages - 2>();
      sync();
      fetch(stage_);
      stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    }
    return start_of(stage_) + chunk % kStageChunks * kChunkKeys * kDim;
  }

  static WJ_DEVICE void sync() {
    if constexpr (kThreads == kWarpSize) {
      ptx::sync_warp();
    } else {
      ptx::sync_threads();
    }
  }

 private:
  static constexpr int kStagesPerTile = 2 * kTileKeys / kKeys;
  static constexpr int kWindow = kWarpSize * kChunkKeys;  // keys whose blocks the lanes of a warp know

  static WJ_DEVICE int thread() { return kThreads == kWarpSize ? own_lane() : ptx::recomputed(ptx::thread_idx().x); }

  // The ring of a warp is one of as many as there are warps.
  static WJ_DEVICE int start_of(int stage) {
    const int warp = kThreads == kWarpSize ? ptx::recomputed(ptx::warp_id()) : 0;
    return (warp * kStages + stage) * kKeys * kDim;
  }

  // Lane l learns the block of the l-th chunk of the window around tile_.
  WJ_DEVICE void load_blocks() {
    const int key = tile_ / kWindow * kWindow + own_lane() * kChunkKeys;
    const bool seen = key < at(source_.end) && key + kChunkKeys > at(source_.begin);
    block_ = seen ? ptx::load(at(source_.blocks) + (key >> pages_.block_shift)) : 0;
  }

  // The next stage, or nothing after the last: groups of copies are counted all the same.
  WJ_DEVICE void fetch(int stage) {
    if (tile_ < at(source_.end)) {
      const bool keys = part_ < kStagesPerTile / 2;
      copy(stage, at(keys ? source_.keys : source_.values), keys ? pages_.key_stride : pages_.value_stride,
           tile_ + part_ % (kStagesPerTile / 2) * kKeys);
      if (++part_ == kStagesPerTile) {
        part_ = 0;
        tile_ += kTileKeys;
        if (tile_ % kWindow == 0 && tile_ < at(source_.end)) load_blocks();
      }
    }
    ptx::copy_commit();
  }

  // The 16 keys of a chunk lie in one page, one behind the other. So threads whose number is a multiple of a row's
  // units copy one column, down a chunk in equal steps, and what they need to know of a step is a constant.
  WJ_DEVICE void copy(int stage, const T* from, std::int64_t stride, int first) {
    constexpr int kUnits = kDim / kUnit;
    if constexpr (kThreads % kUnits != 0) {
      copy_each(stage, from, stride, first);
    } else {
      constexpr int kRows = kThreads / kUnits < kChunkKeys ? kThreads / kUnits : kChunkKeys;  // of a step
      static_assert(kThreads / kUnits <= kChunkKeys, "a step stays in a chunk");
      const int me = thread(), row = me / kUnits, unit = me % kUnits;
      const bool inside = unit * kUnit < pages_.head_dim;
      const int begin = at(source_.begin) - first - row, end = inside ? at(source_.end) - first - row : 0;
      T* to = memory_ + start_of(stage) + row * kDim;
      WJ_UNROLL for (int chunk = 0; chunk < kKeys / kChunkKeys; ++chunk) {
        const int key = first + chunk * kChunkKeys;
        const std::int64_t block = ptx::shuffle(block_, key / kChunkKeys % kWarpSize);
        const int in_page = (key & ((1 << pages_.block_shift) - 1)) + row;
        const T* source = from + block * stride + in_page * pages_.head_dim + unit * kUnit;
        WJ_UNROLL for (int n = chunk * kChunkKeys; n < (chunk + 1) * kChunkKeys; n += kRows) {
          const int column = Swizzle<kDim>::unit(n + row, unit) * kUnit;
          ptx::copy_async<16>(to + n * kDim + column, source, n >= begin && n < end ? 16 : 0);
          source += kRows * pages_.head_dim;
        }
      }
    }
  }

  WJ_DEVICE void copy_each(int stage, const T* from, std::int64_t stride, int first) {
    constexpr int kUnits = kDim / kUnit;
    static_assert(kKeys * kUnits % kThreads == 0, "every thread copies as much");
    const int me = thread(), begin = at(source_.begin), end = at(source_.end);
    WJ_UNROLL for (int n = 0; n < kKeys * kUnits / kThreads; ++n) {
      const int i = n * kThreads + me, row = i / kUnits, unit = i % kUnits, key = first + row;
      const std::int64_t block = ptx::shuffle(block_, key / kChunkKeys % kWarpSize);
      const bool seen = key >= begin && key < end && unit * kUnit < pages_.head_dim;
      const int offset = (key & ((1 << pages_.block_shift) - 1)) * pages_.head_dim + unit * kUnit;
      ptx::copy_async<16>(memory_ + start_of(stage) + Swizzle<kDim>::offset(row, unit),
                          seen ? from + block * stride + offset : from, seen ? 16 : 0);
    }
  }

  T* memory_;
  const Pages& pages_;
  const Source<T>& source_;
  int tile_, part_ = 0;      // what is fetched next
  int stage_ = kStages - 1;  // what is taken, and so what is free when the next one is
  int block_ = 0;
};

// A warp's 16 rows of queries, from shared memory. They fit in registers if the head is not too long.
template <class T, int kDim>
class Queries {
 public:
  static constexpr bool kInRegisters = kDim <= 128;

  // `memory` has the rows of all warps.
  WJ_DEVICE explicit Queries(const T* memory) : memory_(memory) {}

  // When the copies have arrived.
  WJ_DEVICE void load() {
    if constexpr (kInRegisters) {
      WJ_UNROLL for (int k = 0; k < kDim / 16; ++k) load(k, fragments_[k]);
    }
  }

  WJ_DEVICE void fragment(int k, std::uint32_t (&a)[4]) const {
    if constexpr (kInRegisters) {
      WJ_UNROLL for (int i = 0; i < 4; ++i) a[i] = fragments_[k][i];
    } else {
      load(k, a);
    }
  }

 private:
  WJ_DEVICE void load(int k, std::uint32_t (&a)[4]) const {
    const int lane = own_lane(), warp = ptx::recomputed(ptx::warp_id());
    ptx::load_matrix(
        a, memory_ + warp * kWarpRows * kDim + Swizzle<kDim>::step(Swizzle<kDim>::offset(lane % 16, lane / 16), k));
  }

  const T* memory_;
  std::uint32_t fragments_[kInRegisters ? kDim / 16 : 1][4];
};

}  // namespace warpjet::sm80
