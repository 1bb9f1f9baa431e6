// Opening a model for running, whatever form it comes in.
#include "plan/loader.h"

namespace warpjet {
namespace {

namespace fs = std::filesystem;

LoadedModel load_engine(const fs::path& path, const LoadOptions& options, Device& device) {
  WJ_REQUIRE(options.load_format == "auto", invalid_argument, "load_format: ", options.load_format,
             " goes with a checkpoint; ", path.string(), " is an engine");
  Plan plan = read_engine_plan(path);
  WJ_REQUIRE(options.dtype == "auto" || find_scheme(options.dtype).name == plan.scheme, invalid_argument,
             "dtype: ", options.dtype, " asked for, but the engine ", path.string(), " was built as ", plan.scheme,
             "; rebuild it with --scheme");
  const bool on_cpu = device.info().sm == 0;  // which reads the file where the system keeps it
  Weights weights = on_cpu ? map_engine_weights(path, plan, device) : read_engine_weights(path, plan, device);
  return {.plan = std::move(plan), .weights = std::move(weights), .report = {}};
}

LoadedModel load_checkpoint(const fs::path& path, const LoadOptions& options, const Catalogs& catalogs,
                            Device& device) {
  const bool dummy = options.load_format == "dummy";
  const Checkpoint checkpoint = dummy ? Checkpoint::without_weights(path) : Checkpoint::open(path);
  const Scheme& scheme = options.dtype == "auto" ? scheme_for(checkpoint.dtype) : find_scheme(options.dtype);
  Plan plan = make_plan(checkpoint.spec, checkpoint.slots, scheme, scheme.kv, catalogs, device.info());
  Weights weights = dummy ? make_dummy_weights(plan, device) : pack(checkpoint, plan, device);
  return {.plan = std::move(plan), .weights = std::move(weights), .report = {}};
}

}  // namespace

LoadedModel load_model(const fs::path& path, const LoadOptions& options, const Catalogs& catalogs, Device& device) {
  WJ_REQUIRE(fs::is_directory(path), io, "no model at ", path.string(),
             ": expected a directory with config.json (a checkpoint) or engine.json (an engine)");
  const auto start = Clock::now();
  const bool engine = is_engine_directory(path);
  LoadedModel model = engine ? load_engine(path, options, device) : load_checkpoint(path, options, catalogs, device);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  model.report = {.source = engine                           ? "engine"
                            : options.load_format == "dummy" ? "dummy"
                                                             : "checkpoint",
                  .bytes = model.plan.weight_bytes(),
                  .threads = model.weights.readers,
                  .seconds = seconds};
  WJ_LOG(info, "weights loaded source=", model.report.source, " bytes=", model.report.bytes, " seconds=", seconds,
         " gb_per_s=", static_cast<double>(model.report.bytes) / seconds / 1e9, " threads=", model.report.threads);
  return model;
}

}  // namespace warpjet
