#include "model/model.h"

#include <array>

namespace warpjet {
namespace {

// THE TABLE of supported architectures.
const std::array<const Family*, 5> kFamilies{&kLlama, &kMistral, &kQwen2, &kQwen3, &kGemma3};

}  // namespace

std::span<const Family* const> families() {
  return kFamilies;
}

const Family& find_family(std::string_view architecture) {
  std::string names;
  for (const Family* family : kFamilies) {
    if (family->architecture == architecture) return *family;
    names += cat(names.empty() ? "" : ", ", family->architecture);
  }
  WJ_FAIL(unsupported, "architecture ", quote(architecture), " is not supported; there are ", names);
}

}  // namespace warpjet
