// Every portable wrapper once, for the CUDA compiler: instructions are checked only where they are used.
#include "cuda/ptx/math.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/reduce.cuh"

namespace warpjet::ptx {

struct Smem {
  alignas(16) std::uint8_t bytes[4096];
  BlockScratch<256> scratch;
};

template <class T, Cache cache>
WJ_DEVICE void copy(const void* from, void* to) {
  const T value = load<cache>(static_cast<const T*>(from));
  store<cache == Cache::weights ? Cache::normal : cache>(static_cast<T*>(to), value);
}

template <Cache cache>
WJ_DEVICE void copy_all_sizes(const void* from, void* to) {
  copy<std::uint8_t, cache>(from, to);
  copy<std::uint16_t, cache>(from, to);
  copy<float, cache>(from, to);
  copy<Vec<float, 2>, cache>(from, to);
  copy<Vec<float, 4>, cache>(from, to);
}

template <int count, Matrix matrix>
WJ_DEVICE std::uint32_t matrices(const void* row) {
  std::uint32_t r[count];
  load_matrix<matrix>(r, row);
  std::uint32_t all = 0;
  for (int i = 0; i < count; ++i) all ^= r[i];
  return all;
}

__global__ void memory(const void* from, void* to, int* flag, std::uint32_t* words) {
  auto& shared = smem<Smem>();
  grid_wait();
  copy_all_sizes<Cache::normal>(from, to);
  copy_all_sizes<Cache::once>(from, to);
  copy_all_sizes<Cache::weights>(from, to);
  prefetch_l2(from);
  store_release(flag, load_acquire(flag) + 1);
  store(static_cast<Vec<float, 4>*>(to), load_volatile(static_cast<const Vec<float, 4>*>(from)));
  const int lane = recomputed(lane_id());
  copy_async<16>(&shared.bytes[lane * 16], from, 7);
  copy_async<16, Cache::weights>(&shared.bytes[3072 + lane * 16], from);
  copy_async<8>(&shared.bytes[1024 + lane * 8], from);
  copy_async<4>(&shared.bytes[2048 + lane * 4], from);
  copy_commit();
  copy_wait<0>();
  sync_threads();
  atomic_add(reinterpret_cast<std::uint64_t*>(to), std::uint64_t{1} << 40);
  auto* word = reinterpret_cast<std::uint32_t*>(&shared.bytes[0]);
  words[lane] = atomic_add_shared(word, 1u) + atomic_and_shared(word + 1, ~1u);
  sync_threads();
  const void* row = &shared.bytes[lane * 16];
  words[lane] += matrices<1, Matrix::straight>(row) + matrices<2, Matrix::straight>(row) +
                 matrices<4, Matrix::straight>(row) + matrices<1, Matrix::transposed>(row) +
                 matrices<2, Matrix::transposed>(row) + matrices<4, Matrix::transposed>(row);
  fence_block();
  fence_device();
  fence_system();
  grid_launch_dependents();
}

__global__ void arithmetic(const float* in, float* out, int* counter) {
  auto& shared = smem<Smem>();
  float x = in[thread_idx().x];
  x = shuffle(x, 3) + shuffle_xor(x, 5) + shuffle_up(x, 1) + shuffle_down(x, 2);
  x += static_cast<float>(ballot(x > 0) + match_any(bit_cast<std::uint32_t>(x)));
  x += static_cast<float>(reduce_add(lane_id()) + reduce_min(warp_id()) + reduce_max(block_dim().x + grid_dim().y));
  x += static_cast<float>(count_bits(ballot(x > 1)));
  if (warp_id() == 0) barrier_arrive(1, 64);
  if (warp_id() == 1) barrier_sync(1, 64);
  sync_warp();
  x += exp2(x) + log2(x) + reciprocal(x) + rsqrt(x) + tanh(x) + erf(x) + warp_max(x);
  x += fma(x, x, mul(x, add(x, static_cast<float>(min(lane_id(), 7)))));
  x += to_float(from_float<Half>(x)) + to_float(from_float<Bfloat>(x));
  x = block_sum<256>(x, shared.scratch);
  float d[4] = {x, x, x, x};
  std::int32_t e[4] = {1, 2, 3, 4};
  const std::uint32_t a[4] = {pack<Half>(x, 1), pack<Bfloat>(x, 2), 3, 4}, b[2] = {5, 6};
  mma<Bfloat>(d, a, b);
  mma<Half>(d, a, b);
  mma_s8(e, a, b);
  out[block_idx().x] =
      d[0] + d[1] + d[2] + d[3] + static_cast<float>(e[0] + e[1] + e[2] + e[3] + atomic_add(counter, 1));
}

}  // namespace warpjet::ptx
