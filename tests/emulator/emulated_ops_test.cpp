// Every row of the GPU's catalogue through the emulator, against the reference row of its op: results within tolerance,
// nothing written outside the outputs, and rows that do not depend on their neighbours. A row that no problem here
// exercises fails the test: a new kernel comes with problems, a new op with a Cases<Op>.
#include "emulator/cases.h"

namespace warpjet {
namespace {

// Widths around the packs (8), the turn of a block (2048), and rows that start unaligned.
constexpr Layout kLayouts[] = {{1, 1, 0, 0},    {3, 7, 0, 0},   {2, 8, 0, 0},    {3, 33, 3, 1},
                               {2, 64, 8, 0},   {5, 100, 0, 0}, {2, 2048, 0, 0}, {2, 2056, 16, 0},
                               {1, 2061, 0, 3}, {0, 64, 0, 0},  {3, 5000, 40, 8}};

// --- What each op is tested with ------------------------------------------------------------------------------------

std::vector<std::int32_t> some_rows(Random& random, std::int64_t count, std::int64_t below) {
  std::vector<std::int32_t> rows;
  for (std::int64_t i = 0; i < count; ++i) rows.push_back(random.below(below));
  return rows;
}

template <>
struct Cases<Embed> {
  template <class Run>
  static void each(Random& random, Run run) {
    constexpr std::int64_t kVocab = 11;
    for (const Layout& l : kLayouts) {
      for (const DType table : kFloats) {
        for (const DType type : kFloats) {
          auto ids = some_rows(random, l.rows, kVocab);
          Guarded from(table, kVocab, l.width, 0, l.offset), out(type, l.rows, l.width, l.padding, l.offset);
          from.fill(random);
          const Embed::Problem p = {.tokens = l.rows,
                                    .hidden = l.width,
                                    .vocab = kVocab,
                                    .table = table,
                                    .out = type,
                                    .scale = table == type ? 1.0f : 7.5f};
          run(p, Embed::Args{.problem = p, .ids = kit::view_of(ids), .table = from.view()}, &Embed::Args::out, type, l,
              1);
        }
      }
    }
  }
};

template <>
struct Cases<Norm> {
  template <class Run>
  static void each(Random& random, Run run) {
    for (const Layout& l : kLayouts) {
      for (const DType x : kFloats) {
        for (const DType weight : kFloats) {
          for (const DType y : kFloats) {
            Guarded from(x, l.rows, l.width, l.padding, l.offset), gain(weight, 1, l.width, 0, l.offset);
            Guarded before(y, l.rows, l.width, l.offset, l.padding);
            from.fill(random);
            gain.fill(random);
            before.fill(random);
            const bool residual = (x == y) != (weight == y);  // about half of the combinations
            const Norm::Problem p = {
                .tokens = l.rows, .hidden = l.width, .x = x, .weight = weight, .y = y, .residual = residual};
            run(p,
                Norm::Args{.problem = p,
                           .x = from.view(),
                           .weight = gain.flat(),
                           .residual = residual ? before.view() : TensorView{}},
                &Norm::Args::y, y, l, l.width);
          }
        }
      }
    }
  }
};

template <>
struct Cases<Gather> {
  template <class Run>
  static void each(Random& random, Run run) {
    constexpr std::int64_t kTokens = 9;
    for (const Layout& l : kLayouts) {
      for (const DType type : kFloats) {
        auto rows = some_rows(random, l.rows, kTokens);
        Guarded from(type, kTokens, l.width, l.padding, l.offset);
        from.fill(random);
        const Gather::Problem p = {.rows = l.rows, .hidden = l.width, .dtype = type};
        run(p, Gather::Args{.problem = p, .x = from.view(), .rows = kit::view_of(rows)}, &Gather::Args::out, type, l,
            1);
      }
    }
  }
};

// --- The walk -------------------------------------------------------------------------------------------------------

template <class... Op>
void for_each_op(const std::tuple<Catalog<Op>...>&, auto check) {
  (check(static_cast<Op*>(nullptr)), ...);
}

TEST_F(EmulatedOps, EveryRowOfTheCatalogueEqualsItsReference) {
  for_each_op(gpu_.all, [&]<class Op>(Op*) {
    if constexpr (!kHasOwnTest<Op>) check_all<Op>();
  });
}

TEST_F(EmulatedOps, NormMayWriteOverItsInput) {
  Random random(2);
  const Norm::Problem p = {.tokens = 3, .hidden = 2100, .x = DType::bf16, .weight = DType::bf16, .y = DType::bf16};
  Guarded x(p.x, p.tokens, p.hidden), weight(p.weight, 1, p.hidden), y(p.y, p.tokens, p.hidden);
  x.fill(random);
  weight.fill(random);
  const auto& row = gpu_.of<Norm>().find("sm80.norm.bf16");
  row.launch({.problem = p, .x = x.view(), .weight = weight.flat(), .y = y.view()}, device_->stream());
  row.launch({.problem = p, .x = x.view(), .weight = weight.flat(), .y = x.view()}, device_->stream());
  for (std::int64_t t = 0; t < p.tokens; ++t) EXPECT_EQ(x.row_bytes(t), y.row_bytes(t));
}

TEST_F(EmulatedOps, NormOfARowDoesNotDependOnItsNeighboursNorItsAlignment) {
  Random random(3);
  const std::int64_t hidden = 2061;
  Guarded x(DType::f32, 4, hidden, 3), weight(DType::f32, 1, hidden);
  x.fill(random);
  weight.fill(random);
  const auto& row = gpu_.of<Norm>().find("sm80.norm.f32");
  const auto norm = [&](std::int64_t first, std::int64_t count) {
    auto y = std::make_unique<Guarded>(DType::f32, count, hidden);
    TensorView rows(x.view().row<float>(first), DType::f32, {count, hidden}, x.view().row_stride);
    row.launch({.problem = {.tokens = count, .hidden = hidden}, .x = rows, .weight = weight.flat(), .y = y->view()},
               device_->stream());
    return y;
  };
  const auto all = norm(0, 4);
  for (std::int64_t t = 0; t < 4; ++t) EXPECT_EQ(norm(t, 1)->row_bytes(0), all->row_bytes(t));
}

TEST_F(EmulatedOps, NormReadsItsRowTwiceAndWritesItOnce) {
  if (emu::kOnGpu) GTEST_SKIP() << "the emulator counts";
  const Norm::Problem p = {.tokens = 2, .hidden = 4096, .x = DType::bf16, .weight = DType::bf16, .y = DType::bf16};
  Random random(4);
  Guarded x(p.x, p.tokens, p.hidden), weight(p.weight, 1, p.hidden), y(p.y, p.tokens, p.hidden);
  x.fill(random);
  weight.fill(random);
  gpu_.of<Norm>()
      .find("sm80.norm.bf16")
      .launch({.problem = p, .x = x.view(), .weight = weight.flat(), .y = y.view()}, device_->stream());
  EXPECT_EQ(emu::counters().global_read_bytes, 2 * (2 * 4096 + 4096) * 2);
  EXPECT_EQ(emu::counters().global_written_bytes, 2 * 4096 * 2);
  EXPECT_EQ(emu::counters().global_sectors, 2 * 4 * 4096 * 2 / 32);  // whole sectors only: every access is coalesced
}

}  // namespace
}  // namespace warpjet
