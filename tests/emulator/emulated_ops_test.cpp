// Every row of the GPU's catalogue through the emulator, against the reference row of its op: results within tolerance,
// nothing written outside the outputs, and rows that do not depend on their neighbours. A row that no problem here
// exercises fails the test: a new kernel comes with problems, a new op with a Cases<Op>.
#include "cuda/catalog.h"
#include "emulator/emulator.h"
#include "kit.h"

#include <set>

namespace warpjet {
namespace {

using kit::kFloats;
using kit::Matrix;
using kit::Random;

// A matrix in guarded memory that starts `offset` elements behind an aligned address, with columns of padding after
// each row but the last: a kernel that writes past any row is seen.
class Guarded {
 public:
  Guarded(DType dtype, std::int64_t rows, std::int64_t columns, std::int64_t padding = 0, std::int64_t offset = 0)
      : dtype_(dtype),
        rows_(rows),
        columns_(columns),
        stride_(columns + padding),
        offset_(offset),
        memory_(static_cast<std::size_t>((offset + std::max<std::int64_t>(1, rows) * stride_ - padding) *
                                         dtype_bytes(dtype))) {}

  TensorView view() const {
    return TensorView(memory_.as<>() + offset_ * dtype_bytes(dtype_), dtype_, {rows_, columns_}, stride_);
  }
  TensorView flat() const { return TensorView(view().data, dtype_, {rows_ * columns_}); }  // no padding
  std::string row_bytes(std::int64_t row) const {
    return std::string(reinterpret_cast<const char*>(at(row, 0)),
                       static_cast<std::size_t>(columns_ * dtype_bytes(dtype_)));
  }
  double get(std::int64_t row, std::int64_t column) const {
    if (dtype_ == DType::f32) return *reinterpret_cast<const float*>(at(row, column));
    const std::uint16_t bits = *reinterpret_cast<const std::uint16_t*>(at(row, column));
    return dtype_ == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
  void fill(Random& random) {
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t c = 0; c < columns_; ++c) {
        const float value = static_cast<float>(random.uniform(-1, 1));
        const std::uint16_t half = dtype_ == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
        std::memcpy(at(r, c), dtype_ == DType::f32 ? static_cast<const void*>(&value) : &half,
                    static_cast<std::size_t>(dtype_bytes(dtype_)));
      }
    }
  }
  bool padding_is_untouched() const {
    for (std::int64_t r = 0; r + 1 < rows_; ++r) {
      for (const std::byte* b = at(r, columns_); b < at(r + 1, 0); ++b) {
        if (*b != std::byte{0xff}) return false;
      }
    }
    return true;
  }

 private:
  std::byte* at(std::int64_t row, std::int64_t column) const {
    return memory_.as<>() + (offset_ + row * stride_ + column) * dtype_bytes(dtype_);
  }

  DType dtype_;
  std::int64_t rows_, columns_, stride_, offset_;
  emu::GlobalBuffer memory_;
};

void expect_close(const Guarded& got, const Guarded& want, std::int64_t rows, std::int64_t columns, double tolerance) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const double exact = want.get(r, c);
      ASSERT_NEAR(got.get(r, c), exact, tolerance * std::max(1.0, std::abs(exact))) << "row " << r << ", column " << c;
    }
  }
}

// Widths around the packs (8), the turn of a block (2048), and rows that start unaligned.
struct Layout {
  std::int64_t rows, width, padding, offset;
};
constexpr Layout kLayouts[] = {{1, 1, 0, 0},    {3, 7, 0, 0},   {2, 8, 0, 0},    {3, 33, 3, 1},
                               {2, 64, 8, 0},   {5, 100, 0, 0}, {2, 2048, 0, 0}, {2, 2056, 16, 0},
                               {1, 2061, 0, 3}, {0, 64, 0, 0},  {3, 5000, 40, 8}};

// --- What each op is tested with ------------------------------------------------------------------------------------
// Cases<Op>::each(random, run): calls run(problem, args, out, tolerance) for every case, with all inputs filled.

template <class Op>
struct Cases {
  template <class Run>
  static void each(Random&, Run) {}
};

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
          const Embed::Problem p = {.tokens = l.rows, .hidden = l.width, .vocab = kVocab, .table = table, .out = type};
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
            from.fill(random);
            gain.fill(random);
            const Norm::Problem p = {.tokens = l.rows, .hidden = l.width, .x = x, .weight = weight, .y = y};
            run(p, Norm::Args{.problem = p, .x = from.view(), .weight = gain.flat()}, &Norm::Args::y, y, l, l.width);
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

class EmulatedOps : public testing::Test {
 protected:
  EmulatedOps() : device_(make_cpu_device(1)) {
    register_cuda_kernels(gpu_);
    register_reference(reference_);
  }

  template <class Op>
  void check_all() {
    std::set<std::string_view> ran;
    Random random(1);
    SCOPED_TRACE(random.trace());
    Cases<Op>::each(random, [&](const typename Op::Problem& problem, typename Op::Args args, auto output, DType type,
                                const Layout& l, std::int64_t terms) {
      Guarded want(type, l.rows, l.width, l.padding, l.offset);
      args.*output = want.view();
      reference_.of<Op>().rows().front().launch(args, device_->stream());
      for (const Kernel<Op>& row : gpu_.of<Op>().rows()) {
        if (!row.supports(problem)) continue;
        ran.insert(row.name);
        SCOPED_TRACE(cat(row.name, " ", to_string(problem), " padding=", l.padding, " offset=", l.offset));
        Guarded got(type, l.rows, l.width, l.padding, l.offset);
        args.*output = got.view();
        row.launch(args, device_->stream());
        expect_close(got, want, l.rows, l.width, kit::tolerance(type, terms));
        EXPECT_TRUE(got.padding_is_untouched());
      }
    });
    for (const Kernel<Op>& row : gpu_.of<Op>().rows()) EXPECT_TRUE(ran.contains(row.name)) << row.name << " never ran";
  }

  Catalogs gpu_, reference_;
  std::unique_ptr<Device> device_;
};

template <class... Op>
void for_each_op(const std::tuple<Catalog<Op>...>&, auto check) {
  (check(static_cast<Op*>(nullptr)), ...);
}

TEST_F(EmulatedOps, EveryRowOfTheCatalogueEqualsItsReference) {
  for_each_op(gpu_.all, [&]<class Op>(Op*) { check_all<Op>(); });
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
