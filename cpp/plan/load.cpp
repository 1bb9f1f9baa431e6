// Opening a model for running, whatever form it comes in.
#include "plan/plan.h"

namespace warpjet {

LoadedModel load_model(const std::filesystem::path& path, const std::string& dtype, const Catalogs& catalogs,
                       Device& device) {
  WJ_REQUIRE(std::filesystem::is_directory(path), io, "no model at ", path.string(),
             ": expected a directory with config.json (a checkpoint) or engine.json (an engine)");
  if (is_engine_directory(path)) {
    Plan plan = read_engine_plan(path);
    WJ_REQUIRE(dtype == "auto" || find_scheme(dtype).name == plan.scheme, invalid_argument, "dtype: ", dtype,
               " asked for, but the engine ", path.string(), " was built as ", plan.scheme,
               "; rebuild it with --scheme");
    Weights weights = map_engine_weights(path, plan);
    return {std::move(plan), std::move(weights)};
  }
  const Checkpoint checkpoint = Checkpoint::open(path);
  const Scheme& scheme = dtype == "auto" ? scheme_for(checkpoint.dtype) : find_scheme(dtype);
  Plan plan = make_plan(checkpoint.spec, checkpoint.slots, scheme, scheme.kv, catalogs, device.info());
  Weights weights = pack(checkpoint, plan, device);
  return {std::move(plan), std::move(weights)};
}

}  // namespace warpjet
