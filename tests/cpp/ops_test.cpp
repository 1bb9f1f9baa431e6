// Every kernel of every catalogue against the ops written again in double precision (kit.h), and the promise that a
// row's bits do not depend on its neighbours. Attention and sampling have files of their own.
#include "kit.h"

#include <algorithm>
#include <array>

namespace warpjet {
namespace {

using kit::kFloats;
using kit::Matrix;
using kit::Random;
using kit::view_of;

using OpsTest = kit::KernelTest;

// --- Catalogue ------------------------------------------------------------------------------------------------------

TEST_F(OpsTest, CatalogueSelectsAndFindsByName) {
  const auto& catalog = catalogs_.of<Gemm>();
  EXPECT_EQ(catalog.select({.m = 1, .n = 8, .k = 8}, device_->info()).name, "ref.gemm");
  EXPECT_EQ(&catalog.find("ref.gemm"), &catalog.rows()[0]);
  EXPECT_THROW(catalog.find("ref.gone"), Error);
  EXPECT_THROW(catalogs_.of<Gemm>().add(catalog.rows()[0]), Error);
}

TEST_F(OpsTest, UnsupportedProblemsAreNamedInTheError) {
  try {
    catalogs_.of<Gemm>().select({.m = 1, .n = 8, .k = 8, .a = DType::i8}, device_->info());
    FAIL() << "expected unsupported";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(error.message().find("gemm{m=1 n=8 k=8 a=i8 b=f32 d=f32}"), std::string::npos) << error.message();
  }
  EXPECT_THROW(catalogs_.of<Gemm>().select({.m = 1, .n = 7, .k = 8, .gate = Gate::silu}, device_->info()), Error);
  DeviceInfo gpu = device_->info();
  gpu.sm = 90;
  EXPECT_THROW(catalogs_.of<Gemm>().select({.m = 1, .n = 8, .k = 8}, gpu), Error);
}

TEST_F(OpsTest, CostsCountEachOperandOnce) {
  const Gemm::Problem gemm = {.m = 2, .n = 8, .k = 4, .a = DType::bf16, .b = DType::f16, .d = DType::f32};
  EXPECT_EQ(Gemm::bytes(gemm), 2 * 4 * 2 + 8 * 4 * 2 + 2 * 8 * 4);
  EXPECT_EQ(Gemm::flops(gemm), 2 * 2 * 8 * 4);
  EXPECT_EQ(Norm::bytes({.tokens = 3, .hidden = 5}), 3 * 5 * 8 + 5 * 4);
  Attention::Problem attention = {.tokens = 1, .seqs = 1, .heads = 4, .kv_heads = 2, .head_dim = 8, .max_context = 100};
  EXPECT_EQ(Attention::bytes(attention), 4 * 8 * 8 + 100 * 2 * 2 * 8 * 4);
  attention.window = 10;
  EXPECT_EQ(Attention::bytes(attention), 4 * 8 * 8 + 10 * 2 * 2 * 8 * 4);
}

// --- Linear ---------------------------------------------------------------------------------------------------------

struct GemmData {
  GemmData(const Gemm::Problem& p, Random& random)
      : a(p.a, p.m, p.k, 3),
        b(p.b.element, p.n, p.k),
        bias(p.bias_type(), 1, p.n),
        residual(p.d, p.m, width(p), 5),
        d(p.d, p.m, width(p), 5) {
    const double spread = 1.5 / std::sqrt(std::sqrt(static_cast<double>(p.k)));  // products of about one
    a.fill(random, spread);
    b.fill(random, spread);
    bias.fill(random);
    residual.fill(random);
  }
  static std::int64_t width(const Gemm::Problem& p) { return p.gate == Gate::none ? p.n : p.n / 2; }
  Gemm::Args args(const Gemm::Problem& p) {
    return {.problem = p,
            .a = a.view(),
            .b = b.view(),
            .bias = p.bias ? bias.view({p.n}) : TensorView(),
            .residual = p.residual ? residual.view() : TensorView(),
            .d = d.view()};
  }
  Matrix a, b, bias, residual, d;
};

// Activations are of the weights' type or fp32.
bool combines(DType a, DType b) {
  return a == b || a == DType::f32;
}

TEST_F(OpsTest, GemmEqualsTheFormula) {
  Random random(1);
  std::vector<Gemm::Problem> problems;
  for (const DType a : kFloats) {
    for (const DType b : kFloats) {
      if (!combines(a, b)) continue;
      for (const DType d : kFloats) problems.push_back({.m = 5, .n = 35, .k = 67, .a = a, .b = b, .d = d});
    }
  }
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{1, 1, 1},
                                {1, 3, 15},
                                {2, 64, 16},
                                {3, 33, 31},
                                {4, 32, 128},
                                {7, 100, 17},
                                {65, 130, 96},
                                {1, 512, 1000},
                                {33, 1, 40}}) {
    for (const DType type : kFloats) problems.push_back({.m = m, .n = n, .k = k, .a = type, .b = type, .d = type});
  }
  for (const Gate gate : {Gate::none, Gate::silu, Gate::gelu, Gate::gelu_tanh, Gate::relu}) {
    for (const bool bias : {false, true}) {
      for (const bool residual : {false, true}) {
        if (gate != Gate::none && residual) continue;
        for (const std::int64_t n : {2, 66, 140}) {
          problems.push_back(
              {.m = 6, .n = n, .k = 50, .d = DType::f32, .gate = gate, .bias = bias, .residual = residual});
        }
      }
    }
  }
  SCOPED_TRACE(random.trace());
  for (const Gemm::Problem& p : problems) {
    GemmData data(p, random);
    const Matrix exact = kit::naive_gemm(p, data.a, data.b, data.bias, data.residual);
    for_each_kernel<Gemm>(p, [&](auto launch) {
      launch(data.args(p));
      kit::expect_close(data.d, exact, kit::tolerance(p.d, 4 * p.k));
      EXPECT_TRUE(data.d.padding_is_untouched());
    });
    if (HasFailure()) return;
  }
}

TEST_F(OpsTest, GemmOfTypesThatNoSchemeCombinesIsRefused) {
  const auto device = make_cpu_device(1);
  const Gemm::Problem p = {.m = 1, .n = 8, .k = 8, .a = DType::bf16, .b = DType::f32, .d = DType::f32};
  EXPECT_THROW(catalogs_.of<Gemm>().select(p, device->info()), Error);
}

// The same sums in the same order, so the same bits.
TEST_F(OpsTest, GemmOfAScaledMatrixIsThatOfItsValues) {
  Random random(31);
  const Format format(DType::f8_e4m3, 128, 128, DType::f32);
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{1, 130, 300}, {3, 257, 128}, {20, 64, 1300}}) {
    const Gemm::Problem scaled = {.m = m, .n = n, .k = k, .b = format, .bias = true};
    const Gemm::Problem plain = {.m = m, .n = n, .k = k, .bias = true};
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * k));
    for (std::uint8_t& code : codes) code = f32_to_f8_e4m3(static_cast<float>(random.uniform(-2, 2)));
    const Shape blocks = format.scale_shape({n, k});
    std::vector<float> scales(static_cast<std::size_t>(blocks.elements()));
    for (float& scale : scales) scale = static_cast<float>(random.uniform(0.1, 3));
    Matrix a(DType::f32, m, k, 3), b(DType::f32, n, k), bias(DType::f32, 1, n), got(DType::f32, m, n), want = got;
    a.fill(random);
    bias.fill(random);
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t c = 0; c < k; ++c) {
        const float scale = scales[static_cast<std::size_t>(r / 128 * blocks[1] + c / 128)];
        b.set(r, c, f8_e4m3_to_f32(codes[static_cast<std::size_t>(r * k + c)]) * scale);
      }
    }
    const auto device = make_cpu_device(2);
    const auto run = [&](const Gemm::Problem& p, const TensorView& weights, const TensorView& factors, Matrix& d) {
      catalogs_.of<Gemm>()
          .select(p, device->info())
          .launch(
              {.problem = p, .a = a.view(), .b = weights, .bias = bias.view({n}), .d = d.view(), .b_scales = factors},
              device->stream());
    };
    run(scaled, {codes.data(), DType::f8_e4m3, {n, k}}, {scales.data(), DType::f32, blocks}, got);
    run(plain, b.view(), {}, want);
    for (std::int64_t r = 0; r < m; ++r) EXPECT_EQ(got.row_bytes(r), want.row_bytes(r)) << "row " << r;
  }
}

TEST_F(OpsTest, GemmMayAddTheResidualInPlace) {
  Random random(2);
  const Gemm::Problem p = {.m = 9, .n = 40, .k = 32, .residual = true};
  for_each_kernel<Gemm>(p, [&](auto launch) {
    GemmData data(p, random);
    const Matrix exact = kit::naive_gemm(p, data.a, data.b, data.bias, data.residual);
    Gemm::Args args = data.args(p);
    args.d = args.residual;
    launch(args);
    kit::expect_close(data.residual, exact, kit::tolerance(p.d, p.k));
  });
}

// The same rows in batches of different sizes, shifted so that each falls into different tiles.
TEST_F(OpsTest, GemmRowsDoNotDependOnTheirNeighbours) {
  Random random(3);
  for (const DType a : kFloats) {
    for (const DType b : kFloats) {
      if (!combines(a, b)) continue;
      for (const Gate gate : {Gate::none, Gate::silu}) {
        for (const std::int64_t k : {64, 83}) {
          const Gemm::Problem whole = {.m = 33, .n = 70, .k = k, .a = a, .b = b, .d = DType::f32, .gate = gate};
          GemmData data(whole, random);
          for_each_kernel<Gemm>(whole, [&](auto launch) {
            launch(data.args(whole));
            for (const std::int64_t m : {1, 2, 3, 7}) {
              for (std::int64_t first = 0; first + m <= whole.m; first += 5) {
                Gemm::Problem part = whole;
                part.m = m;
                Matrix d(DType::f32, m, GemmData::width(part));
                Gemm::Args args = data.args(part);
                args.a.data = args.a.row<std::byte>(first * dtype_bytes(a));
                args.d = d.view();
                launch(args);
                for (std::int64_t r = 0; r < m; ++r) {
                  ASSERT_EQ(d.row_bytes(r), data.d.row_bytes(first + r)) << "m " << m << ", row " << first + r;
                }
              }
            }
          });
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(OpsTest, GemmDoesNotDependOnTheNumberOfThreads) {
  Random random(4);
  const Gemm::Problem p = {.m = 37, .n = 200, .k = 75, .a = DType::bf16, .b = DType::bf16, .d = DType::bf16};
  GemmData data(p, random);
  for_each_kernel<Gemm>(p, [&](auto launch) {
    launch(data.args(p));
    for (int threads = 1; threads <= 4; ++threads) {
      Matrix d(p.d, p.m, p.n);
      Gemm::Args args = data.args(p);
      args.d = d.view();
      catalogs_.of<Gemm>().find("ref.gemm").launch(args, make_cpu_device(threads)->stream());
      for (std::int64_t r = 0; r < p.m; ++r) ASSERT_EQ(d.row_bytes(r), data.d.row_bytes(r));
    }
  });
}

TEST_F(OpsTest, EveryHalfAndBfloatSurvivesAProductWithOne) {
  for (const DType type : {DType::f16, DType::bf16}) {
    const Gemm::Problem p = {.m = 1, .n = 1 << 16, .k = 1, .a = DType::f32, .b = type, .d = type};
    Matrix a(DType::f32, 1, 1), b(type, p.n, 1), d(type, 1, p.n);
    a.set(0, 0, 1);
    for (std::int64_t i = 0; i < p.n; ++i) b.view().as<std::uint16_t>()[i] = static_cast<std::uint16_t>(i);
    for_each_kernel<Gemm>(p, [&](auto launch) {
      launch({.problem = p, .a = a.view(), .b = b.view(), .bias = {}, .residual = {}, .d = d.view()});
      for (std::int64_t i = 0; i < p.n; ++i) {
        const double want = b.get(i, 0), got = d.get(0, i);
        ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : got == want) << "bits " << i << ": " << got << " != " << want;
      }
    });
  }
}

// --- Per token ------------------------------------------------------------------------------------------------------

TEST_F(OpsTest, EmbedCopiesRowsOfTheTable) {
  Random random(5);
  for (const DType table_type : kFloats) {
    for (const DType out_type : kFloats) {
      for (const std::int64_t hidden : {1, 17, 256, 700}) {
        const Embed::Problem p = {.tokens = 9, .hidden = hidden, .vocab = 30, .table = table_type, .out = out_type};
        Matrix table(table_type, p.vocab, hidden), exact(DType::f32, p.tokens, hidden);
        table.fill(random);
        std::vector<std::int32_t> ids;
        for (std::int64_t t = 0; t < p.tokens; ++t) {
          ids.push_back(random.below(p.vocab));
          for (std::int64_t c = 0; c < hidden; ++c) exact.set(t, c, table.get(ids.back(), c));
        }
        for_each_kernel<Embed>(p, [&](auto launch) {
          Matrix out(out_type, p.tokens, hidden, 2);
          launch({.problem = p, .ids = view_of(ids), .table = table.view(), .out = out.view()});
          kit::expect_close(out, exact, kit::tolerance(out_type, 0));
          EXPECT_TRUE(out.padding_is_untouched());
        });
        Embed::Problem scaled = p;
        scaled.scale = 2.5f;
        for (std::int64_t t = 0; t < p.tokens; ++t) {
          for (std::int64_t c = 0; c < hidden; ++c) exact.set(t, c, 2.5f * table.get(ids[t], c));
        }
        for_each_kernel<Embed>(scaled, [&](auto launch) {
          Matrix out(out_type, p.tokens, hidden, 2);
          launch({.problem = scaled, .ids = view_of(ids), .table = table.view(), .out = out.view()});
          kit::expect_close(out, exact, kit::tolerance(out_type, 1));
        });
      }
    }
  }
}

TEST_F(OpsTest, GatherCopiesRowsExactly) {
  Random random(6);
  for (const DType type : kFloats) {
    const Gather::Problem p = {.rows = 5, .hidden = 33, .dtype = type};
    Matrix x(type, 8, p.hidden, 1);
    x.fill(random);
    std::vector<std::int32_t> rows = {7, 0, 3, 3, 5};
    for_each_kernel<Gather>(p, [&](auto launch) {
      Matrix out(type, p.rows, p.hidden, 4);
      launch({.problem = p, .x = x.view(), .rows = view_of(rows), .out = out.view()});
      for (std::int64_t r = 0; r < p.rows; ++r) EXPECT_EQ(out.row_bytes(r), x.row_bytes(rows[r]));
      EXPECT_TRUE(out.padding_is_untouched());
    });
  }
}

TEST_F(OpsTest, NormEqualsTheFormulaAndMayBeInPlace) {
  Random random(7);
  for (const DType x_type : kFloats) {
    for (const DType weight_type : kFloats) {
      for (const std::int64_t hidden : {1, 15, 256, 300, 1027}) {
        for (const float eps : {1e-6f, 0.5f}) {
          const Norm::Problem p = {
              .tokens = 4, .hidden = hidden, .x = x_type, .weight = weight_type, .y = x_type, .eps = eps};
          Matrix x(x_type, p.tokens, hidden, 2), weight(weight_type, 1, hidden), exact(DType::f32, p.tokens, hidden);
          x.fill(random, 3.0);
          weight.fill(random);
          for (std::int64_t t = 0; t < p.tokens; ++t) {
            std::vector<double> row;
            for (std::int64_t c = 0; c < hidden; ++c) row.push_back(x.get(t, c));
            const std::vector<double> y = kit::naive_norm(row, weight, eps);
            for (std::int64_t c = 0; c < hidden; ++c) exact.set(t, c, y[c]);
          }
          for_each_kernel<Norm>(p, [&](auto launch) {
            Matrix y(x_type, p.tokens, hidden, 3), in_place = x;
            launch({.problem = p, .x = x.view(), .weight = weight.view({hidden}), .y = y.view()});
            kit::expect_close(y, exact, kit::tolerance(x_type, hidden));
            EXPECT_TRUE(y.padding_is_untouched());
            launch({.problem = p, .x = in_place.view(), .weight = weight.view({hidden}), .y = in_place.view()});
            for (std::int64_t t = 0; t < p.tokens; ++t) EXPECT_EQ(in_place.row_bytes(t), y.row_bytes(t));
          });
          if (HasFailure()) return;

          Norm::Problem summed = p;
          summed.residual = true;
          Matrix residual(x_type, p.tokens, hidden, 1);
          residual.fill(random);
          for (std::int64_t t = 0; t < p.tokens; ++t) {
            for (std::int64_t c = 0; c < hidden; ++c) exact.set(t, c, exact.get(t, c) + residual.get(t, c));
          }
          for_each_kernel<Norm>(summed, [&](auto launch) {
            Matrix y = residual;  // in place: what is written has been read
            launch({.problem = summed,
                    .x = x.view(),
                    .weight = weight.view({hidden}),
                    .residual = y.view(),
                    .y = y.view()});
            kit::expect_close(y, exact, kit::tolerance(x_type, hidden));
          });
          if (HasFailure()) return;
        }
      }
    }
  }
}

}  // namespace
}  // namespace warpjet
