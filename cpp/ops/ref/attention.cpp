// Rotary embedding, KV append and paged attention.
//
// Attention walks the keys in tiles of kKeys that start at absolute multiples of kKeys, with an online softmax (Milakov
// & Gimelshein 2018), and inside a tile all arithmetic has one shape whatever is visible. So a query's result does not
// depend on the chunk it arrives in, the queries beside it or the block size.
#include "ops/attention.h"
#include "ops/ref/number.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace warpjet::ref {
namespace {

constexpr std::int64_t kMaxHeadDim = 512;       // rows of this size live on the stack
constexpr int kKeys = 64;                       // keys in a tile; a multiple of kLanes
constexpr int kKeyGroup = 4;                    // keys scored together; divides every block size
constexpr int kQueries = 4;                     // queries of one sequence that share a tile
constexpr std::int64_t kMinProducts = 1 << 14;  // about a microsecond: less is not worth a thread
constexpr float kHidden = -std::numeric_limits<float>::infinity();

// --- Rotary embedding -----------------------------------------------------------------------------------------------

void rotation_row(const RopeTable::Args& args, std::int64_t t) {
  const RopeTable::Problem& p = args.problem;
  const float position = static_cast<float>(args.positions.as<std::int32_t>()[t]);
  const std::int64_t half = p.dim / 2;
  double growth = 1.0;  // of the frequencies' base
  if (p.ntk_factor != 0.0f) {
    const double length = args.rope_lengths.as<std::int32_t>()[t];
    if (length > p.ntk_original) growth = p.ntk_factor * length / p.ntk_original - (p.ntk_factor - 1.0);
  }
  float* cos_sin = args.cos_sin.row<float>(t);
  for (std::int64_t i = 0; i < half; ++i) {
    float frequency = args.frequencies.as<float>()[i];
    if (growth != 1.0) frequency = static_cast<float>(frequency / std::pow(growth, 2.0 * i / (p.dim - 2.0)));
    const float angle = position * frequency;
    cos_sin[i] = std::cos(angle) * p.scale;
    cos_sin[half + i] = std::sin(angle) * p.scale;
  }
}

WJ_CLONES float mean_square(const float* x, std::int64_t dim) {
  const float* const rows[1] = {x};
  float out[1][1];
  dot_tile<1, 1>(rows, rows, dim, out);
  return out[0][0] / static_cast<float>(dim);
}

// x holds one head in fp32: normalised where there is a weight, then rotated.
void norm_and_rotate(const RopeAppendKv::Problem& p, const TensorView& weight, const float* cos_sin, float* x) {
  if (p.qk_norm) {
    float weights[kMaxHeadDim];
    load(weight.data, p.weight, p.head_dim, weights);
    const float scale = 1.0f / std::sqrt(mean_square(x, p.head_dim) + p.eps);
    for (std::int64_t i = 0; i < p.head_dim; ++i) x[i] = x[i] * scale * weights[i];
  }
  const std::int64_t half = p.head_dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float low = x[i], high = x[half + i], cosine = cos_sin[i], sine = cos_sin[half + i];
    x[i] = low * cosine - high * sine;
    x[half + i] = high * cosine + low * sine;
  }
}

void append_token(const RopeAppendKv::Args& args, std::int64_t t) {
  const RopeAppendKv::Problem& p = args.problem;
  const float* cos_sin = args.cos_sin.row<float>(t);
  const std::int64_t slot = args.cache_rows.as<std::int64_t>()[t];
  float x[kMaxHeadDim];
  for (std::int64_t h = 0; h < p.heads; ++h) {
    std::byte* q = element(args.qkv, t, h * p.head_dim);
    load(q, p.qkv, p.head_dim, x);
    norm_and_rotate(p, args.q_norm, cos_sin, x);
    store(x, p.head_dim, q, p.qkv);
  }
  if (slot < 0) return;
  const std::int64_t block = slot / p.block_size, offset = slot % p.block_size;
  for (std::int64_t h = 0; h < p.kv_heads; ++h) {
    const std::int64_t place = (h * p.block_size + offset) * p.head_dim;
    load(element(args.qkv, t, (p.heads + h) * p.head_dim), p.qkv, p.head_dim, x);
    norm_and_rotate(p, args.k_norm, cos_sin, x);
    store(x, p.head_dim, element(args.k_cache, block, place), p.kv);
    load(element(args.qkv, t, (p.heads + p.kv_heads + h) * p.head_dim), p.qkv, p.head_dim, x);
    store(x, p.head_dim, element(args.v_cache, block, place), p.kv);
  }
}

// --- Attention ------------------------------------------------------------------------------------------------------

// Consecutive queries of one sequence and one head.
struct Queries {
  std::int64_t first_token = 0;  // row of q and out
  std::int64_t first_position = 0;
  std::int64_t head = 0;
  const std::int32_t* blocks = nullptr;  // the sequence's row of the block table
};

// One query's softmax so far: the largest score, the sum of exponentials and the weighted values.
struct Accumulator {
  float max = kHidden;
  float sum = 0;
  float values[kMaxHeadDim] = {};
};

// Scores become probabilities relative to the new maximum; what was accumulated is scaled to it. Keys that the query
// does not see hold kHidden and get 0.
WJ_INLINE void soften(float (&scores)[kKeys], std::int64_t head_dim, Accumulator& acc) {
  float largest[kLanes], lanes[kLanes] = {};
  for (int l = 0; l < kLanes; ++l) largest[l] = acc.max;
  for (int j = 0; j < kKeys; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) largest[l] = scores[j + l] > largest[l] ? scores[j + l] : largest[l];
  }
  float max = acc.max;
  for (int l = 0; l < kLanes; ++l) max = largest[l] > max ? largest[l] : max;
  for (int j = 0; j < kKeys; j += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      scores[j + l] = exp_f32(scores[j + l] - max);
      lanes[l] += scores[j + l];
    }
  }
  const float shrink = exp_f32(acc.max - max);
  acc.max = max;
  acc.sum = acc.sum * shrink + sum_lanes(lanes);
  for (std::int64_t i = 0; i < head_dim; ++i) acc.values[i] *= shrink;
}

// The keys of the tile that starts at `tile` which a query at this position sees.
struct Visible {
  int begin = 0, end = 0;
};
WJ_INLINE Visible visible(const Attention::Problem& p, std::int64_t position, std::int64_t tile) {
  const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(0, position - p.window + 1) : 0;
  return {static_cast<int>(std::clamp<std::int64_t>(first - tile, 0, kKeys)),
          static_cast<int>(std::clamp<std::int64_t>(position + 1 - tile, 0, kKeys))};
}

// values[i] += sum over keys of probability * v[key][i], for kVectors * kLanes elements from `first`.
template <int kVectors, class KV>
WJ_INLINE void add_values(const float (&probabilities)[kKeys], const KV* const (&v)[kKeys], Visible keys,
                          std::int64_t first, float* values) {
  float sums[kVectors][kLanes], wide[kLanes];
  for (int n = 0; n < kVectors; ++n) {
    for (int l = 0; l < kLanes; ++l) sums[n][l] = values[first + n * kLanes + l];
  }
  for (int j = keys.begin; j < keys.end; ++j) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      widen_lanes(v[j] + first + n * kLanes, wide);
#pragma GCC unroll 1
      for (int l = 0; l < kLanes; ++l) sums[n][l] += probabilities[j] * wide[l];
    }
  }
  for (int n = 0; n < kVectors; ++n) {
    for (int l = 0; l < kLanes; ++l) values[first + n * kLanes + l] = sums[n][l];
  }
}

// The elements after the last whole vector.
template <class KV>
WJ_INLINE void add_value(const float (&probabilities)[kKeys], const KV* const (&v)[kKeys], Visible keys, std::int64_t i,
                         float* values) {
  for (int j = keys.begin; j < keys.end; ++j) values[i] += probabilities[j] * widen(v[j][i]);
}

WJ_INLINE float capped(float score, float softcap) {
  return softcap == 0.0f ? score : softcap * std::tanh(score / softcap);
}

template <int kCount, class KV>
WJ_INLINE void attend_tile(const Attention::Args& args, const Queries& queries, const float* const (&q)[kCount],
                           std::int64_t tile, Accumulator (&acc)[kCount]) {
  const Attention::Problem& p = args.problem;
  const std::int64_t kv_head = queries.head / (p.heads / p.kv_heads);
  const int begin = visible(p, queries.first_position, tile).begin / kKeyGroup * kKeyGroup;
  const int end = visible(p, queries.first_position + kCount - 1, tile).end;
  const KV* k[kKeys];
  const KV* v[kKeys];
  float scores[kCount][kKeys];
  for (int j = begin; j < end; j += kKeyGroup) {
    const std::int64_t key = tile + j, block = queries.blocks[key / p.block_size];
    const std::int64_t place = (kv_head * p.block_size + key % p.block_size) * p.head_dim;
    for (int i = 0; i < kKeyGroup; ++i) {
      k[j + i] = static_cast<const KV*>(args.k_cache.data) + block * args.k_cache.row_stride + place + i * p.head_dim;
      v[j + i] = static_cast<const KV*>(args.v_cache.data) + block * args.v_cache.row_stride + place + i * p.head_dim;
    }
    const KV* const group[kKeyGroup] = {k[j], k[j + 1], k[j + 2], k[j + 3]};
    float out[kCount][kKeyGroup];
    dot_tile<kCount, kKeyGroup>(q, group, p.head_dim, out);
    for (int r = 0; r < kCount; ++r) {
      for (int i = 0; i < kKeyGroup; ++i) scores[r][j + i] = capped(out[r][i] * p.scale, p.softcap);
    }
  }
  for (int r = 0; r < kCount; ++r) {
    const Visible keys = visible(p, queries.first_position + r, tile);
    if (keys.begin >= keys.end) continue;
    std::fill(scores[r], scores[r] + keys.begin, kHidden);
    std::fill(scores[r] + keys.end, scores[r] + kKeys, kHidden);
    soften(scores[r], p.head_dim, acc[r]);
    std::int64_t i = 0;
    for (; i + 4 * kLanes <= p.head_dim; i += 4 * kLanes) add_values<4>(scores[r], v, keys, i, acc[r].values);
    for (; i + kLanes <= p.head_dim; i += kLanes) add_values<1>(scores[r], v, keys, i, acc[r].values);
    for (; i < p.head_dim; ++i) add_value(scores[r], v, keys, i, acc[r].values);
  }
}

// Values become the output: divided by the sum, to which a sink adds. A query that saw no key keeps its zeros.
WJ_INLINE void normalise(const Attention::Args& args, std::int64_t head, Accumulator& acc) {
  const Attention::Problem& p = args.problem;
  float shrink = 1.0f;
  if (p.sinks) {
    const float sink = args.sinks.as<float>()[head], max = std::max(acc.max, sink);
    shrink = exp_f32(acc.max - max);
    acc.sum = acc.sum * shrink + exp_f32(sink - max);
  }
  if (acc.sum == 0.0f) return;
  for (std::int64_t i = 0; i < p.head_dim; ++i) acc.values[i] = acc.values[i] * shrink / acc.sum;
}

template <int kCount, class KV>
WJ_INLINE void attend_queries(const Attention::Args& args, const Queries& queries) {
  const Attention::Problem& p = args.problem;
  float q_rows[kCount][kMaxHeadDim];
  const float* q[kCount];
  Accumulator acc[kCount];
  for (int r = 0; r < kCount; ++r) {
    load(element(args.q, queries.first_token + r, queries.head * p.head_dim), p.q, p.head_dim, q_rows[r]);
    q[r] = q_rows[r];
  }
  const std::int64_t last = queries.first_position + kCount - 1;
  const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(0, queries.first_position - p.window + 1) : 0;
  for (std::int64_t tile = first / kKeys * kKeys; tile <= last; tile += kKeys) {
    attend_tile<kCount, KV>(args, queries, q, tile, acc);
  }
  for (int r = 0; r < kCount; ++r) {
    normalise(args, queries.head, acc[r]);
    store(acc[r].values, p.head_dim, element(args.out, queries.first_token + r, queries.head * p.head_dim), p.out);
  }
}

template <class KV>
WJ_CLONES void attend(const Attention::Args& args, const Queries& queries, std::int64_t count) {
  if (count == kQueries) return attend_queries<kQueries, KV>(args, queries);
  for (std::int64_t i = 0; i < count; ++i) {
    Queries one = queries;
    one.first_token += i;
    one.first_position += i;
    attend_queries<1, KV>(args, one);
  }
}

using Attend = void (*)(const Attention::Args&, const Queries&, std::int64_t);

// Tokens [begin, end) of one head, cut where a sequence ends.
void attend_tokens(const Attention::Args& args, Attend attend, std::int64_t begin, std::int64_t end,
                   std::int64_t head) {
  const std::int32_t* starts = args.query_starts.as<std::int32_t>();
  const std::int32_t* contexts = args.context_lengths.as<std::int32_t>();
  const std::int32_t* table_rows = args.table_rows.as<std::int32_t>();
  std::int64_t seq = std::upper_bound(starts, starts + args.problem.seqs + 1, begin) - starts - 1;
  while (begin < end && seq < args.problem.seqs) {
    const std::int64_t stop = std::min<std::int64_t>(end, starts[seq + 1]);
    const Queries queries = {.first_token = begin,
                             .first_position = contexts[seq] - (starts[seq + 1] - begin),
                             .head = head,
                             .blocks = args.block_tables.row<std::int32_t>(table_rows[seq])};
    if (stop > begin) attend(args, queries, stop - begin);
    begin = stop;
    ++seq;
  }
}

}  // namespace

bool supports(const RopeTable::Problem& p) {
  return p.dim > 0 && p.dim % 2 == 0 && (p.ntk_factor == 0.0f || (p.ntk_original > 0 && p.dim > 2));
}

bool supports(const RopeAppendKv::Problem& p) {
  return is_float(p.qkv) && is_float(p.kv) && (!p.qk_norm || is_float(p.weight)) && p.head_dim > 0 &&
         p.head_dim % 2 == 0 && p.head_dim <= kMaxHeadDim && p.block_size > 0;
}

bool supports(const Attention::Problem& p) {
  return is_float(p.q) && is_float(p.kv) && is_float(p.out) && p.head_dim > 0 && p.head_dim <= kMaxHeadDim &&
         p.kv_heads > 0 && p.heads % p.kv_heads == 0 && p.block_size > 0 && p.block_size % kKeyGroup == 0;
}

void launch(const RopeTable::Args& args, Stream& stream) {
  const std::int64_t grain = std::max<std::int64_t>(1, 64 / args.problem.dim);
  static_cast<CpuStream&>(stream).parallel_for(args.problem.tokens, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) rotation_row(args, t);
  });
}

void launch(const RopeAppendKv::Args& args, Stream& stream) {
  static_cast<CpuStream&>(stream).parallel_for(args.problem.tokens, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) append_token(args, t);
  });
}

void launch(const Attention::Args& args, Stream& stream) {
  const Attention::Problem& p = args.problem;
  const Attend attend_kv = with_type(p.kv, []<class KV>(KV) -> Attend { return &attend<KV>; });
  const std::int64_t queries = p.tokens > p.seqs ? kQueries : 1;  // decoding has nothing to share
  const std::int64_t products = std::max<std::int64_t>(1, 2 * queries * p.max_context * p.head_dim);
  static_cast<CpuStream&>(stream).parallel_for(
      ceil_div(p.tokens, queries) * p.heads, std::max<std::int64_t>(1, kMinProducts / products),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t token = i / p.heads * queries;
          attend_tokens(args, attend_kv, token, std::min(token + queries, p.tokens), i % p.heads);
        }
      });
}

}  // namespace warpjet::ref

namespace warpjet {

Kernel<RopeTable> RopeTable::reference() {
  return {.name = "ref.rope_table", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}
Kernel<RopeAppendKv> RopeAppendKv::reference() {
  return {.name = "ref.rope_append_kv", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}
Kernel<Attention> Attention::reference() {
  return {.name = "ref.attention", .sm_max = 1, .supports = ref::supports, .launch = ref::launch};
}

}  // namespace warpjet
