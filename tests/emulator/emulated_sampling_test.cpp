// Every row of sampling's ops through the emulator, against the reference. Edits, tokens, ranks and orders are the
// reference's exactly, on a GPU too: cuda/number.cuh rounds every operation as the reference does, weights are whole
// numbers, and the special-function unit only says which tokens need no exact score. Log-probabilities differ in the
// order of a sum.
#include "emulator/sampling_cases.h"

#include <bit>

namespace warpjet {
namespace {

constexpr double kLogprobTolerance = 1e-5;  // of max(1, |log-probability|)

class EmulatedSampling : public testing::Test {
 protected:
  EmulatedSampling() : device_(make_cpu_device(1)) {
    register_cuda_kernels(gpu_);
    register_reference(reference_);
    constexpr std::int64_t kRows = 9, kVocab = 40011, kTop = 20;
    const auto room = [&](std::int64_t bytes) { most_ = std::max(most_, bytes); };
    for_each_kernel<Select>({}, [&](auto& row) { room(row.workspace({kRows, kVocab}, device_->info())); });
    for_each_kernel<Logprob>({}, [&](auto& row) { room(row.workspace({kRows, kVocab, kTop}, device_->info())); });
    workspace_ = std::make_unique<emu::GlobalBuffer>(static_cast<std::size_t>(most_), 0);
  }

  // Calls check(row) for every row of the GPU's catalogue.
  template <class Op, class Check>
  void for_each_kernel(const typename Op::Problem& problem, Check check) {
    ASSERT_FALSE(gpu_.of<Op>().rows().empty());
    for (const Kernel<Op>& row : gpu_.of<Op>().rows()) {
      SCOPED_TRACE(cat(row.name, " ", to_string(problem)));
      check(row);
    }
  }
  template <class Op>
  const Kernel<Op>& reference() const {
    return reference_.of<Op>().rows().front();
  }
  TensorView workspace() const { return {workspace_->as<>(), DType::u8, {most_}}; }

  Catalogs gpu_, reference_;
  std::unique_ptr<Device> device_;
  std::int64_t most_ = 0;
  std::unique_ptr<emu::GlobalBuffer> workspace_;  // kernels leave zeros where they count: all of a test share it
  Traffic traffic_;
};

// --- Penalize -------------------------------------------------------------------------------------------------------

// The same bits, or both NaN: which NaN is the processor's choice.
bool is_same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

void expect_same(const Guarded& got, const Guarded& want, const Batch& b) {
  for (std::int64_t r = 0; r < b.rows; ++r) {
    for (std::int64_t i = 0; i < b.vocab; ++i) {
      const float is = got.view().row<float>(r)[i], due = want.view().row<float>(r)[i];
      ASSERT_TRUE(is_same(is, due)) << "row " << r << ", token " << i << ": " << is << ", not " << due;
    }
  }
  EXPECT_TRUE(got.padding_is_untouched());
}

// The logits and the raw ones after Penalize.
struct Penalized {
  Penalized(const Batch& b, const GuardedSlots& slots, const Kernel<Penalize>& row, Stream& stream)
      : logits(DType::f32, b.rows, b.vocab, b.padding, b.offset), raw(DType::f32, b.rows, b.vocab) {
    for (std::int64_t r = 0; r < b.rows; ++r)
      std::copy_n(b.logits.view().row<float>(r), b.vocab, logits.view().row<float>(r));
    Ints counts(DType::i32, std::vector<std::int32_t>(static_cast<std::size_t>(b.rows * b.vocab)));
    row.launch({.problem = {.rows = b.rows, .vocab = b.vocab},
                .logits = logits.view(),
                .slots = b.slots.view(),
                .views = slots.views(),
                .raw = raw.view(),
                .workspace = counts.view()},
               stream);
  }
  Guarded logits, raw;
};

TEST_F(EmulatedSampling, PenalizedLogitsEqualTheReference) {
  for_each_batch(1, [&](Random&, const Batch& b) {
    const GuardedSlots slots(b.cases, b.vocab);
    const std::string before = slots.bytes();
    const Penalized want(b, slots, reference<Penalize>(), device_->stream());
    for_each_kernel<Penalize>({b.rows, b.vocab}, [&](auto& row) {
      const Penalized got(b, slots, row, device_->stream());
      traffic_.note(row.name, Penalize::bytes({.rows = b.rows, .vocab = b.vocab}));
      expect_same(got.logits, want.logits, b);
      for (std::int64_t r = 0; r < b.rows; ++r) EXPECT_EQ(got.raw.row_bytes(r), want.raw.row_bytes(r)) << "row " << r;
      EXPECT_EQ(slots.bytes(), before);
    });
  });
}

// --- Select ---------------------------------------------------------------------------------------------------------

struct Selected {
  std::vector<std::int32_t> tokens, scored;
  bool operator==(const Selected&) const = default;
};
void PrintTo(const Selected& s, std::ostream* out) {
  *out << testing::PrintToString(s.tokens) << ", scored " << testing::PrintToString(s.scored);
}

Selected select(const Batch& b, const GuardedSlots& slots, const Kernel<Select>& row, Stream& stream,
                const TensorView& workspace, std::int64_t first, std::int64_t count) {
  constexpr std::int32_t kPoison = -777;
  const Ints tokens(DType::i32, std::vector<std::int32_t>(count, kPoison)),
      scored(DType::i32, std::vector<std::int32_t>(count, kPoison));
  row.launch({.problem = {.rows = count, .vocab = b.vocab},
              .logits = rows_of(b.logits.view(), first, count),
              .slots = rows_of(b.slots.view(), first, count),
              .views = slots.views(),
              .tokens = tokens.view(),
              .scored = scored.view(),
              .workspace = workspace},
             stream);
  return {tokens.values(), scored.values()};
}

TEST_F(EmulatedSampling, SelectedTokensEqualTheReferenceAloneToo) {
  for_each_batch(2, [&](Random&, const Batch& b) {
    const GuardedSlots slots(b.cases, b.vocab);
    const Selected want = select(b, slots, reference<Select>(), device_->stream(), {}, 0, b.rows);
    for_each_kernel<Select>({b.rows, b.vocab}, [&](auto& row) {
      const auto got = [&](std::int64_t first, std::int64_t count) {
        return select(b, slots, row, device_->stream(), workspace(), first, count);
      };
      EXPECT_EQ(got(0, b.rows), want);
      traffic_.note(row.name, Select::bytes({.rows = b.rows, .vocab = b.vocab}));
      EXPECT_EQ(got(0, b.rows), want) << "for the second time";
      for (std::int64_t r = 0; r < b.rows; ++r)
        EXPECT_EQ(got(r, 1), Selected({{want.tokens[r]}, {want.scored[r]}})) << "row " << r << " alone";
    });
  });
}

// --- Logprob --------------------------------------------------------------------------------------------------------

struct Scores {
  Scores(std::int64_t rows, std::int64_t top)
      : logprobs(DType::f32, 1, rows),
        ranks(DType::i32, rows),
        top_tokens(DType::i32, rows, top, 1),
        top_logprobs(DType::f32, rows, top, 3) {}

  std::string row_bytes(std::int64_t r) const {
    const float logprob = logprobs.flat().as<float>()[r];
    std::string all(reinterpret_cast<const char*>(&logprob), sizeof logprob);
    return cat(all, ranks[r], " ", top_tokens.row_bytes(r), top_logprobs.row_bytes(r));
  }

  Guarded logprobs;
  Ints ranks;
  Guarded top_tokens, top_logprobs;
};

std::unique_ptr<Scores> score(const Batch& b, const Ints& tokens, std::int64_t top, const Kernel<Logprob>& row,
                              Stream& stream, const TensorView& workspace, std::int64_t first, std::int64_t count) {
  auto scores = std::make_unique<Scores>(count, top);
  row.launch({.problem = {.rows = count, .vocab = b.vocab, .top = top},
              .logits = rows_of(b.logits.view(), first, count),
              .tokens = rows_of(tokens.view(), first, count),
              .logprobs = scores->logprobs.flat(),
              .ranks = scores->ranks.view(),
              .top_tokens = scores->top_tokens.view(),
              .top_logprobs = scores->top_logprobs.view(),
              .workspace = workspace},
             stream);
  return scores;
}

void expect_near(float got, float want, const std::string& what) {
  if (got == want) return;  // infinities
  EXPECT_NEAR(got, want, kLogprobTolerance * std::max(1.0f, std::abs(want))) << what;
}

void expect_scores(const Scores& got, const Scores& want, const Ints& tokens, std::int64_t rows, std::int64_t top) {
  for (std::int64_t r = 0; r < rows; ++r) {
    if (tokens[r] < 0) {  // untouched
      EXPECT_EQ(got.row_bytes(r), want.row_bytes(r));
      continue;
    }
    EXPECT_EQ(got.ranks[r], want.ranks[r]) << "row " << r;
    EXPECT_EQ(got.top_tokens.row_bytes(r), want.top_tokens.row_bytes(r)) << "row " << r;
    expect_near(got.logprobs.flat().as<float>()[r], want.logprobs.flat().as<float>()[r], cat("row ", r));
    for (std::int64_t i = 0; i < top; ++i)
      expect_near(got.top_logprobs.view().row<float>(r)[i], want.top_logprobs.view().row<float>(r)[i],
                  cat("row ", r, ", place ", i));
  }
  EXPECT_TRUE(got.top_tokens.padding_is_untouched());
  EXPECT_TRUE(got.top_logprobs.padding_is_untouched());
}

TEST_F(EmulatedSampling, LogprobsRanksAndTopsEqualTheReferenceAndTheirOwnAlone) {
  for_each_batch(3, [&](Random& random, const Batch& b) {
    const std::int64_t top = std::min<std::int64_t>(b.vocab, any_of(random, {0, 1, 5, 20, 700}));
    Ints tokens(DType::i32, b.rows);
    for (std::int64_t r = 0; r < b.rows; ++r)
      tokens[r] = random.below(5) ? random.below(b.vocab) : -1 - random.below(2);
    const auto want = score(b, tokens, top, reference<Logprob>(), device_->stream(), {}, 0, b.rows);
    for_each_kernel<Logprob>({b.rows, b.vocab, top}, [&](auto& row) {
      const auto run = [&](std::int64_t first, std::int64_t count) {
        return score(b, tokens, top, row, device_->stream(), workspace(), first, count);
      };
      const auto got = run(0, b.rows);
      traffic_.note(row.name, Logprob::bytes({.rows = b.rows, .vocab = b.vocab, .top = top}));
      const auto again = run(0, b.rows);
      expect_scores(*got, *want, tokens, b.rows, top);
      for (std::int64_t r = 0; r < b.rows; ++r) {
        EXPECT_EQ(again->row_bytes(r), got->row_bytes(r)) << "row " << r << " for the second time";
        EXPECT_EQ(run(r, 1)->row_bytes(0), got->row_bytes(r)) << "row " << r << " alone";
      }
    });
  });
}

TEST_F(EmulatedSampling, SelectAndLogprobShareAWorkspace) {
  Random random(4);
  for (int i = 0; i < 6; ++i) {
    const Batch b(random, 3, any_of(random, {40, 5000}));
    const GuardedSlots slots(b.cases, b.vocab);
    const Selected want = select(b, slots, reference<Select>(), device_->stream(), {}, 0, b.rows);
    const Ints tokens(DType::i32, want.tokens);
    const auto scores = score(b, tokens, 3, reference<Logprob>(), device_->stream(), {}, 0, b.rows);
    const auto& select_row = gpu_.of<Select>().rows().front();
    const auto& score_row = gpu_.of<Logprob>().rows().front();
    EXPECT_EQ(select(b, slots, select_row, device_->stream(), workspace(), 0, b.rows), want);
    expect_scores(*score(b, tokens, 3, score_row, device_->stream(), workspace(), 0, b.rows), *scores, tokens, b.rows,
                  3);
  }
}

// --- AppendTokens ---------------------------------------------------------------------------------------------------

TEST_F(EmulatedSampling, TextsGrowAndEndAsTheReferenceSays) {
  Random random(5);
  SCOPED_TRACE(random.trace());
  constexpr std::int64_t kVocab = 6;  // tokens are often stops
  for (const std::int64_t rows : {0, 1, 3, 8, 9, 40}) {
    for (int round = 0; round < 5; ++round) {
      const Batch b(random, rows, kVocab);
      Ints tokens(DType::i32, rows);
      for (std::int64_t r = 0; r < rows; ++r)
        tokens[r] = random.below(6) ? random.below(kVocab) : any_of(random, {kBrokenToken, kSurplusToken});
      const auto append = [&](const Kernel<AppendTokens>& row, const GuardedSlots& slots) {
        const Ints results(DType::i32, std::vector<std::int32_t>(static_cast<std::size_t>(rows), 99));
        row.launch({.problem = {.rows = rows},
                    .slots = b.slots.view(),
                    .tokens = tokens.view(),
                    .views = slots.views(),
                    .results = results.view()},
                   device_->stream());
        return results.values();
      };
      const GuardedSlots want(b.cases, kVocab);
      const auto want_results = append(reference<AppendTokens>(), want);
      for_each_kernel<AppendTokens>({rows}, [&](auto& row) {
        const GuardedSlots got(b.cases, kVocab);
        EXPECT_EQ(append(row, got), want_results);
        EXPECT_EQ(got.bytes(), want.bytes());
      });
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace warpjet
