// What frames a step: edits of the slots' state, the rows of a step, copies of KV blocks. Arrays as in ops/step.h.
// Bound: latency. A step of decoding needs one small launch of this file; the edits are few.
#include "cuda/sm80/step.h"

#include "cuda/common.cuh"
#include "cuda/ptx/memory.cuh"
#include "cuda/ptx/sync.cuh"

namespace warpjet::sm80 {
namespace {

constexpr int kThreads = 256;

// --- Edit -----------------------------------------------------------------------------------------------------------

struct EditEntry {
  std::int64_t index, value;
};

// One warp, 32 edits at a time. Of those at one place the highest lane writes; sync_warp() orders the turns.
__global__ void __launch_bounds__(kWarpSize) edit_state(const EditEntry* edits, int count, std::int32_t* state) {
  ptx::grid_wait();
  const int lane = ptx::lane_id();
  for (int first = 0; first < count; first += kWarpSize) {
    const bool mine = first + lane < count;
    const EditEntry edit = mine ? ptx::load(edits + first + lane) : EditEntry{-1 - lane, 0};  // nobody's place
    const std::uint32_t same = ptx::match_any(static_cast<std::uint32_t>(edit.index));
    const bool last = same >> lane == 1;
    if (mine && last) ptx::store(state + edit.index, static_cast<std::int32_t>(edit.value));
    ptx::sync_warp();
  }
  ptx::grid_launch_dependents();
}

// --- Prepare rows ---------------------------------------------------------------------------------------------------

struct ChunkEntry {
  std::int32_t slot, start, first_row, first_sample;
};
static_assert(sizeof(ChunkEntry) == PrepareRows::kChunkWords * sizeof(std::int32_t), "as in the header");

struct RowArrays {
  const std::int32_t* header;
  const std::int32_t *decoding, *texts, *lengths, *prompt_lengths, *alive, *block_tables;
  std::int64_t max_text, max_blocks;  // row strides
  std::int64_t tables;                // words of a group's block tables
  std::int32_t *token_ids, *positions, *rope_lengths;
  std::int64_t* cache_rows;
  std::int32_t *query_starts, *context_lengths, *table_rows, *sample_rows, *sample_slots;
  int tokens, seqs, samples, block_size, groups;
};

// What the header says, read once a thread.
struct Shape {
  const RowArrays& arrays;
  int decodes, chunks, samples;

  WJ_DEVICE explicit Shape(const RowArrays& a) : arrays(a) {
    const auto counts = ptx::load(reinterpret_cast<const Vec<std::int32_t, 4>*>(a.header));
    decodes = counts[0];
    chunks = counts[1];
    samples = counts[2];
  }
  WJ_DEVICE ChunkEntry chunk(int c) const {
    return ptx::load(reinterpret_cast<const ChunkEntry*>(arrays.header + PrepareRows::kHeaderWords) + c);
  }
  WJ_DEVICE int end_row() const { return chunk(chunks).first_row; }
  WJ_DEVICE std::int32_t sample_slot(int i) const {
    return ptx::load(arrays.header + PrepareRows::kHeaderWords + (chunks + 1) * PrepareRows::kChunkWords + i);
  }
  // The last chunk whose `first` is at most i.
  template <class First>
  WJ_DEVICE int find(int i, First first) const {
    int low = 0, high = chunks;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first(chunk(middle)) <= i)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

WJ_DEVICE void write_token(const RowArrays& a, int row, std::int32_t slot, std::int32_t position) {
  const std::int32_t prompt = ptx::load(a.prompt_lengths + slot);
  ptx::store(a.token_ids + row, ptx::load(a.texts + slot * a.max_text + position));
  ptx::store(a.positions + row, position);
  ptx::store(a.rope_lengths + row, prompt > position + 1 ? prompt : position + 1);
  const std::int32_t* entry = a.block_tables + slot * a.max_blocks + position / a.block_size;
  for (int group = 0; group < a.groups; ++group, entry += a.tables) {
    const std::int64_t block = ptx::load(entry);
    ptx::store(a.cache_rows + static_cast<std::int64_t>(group) * a.tokens + row,
               block * a.block_size + position % a.block_size);
  }
}

WJ_DEVICE void pad_token(const RowArrays& a, int row) {
  ptx::store(a.token_ids + row, 0);
  ptx::store(a.positions + row, 0);
  ptx::store(a.rope_lengths + row, 1);
  for (int group = 0; group < a.groups; ++group)
    ptx::store(a.cache_rows + static_cast<std::int64_t>(group) * a.tokens + row, std::int64_t{-1});
}

WJ_DEVICE void prepare_token(const Shape& shape, int row) {
  const RowArrays& a = shape.arrays;
  if (row < shape.decodes) {
    const std::int32_t slot = ptx::load(a.decoding + row);
    if (ptx::load(a.alive + slot) != 0)
      write_token(a, row, slot, ptx::load(a.lengths + slot) - 1);
    else
      pad_token(a, row);
  } else if (row < shape.end_row()) {
    const ChunkEntry chunk = shape.chunk(shape.find(row, [](const ChunkEntry& c) { return c.first_row; }));
    write_token(a, row, chunk.slot, chunk.start + row - chunk.first_row);
  } else {
    pad_token(a, row);
  }
}

WJ_DEVICE void prepare_sequence(const Shape& shape, int s) {
  const RowArrays& a = shape.arrays;
  std::int32_t start = s, context = 0, table = 0;
  if (s < shape.decodes) {
    const std::int32_t slot = ptx::load(a.decoding + s);
    if (ptx::load(a.alive + slot) != 0) {
      context = ptx::load(a.lengths + slot);
      table = slot;
    }
  } else if (s < shape.decodes + shape.chunks) {
    const ChunkEntry chunk = shape.chunk(s - shape.decodes);
    start = chunk.first_row;
    context = chunk.start + shape.chunk(s - shape.decodes + 1).first_row - chunk.first_row;
    table = chunk.slot;
  } else {
    start = shape.end_row();
  }
  ptx::store(a.query_starts + s, start);
  if (s == a.seqs) return;
  ptx::store(a.context_lengths + s, context);
  ptx::store(a.table_rows + s, table);
}

WJ_DEVICE void prepare_sample(const Shape& shape, int i) {
  const RowArrays& a = shape.arrays;
  std::int32_t row = 0, slot = -1;
  if (i < shape.decodes) {
    const std::int32_t candidate = ptx::load(a.decoding + i);
    row = i;
    if (ptx::load(a.alive + candidate) != 0) slot = candidate;
  } else if (i < shape.decodes + shape.samples) {
    const int own = i - shape.decodes;
    row = shape.chunk(shape.find(own, [](const ChunkEntry& c) { return c.first_sample; }) + 1).first_row - 1;
    slot = shape.sample_slot(own);
  }
  ptx::store(a.sample_rows + i, row);
  ptx::store(a.sample_slots + i, slot);
}

// A thread writes one token, one sequence and one sample.
__global__ void __launch_bounds__(kThreads) prepare_rows(RowArrays arrays) {
  ptx::grid_wait();
  const Shape shape(arrays);
  const int i = ptx::block_idx().x * kThreads + ptx::thread_idx().x;
  if (i < arrays.tokens) prepare_token(shape, i);
  if (i <= arrays.seqs) prepare_sequence(shape, i);
  if (i < arrays.samples) prepare_sample(shape, i);
  ptx::grid_launch_dependents();
}

// --- Copy blocks ----------------------------------------------------------------------------------------------------

struct CopyEntry {
  std::int32_t from_host, source, to_host, target;
};

using Piece = Vec<std::uint32_t, 4>;

struct Places {
  Piece *device, *host;
  std::int64_t blocks, tensors, pieces;  // pieces of a block
  WJ_DEVICE Piece* operator()(bool on_host, std::int64_t block, std::int64_t tensor) const {
    return on_host ? host + (block * tensors + tensor) * pieces : device + (tensor * blocks + block) * pieces;
  }
};

// One block a copy and tensor.
__global__ void __launch_bounds__(kThreads) copy_blocks(const CopyEntry* copies, Places places) {
  ptx::grid_wait();
  const CopyEntry copy = ptx::load(copies + ptx::block_idx().x);
  const std::int64_t tensor = ptx::block_idx().y;
  const Piece* from = places(copy.from_host != 0, copy.source, tensor);
  Piece* to = places(copy.to_host != 0, copy.target, tensor);
  for (std::int64_t i = ptx::thread_idx().x; i < places.pieces; i += kThreads)
    ptx::store<ptx::Cache::once>(to + i, ptx::load<ptx::Cache::once>(from + i));
  ptx::grid_launch_dependents();
}

constexpr std::int64_t kMost = std::int64_t{1} << 30;

}  // namespace

// --- Launchers ------------------------------------------------------------------------------------------------------

bool supports(const Edit::Problem& p) {
  return p.count < kMost;
}
bool supports(const PrepareRows::Problem& p) {
  return p.block_size > 0 && p.groups > 0 && p.groups < kMost && p.tokens < kMost && p.seqs < kMost &&
         p.samples < kMost;
}
bool supports(const CopyBlocks::Problem& p) {
  constexpr std::int64_t kGridY = 65535;
  return p.block_bytes % kVectorBytes == 0 && p.count < kMost && p.tensors <= kGridY;
}

void launch(const Edit::Args& args, Stream& stream) {
  if (args.problem.count == 0) return;
  warpjet::launch(edit_state, {.grid = {1}, .block = {kWarpSize}, .pdl = true}, stream,
                  args.edits.as<const EditEntry>(), static_cast<int>(args.problem.count),
                  args.state.as<std::int32_t>());
}

void launch(const PrepareRows::Args& args, Stream& stream) {
  const PrepareRows::Problem& p = args.problem;
  const RowArrays arrays = {.header = args.header.as<std::int32_t>(),
                            .decoding = args.decoding.as<std::int32_t>(),
                            .texts = args.texts.as<std::int32_t>(),
                            .lengths = args.lengths.as<std::int32_t>(),
                            .prompt_lengths = args.prompt_lengths.as<std::int32_t>(),
                            .alive = args.alive.as<std::int32_t>(),
                            .block_tables = args.block_tables.as<std::int32_t>(),
                            .max_text = args.texts.row_stride,
                            .max_blocks = args.block_tables.shape[2],
                            .tables = args.block_tables.row_stride,
                            .token_ids = args.token_ids.as<std::int32_t>(),
                            .positions = args.positions.as<std::int32_t>(),
                            .rope_lengths = args.rope_lengths.as<std::int32_t>(),
                            .cache_rows = args.cache_rows.as<std::int64_t>(),
                            .query_starts = args.query_starts.as<std::int32_t>(),
                            .context_lengths = args.context_lengths.as<std::int32_t>(),
                            .table_rows = args.table_rows.as<std::int32_t>(),
                            .sample_rows = args.sample_rows.as<std::int32_t>(),
                            .sample_slots = args.sample_slots.as<std::int32_t>(),
                            .tokens = static_cast<int>(p.tokens),
                            .seqs = static_cast<int>(p.seqs),
                            .samples = static_cast<int>(p.samples),
                            .block_size = static_cast<int>(p.block_size),
                            .groups = static_cast<int>(p.groups)};
  const std::int64_t threads = std::max({p.tokens, p.seqs + 1, p.samples});
  warpjet::launch(
      prepare_rows,
      {.grid = {static_cast<int>(ceil_div<std::int64_t>(threads, kThreads))}, .block = {kThreads}, .pdl = true}, stream,
      arrays);
}

void launch(const CopyBlocks::Args& args, Stream& stream) {
  const CopyBlocks::Problem& p = args.problem;
  const Places places = {.device = args.device.as<Piece>(),
                         .host = args.host.as<Piece>(),
                         .blocks = p.blocks,
                         .tensors = p.tensors,
                         .pieces = p.block_bytes / kVectorBytes};
  warpjet::launch(copy_blocks,
                  {.grid = {static_cast<int>(p.count), static_cast<int>(p.tensors)}, .block = {kThreads}, .pdl = true},
                  stream, args.copies.as<const CopyEntry>(), places);
}

}  // namespace warpjet::sm80
