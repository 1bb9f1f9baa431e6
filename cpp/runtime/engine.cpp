// The public Engine: a checkpoint or an engine directory, opened on a device, behind a step loop.
#include <warpjet/snapshot.h>

#include <algorithm>
#include <thread>

#include "ops/backend.h"
#include "runtime/memory_plan.h"

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

// The window that every layer has; 0 when some layer sees the whole text.
int common_window(const ModelSpec& model) {
  int widest = 0;
  for (const LayerSpec& layer : model.layers) {
    if (layer.window == 0) return 0;
    widest = std::max(widest, layer.window);
  }
  return widest;
}

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
          .num_layers = static_cast<int>(plan.model.layers.size()),
          .parameters = plan.parameters(),
          .weight_bytes = plan.weight_bytes(),
          .kv_bytes_per_token = plan.kv_bytes_per_token(),
          .eos_token_ids = plan.model.eos_token_ids,
          .bos_token_id = plan.model.bos_token_id};
}

}  // namespace

struct Engine::Impl {
  Catalogs catalogs;
  std::unique_ptr<Device> device;
  EngineConfig config;
  ModelInfo model;
  LoadReport load_report;
  std::unique_ptr<StepLoop> loop;  // last: its thread uses the rest
};

std::unique_ptr<Engine> Engine::open(const std::filesystem::path& model, const EngineConfig& config) {
  validate(config);
  auto impl = std::make_unique<Impl>();
  impl->config = config;
  register_cuda_backend(impl->catalogs);
  register_reference(impl->catalogs);
  impl->device = open_device(config.device, config.num_threads);
  const DeviceInfo& device = impl->device->info();
  impl->config.device = device.id;
  impl->config.num_threads = device.sm == 0 ? device.cores : 0;

  OpenedModel opened =
      open_model(model, {.dtype = config.dtype, .load_format = config.load_format}, impl->catalogs, device);
  const ModelSpec& m = opened.plan.model;
  KvCache::Config kv{.layers = static_cast<int>(m.layers.size()),
                     .kv_heads = m.num_kv_heads,
                     .head_dim = m.head_dim,
                     .block_size = config.block_size,
                     .num_blocks = 0,
                     .dtype = opened.plan.kv};
  const MemoryPlan memory = plan_memory(impl->config, opened.plan, kv, impl->catalogs, device);
  WJ_LOG(info, "memory of ", device.name, ": ", to_string(memory));
  kv.num_blocks = static_cast<int>(memory.num_blocks);
  const int host_blocks = num_host_blocks(config, memory.block_bytes);
  kv.num_host_blocks = host_blocks > 0 ? host_blocks + 1 : 0;
  const int logprobs = most_logprobs(config, m, device);
  impl->config.dtype = opened.plan.scheme;
  impl->model = info_of(opened.plan, impl->config.max_model_len);

  const EngineConfig& resolved = impl->config;
  const StepLoop::Config loop{.engine = resolved,
                              .model = impl->model,
                              .num_blocks = kv.num_blocks,
                              .num_host_blocks = host_blocks,
                              .window = common_window(m),
                              .rope_original = m.rope.scaling == "dynamic" ? m.rope.original_max_positions : 0};
  Weights weights;
  impl->load_report = load_weights(opened, *impl->device, weights);
  Runner runner(std::move(opened.plan), std::move(weights), impl->catalogs, *impl->device,
                resolved.max_num_batched_tokens, resolved.max_num_seqs, resolved.block_size);
  constexpr int kMaxGraphTokens = 512;
  auto model_runner = std::make_unique<ModelRunner>(
      ModelRunner::Config{.max_tokens = resolved.max_num_batched_tokens,
                          .max_seqs = resolved.max_num_seqs,
                          .max_model_len = resolved.max_model_len,
                          .num_slots = num_slots(resolved.max_num_seqs, resolved.max_steps_in_flight),
                          .max_logprobs = logprobs,
                          .max_in_flight = resolved.max_steps_in_flight,
                          .max_graph_tokens = device.sm == 0 || resolved.enforce_eager ? 0 : kMaxGraphTokens},
      std::move(runner), KvCache(kv, impl->catalogs, *impl->device), impl->catalogs, *impl->device);
  auto bell = std::make_shared<Doorbell>();
  auto executor = std::make_unique<DeviceThread>(std::move(model_runner), resolved.max_steps_in_flight, bell);
  impl->loop = std::make_unique<StepLoop>(loop, std::move(executor), std::move(bell));
  WJ_LOG(info, "engine ready model=", model.string(), " device=", device.name, " parameters=", impl->model.parameters,
         " scheme=", impl->model.scheme, " kv_blocks=", kv.num_blocks - 1, " block_size=", config.block_size);
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

RequestId Engine::submit(Request request, OutputQueue& queue) {
  return impl_->loop->submit(std::move(request), queue.state_);
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
