// Opening a model for running, whatever form it comes in.
#include "plan/plan.h"

namespace warpjet {

OpenedModel open_model(const std::filesystem::path& path, const EngineConfig& config, const Catalogs& catalogs,
                       const DeviceInfo& device) {
  WJ_REQUIRE(std::filesystem::is_directory(path), io, "no model at ", path.string(),
             ": expected a directory with config.json (a checkpoint) or engine.json (an engine)");
  if (is_engine_directory(path)) {
    auto plan = std::make_shared<Plan>(read_engine_plan(path));
    WJ_REQUIRE(config.dtype == "auto" || find_scheme(config.dtype).name == plan->scheme, invalid_argument,
               "dtype: ", config.dtype, " asked for, but the engine ", path.string(), " was built as ", plan->scheme,
               "; rebuild it with --scheme");
    return {.plan = *plan, .load = [path, plan](Device&) { return map_engine_weights(path, *plan); }};
  }
  auto checkpoint = std::make_shared<Checkpoint>(Checkpoint::open(path));
  const Scheme& scheme = config.dtype == "auto" ? scheme_for(checkpoint->dtype) : find_scheme(config.dtype);
  auto plan =
      std::make_shared<Plan>(make_plan(checkpoint->spec, checkpoint->slots, scheme, scheme.kv, catalogs, device));
  return {.plan = *plan, .load = [checkpoint, plan](Device& on) { return pack(*checkpoint, *plan, on); }};
}

}  // namespace warpjet
