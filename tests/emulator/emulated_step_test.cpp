// What frames a step, through the emulator: edits in order, the rows of random steps, copies of blocks. Results are
// whole numbers, so they equal the reference's exactly.
#include "cases.h"

namespace warpjet {
namespace {

using Longs = List<std::int64_t>;

class EmulatedStep : public testing::Test {
 protected:
  EmulatedStep() : device_(make_cpu_device(1)) {
    register_cuda_kernels(gpu_);
    register_reference(reference_);
  }
  template <class Op>
  void run(const Catalogs& catalogs, const typename Op::Args& args) {
    catalogs.of<Op>().rows().front().launch(args, device_->stream());
  }

  Catalogs gpu_, reference_;
  std::unique_ptr<Device> device_;
};

TEST_F(EmulatedStep, EditsHappenOneAfterTheOther) {
  Random random(1);
  for (const std::int64_t count : {0, 1, 31, 32, 33, 200}) {
    for (const std::int64_t words : {1, 5, 1000}) {
      Longs edits(DType::i64, std::max<std::int64_t>(1, 2 * count));
      for (std::int64_t i = 0; i < count; ++i) {
        edits[2 * i] = random.below(words);
        edits[2 * i + 1] = random.below(1 << 30) - (1 << 29);
      }
      Ints got(DType::i32, std::vector<std::int32_t>(words, 7)), want(DType::i32, std::vector<std::int32_t>(words, 7));
      const auto args = [&](const Ints& state) {
        return Edit::Args{
            .problem = {.count = count}, .edits = {edits.view().data, DType::i64, {count, 2}}, .state = state.view()};
      };
      run<Edit>(reference_, args(want));
      run<Edit>(gpu_, args(got));
      EXPECT_EQ(got.values(), want.values()) << count << " edits of " << words << " words";
    }
  }
}

struct StepState {
  static constexpr std::int64_t kSlots = 9, kMaxText = 40, kBlockSize = 16, kMaxBlocks = 3, kMostGroups = 3;
  explicit StepState(Random& random)
      : texts(DType::i32, kSlots * kMaxText),
        tables(DType::i32, kMostGroups * kSlots * kMaxBlocks),
        lengths(DType::i32, kSlots),
        prompt_lengths(DType::i32, kSlots),
        alive(DType::i32, kSlots) {
    for (std::int64_t i = 0; i < kSlots * kMaxText; ++i) texts[i] = random.below(1000);
    for (std::int64_t i = 0; i < kMostGroups * kSlots * kMaxBlocks; ++i) tables[i] = random.below(50);
    for (std::int64_t s = 0; s < kSlots; ++s) {
      lengths[s] = 1 + random.below(kMaxText);
      prompt_lengths[s] = 1 + random.below(lengths[s]);
      alive[s] = random.below(4) > 0;
    }
  }
  Ints texts, tables, lengths, prompt_lengths, alive;
};

struct StepRows {
  explicit StepRows(const PrepareRows::Problem& p)
      : token_ids(DType::i32, p.tokens),
        positions(DType::i32, p.tokens),
        rope_lengths(DType::i32, p.tokens),
        query_starts(DType::i32, p.seqs + 1),
        context_lengths(DType::i32, p.seqs),
        table_rows(DType::i32, p.seqs),
        sample_rows(DType::i32, p.samples),
        sample_slots(DType::i32, p.samples),
        cache_rows(DType::i64, p.groups * p.tokens) {}
  Ints token_ids, positions, rope_lengths, query_starts, context_lengths, table_rows, sample_rows, sample_slots;
  Longs cache_rows;
};

// A random step: `decodes` slots, then chunks of the others.
std::vector<std::int32_t> make_header(Random& random, const StepState& state, int decodes, int chunks, int& tokens,
                                      int& samples) {
  std::vector<std::int32_t> header = {decodes, chunks, 0, 0}, slots;
  std::int32_t row = decodes;
  for (int c = 0; c < chunks; ++c) {
    const std::int32_t slot = decodes + c, count = 1 + random.below(state.lengths[slot]);
    header.insert(header.end(),
                  {slot, random.below(state.lengths[slot] - count + 1), row, static_cast<std::int32_t>(slots.size())});
    row += count;
    for (int i = random.below(3); i > 0; --i) slots.push_back(slot);
  }
  header.insert(header.end(), {0, 0, row, static_cast<std::int32_t>(slots.size())});
  header[2] = static_cast<std::int32_t>(slots.size());
  header.insert(header.end(), slots.begin(), slots.end());
  tokens = row;
  samples = decodes + static_cast<int>(slots.size());
  return header;
}

TEST_F(EmulatedStep, RowsOfRandomStepsEqualTheReference) {
  Random random(2);
  SCOPED_TRACE(random.trace());
  for (int i = 0; i < 60; ++i) {
    const StepState state(random);
    const int decodes = random.below(6), chunks = random.below(StepState::kSlots - decodes + 1);
    int tokens = 0, samples = 0;
    const Ints header(DType::i32, make_header(random, state, decodes, chunks, tokens, samples));
    Ints decoding(DType::i32, StepState::kSlots);
    for (int d = 0; d < StepState::kSlots; ++d) decoding[d] = d;
    const bool exact = i % 2 == 0;  // else with room for more, as in a graph
    const PrepareRows::Problem p = {.tokens = tokens + (exact ? 0 : random.below(300)),
                                    .seqs = decodes + chunks + (exact ? 0 : random.below(20)),
                                    .samples = samples + (exact ? 0 : random.below(20)),
                                    .block_size = StepState::kBlockSize,
                                    .groups = 1 + i % StepState::kMostGroups};
    const TensorView tables(state.tables.view().data, DType::i32, {p.groups, StepState::kSlots, StepState::kMaxBlocks});
    const auto args = [&](const StepRows& rows) {
      return PrepareRows::Args{.problem = p,
                               .header = header.view(),
                               .decoding = decoding.view(),
                               .texts = state.texts.matrix(StepState::kSlots),
                               .lengths = state.lengths.view(),
                               .prompt_lengths = state.prompt_lengths.view(),
                               .alive = state.alive.view(),
                               .block_tables = tables,
                               .token_ids = rows.token_ids.view(),
                               .positions = rows.positions.view(),
                               .rope_lengths = rows.rope_lengths.view(),
                               .cache_rows = {rows.cache_rows.view().data, DType::i64, {p.groups, p.tokens}},
                               .query_starts = rows.query_starts.view(),
                               .context_lengths = rows.context_lengths.view(),
                               .table_rows = rows.table_rows.view(),
                               .sample_rows = rows.sample_rows.view(),
                               .sample_slots = rows.sample_slots.view()};
    };
    const StepRows got(p), want(p);
    run<PrepareRows>(reference_, args(want));
    run<PrepareRows>(gpu_, args(got));
    for (const auto member :
         {&StepRows::token_ids, &StepRows::positions, &StepRows::rope_lengths, &StepRows::query_starts,
          &StepRows::context_lengths, &StepRows::table_rows, &StepRows::sample_rows, &StepRows::sample_slots}) {
      EXPECT_EQ((got.*member).values(), (want.*member).values());
    }
    EXPECT_EQ(got.cache_rows.values(), want.cache_rows.values());
    if (HasFailure()) return;
  }
}

TEST_F(EmulatedStep, BlocksMoveBetweenDeviceAndHost) {
  Random random(3);
  constexpr std::int64_t kTensors = 3, kBlocks = 7, kHostBlocks = 5, kBytes = 16 * 301;
  const auto filled = [&](std::int64_t bytes) {
    std::vector<std::uint8_t> values(static_cast<std::size_t>(bytes));
    for (std::uint8_t& value : values) value = static_cast<std::uint8_t>(random.below(256));
    return values;
  };
  const auto device = filled(kTensors * kBlocks * kBytes), host = filled(kTensors * kHostBlocks * kBytes);
  using Bytes = List<std::uint8_t>;
  const Bytes got_device(DType::u8, device), got_host(DType::u8, host), want_device(DType::u8, device),
      want_host(DType::u8, host);
  const Ints copies(DType::i32, {0, 1, 0, 2, 0, 3, 1, 4, 1, 0, 0, 5});
  const auto args = [&](const Bytes& on_device, const Bytes& on_host) {
    return CopyBlocks::Args{.problem = {.count = 3, .tensors = kTensors, .block_bytes = kBytes, .blocks = kBlocks},
                            .copies = copies.matrix(3),
                            .device = on_device.view(),
                            .host = on_host.view()};
  };
  run<CopyBlocks>(reference_, args(want_device, want_host));
  run<CopyBlocks>(gpu_, args(got_device, got_host));
  EXPECT_EQ(got_device.values(), want_device.values());
  EXPECT_EQ(got_host.values(), want_host.values());
  EXPECT_NE(got_device.values(), device);
}

}  // namespace
}  // namespace warpjet
