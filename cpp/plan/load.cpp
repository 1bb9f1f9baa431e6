// Opening a model for running, whatever form it comes in.
#include "plan/loader.h"

namespace warpjet {
namespace {

namespace fs = std::filesystem;

OpenedModel open_engine(const fs::path& path, const LoadOptions& options) {
  WJ_REQUIRE(options.load_format == "auto", invalid_argument, "load_format: ", options.load_format,
             " goes with a checkpoint; ", path.string(), " is an engine");
  WJ_REQUIRE(options.hf_overrides.empty(), invalid_argument, "hf_overrides goes with a checkpoint; ", path.string(),
             " is an engine: build it with them");
  Plan plan = read_engine_plan(path);
  WJ_REQUIRE(options.dtype == "auto" || find_scheme(options.dtype).name == plan.scheme, invalid_argument,
             "dtype: ", options.dtype, " asked for, but the engine ", path.string(), " was built as ", plan.scheme,
             "; rebuild it with --scheme");
  const auto load = [path, plan](Device& device) { return read_engine_weights(path, plan, device); };
  return {.plan = std::move(plan), .source = "engine", .load = load};
}

OpenedModel open_checkpoint(const fs::path& path, const LoadOptions& options, const Catalogs& catalogs,
                            const DeviceInfo& device) {
  const bool dummy = options.load_format == "dummy";
  auto checkpoint = std::make_shared<Checkpoint>(dummy ? Checkpoint::without_weights(path, options.hf_overrides)
                                                       : Checkpoint::open(path, options.hf_overrides));
  const Scheme& scheme = choose_scheme(*checkpoint, options.dtype, catalogs, device);
  Plan plan = make_plan(checkpoint->spec, checkpoint->slots, scheme, scheme.kv, catalogs, device);
  const auto load = [checkpoint, plan, dummy](Device& on) {
    return dummy ? make_dummy_weights(plan, on) : pack(*checkpoint, plan, on);
  };
  return {.plan = std::move(plan), .source = dummy ? "dummy" : "checkpoint", .load = load};
}

}  // namespace

const Scheme& choose_scheme(const Checkpoint& checkpoint, std::string_view name, const Catalogs& catalogs,
                            const DeviceInfo& device) {
  const Scheme& scheme = find_scheme(name == "auto" ? checkpoint.scheme : name);
  require_source(checkpoint, scheme);
  if (name != "auto" || !scheme.weight.scaled()) return scheme;
  constexpr std::int64_t kRows = 128;
  const Gemm::Problem product = {
      .m = 1, .n = kRows, .k = kRows, .a = scheme.activation, .b = scheme.weight, .d = scheme.activation};
  for (const auto& row : catalogs.of<Gemm>().rows()) {
    if (device.sm >= row.sm_min && device.sm < row.sm_max && row.supports(product)) return scheme;
  }
  const Scheme& plain = scheme_for(scheme.activation);
  WJ_LOG(warn, "no kernel of ", device.name, " multiplies ", to_string(scheme.weight), " yet: weights are decoded to ",
         plain.name, " when they are read");
  return plain;
}

OpenedModel open_model(const fs::path& path, const LoadOptions& options, const Catalogs& catalogs,
                       const DeviceInfo& device) {
  WJ_REQUIRE(fs::is_directory(path), io, "no model at ", path.string(),
             ": expected a directory with config.json (a checkpoint) or engine.json (an engine)");
  if (is_engine_directory(path)) return open_engine(path, options);
  return open_checkpoint(path, options, catalogs, device);
}

LoadReport load_weights(const OpenedModel& model, Device& device, Weights& weights) {
  const auto start = Clock::now();
  weights = model.load(device);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  LoadReport report = {
      .source = model.source, .bytes = model.plan.weight_bytes(), .threads = weights.readers, .seconds = seconds};
  WJ_LOG(info, "weights loaded source=", report.source, " bytes=", report.bytes, " seconds=", seconds,
         " gb_per_s=", static_cast<double>(report.bytes) / seconds / 1e9, " threads=", report.threads);
  return report;
}

}  // namespace warpjet
