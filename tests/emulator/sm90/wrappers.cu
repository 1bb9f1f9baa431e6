// Every Hopper wrapper once, for the CUDA compiler.
#include "cuda/ptx/mma.cuh"
#include "cuda/ptx/sync.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/tensor_map.cuh"

namespace warpjet::ptx {

struct Smem {
  alignas(1024) Bfloat a[64 * 64];
  alignas(1024) Bfloat b[256 * 64];
  Mbarrier full, empty;
};

template <class T, int n, Major major>
WJ_DEVICE float product(Operand a, Operand b, const std::uint32_t (&r)[4]) {
  float d[n / 2];
  wgmma_fence();
  wgmma<T, n, major>(d, a, b, 0);
  wgmma<T, n, major>(d, r, b, 1);
  wgmma_commit();
  wgmma_wait<0>();
  float sum = 0;
  for (const float x : d) sum += x;
  return sum;
}

template <int n>
WJ_DEVICE float products(Operand a, Operand b, const std::uint32_t (&r)[4]) {
  return product<Bfloat, n, Major::k>(a, b, r) + product<Bfloat, n, Major::mn>(a, b, r) +
         product<Half, n, Major::k>(a, b, r) + product<Half, n, Major::mn>(a, b, r);
}

__global__ void __launch_bounds__(128, 1)
    wrappers(const __grid_constant__ TensorMap map, const void* from, float* out) {
  auto& shared = smem<Smem>();
  release_registers<240>();
  claim_registers<248>();
  const int lane = lane_id();
  if (thread_idx().x == 0) {
    prefetch(map);
    init(shared.full, 1);
    init(shared.empty, 128);
    fence_init();
    arrive_expect(shared.full, 64);
  }
  sync_cluster();
  grid_wait();
  wait(shared.empty, 1);
  if (thread_idx().x == 0) {
    tma_load(shared.a, map, shared.full, {0});
    tma_load(shared.a, map, shared.full, {0, 1});
    tma_load(shared.a, map, shared.full, {0, 1, 2});
    tma_load_multicast(shared.a, map, shared.full, {0, 0}, 3);
    bulk_load(shared.b, from, 64, shared.full);
  }
  wait(shared.full, 0);
  const std::uint32_t one[1] = {1}, two[2] = {1, 2}, four[4] = {1, 2, 3, 4};
  store_matrix(&shared.a[lane * 8], one);
  store_matrix<Matrix::transposed>(&shared.a[lane * 8], one);
  store_matrix(&shared.a[lane * 8], two);
  store_matrix<Matrix::transposed>(&shared.a[lane * 8], two);
  store_matrix(&shared.a[lane * 8], four);
  store_matrix<Matrix::transposed>(&shared.a[lane * 8], four);
  fence_async();
  sync_threads();
  const Operand a = make_operand(shared.a, Swizzle::b128, 0, 1024);
  const Operand b = make_operand(shared.b, Swizzle::b128, 0, 1024).advance(32);
  out[thread_idx().x] = products<8>(a, b, four) + products<96>(a, b, four) + products<256>(a, b, four);
  arrive(shared.empty);
  arrive_after_loads(shared.empty);
  arrive_remote(shared.empty, cluster_rank());
  if (thread_idx().x == 0) {
    tma_store(map, shared.a, {0, 0});
    bulk_commit();
    bulk_wait_read<0>();
  }
  grid_launch_dependents();
  sync_cluster();
}

TensorMap make_map(void* data) {
  return make_tensor_map({.data = data, .extents = {64, 64}, .strides = {0, 128}, .box = {64, 64}});
}

}  // namespace warpjet::ptx
