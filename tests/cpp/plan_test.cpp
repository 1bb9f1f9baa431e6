// Plans: shape, memory layout, JSON round trip, the trust boundary, engine directories.
#include "plan/plan.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include "temporary_directory.h"

#include <fstream>

namespace warpjet {
namespace {

namespace fs = std::filesystem;
const fs::path kTiny = fs::path(WARPJET_MODELS) / "tiny";

struct Opened {
  Opened() { register_reference(catalogs); }
  Plan plan() const {
    const Scheme& scheme = scheme_for(checkpoint.dtype);
    return make_plan(checkpoint.spec, checkpoint.slots, scheme, scheme.kv, catalogs, device->info());
  }
  Catalogs catalogs;
  std::unique_ptr<Device> device = make_cpu_device(1);
  Checkpoint checkpoint = Checkpoint::open(kTiny);
};

ErrorCode code_of(const std::function<void()>& action, std::string* message = nullptr) {
  try {
    action();
  } catch (const Error& e) {
    if (message) *message = e.message();
    return e.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::internal;
}

TEST(Plan, HasTheNodesOfADecoder) {
  const Plan plan = Opened().plan();
  const int layers = plan.model.num_layers;
  EXPECT_EQ(static_cast<int>(plan.nodes.size()), 2 + 8 * layers + 3);
  EXPECT_EQ(plan.nodes[0].name, "embed");
  EXPECT_EQ(plan.nodes[3].name, "layers.0.qkv");
  EXPECT_EQ(plan.nodes[3].tactics, (std::vector<Tactic>{{.max_rows = kAnyRows, .kernel = "ref.gemm"}}));
  EXPECT_EQ(std::ssize(plan.caches), layers);
  EXPECT_EQ(plan.kv_bytes_per_token(), 2ll * layers * plan.caches[0].kv_heads * plan.caches[0].head_dim * 2);
}

TEST(Plan, BuffersThatLiveTogetherDoNotOverlap) {
  const Plan plan = Opened().plan();
  constexpr std::int64_t kTokens = 37, kSampled = 5;
  std::int64_t bytes = 0, sum = 0;
  const std::vector<std::int64_t> offsets = lay_out(plan, kTokens, kSampled, bytes);
  const auto size = [&](const BufferSpec& b) {
    return (b.rows == Rows::tokens ? kTokens : kSampled) * b.width * dtype_bytes(b.dtype);
  };
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    sum += align_up<std::int64_t>(size(plan.buffers[i]), 256);
    EXPECT_LE(offsets[i] + size(plan.buffers[i]), bytes);
    for (std::size_t j = 0; j < i; ++j) {
      const BufferSpec &a = plan.buffers[i], &b = plan.buffers[j];
      if (a.first > b.last || b.first > a.last) continue;
      EXPECT_TRUE(offsets[i] + size(a) <= offsets[j] || offsets[j] + size(b) <= offsets[i])
          << a.name << " and " << b.name;
    }
  }
  EXPECT_LT(bytes, sum) << "nothing is shared";
}

TEST(Plan, SurvivesJson) {
  const Plan plan = Opened().plan();
  const std::string text = plan_to_json(plan).dump();
  EXPECT_EQ(plan_to_json(plan_from_json(Json::parse(text))).dump(), text);
}

// Each edit is one that a damaged or hostile engine.json could hold.
TEST(Plan, CheckRefusesWhatCouldLeaveMemory) {
  const Plan good = Opened().plan();
  const auto refused = [&](const std::function<void(Plan&)>& edit) {
    Plan plan = good;
    edit(plan);
    return code_of([&] { check_plan(plan); }) == ErrorCode::corrupt;
  };
  const auto gemm = [](Plan& p, int i) -> GemmNode& { return std::get<GemmNode>(p.nodes[i].op); };
  EXPECT_TRUE(refused([](Plan& p) { p.buffers[0].width = 8; }));
  EXPECT_TRUE(refused([](Plan& p) { p.buffers[0].last = 3; }));
  EXPECT_TRUE(refused([](Plan& p) { p.buffers[0].first = 5; }));
  EXPECT_TRUE(refused([](Plan& p) { p.buffers[0].rows = Rows::sampled; }));
  EXPECT_TRUE(refused([](Plan& p) { p.buffers[2].dtype = DType::bf16; }));
  EXPECT_TRUE(refused([](Plan& p) { p.buffers[0].dtype = DType::i32; }));
  EXPECT_TRUE(refused([](Plan& p) { p.weights[1].shape = Shape({8}); }));
  EXPECT_TRUE(refused([](Plan& p) { p.weights[2].offset = 64; }));
  EXPECT_TRUE(refused([](Plan& p) { p.weights[0].shape = Shape({4, 256}); }));
  EXPECT_TRUE(refused([](Plan& p) { p.weights.clear(); }));
  EXPECT_TRUE(refused([&](Plan& p) { gemm(p, 3).d.index = 99; }));
  EXPECT_TRUE(refused([&](Plan& p) { gemm(p, 3).b.index = -1; }));
  EXPECT_TRUE(refused([&](Plan& p) { gemm(p, 3).residual.index = 0; }));
  EXPECT_TRUE(refused([&](Plan& p) { gemm(p, 3).gate = Gate::silu; }));
  EXPECT_TRUE(refused([&](Plan& p) { gemm(p, 3).bias.index = 0; }));
  EXPECT_TRUE(refused([&](Plan& p) { gemm(p, 3).bias.index = -7; }));
  const auto attention = [](Plan& p) -> AttentionNode& { return std::get<AttentionNode>(p.nodes[5].op); };
  EXPECT_TRUE(refused([&](Plan& p) { attention(p).cache = 50; }));
  EXPECT_TRUE(refused([&](Plan& p) { attention(p).kv_heads = 3; }));
  EXPECT_TRUE(refused([&](Plan& p) { attention(p).head_dim = 0; }));
  EXPECT_TRUE(refused([&](Plan& p) { attention(p).heads = 1 << 23; }));
  EXPECT_TRUE(refused([&](Plan& p) { attention(p).window = -1; }));
  EXPECT_TRUE(refused([](Plan& p) { std::swap(p.nodes[2], p.nodes[3]); }));
  EXPECT_TRUE(refused([](Plan& p) { p.phases[1].first = 0; }));
  EXPECT_TRUE(refused([](Plan& p) { p.phases[1].first -= 1; }));
  EXPECT_TRUE(refused([](Plan& p) { p.phases[2].first = p.phases[1].first; }));
  EXPECT_TRUE(refused([](Plan& p) { p.phases.pop_back(); }));
  EXPECT_TRUE(refused([](Plan& p) { p.phases[0].rows = Rows::sampled; }));
  EXPECT_TRUE(refused([](Plan& p) { p.taps[1].buffer.index = 0; }));
  EXPECT_TRUE(refused([](Plan& p) { p.taps.clear(); }));
  EXPECT_TRUE(refused([](Plan& p) { p.caches[0].kv_heads += 1; }));
  EXPECT_TRUE(refused([](Plan& p) { p.caches[0].window = 4; }));
  EXPECT_TRUE(refused([](Plan& p) { p.caches.clear(); }));
  EXPECT_TRUE(refused([](Plan& p) { p.model.vocab_size = 1 << 20; }));
  EXPECT_TRUE(refused([](Plan& p) { p.model.num_layers = 0; }));
  EXPECT_TRUE(refused([](Plan& p) { p.model.eos_token_ids = {-1}; }));
  EXPECT_NO_THROW(check_plan(good));
}

TEST(EngineDirectory, HoldsTheSameBytesAsPackingInMemory) {
  const Opened opened;
  const TemporaryDirectory folder;
  const BuildReport report = build_engine(kTiny, folder.path() / "engine", {});
  EXPECT_EQ(report.scheme, "bf16");
  const Plan plan = read_engine_plan(folder.path() / "engine");
  const Weights read = read_engine_weights(folder.path() / "engine", plan, *opened.device);
  const Weights packed = pack(opened.checkpoint, opened.plan(), *opened.device);
  ASSERT_EQ(plan.weight_bytes(), opened.plan().weight_bytes());
  EXPECT_EQ(std::memcmp(read.data(), packed.data(), plan.weight_bytes()), 0);
  EXPECT_TRUE(fs::exists(folder.path() / "engine" / "tokenizer.json"));
}

TEST(EngineDirectory, WeightsAreACopyOfTheFile) {
  const TemporaryDirectory folder;
  const fs::path out = folder.path() / "engine";
  build_engine(kTiny, out, {});
  const Plan plan = read_engine_plan(out);
  const auto device = make_cpu_device(1);
  const Weights before = read_engine_weights(out, plan, *device), after = read_engine_weights(out, plan, *device);
  fs::resize_file(out / "weights.bin", 4096);
  EXPECT_EQ(std::memcmp(before.data(), after.data(), static_cast<std::size_t>(plan.weight_bytes())), 0);
}

TEST(EngineDirectory, AppearsWholeOrNotAtAll) {
  const TemporaryDirectory folder;
  const fs::path out = folder.path() / "engine";
  const BuildProgress stop = [](std::int64_t done, std::int64_t) {
    if (done > 1 << 20) WJ_FAIL(io, "disk full");
  };
  EXPECT_EQ(code_of([&] { build_engine(kTiny, out, {}, stop); }), ErrorCode::io);
  EXPECT_TRUE(fs::is_empty(folder.path()));
  build_engine(kTiny, out, {});
  EXPECT_EQ(code_of([&] { build_engine(kTiny, out, {}); }), ErrorCode::invalid_argument);
  build_engine(kTiny, out, {.scheme = "fp32", .overwrite = true});
  EXPECT_EQ(read_engine_plan(out).scheme, "fp32");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(EngineDirectory, NeverReplacesForeignFiles) {
  const TemporaryDirectory folder;
  std::ofstream(folder.path() / "thesis.txt") << "precious";
  EXPECT_EQ(code_of([&] { build_engine(kTiny, folder.path(), {.overwrite = true}); }), ErrorCode::invalid_argument);
  EXPECT_TRUE(fs::exists(folder.path() / "thesis.txt"));
}

TEST(EngineDirectory, DamageIsFoundAndNamed) {
  const TemporaryDirectory folder;
  const fs::path out = folder.path() / "engine";
  build_engine(kTiny, out, {});
  const Plan plan = read_engine_plan(out);
  const auto device = make_cpu_device(1);
  std::string message;
  {
    std::fstream file(out / "weights.bin", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(plan.weights[3].offset + 17);
    file.put('\x5a');
  }
  EXPECT_EQ(code_of([&] { read_engine_weights(out, plan, *device); }, &message), ErrorCode::corrupt);
  EXPECT_NE(message.find(plan.weights[3].name), std::string::npos) << message;
  fs::resize_file(out / "weights.bin", 4096);
  EXPECT_EQ(code_of([&] { read_engine_weights(out, plan, *device); }), ErrorCode::corrupt);

  std::string text = read_text_file(out / "engine.json");
  text.replace(text.find("\"format\": 4"), 11, "\"format\": 9");
  write_text_file(out / "engine.json", text);
  EXPECT_EQ(code_of([&] { read_engine_plan(out); }, &message), ErrorCode::unsupported);
  EXPECT_NE(message.find("warpjet build " + fs::absolute(kTiny).string()), std::string::npos) << message;
}

TEST(Describe, CountsTheTinyModel) {
  const Json json = Json::parse(describe(kTiny, {.gpu = "h200", .tokens = 4}));
  EXPECT_EQ(json.at("kind").as_string(), "checkpoint");
  EXPECT_EQ(json.at("gpu").at("name").as_string(), "H200");
  EXPECT_EQ(json.at("steps").as_array().size(), Opened().plan().nodes.size());
  EXPECT_GT(json.at("step_us").as_double(), 0);
  for (const std::string gpu : {"4090", "rtx4090", "NVIDIA GeForce RTX 4090"})
    EXPECT_EQ(Json::parse(describe(kTiny, {.gpu = gpu})).at("gpu").at("name").as_string(), "RTX 4090");
  for (const std::string gpu : {"Voodoo2", "", "RTX", "L40"})
    EXPECT_EQ(code_of([&] { describe(kTiny, {.gpu = gpu}); }), ErrorCode::invalid_argument) << gpu;
}

}  // namespace
}  // namespace warpjet
