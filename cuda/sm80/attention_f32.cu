// Paged attention in fp32, for checkpoints that are: a warp for every query and head walks all that it sees, in tiles
// of 32 keys at absolute multiples of 32. So a result depends on a query's keys alone. Bound: nothing worth reaching.
//   q, out           [tokens, heads * head_dim]                       f32
//   k_cache, v_cache [blocks, kv_heads, block_size, head_dim]         f32
#include "cuda/sm80/attention.h"

#include "cuda/common.cuh"
#include "cuda/ptx/math.cuh"
#include "cuda/reduce.cuh"
#include "cuda/sm80/attention_work.cuh"

namespace warpjet::sm80 {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int kColumns = kMaxHeadDim / kWarpSize;  // of a lane: its number and every 32nd after
using Pair = Vec<float, 2>;

struct Args {
  const float *q, *k_cache, *v_cache;
  const std::int32_t *block_tables, *table_rows;
  const float* sinks;  // null: none
  float* out;
  std::int64_t q_stride, key_stride, value_stride, table_stride, out_stride;  // elements
  Lengths lengths;
  Scoring scoring;
  int heads, head_dim, block_size;
};

struct Smem {
  Pair queries[kWarps][kMaxHeadDim / 2];
};

// The sequence of a token; `seqs` for padding.
WJ_DEVICE int find_sequence(const Lengths& lengths, int token) {
  int low = 0, high = lengths.seqs + 1;  // the first start beyond the token is in [low, high]
  while (low < high) {
    const int middle = (low + high) / 2;
    if (ptx::load(lengths.query_starts + middle) <= token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low > lengths.seqs ? lengths.seqs : low - 1;
}

WJ_DEVICE float score_of(const Args& args, const Pair* query, const float* key) {
  float product = 0.0f;
  for (int i = 0; i < args.head_dim / 2; ++i) {
    const Pair q = ptx::load_shared(query + i), k = ptx::load(reinterpret_cast<const Pair*>(key) + i);
    product = ptx::fma(q[1], k[1], ptx::fma(q[0], k[0], product));
  }
  return args.scoring.softcap != 0.0f ? capped(product, args.scoring) : ptx::mul(product, args.scoring.scale);
}

__global__ void __launch_bounds__(kThreads) attention_f32(Args args) {
  auto& shared = ptx::smem<Smem>();
  ptx::grid_wait();
  const int token = ptx::block_idx().x, head = ptx::block_idx().y * kWarps + ptx::warp_id(), lane = ptx::lane_id();
  const int seq = find_sequence(args.lengths, token);
  if (seq < args.lengths.seqs && head < args.heads) {
    const Sequence s = sequence(args.lengths, seq);
    const int position = s.first_position + token - s.first_token, kv_head = head / args.lengths.group;
    const Keys keys = seen_by(position, position, args.lengths.window);
    const std::int32_t* blocks = args.block_tables + ptx::load(args.table_rows + seq) * args.table_stride;
    const auto* from = reinterpret_cast<const Pair*>(args.q + token * args.q_stride + head * args.head_dim);
    Pair* query = shared.queries[ptx::warp_id()];
    for (int i = lane; i < args.head_dim / 2; i += kWarpSize) ptx::store_shared(query + i, ptx::load(from + i));
    ptx::sync_warp();

    Stat row;
    float values[kColumns] = {};
    for (int tile = keys.begin / kWarpSize * kWarpSize; tile < keys.end; tile += kWarpSize) {
      const int own = tile + lane;
      float score = kHidden;
      std::int64_t place = 0;  // of the key within its block; every block has as many elements
      int block = 0;
      if (own >= keys.begin && own < keys.end) {
        block = ptx::load(blocks + own / args.block_size);
        place = (std::int64_t{kv_head} * args.block_size + own % args.block_size) * args.head_dim;
        score = score_of(args, query, args.k_cache + block * args.key_stride + place);
      }
      const float max = fmaxf(row.max, warp_max(score)), shift = -finite(max);
      const float shrink = ptx::exp2(ptx::add(row.max, shift)), probability = ptx::exp2(ptx::add(score, shift));
      row = {max, ptx::fma(row.sum, shrink, warp_sum(probability))};
      WJ_UNROLL for (float& value : values) value = ptx::mul(value, shrink);
      for (int j = 0; j < kWarpSize; ++j) {
        const float weight = ptx::shuffle(probability, j);
        const std::int64_t key_block = ptx::shuffle(block, j);
        const int key_place = ptx::shuffle(static_cast<int>(place), j);
        if (tile + j < keys.begin || tile + j >= keys.end) continue;
        const float* value = args.v_cache + key_block * args.value_stride + key_place;
        WJ_UNROLL for (int n = 0; n < kColumns; ++n) {
          const int column = n * kWarpSize + lane;
          if (column < args.head_dim) values[n] = ptx::fma(weight, ptx::load(value + column), values[n]);
        }
      }
    }
    const float scale = normaliser(row, args.sinks ? args.sinks + head : nullptr);
    float* to = args.out + token * args.out_stride + head * args.head_dim;
    WJ_UNROLL for (int n = 0; n < kColumns; ++n) {
      const int column = n * kWarpSize + lane;
      if (column < args.head_dim) ptx::store(to + column, ptx::mul(values[n], scale));
    }
  }
  ptx::grid_launch_dependents();
}

}  // namespace

bool supports(const Attention::Problem& p) {
  const std::int64_t block_elements = p.kv_heads * p.block_size * p.head_dim;
  return p.q == DType::f32 && p.kv == DType::f32 && p.out == DType::f32 && p.head_dim > 0 && p.head_dim % 2 == 0 &&
         p.head_dim <= kMaxHeadDim && p.kv_heads > 0 && p.heads % p.kv_heads == 0 && p.block_size > 0 &&
         block_elements < 1 << 30;
}

void launch(const Attention::Args& args, Stream& stream) {
  const Attention::Problem& p = args.problem;
  warpjet::launch(attention_f32,
                  {.grid = {static_cast<int>(p.tokens), static_cast<int>(ceil_div<std::int64_t>(p.heads, kWarps))},
                   .block = {kThreads},
                   .smem_bytes = sizeof(Smem),
                   .pdl = true},
                  stream,
                  Args{.q = args.q.as<float>(),
                       .k_cache = args.k_cache.as<float>(),
                       .v_cache = args.v_cache.as<float>(),
                       .block_tables = args.block_tables.as<std::int32_t>(),
                       .table_rows = args.table_rows.as<std::int32_t>(),
                       .sinks = p.sinks ? args.sinks.as<float>() : nullptr,
                       .out = args.out.as<float>(),
                       .q_stride = args.q.row_stride,
                       .key_stride = args.k_cache.row_stride,
                       .value_stride = args.v_cache.row_stride,
                       .table_stride = args.block_tables.row_stride,
                       .out_stride = args.out.row_stride,
                       .lengths = lengths_of(args),
                       .scoring = scoring_of(p),
                       .heads = static_cast<int>(p.heads),
                       .head_dim = static_cast<int>(p.head_dim),
                       .block_size = static_cast<int>(p.block_size)});
}

}  // namespace warpjet::sm80
