// build_engine(): checkpoint -> plan -> engine directory, with bounded memory.
#include "ops/backend.h"
#include "plan/tune.h"

namespace warpjet {
namespace {

// One piece read, one piece converted, the plan, and the process itself. Tensors are never held whole.
constexpr std::int64_t kPeakRssBound = 256ll << 20;

DType kv_dtype(const std::string& name, const Scheme& scheme) {
  return name == "auto" ? scheme.kv : find_scheme(name).kv;
}

// Values do not matter to time, as long as they are not all the same.
void tune(Plan& plan, const Catalogs& catalogs, Device& device) {
  const TuneOptions options = {.choices_only = true};
  const std::vector<KernelTime> times = time_kernels(plan, make_dummy_weights(plan, device), catalogs, device, options);
  choose_tactics(plan, times, options.block_size);
  for (const KernelTime& time : times)
    WJ_LOG(debug, "timed ", time.step, " rows=", time.rows, " kernel=", time.kernel, " us=", time.us);
}

}  // namespace

std::int64_t build_peak_rss_bound() {
  return kPeakRssBound;
}

BuildReport build_engine(const std::filesystem::path& checkpoint_dir, const std::filesystem::path& out,
                         const BuildConfig& config, const BuildProgress& progress) {
  const auto start = Clock::now();
  validate(config);
  const Checkpoint checkpoint = Checkpoint::open(checkpoint_dir, config.hf_overrides);
  Catalogs catalogs;
  register_cuda_backend(catalogs);
  register_reference(catalogs);
  const auto device = open_device(config.device, 1);
  const Scheme& scheme = choose_scheme(checkpoint, config.scheme, catalogs, device->info());
  Plan plan = make_plan(checkpoint.spec, checkpoint.slots, scheme, kv_dtype(config.kv_cache_dtype, scheme), catalogs,
                        device->info());
  if (device->info().sm > 0) tune(plan, catalogs, *device);
  const std::int64_t weight_bytes = plan.weight_bytes();
  write_engine(checkpoint, std::move(plan), checkpoint_dir, out, config.overwrite, progress);
  return {.scheme = std::string(scheme.name),
          .weight_bytes = weight_bytes,
          .peak_rss_bound = kPeakRssBound,
          .seconds = std::chrono::duration<double>(Clock::now() - start).count()};
}

}  // namespace warpjet
