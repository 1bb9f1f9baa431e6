// The GEMM rows of the catalogue through the emulator: against the reference, and against each other to the bit.
#include "emulator/cases.h"

namespace warpjet {
namespace {

struct Shape3 {
  std::int64_t m, n, k, padding, offset;
};

template <>
struct Cases<Gemm> {
  template <class Run>
  static void each(Random& random, Run run) {
    // Tails in m, n and k; rows that are not aligned; k of one step, of one stage and of more stages than a ring has;
    // at last, more tiles than blocks that live as long as the grid.
    constexpr Shape3 kShapes[] = {{1, 1, 1, 0, 0},     {3, 18, 8, 0, 0},   {8, 64, 64, 8, 8},   {5, 34, 67, 3, 1},
                                  {9, 66, 136, 0, 0},  {17, 40, 24, 1, 3}, {33, 20, 200, 8, 0}, {70, 132, 72, 0, 0},
                                  {2, 16, 1416, 0, 0}, {0, 16, 16, 0, 0},  {1, 96, 520, 0, 8},  {130, 260, 40, 0, 0}};
    constexpr Gate kGates[] = {Gate::silu, Gate::gelu, Gate::gelu_tanh, Gate::relu};
    constexpr std::int64_t kTerms =
        16;  // one long chain errs more than the reference's many, and a gate multiplies two
    int turn = 0;
    for (const Shape3& s : kShapes) {
      for (const DType type : kFloats) {
        for (const DType d : {type, DType::f32}) {
          for (const bool gated : {false, true}) {
            if (gated && s.n % 2 != 0) continue;
            ++turn;
            const Gemm::Problem p = {.m = s.m,
                                     .n = s.n,
                                     .k = s.k,
                                     .a = type,
                                     .b = type,
                                     .d = d,
                                     .gate = gated ? kGates[turn % 4] : Gate::none,
                                     .bias = turn % 3 != 0,
                                     .residual = !gated && turn % 2 == 0};
            const Layout l = {s.m, gated ? s.n / 2 : s.n, s.padding, s.offset};
            Guarded a(type, s.m, s.k, s.padding, s.offset), b(type, s.n, s.k, s.padding, s.offset);
            Guarded bias(type, 1, s.n, 0, s.offset), residual(d, l.rows, l.width, s.padding, s.offset);
            for (Guarded* input : {&a, &b, &bias, &residual}) input->fill(random);
            run(p,
                Gemm::Args{
                    .problem = p, .a = a.view(), .b = b.view(), .bias = bias.flat(), .residual = residual.view()},
                &Gemm::Args::d, d, l, kTerms * s.k);
          }
        }
      }
    }
  }
};

class EmulatedGemm : public EmulatedOps {
 protected:
  // The rows of d as bytes, in one string each.
  std::vector<std::string> run(const Kernel<Gemm>& row, Gemm::Args args, std::int64_t columns) {
    Guarded d(args.problem.d, args.problem.m, columns);
    args.d = d.view();
    row.launch(args, device_->stream());
    std::vector<std::string> rows;
    for (std::int64_t r = 0; r < args.problem.m; ++r) rows.push_back(d.row_bytes(r));
    return rows;
  }
};

TEST_F(EmulatedGemm, EveryRowEqualsTheReference) {
  check_all<Gemm>();
}

// The contract of cuda/gemm.cuh.
TEST_F(EmulatedGemm, AllKernelsGiveTheSameBitsForARowWhateverItsBatch) {
  Random random(5);
  constexpr std::int64_t kMost = 150, kColumns = 36, kDepth = 216;  // half a step at the end
  for (const DType type : kFloats) {
    for (const Gate gate : {Gate::none, Gate::silu}) {
      const bool gated = gate != Gate::none;
      Guarded a(type, kMost, kDepth), b(type, gated ? 2 * kColumns : kColumns, kDepth);
      Guarded bias(type, 1, gated ? 2 * kColumns : kColumns), residual(type, kMost, kColumns);
      for (Guarded* input : {&a, &b, &bias, &residual}) input->fill(random);
      Gemm::Problem p = {
          .m = 1, .n = gated ? 2 * kColumns : kColumns, .k = kDepth, .a = type, .b = type, .d = type, .gate = gate};
      p.bias = true;
      p.residual = !gated;
      const auto args_of = [&](std::int64_t first, std::int64_t count) {
        p.m = count;
        const auto rows = [&](const Guarded& from) {
          const TensorView all = from.view();
          std::byte* data = all.as<std::byte>() + first * all.row_stride * dtype_bytes(type);
          return TensorView(data, type, {count, all.shape[1]}, all.row_stride);
        };
        return Gemm::Args{.problem = p, .a = rows(a), .b = b.view(), .bias = bias.flat(), .residual = rows(residual)};
      };
      const auto first_that_supports = [&](const Gemm::Problem& problem) -> const Kernel<Gemm>& {
        return gpu_.of<Gemm>().select(problem, DeviceInfo{.name = "emulator", .sm = 80});
      };
      std::vector<std::string> alone;
      for (std::int64_t r = 0; r < kMost; ++r)
        alone.push_back(run(first_that_supports(args_of(r, 1).problem), args_of(r, 1), kColumns)[0]);
      for (const std::int64_t m : {2, 8, 9, 16, 23, 48, 65, 150}) {
        const Gemm::Args args = args_of(kMost - m, m);
        for (const Kernel<Gemm>& row : gpu_.of<Gemm>().rows()) {
          if (!row.supports(args.problem)) continue;
          SCOPED_TRACE(cat(row.name, " ", to_string(args.problem)));
          const std::vector<std::string> together = run(row, args, kColumns);
          for (std::int64_t r = 0; r < m; ++r)
            ASSERT_EQ(together[static_cast<std::size_t>(r)], alone[static_cast<std::size_t>(kMost - m + r)])
                << "row " << r;
        }
      }
    }
  }
}

TEST_F(EmulatedGemm, TheResidualMayBeTheOutput) {
  Random random(6);
  for (const DType type : kFloats) {
    for (const std::int64_t m : {3, 70}) {
      const Gemm::Problem p = {.m = m, .n = 40, .k = 72, .a = type, .b = type, .d = type, .residual = true};
      Guarded a(type, p.m, p.k), b(type, p.n, p.k), residual(type, p.m, p.n);
      for (Guarded* input : {&a, &b, &residual}) input->fill(random);
      Gemm::Args args = {.problem = p, .a = a.view(), .b = b.view(), .residual = residual.view()};
      for (const Kernel<Gemm>& row : gpu_.of<Gemm>().rows()) {
        if (!row.supports(p)) continue;
        SCOPED_TRACE(row.name);
        const std::vector<std::string> apart = run(row, args, p.n);
        Guarded d(type, p.m, p.n);
        for (std::int64_t r = 0; r < p.m; ++r)
          std::memcpy(d.view().row<std::byte>(0) + r * p.n * dtype_bytes(type), residual.row_bytes(r).data(),
                      residual.row_bytes(r).size());
        args.residual = args.d = d.view();
        row.launch(args, device_->stream());
        args.residual = residual.view();
        for (std::int64_t r = 0; r < p.m; ++r) EXPECT_EQ(d.row_bytes(r), apart[static_cast<std::size_t>(r)]);
      }
    }
  }
}

TEST_F(EmulatedGemm, SmallKernelsReadWeightsOnceAndWithoutBankConflicts) {
  if (emu::kOnGpu) GTEST_SKIP() << "the emulator counts";
  Random random(7);
  const Gemm::Problem p = {.m = 3, .n = 128, .k = 512, .a = DType::bf16, .b = DType::bf16, .d = DType::bf16};
  Guarded a(p.a, p.m, p.k), b(p.b.element, p.n, p.k), d(p.d, p.m, p.n);
  a.fill(random);
  b.fill(random);
  for (const std::int64_t rows : {16, 32, 64}) {
    gpu_.of<Gemm>()
        .find(cat("sm80.gemm.bf16.", rows, "x8"))
        .launch({.problem = p, .a = a.view(), .b = b.view(), .d = d.view()}, device_->stream());
    const std::int64_t blocks = p.n / rows;
    EXPECT_EQ(emu::counters().global_read_bytes, (p.n + blocks * p.m) * p.k * 2);
    EXPECT_EQ(emu::counters().global_written_bytes, p.m * p.n * 2);
    EXPECT_EQ(emu::counters().shared_bank_conflicts, 0);
  }
}

// Without timing the cost chooses; here against what timing chose on an H100, for the products of a Llama of 8 B.
TEST_F(EmulatedGemm, ChoosesTilesThatFitTheProblem) {
  struct Choice {
    std::int64_t m, n, k;
    std::string_view kernel;
  };
  const auto expect = [&](const DeviceInfo& device, std::initializer_list<Choice> choices) {
    for (const Choice& c : choices) {
      const Gemm::Problem p = {.m = c.m, .n = c.n, .k = c.k, .a = DType::bf16, .b = DType::bf16, .d = DType::bf16};
      EXPECT_EQ(gpu_.of<Gemm>().select(p, device).name, c.kernel) << to_string(p);
    }
  };
  expect({.name = "H100", .sm = 90, .cores = 132}, {{1, 4096, 4096, "sm80.gemm.bf16.16x8"},
                                                    {64, 6144, 4096, "sm80.gemm.bf16.64x64"},
                                                    {128, 6144, 4096, "sm90.gemm.bf16.128x128x64"},
                                                    {256, 4096, 14336, "sm90.gemm.bf16.128x128x64"},
                                                    {2048, 4096, 14336, "sm90.gemm.bf16.128x256x64"},
                                                    {2048, 6144, 4096, "sm90.gemm.bf16.128x256x64"}});
  expect({.name = "A100", .sm = 80, .cores = 108},
         {{128, 4096, 4096, "sm80.gemm.bf16.64x64x32"}, {2048, 28672, 4096, "sm80.gemm.bf16.64x128x32"}});
}

}  // namespace
}  // namespace warpjet
