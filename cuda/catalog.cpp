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
void add(Catalogs& catalogs, int sm_min, std::string_view name, bool (*supports)(const typename Op::Problem&),
         void (*launch)(const typename Op::Args&, Stream&),
         std::int64_t (*workspace)(const typename Op::Problem&, const DeviceInfo&) = nullptr) {
  catalogs.of<Op>().add(
      {.name = name, .sm_min = sm_min, .supports = supports, .workspace = workspace, .launch = launch});
}

// Shorter heads come first: they are preferred.
template <DType type, int head_dim>
void add_attention(Catalogs& catalogs, std::string_view name) {
  add<Attention>(catalogs, kAmpere, name, sm80::supports<type, head_dim>, sm80::launch<type, head_dim>,
                 sm80::workspace<type, head_dim>);
}

template <DType type, int rows, int tokens>
void add_small_gemm(Catalogs& catalogs, std::string_view name) {
  add<Gemm>(catalogs, kAmpere, name, sm80::supports_small_gemm<type, rows, tokens>,
            sm80::launch_small_gemm<type, rows, tokens>);
}

template <DType type, int m, int n>
void add_large_gemm(Catalogs& catalogs, std::string_view name) {
  add<Gemm>(catalogs, kAmpere, name, sm80::supports_large_gemm<type, m, n>, sm80::launch_large_gemm<type, m, n>);
}

template <DType type, int n>
void add_hopper_gemm([[maybe_unused]] Catalogs& catalogs, [[maybe_unused]] std::string_view name) {
#if defined(WARPJET_SM90)
  catalogs.of<Gemm>().add({.name = name,
                           .sm_min = kHopper,
                           .sm_max = kBlackwell,  // wgmma is Hopper's alone
                           .supports = sm90::supports_gemm<type, n>,
                           .launch = sm90::launch_gemm<type, n>});
#endif
}

}  // namespace

void register_cuda_kernels(Catalogs& catalogs) {
  using enum DType;
  add<Embed>(catalogs, kAmpere, "sm80.embed.f32", sm80::supports<f32>, sm80::launch<f32>);
  add<Embed>(catalogs, kAmpere, "sm80.embed.f16", sm80::supports<f16>, sm80::launch<f16>);
  add<Embed>(catalogs, kAmpere, "sm80.embed.bf16", sm80::supports<bf16>, sm80::launch<bf16>);
  add<Norm>(catalogs, kAmpere, "sm80.norm.f32", sm80::supports<f32>, sm80::launch<f32>);
  add<Norm>(catalogs, kAmpere, "sm80.norm.f16", sm80::supports<f16>, sm80::launch<f16>);
  add<Norm>(catalogs, kAmpere, "sm80.norm.bf16", sm80::supports<bf16>, sm80::launch<bf16>);
  add<Gather>(catalogs, kAmpere, "sm80.gather.f32", sm80::supports<f32>, sm80::launch<f32>);
  add<Gather>(catalogs, kAmpere, "sm80.gather.f16", sm80::supports<f16>, sm80::launch<f16>);
  add<Gather>(catalogs, kAmpere, "sm80.gather.bf16", sm80::supports<bf16>, sm80::launch<bf16>);
  add<RopeTable>(catalogs, kAmpere, "sm80.rope_table", sm80::supports, sm80::launch);
  add<RopeAppendKv>(catalogs, kAmpere, "sm80.rope_append_kv.f32", sm80::supports<f32>, sm80::launch<f32>);
  add<RopeAppendKv>(catalogs, kAmpere, "sm80.rope_append_kv.f16", sm80::supports<f16>, sm80::launch<f16>);
  add<RopeAppendKv>(catalogs, kAmpere, "sm80.rope_append_kv.bf16", sm80::supports<bf16>, sm80::launch<bf16>);
  add<Attention>(catalogs, kAmpere, "sm80.attention.f32", sm80::supports, sm80::launch);
  add_attention<f16, 64>(catalogs, "sm80.attention.f16.hd64");
  add_attention<f16, 96>(catalogs, "sm80.attention.f16.hd96");
  add_attention<f16, 128>(catalogs, "sm80.attention.f16.hd128");
  add_attention<f16, 192>(catalogs, "sm80.attention.f16.hd192");
  add_attention<f16, 256>(catalogs, "sm80.attention.f16.hd256");
  add_attention<bf16, 64>(catalogs, "sm80.attention.bf16.hd64");
  add_attention<bf16, 96>(catalogs, "sm80.attention.bf16.hd96");
  add_attention<bf16, 128>(catalogs, "sm80.attention.bf16.hd128");
  add_attention<bf16, 192>(catalogs, "sm80.attention.bf16.hd192");
  add_attention<bf16, 256>(catalogs, "sm80.attention.bf16.hd256");

  // GEMM, from few tokens to many: weight rows x tokens, then tokens x weight rows x k; last what takes any problem.
  // Among equal tokens first what keeps all multiprocessors busy with 4096 weight rows; with 16 tokens, 16 weight rows
  // would read as many bytes of tokens as of weights.
  add_small_gemm<bf16, 16, 8>(catalogs, "sm80.gemm.bf16.16x8");
  add_small_gemm<bf16, 32, 8>(catalogs, "sm80.gemm.bf16.32x8");
  add_small_gemm<bf16, 64, 8>(catalogs, "sm80.gemm.bf16.64x8");
  add_small_gemm<bf16, 32, 16>(catalogs, "sm80.gemm.bf16.32x16");
  add_small_gemm<bf16, 64, 16>(catalogs, "sm80.gemm.bf16.64x16");
  add_small_gemm<bf16, 16, 16>(catalogs, "sm80.gemm.bf16.16x16");
  add_small_gemm<bf16, 32, 32>(catalogs, "sm80.gemm.bf16.32x32");
  add_small_gemm<bf16, 64, 32>(catalogs, "sm80.gemm.bf16.64x32");
  add_small_gemm<bf16, 64, 64>(catalogs, "sm80.gemm.bf16.64x64");
  add_hopper_gemm<bf16, 128>(catalogs, "sm90.gemm.bf16.128x128x64");
  add_hopper_gemm<bf16, 256>(catalogs, "sm90.gemm.bf16.128x256x64");
  add_large_gemm<bf16, 128, 128>(catalogs, "sm80.gemm.bf16.128x128x32");
  add_large_gemm<bf16, 64, 128>(catalogs, "sm80.gemm.bf16.64x128x32");
  add_large_gemm<bf16, 64, 64>(catalogs, "sm80.gemm.bf16.64x64x32");
  add<Gemm>(catalogs, kAmpere, "sm80.gemm.bf16.unaligned", sm80::supports_unaligned_gemm<bf16>,
            sm80::launch_unaligned_gemm<bf16>);
  add_small_gemm<f16, 16, 8>(catalogs, "sm80.gemm.f16.16x8");
  add_small_gemm<f16, 32, 8>(catalogs, "sm80.gemm.f16.32x8");
  add_small_gemm<f16, 64, 8>(catalogs, "sm80.gemm.f16.64x8");
  add_small_gemm<f16, 32, 16>(catalogs, "sm80.gemm.f16.32x16");
  add_small_gemm<f16, 64, 16>(catalogs, "sm80.gemm.f16.64x16");
  add_small_gemm<f16, 16, 16>(catalogs, "sm80.gemm.f16.16x16");
  add_small_gemm<f16, 32, 32>(catalogs, "sm80.gemm.f16.32x32");
  add_small_gemm<f16, 64, 32>(catalogs, "sm80.gemm.f16.64x32");
  add_small_gemm<f16, 64, 64>(catalogs, "sm80.gemm.f16.64x64");
  add_hopper_gemm<f16, 128>(catalogs, "sm90.gemm.f16.128x128x64");
  add_hopper_gemm<f16, 256>(catalogs, "sm90.gemm.f16.128x256x64");
  add_large_gemm<f16, 128, 128>(catalogs, "sm80.gemm.f16.128x128x32");
  add_large_gemm<f16, 64, 128>(catalogs, "sm80.gemm.f16.64x128x32");
  add_large_gemm<f16, 64, 64>(catalogs, "sm80.gemm.f16.64x64x32");
  add<Gemm>(catalogs, kAmpere, "sm80.gemm.f16.unaligned", sm80::supports_unaligned_gemm<f16>,
            sm80::launch_unaligned_gemm<f16>);
  add<Gemm>(catalogs, kAmpere, "sm80.gemm.f32.64x8", sm80::supports_f32_gemm<8>, sm80::launch_f32_gemm<8>);
  add<Gemm>(catalogs, kAmpere, "sm80.gemm.f32.64x64", sm80::supports_f32_gemm<64>, sm80::launch_f32_gemm<64>);
  add<Edit>(catalogs, kAmpere, "sm80.edit", sm80::supports, sm80::launch);
  add<PrepareRows>(catalogs, kAmpere, "sm80.prepare_rows", sm80::supports, sm80::launch);
  add<CopyBlocks>(catalogs, kAmpere, "sm80.copy_blocks", sm80::supports, sm80::launch);
  add<Penalize>(catalogs, kAmpere, "sm80.penalize", sm80::supports, sm80::launch);
  add<Select>(catalogs, kAmpere, "sm80.select", sm80::supports, sm80::launch, sm80::workspace);
  add<Logprob>(catalogs, kAmpere, "sm80.logprob", sm80::supports, sm80::launch, sm80::workspace);
  add<AppendTokens>(catalogs, kAmpere, "sm80.append_tokens", sm80::supports, sm80::launch);
}

}  // namespace warpjet
