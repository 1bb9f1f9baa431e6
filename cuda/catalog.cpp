// The table of every GPU kernel in the product, one line each. Rows of sm90/ are left out of builds that have not
// compiled it: those without architecture 90a.
#include "cuda/catalog.h"

#include "cuda/sm80/attention.h"
#include "cuda/sm80/gemm.h"
#include "cuda/sm80/rope.h"
#include "cuda/sm80/sampling.h"
#include "cuda/sm80/step.h"
#include "cuda/sm80/token.h"
#include "cuda/sm90/gemm.h"

namespace warpjet {
namespace {

constexpr int kAmpere = 80, kHopper = 90, kBlackwell = 100;

template <class Op>
void add(Catalogs& catalogs, std::string_view name, bool (*supports)(const typename Op::Problem&),
         void (*launch)(const typename Op::Args&, Stream&),
         std::int64_t (*workspace)(const typename Op::Problem&, const DeviceInfo&) = nullptr) {
  catalogs.of<Op>().add(
      {.name = name, .sm_min = kAmpere, .supports = supports, .workspace = workspace, .launch = launch});
}

// Shorter heads come first: they are preferred.
template <DType type, int head_dim>
void add_attention(Catalogs& catalogs, std::string_view name) {
  add<Attention>(catalogs, name, sm80::supports<type, head_dim>, sm80::launch<type, head_dim>,
                 sm80::workspace<type, head_dim>);
}

template <DType type, int rows, int tokens>
void add_small_gemm(Catalogs& catalogs, std::string_view name) {
  add<Gemm>(catalogs, name, sm80::supports_small_gemm<type, rows, tokens>, sm80::launch_small_gemm<type, rows, tokens>);
}

// Of a GEMM in tiles: as many waves as it takes all multiprocessors with `resident` tiles each, and what a wave takes
// for k = 4096, in microseconds on an H100.
template <int m, int n, int resident, int wave_us>
double tile_cost(const Gemm::Problem& p, const DeviceInfo& device) {
  const std::int64_t tiles = ceil_div<std::int64_t>(p.m, m) * ceil_div<std::int64_t>(p.n, n);
  return static_cast<double>(ceil_div<std::int64_t>(tiles, std::int64_t{device.cores} * resident) * wave_us * p.k);
}

template <DType type, int m, int n, int wave_us>
void add_large_gemm(Catalogs& catalogs, std::string_view name) {
  catalogs.of<Gemm>().add({.name = name,
                           .sm_min = kAmpere,
                           .supports = sm80::supports_large_gemm<type, m, n>,
                           .cost = tile_cost<m, n, 2, wave_us>,
                           .launch = sm80::launch_large_gemm<type, m, n>});
}

template <DType type, int n, int wave_us>
void add_hopper_gemm([[maybe_unused]] Catalogs& catalogs, [[maybe_unused]] std::string_view name) {
#if defined(WARPJET_SM90)
  catalogs.of<Gemm>().add({.name = name,
                           .sm_min = kHopper,
                           .sm_max = kBlackwell,  // wgmma is Hopper's alone
                           .supports = sm90::supports_gemm<type, n>,
                           .cost = tile_cost<128, n, 1, wave_us>,
                           .launch = sm90::launch_gemm<type, n>});
#endif
}

// What comes in both 16-bit types. GEMM goes from few tokens to many: weight rows x tokens, then tokens x weight rows x
// k; last what takes any problem. Among equal tokens first what keeps all multiprocessors busy with 4096 weight rows;
// with 16 tokens, 16 weight rows would read as many bytes of tokens as of weights.
#define WJ_HALF_ROWS(T)                                                      \
  add_attention<T, 64>(catalogs, "sm80.attention." #T ".hd64");              \
  add_attention<T, 96>(catalogs, "sm80.attention." #T ".hd96");              \
  add_attention<T, 128>(catalogs, "sm80.attention." #T ".hd128");            \
  add_attention<T, 192>(catalogs, "sm80.attention." #T ".hd192");            \
  add_attention<T, 256>(catalogs, "sm80.attention." #T ".hd256");            \
  add_small_gemm<T, 16, 8>(catalogs, "sm80.gemm." #T ".16x8");               \
  add_small_gemm<T, 32, 8>(catalogs, "sm80.gemm." #T ".32x8");               \
  add_small_gemm<T, 64, 8>(catalogs, "sm80.gemm." #T ".64x8");               \
  add_small_gemm<T, 32, 16>(catalogs, "sm80.gemm." #T ".32x16");             \
  add_small_gemm<T, 64, 16>(catalogs, "sm80.gemm." #T ".64x16");             \
  add_small_gemm<T, 16, 16>(catalogs, "sm80.gemm." #T ".16x16");             \
  add_small_gemm<T, 32, 32>(catalogs, "sm80.gemm." #T ".32x32");             \
  add_small_gemm<T, 64, 32>(catalogs, "sm80.gemm." #T ".64x32");             \
  add_small_gemm<T, 64, 64>(catalogs, "sm80.gemm." #T ".64x64");             \
  add_hopper_gemm<T, 128, 31>(catalogs, "sm90.gemm." #T ".128x128x64");      \
  add_hopper_gemm<T, 256, 55>(catalogs, "sm90.gemm." #T ".128x256x64");      \
  add_large_gemm<T, 128, 128, 118>(catalogs, "sm80.gemm." #T ".128x128x32"); \
  add_large_gemm<T, 64, 128, 54>(catalogs, "sm80.gemm." #T ".64x128x32");    \
  add_large_gemm<T, 64, 64, 36>(catalogs, "sm80.gemm." #T ".64x64x32");      \
  add<Gemm>(catalogs, "sm80.gemm." #T ".unaligned", sm80::supports_unaligned_gemm<T>, sm80::launch_unaligned_gemm<T>);

// What comes in fp32 too.
#define WJ_FLOAT_ROWS(T)                                                        \
  add<Embed>(catalogs, "sm80.embed." #T, sm80::supports<T>, sm80::launch<T>);   \
  add<Norm>(catalogs, "sm80.norm." #T, sm80::supports<T>, sm80::launch<T>);     \
  add<Gather>(catalogs, "sm80.gather." #T, sm80::supports<T>, sm80::launch<T>); \
  add<RopeAppendKv>(catalogs, "sm80.rope_append_kv." #T, sm80::supports<T>, sm80::launch<T>);

}  // namespace

void register_cuda_kernels(Catalogs& catalogs) {
  using enum DType;
  WJ_FLOAT_ROWS(f32)
  WJ_FLOAT_ROWS(f16)
  WJ_FLOAT_ROWS(bf16)
  WJ_HALF_ROWS(f16)
  WJ_HALF_ROWS(bf16)
  add<Attention>(catalogs, "sm80.attention.f32", sm80::supports, sm80::launch);
  add<Gemm>(catalogs, "sm80.gemm.f32.64x8", sm80::supports_f32_gemm<8>, sm80::launch_f32_gemm<8>);
  add<Gemm>(catalogs, "sm80.gemm.f32.64x64", sm80::supports_f32_gemm<64>, sm80::launch_f32_gemm<64>);
  add<RopeTable>(catalogs, "sm80.rope_table", sm80::supports, sm80::launch);
  add<Penalize>(catalogs, "sm80.penalize", sm80::supports, sm80::launch);
  add<Select>(catalogs, "sm80.select", sm80::supports, sm80::launch, sm80::workspace);
  add<Logprob>(catalogs, "sm80.logprob", sm80::supports, sm80::launch, sm80::workspace);
  add<AppendTokens>(catalogs, "sm80.append_tokens", sm80::supports, sm80::launch);
  add<Edit>(catalogs, "sm80.edit", sm80::supports, sm80::launch);
  add<PrepareRows>(catalogs, "sm80.prepare_rows", sm80::supports, sm80::launch);
  add<CopyBlocks>(catalogs, "sm80.copy_blocks", sm80::supports, sm80::launch);
}

}  // namespace warpjet
