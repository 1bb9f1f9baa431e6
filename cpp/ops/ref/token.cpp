// Embedding, RMS norm and row gather.
#include "ops/token.h"
#include "ops/ref/number.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace warpjet::ref {
namespace {

constexpr std::int64_t kPiece = 256;            // elements widened at a time; a multiple of kLanes
constexpr std::int64_t kMinElements = 1 << 13;  // about a microsecond: less is not worth a thread

// Calls row(t) for every t in [0, rows).
template <class Row>
void for_each_row(Stream& stream, std::int64_t rows, std::int64_t width, Row row) {
  const std::int64_t grain = std::max<std::int64_t>(1, kMinElements / std::max<std::int64_t>(1, width));
  static_cast<CpuStream&>(stream).parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) row(t);
  });
}

void copy_row(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t width, float scale = 1.0f) {
  if (from_dtype == to_dtype && scale == 1.0f) {
    std::memcpy(to, from, static_cast<std::size_t>(width * dtype_bytes(to_dtype)));
    return;
  }
  float piece[kPiece];
  const int from_bytes = dtype_bytes(from_dtype), to_bytes = dtype_bytes(to_dtype);
  for (std::int64_t i = 0; i < width; i += kPiece) {
    const std::int64_t count = std::min(kPiece, width - i);
    load(static_cast<const std::byte*>(from) + i * from_bytes, from_dtype, count, piece);
    for (std::int64_t j = 0; j < count; ++j) piece[j] *= scale;
    store(piece, count, static_cast<std::byte*>(to) + i * to_bytes, to_dtype);
  }
}

WJ_CLONES void add_squares(const float* x, std::int64_t count, float (&lanes)[kLanes]) {
  const std::int64_t whole = count / kLanes * kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] += x[i + l] * x[i + l];
  }
  for (std::int64_t i = whole; i < count; ++i) lanes[i - whole] += x[i] * x[i];
}

void norm_row(const Norm::Args& args, std::int64_t t) {
  const Norm::Problem& p = args.problem;
  float x[kPiece], weight[kPiece], lanes[kLanes] = {};
  for (std::int64_t i = 0; i < p.hidden; i += kPiece) {
    const std::int64_t count = std::min(kPiece, p.hidden - i);
    load(element(args.x, t, i), p.x, count, x);
    add_squares(x, count, lanes);
  }
  const float scale = 1.0f / std::sqrt(sum_lanes(lanes) / static_cast<float>(p.hidden) + p.eps);
  for (std::int64_t i = 0; i < p.hidden; i += kPiece) {
    const std::int64_t count = std::min(kPiece, p.hidden - i);
    load(element(args.x, t, i), p.x, count, x);
    load(element(args.weight, 0, i), p.weight, count, weight);
    for (std::int64_t j = 0; j < count; ++j) x[j] = x[j] * scale * weight[j];
    if (p.residual) {
      load(element(args.residual, t, i), p.y, count, weight);
      for (std::int64_t j = 0; j < count; ++j) x[j] += weight[j];
    }
    store(x, count, element(args.y, t, i), p.y);
  }
}

}  // namespace

bool supports(const Embed::Problem& p) {
  return is_float(p.table) && is_float(p.out) && p.hidden > 0;
}
bool supports(const Norm::Problem& p) {
  return is_float(p.x) && is_float(p.weight) && is_float(p.y) && p.hidden > 0;
}
bool supports(const Gather::Problem& p) {
  return is_float(p.dtype) && p.hidden > 0;
}

void launch(const Embed::Args& args, Stream& stream) {
  const Embed::Problem& p = args.problem;
  for_each_row(stream, p.tokens, p.hidden, [&](std::int64_t t) {
    copy_row(element(args.table, args.ids.as<std::int32_t>()[t]), p.table, element(args.out, t), p.out, p.hidden,
             p.scale);
  });
}

void launch(const Norm::Args& args, Stream& stream) {
  for_each_row(stream, args.problem.tokens, args.problem.hidden, [&](std::int64_t t) { norm_row(args, t); });
}

void launch(const Gather::Args& args, Stream& stream) {
  const Gather::Problem& p = args.problem;
  for_each_row(stream, p.rows, p.hidden, [&](std::int64_t r) {
    copy_row(element(args.x, args.rows.as<std::int32_t>()[r]), p.dtype, element(args.out, r), p.dtype, p.hidden);
  });
}

}  // namespace warpjet::ref

namespace warpjet {

Kernel<Embed> Embed::reference() {
  return {.name = "ref.embed", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}
Kernel<Norm> Norm::reference() {
  return {.name = "ref.norm", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}
Kernel<Gather> Gather::reference() {
  return {.name = "ref.gather", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}

}  // namespace warpjet
