// The kernels of a model, one by one.
#include <warpjet/measure.h>

#include "ops/backend.h"
#include "plan/tune.h"

namespace warpjet {

void measure_kernels(const std::filesystem::path& model, const EngineConfig& config,
                     const KernelMeasureOptions& options, const std::function<void(const std::string&)>& row) {
  validate(config);
  for (const std::int64_t rows : options.rows) {
    constexpr std::int64_t kMost = 1 << 16;
    WJ_REQUIRE(rows > 0 && rows <= kMost, invalid_argument, "rows must be 1 to ", kMost, ", got ", rows);
  }
  WJ_REQUIRE(!options.rows.empty(), invalid_argument, "rows must not be empty");
  WJ_REQUIRE(options.context > 0, invalid_argument, "context must be positive, got ", options.context);
  Catalogs catalogs;
  register_cuda_backend(catalogs);
  register_reference(catalogs);
  const auto device = open_device(config.device, config.num_threads);
  WJ_REQUIRE(device->info().sm > 0, unsupported, "kernels are timed on a GPU: ", cuda_status().unavailable_reason);
  const OpenedModel opened =
      open_model(model, {.dtype = config.dtype, .load_format = config.load_format, .hf_overrides = config.hf_overrides},
                 catalogs, device->info());
  Weights weights;
  load_weights(opened, *device, weights);
  const TuneOptions tune = {
      .rows = options.rows, .context = options.context, .block_size = config.block_size, .alternatives = options.all};
  for (const KernelTime& time : time_kernels(opened.plan, std::move(weights), catalogs, *device, tune)) {
    row(Json(Json::Object{{"step", time.step},
                          {"op", time.op},
                          {"problem", time.problem},
                          {"kernel", time.kernel},
                          {"rows", time.rows},
                          {"us", time.us},
                          {"flops", time.flops},
                          {"bytes", time.bytes}})
            .dump());
  }
}

}  // namespace warpjet
