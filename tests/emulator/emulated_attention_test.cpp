// Rotary embedding, KV append and paged attention through the emulator: against their references, and attention against
// itself, because a query's result may not depend on anything but its keys, to the bit.
#include "emulator/cases.h"

#include <algorithm>

namespace warpjet {
namespace {

// --- Rotary embedding -----------------------------------------------------------------------------------------------

TEST_F(EmulatedOps, RopeTableIsExactUpToAMillionPositions) {
  const auto& row = gpu_.of<RopeTable>().rows().front();
  std::vector<std::int32_t> positions = {0, 1, 2, 3, 7, 100, 4097, 65'536, 1'000'003, 1 << 20}, lengths(10, 1);
  for (const std::int64_t dim : {2, 6, 64}) {
    const RopeTable::Problem p = {.tokens = 10, .dim = dim, .scale = 1.25f};
    std::vector<float> frequencies;
    for (std::int64_t i = 0; i < dim / 2; ++i) frequencies.push_back(static_cast<float>(std::pow(1e4, -2.0 * i / dim)));
    Guarded cos_sin(DType::f32, p.tokens, dim, 4);
    row.launch({.problem = p,
                .positions = kit::view_of(positions),
                .rope_lengths = kit::view_of(lengths),
                .frequencies = kit::view_of(frequencies),
                .cos_sin = cos_sin.view()},
               device_->stream());
    for (std::int64_t t = 0; t < p.tokens; ++t) {
      for (std::int64_t i = 0; i < dim / 2; ++i) {
        const double angle = static_cast<float>(positions[t]) * frequencies[i];
        EXPECT_NEAR(cos_sin.get(t, i), 1.25 * std::cos(angle), 2e-7) << positions[t] << " * " << frequencies[i];
        EXPECT_NEAR(cos_sin.get(t, dim / 2 + i), 1.25 * std::sin(angle), 2e-7) << positions[t];
      }
    }
    EXPECT_TRUE(cos_sin.padding_is_untouched());
  }
}

TEST_F(EmulatedOps, DynamicRopeEqualsItsReference) {
  const RopeTable::Problem p = {.tokens = 3, .dim = 16, .ntk_factor = 2.0f, .ntk_original = 64};
  std::vector<std::int32_t> positions = {50, 50, 50}, lengths = {51, 64, 200};
  std::vector<float> frequencies;
  for (int i = 0; i < 8; ++i) frequencies.push_back(static_cast<float>(std::pow(1e4, -i / 8.0)));
  const auto run = [&](const Kernel<RopeTable>& row) {
    auto cos_sin = std::make_unique<Guarded>(DType::f32, 3, 16);
    row.launch({.problem = p,
                .positions = kit::view_of(positions),
                .rope_lengths = kit::view_of(lengths),
                .frequencies = kit::view_of(frequencies),
                .cos_sin = cos_sin->view()},
               device_->stream());
    return cos_sin;
  };
  expect_close(*run(gpu_.of<RopeTable>().rows().front()), *run(reference_.of<RopeTable>().rows().front()), 3, 16, 1e-5);
}

// --- KV append ------------------------------------------------------------------------------------------------------

struct AppendCase {
  std::int64_t tokens, heads, kv_heads, head_dim, block_size;
  bool qk_norm;
  std::int64_t padding;  // behind each row of qkv; odd rows cannot move pairs
};
constexpr AppendCase kAppends[] = {{5, 4, 2, 128, 16, false, 0}, {3, 2, 1, 64, 32, true, 8}, {2, 3, 1, 80, 64, true, 0},
                                   {2, 1, 1, 256, 16, true, 0},  {3, 2, 2, 6, 16, true, 0},  {3, 2, 1, 20, 16, true, 3},
                                   {1, 5, 1, 2, 16, false, 1}};

struct Appended {
  Appended(DType type, std::int64_t tokens, std::int64_t width, std::int64_t padding, DType kv, std::int64_t rows,
           std::int64_t head_dim)
      : qkv(type, tokens, width, padding), k(kv, rows, head_dim), v(kv, rows, head_dim) {}
  Guarded qkv, k, v;
};

// Equal, or both never written.
void expect_cache(const Guarded& got, const Guarded& want, std::int64_t rows, std::int64_t head_dim, double tolerance) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < head_dim; ++i) {
      ASSERT_EQ(std::isnan(got.get(r, i)), std::isnan(want.get(r, i))) << "row " << r;
      if (std::isnan(want.get(r, i))) continue;
      ASSERT_NEAR(got.get(r, i), want.get(r, i), tolerance * std::max(1.0, std::abs(want.get(r, i)))) << "row " << r;
    }
  }
}

TEST_F(EmulatedOps, RopeAppendEqualsItsReference) {
  Random random(11);
  std::set<std::string_view> ran;
  constexpr std::int64_t kBlocks = 3;
  for (const AppendCase& c : kAppends) {
    for (const DType type : kFloats) {
      for (const DType kv : kFloats) {
        const RopeAppendKv::Problem p = {.tokens = c.tokens,
                                         .heads = c.heads,
                                         .kv_heads = c.kv_heads,
                                         .head_dim = c.head_dim,
                                         .block_size = c.block_size,
                                         .qkv = type,
                                         .kv = kv,
                                         .weight = kv,
                                         .qk_norm = c.qk_norm};
        const std::int64_t width = (c.heads + 2 * c.kv_heads) * c.head_dim;
        Guarded qkv(type, c.tokens, width, c.padding), cos_sin(DType::f32, c.tokens, c.head_dim);
        Guarded q_norm(kv, 1, c.head_dim), k_norm(kv, 1, c.head_dim);
        for (Guarded* matrix : {&qkv, &cos_sin, &q_norm, &k_norm}) matrix->fill(random);
        std::vector<std::int64_t> slots = {c.block_size * 2 + 5, -1, 0, c.block_size - 1, c.block_size};
        const auto run = [&](const Kernel<RopeAppendKv>& row) {
          const std::int64_t cache_rows = kBlocks * c.kv_heads * c.block_size;
          auto out = std::make_unique<Appended>(type, c.tokens, width, c.padding, kv, cache_rows, c.head_dim);
          std::memcpy(out->qkv.view().data, qkv.view().data,
                      static_cast<std::size_t>((c.tokens * (width + c.padding) - c.padding) * dtype_bytes(type)));
          const Shape cache = {kBlocks, c.kv_heads, c.block_size, c.head_dim};
          row.launch({.problem = p,
                      .qkv = out->qkv.view(),
                      .cos_sin = cos_sin.view(),
                      .q_norm = q_norm.flat(),
                      .k_norm = k_norm.flat(),
                      .cache_rows = kit::view_of(slots),
                      .k_cache = TensorView(out->k.view().data, kv, cache),
                      .v_cache = TensorView(out->v.view().data, kv, cache)},
                     device_->stream());
          return out;
        };
        const auto want = run(reference_.of<RopeAppendKv>().rows().front());
        for (const auto& row : gpu_.of<RopeAppendKv>().rows()) {
          if (!row.supports(p)) continue;
          ran.insert(row.name);
          SCOPED_TRACE(cat(row.name, " ", to_string(p)));
          const auto got = run(row);
          expect_close(got->qkv, want->qkv, c.tokens, width, kit::tolerance(type, c.head_dim));
          EXPECT_TRUE(got->qkv.padding_is_untouched());
          const std::int64_t rows = kBlocks * c.kv_heads * c.block_size;
          expect_cache(got->k, want->k, rows, c.head_dim, kit::tolerance(kv, c.head_dim));
          expect_cache(got->v, want->v, rows, c.head_dim, kit::tolerance(kv, 0));
        }
      }
    }
  }
  for (const auto& row : gpu_.of<RopeAppendKv>().rows()) EXPECT_TRUE(ran.contains(row.name)) << row.name;
}

// --- Attention ------------------------------------------------------------------------------------------------------

// Queries, keys and values of one text, position after position.
struct Text {
  Text(const Attention::Problem& p, std::int64_t length, Random& random)
      : q(p.q, length, p.heads * p.head_dim),
        k(p.kv, length, p.kv_heads * p.head_dim),
        v(p.kv, length, p.kv_heads * p.head_dim) {
    for (Matrix* matrix : {&q, &k, &v}) matrix->fill(random, 2.0);
  }
  // Makes the last bits of fp32 visible in 16-bit outputs: queries hardly tell keys apart, and values cancel.
  void balance() {
    for (std::int64_t t = 0; t < q.rows(); ++t) {
      for (std::int64_t c = 0; c < q.columns(); ++c) q.set(t, c, q.get(t, c) / 64);
      for (std::int64_t c = 0; c < v.columns(); ++c) v.set(t, c, (t % 2 ? 32 : -32) * (1 + v.get(t, c) / 64));
    }
  }
  Matrix q, k, v;
};

// A sequence of a batch: queries begin .. begin + count of a text, whose keys end there. Queries before 0 see nothing.
struct Chunk {
  const Text* text;
  std::int64_t begin, count;
};

// Chunks in a paged cache. Whatever no query sees is NaN, or has no block at all where a window has passed.
class Batch {
 public:
  Batch(Attention::Problem problem, std::vector<Chunk> chunks, std::int64_t padding = 0)
      : p(complete(problem, chunks, padding)),
        chunks_(std::move(chunks)),
        q_(p.q, std::max<std::int64_t>(1, p.tokens), p.heads * p.head_dim, 8),
        max_blocks_(ceil_div(std::max<std::int64_t>(1, p.max_context), p.block_size)),
        blocks_(p.seqs * max_blocks_ + 1),
        k_(p.kv, blocks_ * p.kv_heads * p.block_size, p.head_dim),
        v_(p.kv, blocks_ * p.kv_heads * p.block_size, p.head_dim) {
    Random random(7);
    for (std::int64_t i = 0; i < blocks_; ++i) free_.push_back(static_cast<std::int32_t>(i));
    std::shuffle(free_.begin(), free_.end(), std::mt19937(5));
    tables_.assign(static_cast<std::size_t>((p.seqs + 1) * max_blocks_), -1);
    for (std::int64_t h = 0; h < p.heads; ++h) sinks_.push_back(static_cast<float>(0.5 * static_cast<double>(h) - 1));
    starts_ = {0};
    for (std::int64_t s = 0; s < p.seqs; ++s) add(s);
  }

  std::unique_ptr<Guarded> run(const Kernel<Attention>& row, Stream& stream, TensorView workspace, DType out_type) {
    auto out = std::make_unique<Guarded>(out_type, std::max<std::int64_t>(1, p.tokens), p.heads * p.head_dim, 8);
    const Shape cache = {blocks_, p.kv_heads, p.block_size, p.head_dim};
    Attention::Problem problem = p;
    problem.out = out_type;
    row.launch({.problem = problem,
                .q = q_.view(),
                .k_cache = TensorView(k_.view().data, p.kv, cache),
                .v_cache = TensorView(v_.view().data, p.kv, cache),
                .block_tables = kit::view_of(tables_, p.seqs + 1),
                .table_rows = kit::view_of(table_rows_),
                .query_starts = kit::view_of(starts_),
                .context_lengths = kit::view_of(contexts_),
                .sinks = kit::view_of(sinks_),
                .out = out->view(),
                .workspace = workspace},
               stream);
    return out;
  }

  // As Attention::bytes(), with what each chunk sees.
  double least_bytes() const {
    Attention::Problem chunk = p;
    chunk.seqs = 1;
    double bytes = 0;
    for (const Chunk& c : chunks_) {
      chunk.tokens = c.count;
      chunk.max_context = c.count > 0 ? std::max<std::int64_t>(0, c.begin + c.count) : 0;
      chunk.window = p.window > 0 ? p.window + c.count - 1 : 0;
      bytes += Attention::bytes(chunk);
    }
    return bytes;
  }

  Attention::Problem p;

 private:
  static Attention::Problem complete(Attention::Problem p, const std::vector<Chunk>& chunks, std::int64_t padding) {
    p.seqs = static_cast<std::int64_t>(chunks.size());
    p.tokens = padding;
    for (const Chunk& chunk : chunks) {
      p.tokens += chunk.count;
      p.max_context = std::max(p.max_context, chunk.begin + chunk.count);
    }
    return p;
  }

  void add(std::int64_t s) {
    const Chunk& chunk = chunks_[static_cast<std::size_t>(s)];
    const std::int64_t context = chunk.begin + chunk.count, row = p.seqs - s;  // row 0 is nobody's
    const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(0, chunk.begin - p.window + 1) : 0;
    table_rows_.push_back(static_cast<std::int32_t>(row));
    for (std::int64_t i = 0; i < chunk.count; ++i) {
      if (chunk.begin + i < 0) continue;
      const Matrix& q = chunk.text->q;
      std::memcpy(q_.view().row<std::byte>((starts_.back() + i) * dtype_bytes(p.q)),
                  q.row_bytes(chunk.begin + i).data(), q.row_bytes(0).size());
    }
    for (std::int64_t key = first; key < context; ++key) {
      std::int32_t& block = tables_[static_cast<std::size_t>(row * max_blocks_ + key / p.block_size)];
      if (block < 0) {
        block = free_.back();
        free_.pop_back();
      }
      for (std::int64_t h = 0; h < p.kv_heads; ++h) {
        const std::int64_t at = (block * p.kv_heads + h) * p.block_size + key % p.block_size;
        const std::size_t bytes = static_cast<std::size_t>(p.head_dim * dtype_bytes(p.kv));
        std::memcpy(k_.view().row<std::byte>(at * dtype_bytes(p.kv)), chunk.text->k.row_bytes(key).data() + h * bytes,
                    bytes);
        std::memcpy(v_.view().row<std::byte>(at * dtype_bytes(p.kv)), chunk.text->v.row_bytes(key).data() + h * bytes,
                    bytes);
      }
    }
    starts_.push_back(starts_.back() + static_cast<std::int32_t>(chunk.count));
    contexts_.push_back(static_cast<std::int32_t>(context));
  }

  std::vector<Chunk> chunks_;
  Guarded q_;
  std::int64_t max_blocks_, blocks_;
  Guarded k_, v_;
  std::vector<std::int32_t> free_, tables_, table_rows_, starts_, contexts_;
  std::vector<float> sinks_;
};

class EmulatedAttention : public EmulatedOps {
 protected:
  // As much memory as the kernel asks for.
  static constexpr std::int64_t kAll = -1;
  static std::int64_t workspace_bytes(const Kernel<Attention>& row, const Attention::Problem& p, std::int64_t rows) {
    if (!row.workspace) return 0;
    const std::int64_t all = row.workspace(p, {.cores = emu::multiprocessors()});
    const std::int64_t row_bytes = 4 + 4 * (dim_of(row) + 8);
    return rows == kAll ? all : all - (64 << 10) * row_bytes + rows * row_bytes;
  }
  static std::int64_t dim_of(const Kernel<Attention>& row) {
    return std::stoi(std::string(row.name.substr(row.name.find("hd") + 2)));
  }

  // With memory for `rows` rows of partial states, `launches` times in a row.
  std::unique_ptr<Guarded> run(const Kernel<Attention>& row, Batch& batch, std::int64_t rows, int launches = 1) {
    const auto bytes = static_cast<std::size_t>(workspace_bytes(row, batch.p, rows));
    emu::GlobalBuffer memory(bytes, 0);
    const TensorView workspace(memory.as<>(), DType::u8, {static_cast<std::int64_t>(bytes)});
    auto out = batch.run(row, device_->stream(), workspace, batch.p.out);
    // Counters are at the front, the next launch needs zeros there.
    const std::size_t counters = rows > 0 ? static_cast<std::size_t>(rows / 8 * 8 * 4) : 0;
    EXPECT_TRUE(std::all_of(memory.as<>(), memory.as<>() + std::min(bytes, counters),
                            [](std::byte b) { return b == std::byte{0}; }));
    for (int i = 1; i < launches; ++i) {
      const auto again = batch.run(row, device_->stream(), workspace, batch.p.out);
      for (std::int64_t t = 0; t < batch.p.tokens; ++t) EXPECT_TRUE(out->row_bytes(t) == again->row_bytes(t)) << t;
    }
    return out;
  }

  // Within rounding of the largest output of the row: what flash attention with 16-bit probabilities gives.
  void check(const Kernel<Attention>& row, Batch& batch) {
    const auto got = run(row, batch, 2000, 2);
    traffic_.note(row.name, batch.least_bytes());
    const auto want = batch.run(reference_.of<Attention>().rows().front(), device_->stream(), {}, DType::f32);
    const double tolerance = batch.p.out == DType::f32 ? 1e-5 : batch.p.out == DType::f16 ? 1e-3 : 6e-3;
    for (std::int64_t t = 0; t < batch.p.tokens; ++t) {
      for (std::int64_t h = 0; h < batch.p.heads; ++h) {
        double largest = 0;
        for (std::int64_t i = 0; i < batch.p.head_dim; ++i)
          largest = std::max(largest, std::abs(want->get(t, h * batch.p.head_dim + i)));
        for (std::int64_t c = h * batch.p.head_dim; c < (h + 1) * batch.p.head_dim; ++c) {
          if (std::isnan(want->get(t, c))) {  // padding
            ASSERT_TRUE(std::isnan(got->get(t, c)));
          } else {
            ASSERT_NEAR(got->get(t, c), want->get(t, c), tolerance * largest) << "token " << t << ", column " << c;
          }
        }
      }
    }
    EXPECT_TRUE(got->padding_is_untouched());
  }

  static float scale_of(std::int64_t head_dim) { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

// Decoding around tiles, splits and pages, prompts and their chunks, padding.
std::vector<Chunk> mixed_chunks(const Text& text) {
  std::vector<Chunk> chunks;
  for (const std::int64_t context : {1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 600})
    chunks.push_back({&text, context - 1, 1});
  chunks.push_back({&text, 0, 0});
  chunks.push_back({&text, 33, 0});
  chunks.push_back({&text, -1, 1});
  chunks.push_back({&text, 0, 65});
  chunks.push_back({&text, -4, 7});
  chunks.push_back({&text, 300, 3});
  chunks.push_back({&text, 230, 40});
  return chunks;
}

TEST_F(EmulatedAttention, EqualsItsReference) {
  Random random(12);
  std::set<std::string_view> ran;
  for (const auto& row : gpu_.of<Attention>().rows()) {
    const DType type = row.name.find("bf16") != row.name.npos  ? DType::bf16
                       : row.name.find("f16") != row.name.npos ? DType::f16
                                                               : DType::f32;
    const std::int64_t dim = type == DType::f32 ? 40 : dim_of(row);
    std::vector<Attention::Problem> problems = {
        {.heads = 2, .kv_heads = 1, .head_dim = dim, .block_size = 16},
        {.heads = 3, .kv_heads = 3, .head_dim = dim - 8, .block_size = 32, .window = 70, .sinks = true},
        {.heads = 7, .kv_heads = 1, .head_dim = dim, .block_size = 64, .softcap = 5.0f, .window = 300}};
    for (Attention::Problem& p : problems) {
      p.q = p.kv = p.out = type;
      p.scale = scale_of(p.head_dim);
      ASSERT_TRUE(row.supports(p)) << row.name;
      ran.insert(row.name);
      SCOPED_TRACE(cat(row.name, " ", to_string(p)));
      const Text text(p, 600, random);
      Batch batch(p, mixed_chunks(text), 3);
      check(row, batch);
      if (HasFailure()) return;
    }
  }
  EXPECT_EQ(ran.size(), gpu_.of<Attention>().rows().size());
}

// One text as a whole, in chunks, as single queries, among others, with workspaces and grids of several sizes.
TEST_F(EmulatedAttention, DependsOnAQuerysKeysAlone) {
  constexpr std::int64_t kLength = 530;
  for (const auto& row : gpu_.of<Attention>().rows()) {
    if (row.name.find("bf16") != row.name.npos) continue;  // would hide more of the last bits of fp32
    const DType type = row.workspace ? DType::f16 : DType::f32;
    const std::int64_t dim = row.workspace ? dim_of(row) : 40;
    const bool plain = dim % 128 == 0;
    Attention::Problem p = {.heads = 3,
                            .kv_heads = 1,
                            .head_dim = dim,
                            .block_size = 16,
                            .q = type,
                            .kv = type,
                            .out = type,
                            .scale = scale_of(dim),
                            .softcap = plain ? 0.0f : 20.0f,
                            .window = plain ? 0 : 300,
                            .sinks = !plain};
    SCOPED_TRACE(cat(row.name, " ", to_string(p)));
    Random random(13);
    Text text(p, kLength, random);
    const Text other(p, 300, random);
    text.balance();
    emu::set_multiprocessors(2);
    Batch whole(p, {{&text, 0, kLength}});
    const auto want = run(row, whole, 0);
    const auto expect_same = [&](const std::vector<Chunk>& chunks, std::int64_t rows, int multiprocessors) {
      emu::set_multiprocessors(multiprocessors);
      p.block_size = p.block_size == 64 ? 16 : 2 * p.block_size;
      Batch batch(p, chunks);
      const auto got = run(row, batch, rows);
      std::int64_t t = 0;
      for (const Chunk& chunk : chunks) {
        for (std::int64_t i = 0; i < chunk.count; ++i, ++t) {
          if (chunk.text != &text) continue;
          ASSERT_TRUE(got->row_bytes(t) == want->row_bytes(chunk.begin + i))
              << "position " << chunk.begin + i << ", memory for " << rows << " rows, " << multiprocessors
              << " multiprocessors";
        }
      }
    };
    for (const std::int64_t position : {0, 63, 64, 255, 256, 529}) expect_same({{&text, position, 1}}, 2000, 3);
    const std::vector<Chunk> three = {{&text, 529, 1}, {&text, 511, 1}, {&text, 130, 1}};
    expect_same(three, 0, 1);
    expect_same(three, 16, 2);  // room for some of them
    expect_same(three, 2000, 5);
    expect_same({{&text, 490, 40}}, 2000, 4);
    expect_same({{&text, 520, 5}}, 2000, 4);
    expect_same({{&text, 310, 3}, {&other, 0, 30}, {&text, 300, 1}, {&other, 299, 1}, {&text, 0, 20}}, kAll, 2);
    emu::set_multiprocessors(2);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace warpjet
