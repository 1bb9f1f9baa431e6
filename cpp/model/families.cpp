#include "model/model.h"

#include <array>

namespace warpjet {
namespace {

// THE TABLE of supported architectures.
constexpr std::array<Family, 4> kFamilies{{
    {"LlamaForCausalLM", "llama", llama_spec, decoder_slots},
    {"MistralForCausalLM", "mistral", mistral_spec, decoder_slots},
    {"Qwen2ForCausalLM", "qwen2", qwen2_spec, decoder_slots},
    {"Qwen3ForCausalLM", "qwen3", qwen3_spec, decoder_slots},
}};

}  // namespace

std::span<const Family> families() {
  return kFamilies;
}

const Family& find_family(std::string_view architecture) {
  std::string names;
  for (const Family& family : kFamilies) {
    if (family.architecture == architecture) return family;
    names += cat(names.empty() ? "" : ", ", family.architecture);
  }
  WJ_FAIL(unsupported, "architecture ", quote(architecture), " is not supported; there are ", names);
}

}  // namespace warpjet
