// The table of every GPU kernel in the product, one line each.
#include "cuda/catalog.h"

#include "cuda/sm80/sampling.h"
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
  add<Penalize>(catalogs, kAmpere, "sm80.penalize", sm80::supports, sm80::launch);
  add<Select>(catalogs, kAmpere, "sm80.select", sm80::supports, sm80::launch, sm80::workspace);
  add<Logprob>(catalogs, kAmpere, "sm80.logprob", sm80::supports, sm80::launch, sm80::workspace);
  add<AppendTokens>(catalogs, kAmpere, "sm80.append_tokens", sm80::supports, sm80::launch);
}

}  // namespace warpjet
