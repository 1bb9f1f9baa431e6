// The table of every GPU kernel in the product, one line each. What is in sm90/ stands under #if defined(WARPJET_SM90):
// a build without architecture 90a has not compiled it.
#include "cuda/catalog.h"

#include "cuda/sm80/step.h"
#include "cuda/sm80/token.h"

namespace warpjet {
namespace {

constexpr int kAmpere = 80;

template <class Op>
void add(Catalogs& catalogs, int sm_min, std::string_view name, bool (*supports)(const typename Op::Problem&),
         void (*launch)(const typename Op::Args&, Stream&)) {
  catalogs.of<Op>().add({.name = name, .sm_min = sm_min, .supports = supports, .launch = launch});
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
  add<Edit>(catalogs, kAmpere, "sm80.edit", sm80::supports, sm80::launch);
  add<PrepareRows>(catalogs, kAmpere, "sm80.prepare_rows", sm80::supports, sm80::launch);
  add<CopyBlocks>(catalogs, kAmpere, "sm80.copy_blocks", sm80::supports, sm80::launch);
}

}  // namespace warpjet
