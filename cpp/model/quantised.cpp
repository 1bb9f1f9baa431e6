// quantization_config: which quantised checkpoints are read, and where they keep their scales.
#include <array>

#include "model/model.h"

namespace warpjet {
namespace {

// Each reads the keys of its method, and refuses by name what it does not read.
struct Method {
  std::string_view name;  // quant_method
  QuantisedSource (*read)(HfConfig& config);
};

// DeepSeek's fp8: a scale for every block of the matrix; activations are quantised when the model runs, or not at all.
QuantisedSource read_fp8(HfConfig& config) {
  const Json* block = config.take("weight_block_size");
  WJ_REQUIRE(block != nullptr, unsupported, config.source(),
             ": weight_block_size: missing: fp8 with one scale a tensor is not supported; use the bf16 weights");
  const Format format = find_scheme("fp8_block").weight;
  const Json supported(Json::Array{format.block_rows, format.block_columns});
  WJ_REQUIRE(block->dump() == supported.dump(), unsupported, config.source(), ": weight_block_size: only ",
             supported.dump(), " is supported, got ", block->dump());
  const std::string fmt = config.text_or("fmt", "e4m3"), activations = config.text_or("activation_scheme", "dynamic");
  WJ_REQUIRE(fmt == "e4m3", unsupported, config.source(), ": fmt: only e4m3 is supported, got ", quote(fmt));
  WJ_REQUIRE(activations == "dynamic", unsupported, config.source(),
             ": activation_scheme: only dynamic is supported, got ", quote(activations));
  // Which modules are not quantised follows from the tensors that are there.
  for (const std::string_view key : {"modules_to_not_convert", "ignored_layers", "scale_fmt", "dequantize"})
    config.take(key);
  return {.scheme = "fp8_block", .format = format, .scale_suffix = "_scale_inv"};
}

// THE TABLE of methods.
constexpr auto kMethods = std::to_array<Method>({
    {"fp8", read_fp8},
});

}  // namespace

void HfConfig::read_quantisation() {
  const Json* json = take("quantization_config");
  if (json == nullptr) return;
  HfConfig config = object(*json, cat(source_, ": quantization_config"));
  const std::string method = config.text_or("quant_method", "");
  std::string names;
  for (const Method& row : kMethods) {
    names += cat(names.empty() ? "" : ", ", row.name);
    if (row.name != method) continue;
    quantised_ = row.read(config);
    config.require_taken({});
    return;
  }
  WJ_FAIL(unsupported, config.source(), ": quant_method: ", quote(method), " is not supported; there is ", names,
          "; or use the bf16, fp16 or fp32 weights");
}

}  // namespace warpjet
