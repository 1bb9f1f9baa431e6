// What frames a step.
#include "ops/step.h"

#include <algorithm>

namespace warpjet::ref {
namespace {

// Fills the arrays of PrepareRows from front to back.
class RowWriter {
 public:
  explicit RowWriter(const PrepareRows::Args& args) : args_(args), p_(args.problem) {}

  void write() {
    const std::int32_t* header = args_.header.as<std::int32_t>();
    const std::int32_t decodes = header[0], chunks = header[1], samples = header[2];
    const std::int32_t* chunk = header + PrepareRows::kHeaderWords;
    const std::int32_t* next_slot = chunk + (chunks + 1) * PrepareRows::kChunkWords;
    WJ_CHECK(decodes + chunks <= p_.seqs && decodes + samples <= p_.samples, "a step of ", decodes, " decodes, ",
             chunks, " chunks and ", samples, " more samples does not fit ", to_string(p_));
    for (std::int32_t i = 0; i < decodes; ++i) write_decode(args_.decoding.as<std::int32_t>()[i]);
    for (std::int32_t c = 0; c < chunks; ++c, chunk += PrepareRows::kChunkWords) {
      const std::int32_t* next = chunk + PrepareRows::kChunkWords;
      write_rows(chunk[0], chunk[1], next[2] - chunk[2]);
      for (std::int32_t i = chunk[3]; i < next[3]; ++i) write_sample(*next_slot++);
    }
    pad();
  }

 private:
  void write_decode(std::int32_t slot) {
    if (args_.alive.as<std::int32_t>()[slot] != 0) {
      write_rows(slot, args_.lengths.as<std::int32_t>()[slot] - 1, 1);
      write_sample(slot);
    } else {
      begin_sequence(0, 0);
      pad_token();
      write_sample(-1);
    }
  }

  void write_rows(std::int32_t slot, std::int32_t start, std::int32_t count) {
    WJ_CHECK(token_ + count <= p_.tokens, "a step of more than ", p_.tokens, " tokens");
    begin_sequence(start + count, slot);
    const std::int32_t* text = args_.texts.row<std::int32_t>(slot);
    const std::int32_t prompt = args_.prompt_lengths.as<std::int32_t>()[slot];
    for (std::int32_t position = start; position < start + count; ++position) {
      for (std::int64_t group = 0; group < p_.groups; ++group) write_cache_row(group, slot, position);
      write_token(text[position], position, std::max(prompt, position + 1));
    }
  }

  void begin_sequence(std::int32_t context, std::int32_t table) {
    args_.query_starts.as<std::int32_t>()[sequence_] = static_cast<std::int32_t>(token_);
    args_.context_lengths.as<std::int32_t>()[sequence_] = context;
    args_.table_rows.as<std::int32_t>()[sequence_++] = table;
  }

  void write_cache_row(std::int64_t group, std::int32_t slot, std::int32_t position) {
    const std::int64_t max_blocks = args_.block_tables.shape[2];
    const std::int32_t* blocks = args_.block_tables.row<std::int32_t>(group) + slot * max_blocks;
    cache_row(group) = blocks[position / p_.block_size] * p_.block_size + position % p_.block_size;
  }
  std::int64_t& cache_row(std::int64_t group) { return args_.cache_rows.row<std::int64_t>(group)[token_]; }

  void write_token(std::int32_t id, std::int32_t position, std::int32_t rope_length) {
    args_.token_ids.as<std::int32_t>()[token_] = id;
    args_.positions.as<std::int32_t>()[token_] = position;
    args_.rope_lengths.as<std::int32_t>()[token_++] = rope_length;
  }
  void pad_token() {
    for (std::int64_t group = 0; group < p_.groups; ++group) cache_row(group) = -1;
    write_token(0, 0, 1);
  }

  // Of the row that was written last.
  void write_sample(std::int32_t slot) {
    args_.sample_rows.as<std::int32_t>()[sample_] = static_cast<std::int32_t>(token_ - 1);
    args_.sample_slots.as<std::int32_t>()[sample_++] = slot;
  }

  void pad() {
    const std::int64_t used = token_;
    while (token_ < p_.tokens) pad_token();
    for (std::int64_t s = sequence_; s < p_.seqs; ++s) {
      args_.query_starts.as<std::int32_t>()[s] = static_cast<std::int32_t>(used);
      args_.context_lengths.as<std::int32_t>()[s] = args_.table_rows.as<std::int32_t>()[s] = 0;
    }
    args_.query_starts.as<std::int32_t>()[p_.seqs] = static_cast<std::int32_t>(used);
    for (std::int64_t r = sample_; r < p_.samples; ++r) {
      args_.sample_rows.as<std::int32_t>()[r] = 0;
      args_.sample_slots.as<std::int32_t>()[r] = -1;
    }
  }

  const PrepareRows::Args& args_;
  const PrepareRows::Problem& p_;
  std::int64_t token_ = 0, sequence_ = 0, sample_ = 0;
};

}  // namespace

bool supports(const Edit::Problem&) {
  return true;
}
bool supports(const PrepareRows::Problem& p) {
  return p.block_size > 0 && p.groups > 0;
}
bool supports(const CopyBlocks::Problem&) {
  return true;
}

void launch(const Edit::Args& args, Stream&) {
  for (std::int64_t i = 0; i < args.problem.count; ++i) {
    const std::int64_t* edit = args.edits.row<std::int64_t>(i);
    args.state.as<std::int32_t>()[edit[0]] = static_cast<std::int32_t>(edit[1]);
  }
}

void launch(const PrepareRows::Args& args, Stream&) {
  RowWriter(args).write();
}

void launch(const CopyBlocks::Args& args, Stream&) {
  const CopyBlocks::Problem& p = args.problem;
  const auto address = [&](bool host, std::int64_t block, std::int64_t tensor) {
    return host ? args.host.as<std::byte>() + (block * p.tensors + tensor) * p.block_bytes
                : args.device.as<std::byte>() + (tensor * p.blocks + block) * p.block_bytes;
  };
  for (std::int64_t i = 0; i < p.count; ++i) {
    const std::int32_t* copy = args.copies.row<std::int32_t>(i);
    for (std::int64_t t = 0; t < p.tensors; ++t) {
      std::memcpy(address(copy[2] != 0, copy[3], t), address(copy[0] != 0, copy[1], t),
                  static_cast<std::size_t>(p.block_bytes));
    }
  }
}

}  // namespace warpjet::ref

namespace warpjet {

Kernel<Edit> Edit::reference() {
  return {.name = "ref.edit", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}
Kernel<PrepareRows> PrepareRows::reference() {
  return {.name = "ref.prepare_rows", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}
Kernel<CopyBlocks> CopyBlocks::reference() {
  return {.name = "ref.copy_blocks", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}

}  // namespace warpjet
