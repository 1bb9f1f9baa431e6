#include "quant/quant.h"

#include "core/core.h"

#include <array>

namespace warpjet {
namespace {

// THE TABLE of schemes.
constexpr std::array<Scheme, 4> kSchemes{{
    {.name = "bf16", .weight = DType::bf16, .activation = DType::bf16, .kv = DType::bf16},
    {.name = "fp16", .weight = DType::f16, .activation = DType::f16, .kv = DType::f16},
    {.name = "fp32", .weight = DType::f32, .activation = DType::f32, .kv = DType::f32},
    {.name = "fp8_block",
     .weight = Format(DType::f8_e4m3, 128, 128, DType::f32),
     .activation = DType::bf16,
     .kv = DType::bf16},
}};

}  // namespace

std::span<const Scheme> schemes() {
  return kSchemes;
}

const Scheme& find_scheme(std::string_view name) {
  const std::optional<DType> dtype = dtype_from_string(name);  // every spelling of a plain type names its scheme
  std::string names;
  for (const Scheme& scheme : kSchemes) {
    if (scheme.name == name || (dtype && scheme.weight == Format(*dtype))) return scheme;
    names += cat(names.empty() ? "" : ", ", scheme.name);
  }
  WJ_FAIL(unsupported, "scheme ", quote(name), " is not known; there are ", names);
}

const Scheme& scheme_for(DType checkpoint_dtype) {
  for (const Scheme& scheme : kSchemes) {
    if (scheme.weight == Format(checkpoint_dtype)) return scheme;
  }
  WJ_FAIL(unsupported, "weights of type ", to_string(checkpoint_dtype), "; supported are f32, f16 and bf16");
}

}  // namespace warpjet
