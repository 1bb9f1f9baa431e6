// The table of every GPU kernel in the product, one line each.
#include "cuda/catalog.h"

#include "cuda/sm80/attention.h"
#include "cuda/sm80/rope.h"
#include "cuda/sm80/token.h"

namespace warpjet {
namespace {

constexpr int kAmpere = 80;

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

}  // namespace

void register_cuda_backend(Catalogs& catalogs) {
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
}

}  // namespace warpjet
