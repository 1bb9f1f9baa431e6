// What frames a step: changes of the slots' state, the rows that follow from it, and copies of KV blocks. All of it is
// device work, so that steps may follow each other without the host knowing what they computed.
#pragma once

#include "ops/kernel.h"

namespace warpjet {

// state[index] = value, one after the other: of two writes to one place the later counts.
struct Edit {
  static constexpr std::string_view name = "edit";
  struct Problem {
    std::int64_t count = 0;

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"count", &P::count}};
    }
  };
  struct Args {
    Problem problem;
    TensorView edits;  // [count, 2] i64: index, value
    TensorView state;  // [words] i32
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 20.0 * p.count; }
  static Kernel<Edit> reference();
};

// The rows of a step, in this order: the newest token of every decoding slot, then the tokens of every chunk. A row
// each is a sequence of one query, a chunk one of several. A decoding slot whose text has ended keeps its row, as
// padding. Sampled is the row of every decoding slot, then the last row of each chunk, as often as the chunk says.
//
// The problem gives room, the header says how much of it is used; the rest is padding: token 0 at position 0 that
// writes no KV (cache row -1), sequences without queries and without a context, samples of row 0 for no slot (-1).
struct PrepareRows {
  static constexpr std::string_view name = "prepare_rows";
  struct Problem {
    std::int64_t tokens = 0, seqs = 0, samples = 0, block_size = 0;
    std::int64_t groups = 1;  // of layers, each with block tables of its own

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"tokens", &P::tokens}, Field{"seqs", &P::seqs}, Field{"samples", &P::samples},
                        Field{"block_size", &P::block_size}, Field{"groups", &P::groups}};
    }
  };
  struct Args {
    Problem problem;
    // [4 + 4 (chunks + 1) + samples] i32: number of decodes, of chunks, of samples of chunks, 0; then {slot, start,
    // first row, first sample of chunks} of each chunk and of the end; then the slots of those samples.
    TensorView header;
    TensorView decoding;        // [slots] i32
    TensorView texts;           // [slots, max_text] i32
    TensorView lengths;         // [slots] i32
    TensorView prompt_lengths;  // [slots] i32
    TensorView alive;           // [slots] i32
    TensorView block_tables;    // [groups, slots, max_blocks] i32

    TensorView token_ids, positions, rope_lengths;  // [tokens] i32
    TensorView cache_rows;                          // [groups, tokens] i64: block * block_size + offset, or -1
    TensorView query_starts;                        // [seqs + 1] i32
    TensorView context_lengths, table_rows;         // [seqs] i32
    TensorView sample_rows, sample_slots;           // [samples] i32
  };
  static constexpr std::int64_t kHeaderWords = 4, kChunkWords = 4;
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return (20.0 + 8.0 * p.groups) * p.tokens + 12.0 * p.seqs + 8.0 * p.samples; }
  static Kernel<PrepareRows> reference();
};

// Copies KV blocks between places of one device and of host memory that it can address. No block is written twice nor
// written and read in one call. On the device a tensor's blocks lie together, as kernels index them; on the host a
// block's tensors do.
struct CopyBlocks {
  static constexpr std::string_view name = "copy_blocks";
  struct Problem {
    std::int64_t count = 0, tensors = 0, block_bytes = 0;  // of one tensor; a multiple of 16
    std::int64_t blocks = 0;                               // of the device

    static constexpr auto fields() {
      using P = Problem;
      return std::tuple{Field{"count", &P::count}, Field{"tensors", &P::tensors}, Field{"block_bytes", &P::block_bytes},
                        Field{"blocks", &P::blocks}};
    }
  };
  struct Args {
    Problem problem;
    TensorView copies;  // [count, 4] i32: 1 if from the host, source, 1 if to the host, target
    TensorView device;  // u8 [tensors, blocks, block_bytes]
    TensorView host;    // u8 [host blocks, tensors, block_bytes]
  };
  static double flops(const Problem&) { return 0; }
  static double bytes(const Problem& p) { return 2.0 * p.count * p.tensors * p.block_bytes; }
  static Kernel<CopyBlocks> reference();
};

}  // namespace warpjet
