// Rotary embedding, KV append and paged attention against their formulas; and that attention gives the same bits
// however a text is cut into chunks and blocks.
#include "kit.h"

#include <algorithm>

namespace warpjet {
namespace {

using kit::kFloats;
using kit::Matrix;
using kit::PagedSequence;
using kit::Random;
using kit::view_of;

using AttentionTest = kit::KernelTest;

// --- Rotary embedding -----------------------------------------------------------------------------------------------

TEST_F(AttentionTest, RopeTableHoldsScaledCosinesAndSines) {
  Random random(1);
  for (const std::int64_t dim : {2, 6, 64, 128}) {
    const RopeTable::Problem p = {.tokens = 7, .dim = dim, .scale = 1.25f};
    std::vector<std::int32_t> positions, lengths(7, 1000);
    std::vector<float> frequencies;
    for (int t = 0; t < 7; ++t) positions.push_back(random.below(100'000));
    for (std::int64_t i = 0; i < dim / 2; ++i) frequencies.push_back(static_cast<float>(std::pow(1e4, -2.0 * i / dim)));
    for_each_kernel<RopeTable>(p, [&](auto launch) {
      Matrix cos_sin(DType::f32, 7, dim);
      launch({.problem = p,
              .positions = view_of(positions),
              .rope_lengths = view_of(lengths),
              .frequencies = view_of(frequencies),
              .cos_sin = cos_sin.view()});
      for (std::int64_t t = 0; t < 7; ++t) {
        for (std::int64_t i = 0; i < dim / 2; ++i) {
          const double angle = static_cast<float>(positions[t]) * frequencies[i];  // a product in fp32
          EXPECT_NEAR(cos_sin.get(t, i), 1.25 * std::cos(angle), 1e-6);
          EXPECT_NEAR(cos_sin.get(t, dim / 2 + i), 1.25 * std::sin(angle), 1e-6);
        }
      }
    });
  }
}

TEST_F(AttentionTest, DynamicRopeStretchesTextsBeyondTheOriginalLength) {
  constexpr std::int64_t kDim = 8;
  const RopeTable::Problem p = {.tokens = 3, .dim = kDim, .ntk_factor = 2.0f, .ntk_original = 64};
  std::vector<std::int32_t> positions = {50, 50, 50}, lengths = {51, 64, 200};
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < kDim / 2; ++i) frequencies.push_back(static_cast<float>(std::pow(1e4, -2.0 * i / kDim)));
  for_each_kernel<RopeTable>(p, [&](auto launch) {
    Matrix cos_sin(DType::f32, 3, kDim);
    launch({.problem = p,
            .positions = view_of(positions),
            .rope_lengths = view_of(lengths),
            .frequencies = view_of(frequencies),
            .cos_sin = cos_sin.view()});
    EXPECT_EQ(cos_sin.row_bytes(0), cos_sin.row_bytes(1));
    // The base grows: base' = base (factor length / original - (factor - 1)) ^ (dim / (dim - 2)).
    const double base = 1e4 * std::pow(2.0 * 200 / 64 - 1.0, kDim / (kDim - 2.0));
    for (std::int64_t i = 0; i < kDim / 2; ++i) {
      EXPECT_NEAR(cos_sin.get(0, i), std::cos(50 * std::pow(1e4, -2.0 * i / kDim)), 1e-5);
      EXPECT_NEAR(cos_sin.get(2, i), std::cos(50 * std::pow(base, -2.0 * i / kDim)), 1e-5);
      EXPECT_NEAR(cos_sin.get(2, kDim / 2 + i), std::sin(50 * std::pow(base, -2.0 * i / kDim)), 1e-5);
    }
  });
}

std::vector<double> head_of(const Matrix& qkv, std::int64_t t, std::int64_t head, std::int64_t head_dim) {
  std::vector<double> x;
  for (std::int64_t i = 0; i < head_dim; ++i) x.push_back(qkv.get(t, head * head_dim + i));
  return x;
}

void expect_head(const Matrix& got, std::int64_t row, std::int64_t column, const std::vector<double>& want,
                 double tolerance) {
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double value = got.get(row, column + static_cast<std::int64_t>(i));
    ASSERT_NEAR(value, want[i], tolerance * std::max(1.0, std::abs(want[i]))) << "row " << row << ", element " << i;
  }
}

TEST_F(AttentionTest, RopeAppendRotatesQueriesInPlaceAndFillsTheCache) {
  Random random(2);
  for (const DType qkv_type : kFloats) {
    for (const DType kv_type : kFloats) {
      for (const bool qk_norm : {false, true}) {
        const RopeAppendKv::Problem p = {.tokens = 5,
                                         .heads = 4,
                                         .kv_heads = 2,
                                         .head_dim = 20,
                                         .block_size = 16,
                                         .qkv = qkv_type,
                                         .kv = kv_type,
                                         .weight = DType::bf16,
                                         .qk_norm = qk_norm};
        constexpr std::int64_t kBlocks = 3;
        Matrix before(qkv_type, p.tokens, 8 * p.head_dim, 3), cos_sin(DType::f32, p.tokens, p.head_dim);
        Matrix q_norm(DType::bf16, 1, p.head_dim), k_norm(DType::bf16, 1, p.head_dim);
        for (Matrix* matrix : {&before, &cos_sin, &q_norm, &k_norm}) matrix->fill(random);
        std::vector<std::int64_t> slots = {0, 47, -1, 17, 16};
        for_each_kernel<RopeAppendKv>(p, [&](auto launch) {
          Matrix qkv = before;
          Matrix k(kv_type, kBlocks * p.kv_heads * p.block_size, p.head_dim), v = k;
          const Shape cache = {kBlocks, p.kv_heads, p.block_size, p.head_dim};
          launch({.problem = p,
                  .qkv = qkv.view(),
                  .cos_sin = cos_sin.view(),
                  .q_norm = q_norm.view({p.head_dim}),
                  .k_norm = k_norm.view({p.head_dim}),
                  .cache_rows = view_of(slots),
                  .k_cache = k.view(cache),
                  .v_cache = v.view(cache)});
          std::vector<bool> written(static_cast<std::size_t>(k.rows()), false);
          const auto prepared = [&](std::int64_t t, std::int64_t head, const Matrix& weight) {
            std::vector<double> x = head_of(before, t, head, p.head_dim);
            if (qk_norm) x = kit::naive_norm(x, weight, p.eps);
            return kit::naive_rotate(x, cos_sin, t);
          };
          for (std::int64_t t = 0; t < p.tokens; ++t) {
            for (std::int64_t h = 0; h < p.heads; ++h) {
              expect_head(qkv, t, h * p.head_dim, prepared(t, h, q_norm), kit::tolerance(qkv_type, p.head_dim));
            }
            for (std::int64_t h = 0; slots[t] >= 0 && h < p.kv_heads; ++h) {
              const std::int64_t row = (slots[t] / 16 * p.kv_heads + h) * 16 + slots[t] % 16;
              written[row] = true;
              expect_head(k, row, 0, prepared(t, p.heads + h, k_norm), kit::tolerance(kv_type, p.head_dim));
              expect_head(v, row, 0, head_of(before, t, p.heads + p.kv_heads + h, p.head_dim),
                          kit::tolerance(kv_type, 0));
            }
          }
          for (std::int64_t row = 0; row < k.rows(); ++row) {
            EXPECT_EQ(std::isnan(k.get(row, 0)), !written[row]) << "slot row " << row;
            EXPECT_EQ(std::isnan(v.get(row, p.head_dim - 1)), !written[row]) << "slot row " << row;
          }
        });
        if (HasFailure()) return;
      }
    }
  }
}

// --- Attention ------------------------------------------------------------------------------------------------------

// How many positions a sequence has, and how many of the last ones are queries. With more queries than positions, the
// first ones lie before the text.
struct Lengths {
  std::int64_t context, queries;
};

// Sequences in a paged cache with shuffled blocks and rows of the block table. Slots that belong to no position stay
// poisoned, and so does the output of `padding` tokens at the end.
class PagedBatch {
 public:
  PagedBatch(Attention::Problem problem, const std::vector<Lengths>& lengths, Random& random, std::int64_t padding = 0)
      : p(complete(problem, lengths, padding)),
        q(p.q, p.tokens, p.heads * p.head_dim, 7),
        out(p.out, p.tokens, p.heads * p.head_dim, 3),
        k_(p.kv, 1, 1),
        v_(p.kv, 1, 1) {
    q.fill(random, 2.0);
    for (std::int64_t h = 0; h < p.heads; ++h) sinks.push_back(static_cast<float>(random.uniform(-3, 3)));
    for (const Lengths& length : lengths) {
      PagedSequence seq = {length.queries,
                           Matrix(p.kv, length.context, p.kv_heads * p.head_dim),
                           Matrix(p.kv, length.context, p.kv_heads * p.head_dim),
                           {}};
      seq.k.fill(random, 2.0);
      seq.v.fill(random);
      seqs.push_back(std::move(seq));
    }
    page(random);
  }

  Attention::Args args() {
    return {.problem = p,
            .q = q.view(),
            .k_cache = k_.view(cache_),
            .v_cache = v_.view(cache_),
            .block_tables = view_of(tables_, p.seqs + kSpareRows),
            .table_rows = view_of(table_rows_),
            .query_starts = view_of(starts_),
            .context_lengths = view_of(contexts_),
            .sinks = view_of(sinks),
            .out = out.view()};
  }

  Attention::Problem p;
  Matrix q, out;
  std::vector<PagedSequence> seqs;
  std::vector<float> sinks;  // what kit::naive_attention takes: -inf without

 private:
  static constexpr std::int64_t kSpareRows = 2;

  static Attention::Problem complete(Attention::Problem p, const std::vector<Lengths>& lengths, std::int64_t padding) {
    p.seqs = static_cast<std::int64_t>(lengths.size());
    for (const Lengths& length : lengths) {
      p.tokens += length.queries;
      p.max_context = std::max(p.max_context, length.context);
    }
    p.tokens += padding;
    return p;
  }

  void page(Random& random) {
    const std::int64_t max_blocks = ceil_div(p.max_context, p.block_size), blocks = p.seqs * max_blocks;
    std::vector<std::int32_t> free;
    for (std::int64_t i = 0; i < blocks; ++i) free.push_back(static_cast<std::int32_t>(i));
    for (std::int64_t i = blocks - 1; i > 0; --i) std::swap(free[i], free[random.below(i + 1)]);
    cache_ = {blocks, p.kv_heads, p.block_size, p.head_dim};
    k_ = v_ = Matrix(p.kv, blocks * p.kv_heads * p.block_size, p.head_dim);
    tables_.assign(static_cast<std::size_t>((p.seqs + kSpareRows) * max_blocks), -1);
    starts_ = {0};
    for (std::int64_t s = 0; s < p.seqs; ++s) {
      const PagedSequence& seq = seqs[s];
      table_rows_.push_back(static_cast<std::int32_t>(p.seqs - s));  // backwards, without the first and the last
      for (std::int64_t key = 0; key < seq.k.rows(); ++key) {
        std::int32_t& block = tables_[table_rows_.back() * max_blocks + key / p.block_size];
        if (block < 0) {
          block = free.back();
          free.pop_back();
        }
        for (std::int64_t c = 0; c < p.kv_heads * p.head_dim; ++c) {
          const std::int64_t row = (block * p.kv_heads + c / p.head_dim) * p.block_size + key % p.block_size;
          k_.set(row, c % p.head_dim, seq.k.get(key, c));
          v_.set(row, c % p.head_dim, seq.v.get(key, c));
        }
      }
      starts_.push_back(starts_.back() + static_cast<std::int32_t>(seq.query_count));
      contexts_.push_back(static_cast<std::int32_t>(seq.k.rows()));
    }
  }

  Shape cache_;
  Matrix k_, v_;
  std::vector<std::int32_t> tables_, table_rows_, starts_, contexts_;
};

Matrix exact_attention(const PagedBatch& batch) {
  Matrix exact(DType::f32, batch.p.tokens, batch.p.heads * batch.p.head_dim);
  std::int64_t t = 0;
  for (const PagedSequence& seq : batch.seqs) {
    for (std::int64_t i = 0; i < seq.query_count; ++i, ++t) {
      const std::int64_t position = seq.k.rows() - seq.query_count + i;
      for (std::int64_t h = 0; h < batch.p.heads; ++h) {
        const double sink = batch.p.sinks ? batch.sinks[h] : -INFINITY;
        const auto row =
            kit::naive_attention(batch.p, head_of(batch.q, t, h, batch.p.head_dim), seq, position, h, sink);
        for (std::int64_t c = 0; c < batch.p.head_dim; ++c) exact.set(t, h * batch.p.head_dim + c, row[c]);
      }
    }
  }
  return exact;
}

const std::vector<Lengths> kMixed = {{1, 1},   {16, 16}, {17, 1}, {64, 64}, {65, 3}, {30, 0},
                                     {200, 1}, {130, 9}, {5, 5},  {0, 1},   {3, 7},  {0, 0}};

TEST_F(AttentionTest, EqualsTheFormulaForEveryShape) {
  Random random(3);
  std::vector<Attention::Problem> problems;
  for (const DType q : kFloats) {
    for (const DType kv : kFloats) {
      problems.push_back(
          {.heads = 4, .kv_heads = 2, .head_dim = 16, .block_size = 16, .q = q, .kv = kv, .out = q, .scale = 0.25f});
    }
  }
  for (const std::int64_t block_size : {16, 32, 64}) {
    for (const std::int64_t window : {0, 1, 7, 64, 100}) {
      problems.push_back(
          {.heads = 2, .kv_heads = 1, .head_dim = 24, .block_size = block_size, .scale = 0.2f, .window = window});
    }
  }
  for (const float softcap : {0.0f, 3.0f}) {
    for (const bool sinks : {false, true}) {
      for (const std::int64_t window : {0, 20}) {
        problems.push_back({.heads = 4,
                            .kv_heads = 2,
                            .head_dim = 32,
                            .block_size = 16,
                            .scale = 0.5f,
                            .softcap = softcap,
                            .window = window,
                            .sinks = sinks});
      }
    }
  }
  for (const auto& [heads, kv_heads] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 3}, {6, 2}, {8, 1}}) {
    for (const std::int64_t head_dim : {2, 15, 64, 80, 128}) {
      problems.push_back({.heads = heads,
                          .kv_heads = kv_heads,
                          .head_dim = head_dim,
                          .block_size = 16,
                          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)))});
    }
  }
  SCOPED_TRACE(random.trace());
  for (const Attention::Problem& problem : problems) {
    PagedBatch batch(problem, kMixed, random);
    const Matrix exact = exact_attention(batch);
    for_each_kernel<Attention>(batch.p, [&](auto launch) {
      launch(batch.args());
      kit::expect_close(batch.out, exact, kit::tolerance(batch.p.out, 16 * batch.p.max_context));
      EXPECT_TRUE(batch.out.padding_is_untouched());
    });
    if (HasFailure()) return;
  }
}

TEST_F(AttentionTest, WritesZerosForQueriesWithoutKeysAndNothingForPadding) {
  Random random(8);
  for (const bool sinks : {false, true}) {
    const Attention::Problem problem = {.heads = 2, .kv_heads = 1, .head_dim = 16, .block_size = 16, .sinks = sinks};
    PagedBatch batch(problem, {{0, 2}, {20, 0}, {1, 6}, {0, 0}}, random, 5);
    const std::string zeros(batch.out.row_bytes(0).size(), '\0'), poison = batch.out.row_bytes(0);
    for_each_kernel<Attention>(batch.p, [&](auto launch) {
      launch(batch.args());
      for (std::int64_t t = 0; t < 7; ++t) EXPECT_EQ(batch.out.row_bytes(t), zeros) << "token " << t;
      EXPECT_FALSE(std::isnan(batch.out.get(7, 0)));
      EXPECT_NE(batch.out.row_bytes(7), zeros);
      for (std::int64_t t = 8; t < batch.p.tokens; ++t) EXPECT_EQ(batch.out.row_bytes(t), poison) << "token " << t;
      EXPECT_TRUE(batch.out.padding_is_untouched());
    });
  }
}

TEST_F(AttentionTest, SurvivesScoresThatWouldOverflowAnExponential) {
  Random random(4);
  PagedBatch batch({.heads = 1, .kv_heads = 1, .head_dim = 16, .block_size = 16, .scale = 60.0f}, {{150, 20}}, random);
  const Matrix exact = exact_attention(batch);
  for_each_kernel<Attention>(batch.p, [&](auto launch) {
    launch(batch.args());
    kit::expect_close(batch.out, exact, 1e-2);  // scores of a thousand carry that much rounding
  });
}

// One sequence computed whole, in chunks, and token by token, in blocks of every size: the same bits.
TEST_F(AttentionTest, DoesNotDependOnChunksOrBlocks) {
  constexpr std::int64_t kContext = 150;
  for (const DType type : kFloats) {
    for (const std::int64_t window : {0, 70}) {
      const auto run = [&](std::int64_t block_size, std::int64_t chunk) {
        Random random(5);  // the same text each time
        PagedBatch whole({.heads = 4,
                          .kv_heads = 2,
                          .head_dim = 40,
                          .block_size = block_size,
                          .q = type,
                          .kv = type,
                          .out = DType::f32,
                          .scale = 0.3f,
                          .window = window},
                         {{kContext, kContext}}, random);
        std::vector<std::string> rows;
        for (std::int64_t begin = 0; begin < kContext; begin += chunk) {
          const std::int64_t count = std::min(chunk, kContext - begin);
          Attention::Args args = whole.args();
          std::vector<std::int32_t> starts = {0, static_cast<std::int32_t>(count)};
          std::vector<std::int32_t> contexts = {static_cast<std::int32_t>(begin + count)};
          args.problem.tokens = count;
          args.q.data = args.q.row<std::byte>(begin * dtype_bytes(type));
          args.query_starts = view_of(starts);
          args.context_lengths = view_of(contexts);
          catalogs_.of<Attention>().select(args.problem, device_->info()).launch(args, device_->stream());
          for (std::int64_t r = 0; r < count; ++r) rows.push_back(whole.out.row_bytes(r));
        }
        return rows;
      };
      const std::vector<std::string> reference = run(16, kContext);
      for (const std::int64_t block_size : {16, 32, 64}) {
        for (const std::int64_t chunk : {1, 3, 32, 61, 150}) {
          ASSERT_EQ(run(block_size, chunk), reference)
              << to_string(type) << ", window " << window << ", block " << block_size << ", chunk " << chunk;
        }
      }
    }
  }
}

TEST_F(AttentionTest, DoesNotDependOnTheRestOfTheBatch) {
  Random random(6);
  PagedBatch batch({.heads = 4,
                    .kv_heads = 2,
                    .head_dim = 32,
                    .block_size = 32,
                    .q = DType::bf16,
                    .kv = DType::bf16,
                    .out = DType::bf16,
                    .scale = 0.2f},
                   kMixed, random);
  for_each_kernel<Attention>(batch.p, [&](auto launch) {
    launch(batch.args());
    std::int64_t first = 0;
    for (std::size_t s = 0; s < kMixed.size(); ++s) {
      Attention::Args args = batch.args();
      std::vector<std::int32_t> starts = {0, static_cast<std::int32_t>(kMixed[s].queries)};
      std::vector<std::int32_t> contexts = {static_cast<std::int32_t>(kMixed[s].context)};
      Matrix alone(batch.p.out, kMixed[s].queries, batch.out.columns());
      args.problem.seqs = 1;
      args.problem.tokens = kMixed[s].queries;
      args.q.data = args.q.row<std::uint16_t>(first);
      args.table_rows = TensorView(args.table_rows.row<std::int32_t>(static_cast<std::int64_t>(s)), DType::i32, {1});
      args.query_starts = view_of(starts);
      args.context_lengths = view_of(contexts);
      args.out = alone.view();
      launch(args);
      for (std::int64_t r = 0; r < alone.rows(); ++r) {
        ASSERT_EQ(alone.row_bytes(r), batch.out.row_bytes(first + r)) << "sequence " << s << ", query " << r;
      }
      first += kMixed[s].queries;
    }
  });
}

}  // namespace
}  // namespace warpjet
