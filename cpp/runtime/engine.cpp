// The public Engine: a checkpoint or an engine directory, opened on a device, behind a step loop.
#include <warpjet/snapshot.h>

#include <algorithm>
#include <thread>

#include "execute/memory_plan.h"
#include "ops/backend.h"
#include "runtime/runtime.h"

namespace warpjet {

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::none:
      return "none";
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::abort:
      return "abort";
    case FinishReason::error:
      return "error";
  }
  return "unknown";
}

std::string_view to_string(Health health) {
  switch (health) {
    case Health::serving:
      return "serving";
    case Health::degraded:
      return "degraded";
    case Health::failed:
      return "failed";
    case Health::closed:
      return "closed";
  }
  return "unknown";
}

namespace {

int num_host_blocks(const EngineConfig& config, std::int64_t block_bytes) {
  const double bytes = config.kv_offloading_size * (1ll << 30);
  const auto blocks = static_cast<std::int64_t>(bytes / static_cast<double>(block_bytes));
  WJ_REQUIRE(config.kv_offloading_size == 0 || blocks > 0, invalid_argument,
             "kv_offloading_size: ", config.kv_offloading_size, " GiB hold no KV block of ", block_bytes, " bytes");
  return static_cast<int>(std::min<std::int64_t>(blocks, INT32_MAX - 2));
}

ModelInfo info_of(const Plan& plan, int max_model_len) {
  return {.architecture = plan.model.architecture,
          .scheme = plan.scheme,
          .vocab_size = plan.model.vocab_size,
          .max_model_len = max_model_len,
          .num_layers = plan.model.num_layers,
          .hidden_size = plan.model.hidden_size,
          .parameters = plan.parameters(),
          .weight_bytes = plan.weight_bytes(),
          .kv_bytes_per_token = plan.kv_bytes_per_token(),
          .eos_token_ids = plan.model.eos_token_ids,
          .bos_token_id = plan.model.bos_token_id,
          .generates = plan.model.generates};
}

}  // namespace

struct Engine::Impl {
  Catalogs catalogs;
  std::unique_ptr<Device> device;
  EngineConfig config;
  ModelInfo model;
  LoadReport load_report;
  std::unique_ptr<StepLoop> loop;  // last: its thread uses the rest

  bool computes() const { return config.device != "null"; }
  OpenedModel open(const std::filesystem::path& path);
  std::unique_ptr<Executor> make_executor(OpenedModel opened, const KvCache::Config& kv,
                                          std::shared_ptr<Doorbell> bell);
};

// Fills in the device. Where nothing is computed the model is planned as for the CPU: only its sizes matter.
OpenedModel Engine::Impl::open(const std::filesystem::path& path) {
  register_cuda_backend(catalogs);
  register_reference(catalogs);
  device = computes() ? open_device(config.device, config.num_threads) : make_cpu_device(1);
  const DeviceInfo& info = device->info();
  if (computes()) config.device = info.id;
  config.num_threads = info.sm == 0 ? info.cores : 0;
  const bool weightless = !computes() && !is_engine_directory(path);
  const std::string load_format = weightless ? "dummy" : config.load_format;
  return open_model(path, {.dtype = config.dtype, .load_format = load_format, .hf_overrides = config.hf_overrides},
                    catalogs, info);
}

std::unique_ptr<Executor> Engine::Impl::make_executor(OpenedModel opened, const KvCache::Config& kv,
                                                      std::shared_ptr<Doorbell> bell) {
  const int slots = num_slots(config.max_num_seqs, config.max_steps_in_flight);
  if (!computes()) {
    load_report = {.source = "none"};
    return std::make_unique<NullExecutor>(config.max_steps_in_flight, slots, model);
  }
  constexpr int kMaxGraphTokens = 512;
  const DeviceInfo& info = device->info();
  const ModelRunner::Config sizes = {
      .max_tokens = config.max_num_batched_tokens,
      .max_seqs = config.max_num_seqs,
      .max_model_len = config.max_model_len,
      .num_slots = slots,
      .max_logprobs = most_logprobs(config, opened.plan.model, info),
      .max_in_flight = config.max_steps_in_flight,
      .max_graph_tokens = info.sm == 0 || config.enforce_eager || debug_sync() ? 0 : kMaxGraphTokens};
  Weights weights;
  load_report = load_weights(opened, *device, weights);
  Runner runner(std::move(opened.plan), std::move(weights), catalogs, *device, config.max_num_batched_tokens,
                config.max_num_seqs, config.block_size);
  auto model_runner =
      std::make_unique<ModelRunner>(sizes, std::move(runner), KvCache(kv, catalogs, *device), catalogs, *device);
  return std::make_unique<DeviceThread>(std::move(model_runner), config.max_steps_in_flight, std::move(bell));
}

std::unique_ptr<Engine> Engine::open(const std::filesystem::path& path, const EngineConfig& config) {
  validate(config);
  auto impl = std::make_unique<Impl>();
  impl->config = config;
  OpenedModel opened = impl->open(path);
  const DeviceInfo& device = impl->device->info();
  const std::string device_name = impl->computes() ? device.name : config.device;
  KvCache::Config kv = {.layout = layout_of(opened.plan, config), .block_size = config.block_size};
  const MemoryPlan memory = plan_memory(impl->config, opened.plan, kv, impl->catalogs, device);
  WJ_LOG(info, "memory of ", device_name, ": ", to_string(memory));
  kv.num_blocks = static_cast<int>(memory.num_blocks);
  const int host_blocks = num_host_blocks(config, memory.block_bytes);
  kv.num_host_blocks = host_blocks > 0 ? host_blocks + 1 : 0;
  impl->config.dtype = opened.plan.scheme;
  impl->model = info_of(opened.plan, impl->config.max_model_len);
  const StepLoop::Config loop{.engine = impl->config,
                              .model = impl->model,
                              .num_blocks = kv.num_blocks,
                              .num_host_blocks = host_blocks,
                              .windows = kv.layout.windows(),
                              .rope_original = opened.plan.model.rope_original};
  auto bell = std::make_shared<Doorbell>();
  auto executor = impl->make_executor(std::move(opened), kv, bell);
  impl->loop = std::make_unique<StepLoop>(loop, std::move(executor), std::move(bell));
  WJ_LOG(info, "engine ready model=", path.string(), " device=", device_name, " parameters=", impl->model.parameters,
         " scheme=", impl->model.scheme, " kv_blocks=", kv.num_blocks - 1, " block_size=", config.block_size);
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

RequestId Engine::submit(Request request, OutputQueue& queue) {
  const std::shared_ptr<OutputQueue::State> guide = request.guide ? request.guide->state_ : nullptr;
  return impl_->loop->submit(std::move(request), queue.state_, guide);
}
void Engine::guide(std::vector<Guidance> answers) {
  impl_->loop->guide(std::move(answers));
}
void Engine::cancel(RequestId id, std::optional<int> sample) {
  impl_->loop->cancel(id, sample);
}
void Engine::pause(RequestId id) {
  impl_->loop->pause(id);
}
void Engine::resume(RequestId id) {
  impl_->loop->resume(id);
}
std::vector<KvEvent> Engine::kv_events(std::uint64_t number) const {
  return impl_->loop->kv_events(number);
}
Snapshot Engine::snapshot(std::uint64_t since_step) const {
  return impl_->loop->snapshot(since_step);
}
std::string Engine::metrics() const {
  return impl_->loop->metrics();
}
void Engine::reset_prefix_cache() {
  impl_->loop->reset_prefix_cache();
}
Stats Engine::stats() const {
  return impl_->loop->stats();
}
Health Engine::health() const {
  return impl_->loop->health();
}
const ModelInfo& Engine::model() const {
  return impl_->model;
}
const EngineConfig& Engine::config() const {
  return impl_->config;
}
const LoadReport& Engine::load_report() const {
  return impl_->load_report;
}
void Engine::close() {
  impl_->loop->close();
}

}  // namespace warpjet
