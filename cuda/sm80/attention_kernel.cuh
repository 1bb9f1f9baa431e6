// Paged attention on 16-bit types: the kernel and its launcher, one instance a type and head dimension. See
// attention_tile.cuh for what is promised about its results.
//   q, out           [tokens, heads * head_dim]                       f16 | bf16
//   k_cache, v_cache [blocks, kv_heads, block_size, head_dim]         of the same type
// Bound: KV bytes / HBM bandwidth for decoding, mma for prompts. A fixed number of blocks shares out what there is.
#pragma once

#include "cuda/sm80/attention.h"

#include "cuda/common.cuh"
#include "cuda/sm80/attention_feed.cuh"
#include "cuda/sm80/attention_rows.cuh"

namespace warpjet::sm80 {

// Fewer than 99 KB, what a block may have on any chip of 8.0 and newer. Stages of K and V in flight: 64 to 80 KB.
template <class T, int kDim>
struct AttentionSmem {
  static constexpr int kStages = kDim <= 64 ? 8 : kDim <= 96 ? 6 : kDim <= 128 ? 5 : kDim <= 192 ? 3 : 2;
  alignas(128) T ring[kStages * kTileKeys * kDim];  // of the block, or a quarter for each warp
  T queries[kWarps][kWarpRows * kDim];
  Source<T> sources[kWarps];
  Work work;
};

constexpr int kBlocksPerMultiprocessor = 2;  // 128 threads of 255 registers

// --- Items ----------------------------------------------------------------------------------------------------------

// The last warp to bring a split of these rows puts them all together.
template <class T, int kDim>
WJ_DEVICE void publish(const AttentionArgs<T>& args, const Item& item, int warp_tile, const State<kDim>& state) {
  const Rows rows = rows_of(item, warp_tile, args.lengths.group);
  const int first_split = at(item.shape.all.begin), splits = at(item.shape.all.end) - first_split;
  const int part_rows = rows.end < kWarpRows ? rows.end : kWarpRows;
  const int part = at(item.part) + warp_tile * args.lengths.kv_heads * splits * part_rows;
  const int begin = at(item.of_tile.begin), end = at(item.of_tile.end);
  const auto place = [&](int split) {
    return args.parts + std::int64_t{part + (split - first_split) * part_rows} * (kDim + kStatColumns);
  };
  store_state<kDim>(state, place(at(item.split)), rows.count());
  ptx::fence_device();
  ptx::sync_warp();
  int before = 0;
  if (ptx::lane_id() == 0) before = ptx::atomic_add(args.counters + part, 1);
  before = ptx::shuffle(before, 0);
  if (before + 1 < end - begin) return;
  ptx::fence_device();
  for (int row = 0; row < rows.count(); ++row) {
    merge_row<T, kDim>(args, rows, rows.first + row, begin, end,
                       [&](int split) { return place(split) + row * (kDim + kStatColumns); });
  }
  if (ptx::lane_id() == 0) ptx::store(args.counters + part, 0);
}

// Rows that are not there lie behind all keys: without a window they need no masks.
WJ_DEVICE Visible visible_to(const Item& item, const Rows& rows, int window) {
  Visible visible = {.positions = {}, .window = window};
  WJ_UNROLL for (int r = 0; r < 2; ++r) {
    const int row = rows.first + own_lane() / 4 + 8 * r;
    visible.positions[r] = row < rows.end ? at(item.shape.first_position) + row / rows.group : Visible::kBehindAll;
  }
  return visible;
}

template <class T>
WJ_DEVICE void set_source(const AttentionArgs<T>& args, const Item& item, Source<T>& source) {
  const std::int64_t head = std::int64_t{at(item.kv_head)} * args.pages.head_dim << args.pages.block_shift;
  const std::int32_t* blocks = args.block_tables + ptx::load(args.table_rows + at(item.seq)) * args.table_stride;
  if (ptx::lane_id() == 0) {
    ptx::store_shared(&source.keys, args.k_cache + head);
    ptx::store_shared(&source.values, args.v_cache + head);
    ptx::store_shared(&source.blocks, blocks);
    ptx::store_shared(&source.begin, at(item.keys.begin));
    ptx::store_shared(&source.end, at(item.keys.end));
  }
  ptx::sync_warp();
}

// One item, by a warp or by all warps of a block: kItemThreads. All its threads call.
template <class T, int kDim, int kItemThreads>
WJ_DEVICE void attend(const AttentionArgs<T>& args, AttentionSmem<T, kDim>& shared, const Item& item) {
  constexpr int kStages = AttentionSmem<T, kDim>::kStages;
  using ItemFeed = Feed<T, kDim, kItemThreads, kStages>;
  const int split = at(item.split);
  if (split >= 0 && (split < at(item.of_tile.begin) || split >= at(item.of_tile.end))) return;

  ItemFeed::sync();  // nobody reads the item before any more
  const auto warp = [] { return ptx::recomputed(ptx::warp_id()); };
  const auto warp_tile = [&] { return kItemThreads > kWarpSize ? warp() : 0; };
  set_source(args, item, shared.sources[warp()]);
  Queries<T, kDim> queries(shared.queries[0]);
  Visible visible;
  {
    const Rows rows = rows_of(item, warp_tile(), args.lengths.group);
    fetch_queries<T, kDim>(args, rows, shared.queries[warp()]);
    visible = visible_to(item, rows, args.lengths.window);
  }
  ItemFeed feed(shared.ring, args.pages, shared.sources[warp()]);
  ptx::copy_wait<kStages - 1>();
  ptx::sync_warp();
  queries.load();

  State<kDim> state;
  Total<kDim> total;
  clear(state);
  for (int tile = at(item.keys.begin) / kTileKeys * kTileKeys; tile < at(item.keys.end); tile += kTileKeys) {
    attend_tile<T, kDim>(queries, feed, tile, visible, args.scoring, state);
    const bool last = tile + kTileKeys >= at(item.keys.end);
    if (!last && (tile + kTileKeys) % kSplitKeys != 0) continue;
    WJ_UNROLL for (Stat& row : state.rows) row.sum = quad_sum(row.sum);
    if (at(item.split) < 0)
      total.add(state, args.totals, rows_of(item, warp_tile(), args.lengths.group).count(),
                tile / kSplitKeys == at(item.of_tile.begin), last);
  }
  if (at(item.first_row) + warp_tile() * kWarpRows >= at(item.shape.rows)) return;
  if (at(item.split) >= 0 && at(item.of_tile.end) - at(item.of_tile.begin) > 1) {
    publish<T, kDim>(args, item, warp_tile(), state);
  } else {
    write_output<T, kDim>(args, rows_of(item, warp_tile(), args.lengths.group), state);
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor) attention(AttentionArgs<T> args) {
  static_assert(sizeof(AttentionSmem<T, kDim>) <= 99 << 10, "what every chip of 8.0 and newer has");
  auto& shared = ptx::smem<AttentionSmem<T, kDim>>();
  ptx::grid_wait();
  Work& work = shared.work;
  make_plan(args.lengths, args.capacity, work);
  const int block = ptx::block_idx().x;
  // The longest come first: those of a prompt's end.
  for (int number = at(work.plan.wide) - 1 - block; number >= 0;) {
    const Item& item = find_item(args.lengths, work, true, number);
    attend<T, kDim, kThreads>(args, shared, item);
    number = at(item.number) - at(work.plan.blocks);
  }
  ptx::sync_threads();
  // Neighbouring items go to different blocks, first to those that had one wide item less.
  const int blocks = at(work.plan.blocks), turn = (block + blocks - at(work.plan.wide) % blocks) % blocks;
  for (int number = ptx::warp_id() * blocks + turn; number < at(work.plan.narrow);) {
    const Item& item = find_item(args.lengths, work, false, number);
    attend<T, kDim, kWarpSize>(args, shared, item);
    number = at(item.number) + kWarps * at(work.plan.blocks);
  }
  ptx::grid_launch_dependents();
}

// --- Launcher -------------------------------------------------------------------------------------------------------

template <int kDim>
constexpr std::int64_t kRowBytes = (kDim + kStatColumns) * sizeof(float);

template <int kDim>
std::int64_t total_bytes(int multiprocessors) {
  if (Total<kDim>::kInRegisters) return 0;
  return std::int64_t{multiprocessors} * kBlocksPerMultiprocessor * kWarps * kWarpRows * kRowBytes<kDim>;
}

// Whatever the batch, for graphs are captured once. The counters are as many for every head dimension, so that kernels
// that share a workspace find them in the same place, and zero. 64 K rows are 16 K splits of a decoding sequence with
// four heads to a kv head: 0.5 M positions with eight kv heads.
constexpr std::int64_t kMostRows = 64 << 10;
template <DType type, int kDim>
std::int64_t workspace(const Attention::Problem&, const DeviceInfo& device) {
  return kMostRows * (sizeof(int) + kRowBytes<kDim>)+total_bytes<kDim>(device.cores);
}

template <DType type, int kDim>
void launch(const Attention::Args& args, Stream& stream) {
  using T = std::conditional_t<type == DType::f16, Half, Bfloat>;
  const Attention::Problem& p = args.problem;
  const int cores = multiprocessors();
  const std::int64_t totals = total_bytes<kDim>(cores);
  const std::int64_t room = args.workspace ? args.workspace.bytes() : 0;
  WJ_CHECK(room >= totals, "attention has a workspace of ", room, " bytes, needs ", totals);
  constexpr std::int64_t kAlignment = 8;  // counters: a sector
  const std::int64_t capacity =
      std::min<std::int64_t>((room - totals) / (sizeof(int) + kRowBytes<kDim>) / kAlignment * kAlignment, kMostRows);
  auto* counters = args.workspace.as<int>();
  auto* parts = reinterpret_cast<float*>(counters + capacity);
  const int block_shift = p.block_size == 16 ? 4 : p.block_size == 32 ? 5 : 6;
  const AttentionArgs<T> kernel_args = {.q = args.q.as<T>(),
                                        .k_cache = args.k_cache.as<T>(),
                                        .v_cache = args.v_cache.as<T>(),
                                        .block_tables = args.block_tables.as<std::int32_t>(),
                                        .table_rows = args.table_rows.as<std::int32_t>(),
                                        .sinks = p.sinks ? args.sinks.as<float>() : nullptr,
                                        .out = args.out.as<T>(),
                                        .q_stride = args.q.row_stride,
                                        .table_stride = args.block_tables.row_stride,
                                        .out_stride = args.out.row_stride,
                                        .pages = {.key_stride = args.k_cache.row_stride,
                                                  .value_stride = args.v_cache.row_stride,
                                                  .block_shift = block_shift,
                                                  .head_dim = static_cast<int>(p.head_dim)},
                                        .lengths = lengths_of(args),
                                        .scoring = scoring_of(p),
                                        .counters = counters,
                                        .parts = parts,
                                        .totals = parts + capacity * (kDim + kStatColumns),
                                        .capacity = static_cast<int>(capacity)};
  warpjet::launch(attention<T, kDim>,
                  {.grid = {cores * kBlocksPerMultiprocessor},
                   .block = {kThreads},
                   .smem_bytes = sizeof(AttentionSmem<T, kDim>),
                   .pdl = true},
                  stream, kernel_args);
}

template <DType type, int head_dim>
bool supports(const Attention::Problem& p) {
  const bool pages = p.block_size == 16 || p.block_size == 32 || p.block_size == 64;
  return p.q == type && p.kv == type && p.out == type && pages && p.head_dim > 0 && p.head_dim <= head_dim &&
         p.head_dim % kUnit == 0 && p.kv_heads > 0 && p.heads % p.kv_heads == 0 && p.scale > 0.0f;
}

#define WJ_ATTENTION(head_dim)                                                                          \
  template bool supports<DType::f16, head_dim>(const Attention::Problem&);                              \
  template bool supports<DType::bf16, head_dim>(const Attention::Problem&);                             \
  template std::int64_t workspace<DType::f16, head_dim>(const Attention::Problem&, const DeviceInfo&);  \
  template std::int64_t workspace<DType::bf16, head_dim>(const Attention::Problem&, const DeviceInfo&); \
  template void launch<DType::f16, head_dim>(const Attention::Args&, Stream&);                          \
  template void launch<DType::bf16, head_dim>(const Attention::Args&, Stream&);

}  // namespace warpjet::sm80
