// Loading weights: lanes and slots, on a device that does its work as late as it may; made-up weights.
#include "plan/loader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <fstream>
#include <numeric>
#include <random>

#include "error_kit.h"
#include "load_kit.h"
#include "temporary_directory.h"

namespace warpjet {
namespace {

namespace fs = std::filesystem;
const fs::path kTiny = fs::path(WARPJET_MODELS) / "tiny";

// --- A device that is late ------------------------------------------------------------------------------------------

// Copies only when somebody waits for it: whoever overwrites a slot too early, or looks too early, sees wrong bytes.
class LateStream final : public Stream {
 public:
  explicit LateStream(std::atomic<int>& copies_left) : copies_left_(copies_left) {}
  void copy(void* to, const void* from, std::size_t bytes) override {
    WJ_REQUIRE(copies_left_.fetch_sub(1) > 0, device, "injected fault: copy");
    work_.push_back({to, from, bytes});
    ++given_;
  }
  void synchronize() override { run_until(given_); }
  void record(Event& event) override;

  void run_until(std::int64_t count) {
    for (; done_ < count; ++done_) {
      std::memcpy(work_.front().to, work_.front().from, work_.front().bytes);
      work_.pop_front();
    }
  }
  std::int64_t given() const { return given_; }

 private:
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
  };
  std::atomic<int>& copies_left_;
  std::deque<Copy> work_;
  std::int64_t given_ = 0, done_ = 0;
};

class LateEvent final : public Event {
 public:
  bool done() const override { return false; }
  void wait() const override {
    if (stream) stream->run_until(count);
  }
  double microseconds_since(const Event&) const override { return 0; }
  LateStream* stream = nullptr;
  std::int64_t count = 0;
};

void LateStream::record(Event& event) {
  static_cast<LateEvent&>(event) = LateEvent();
  static_cast<LateEvent&>(event).stream = this;
  static_cast<LateEvent&>(event).count = given_;
}

class LateDevice final : public Device {
 public:
  const DeviceInfo& info() const override { return info_; }
  Buffer allocate(std::size_t bytes) override { return memory_->allocate(bytes); }
  Buffer allocate_host(std::size_t bytes) override {
    pinned += static_cast<std::int64_t>(bytes);
    return memory_->allocate(bytes);
  }
  Stream& stream() override { return stream_; }
  std::unique_ptr<Event> make_event() override { return std::make_unique<LateEvent>(); }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<LateStream>(copies_left); }
  void use_on_this_thread() override { ++threads; }

  std::atomic<int> copies_left{1 << 30};
  std::atomic<int> threads{0};
  std::atomic<std::int64_t> pinned{0};

 private:
  DeviceInfo info_{.name = "late", .sm = 90, .cores = 1, .memory_bytes = 0, .free_bytes = 0};
  std::unique_ptr<Device> memory_ = make_cpu_device(1);
  LateStream stream_{copies_left};
};

// --- Engines without a model -----------------------------------------------------------------------------------------

// Weights of these numbers of f32, and a weights.bin of random bytes that fits them.
struct EngineFile {
  explicit EngineFile(const std::vector<std::int64_t>& sizes) {
    for (const std::int64_t size : sizes) {
      WeightRef ref{.name = cat("weight.", plan.weights.size()), .format = DType::f32, .shape = Shape({size, 1})};
      if (!plan.weights.empty())
        ref.offset = align_up(plan.weights.back().offset + weight_bytes(plan.weights.back()), kWeightAlignment);
      plan.weights.push_back(ref);
    }
    bytes.resize(static_cast<std::size_t>(plan.weight_bytes()));
    std::mt19937 random(1);
    for (WeightRef& ref : plan.weights) {
      const auto part = std::span(bytes).subspan(ref.offset, weight_bytes(ref));
      for (std::byte& byte : part) byte = static_cast<std::byte>(random());
      Checksum checksum;
      checksum.update(part);
      ref.checksum = checksum.hex();
    }
    FileWriter file(folder.path() / "weights.bin");
    file.write(bytes);
    file.close();
  }

  TemporaryDirectory folder;
  Plan plan;
  std::vector<std::byte> bytes;
};

// Some longer than several slots, some shorter than one, and an empty one.
const std::vector<std::int64_t> kSizes = {1, 5'000'000, 1000, 0, 2 << 20, 3, (2 << 20) + 1, 70'000};

TEST(Loader, BringsEveryByteOfAnEngineToALateDevice) {
  const EngineFile engine(kSizes);
  LateDevice device;
  const Weights weights = read_engine_weights(engine.folder.path(), engine.plan, device);
  EXPECT_EQ(std::memcmp(weights.data(), engine.bytes.data(), engine.bytes.size()), 0);
  EXPECT_EQ(device.threads.load(), weights.readers);
  EXPECT_EQ(device.pinned.load(), weights.readers * kLaneSlots * kSlotBytes);
}

TEST(Loader, PinsNoMoreThanTheWeightsNeed) {
  const EngineFile engine({10, 3});
  LateDevice device;
  read_engine_weights(engine.folder.path(), engine.plan, device);
  EXPECT_EQ(device.pinned.load(), kLaneSlots * kWeightAlignment);
}

TEST(Loader, FindsDamageInAnyWeight) {
  for (const std::size_t damaged : {std::size_t{1}, std::size_t{5}}) {
    const EngineFile engine(kSizes);
    const WeightRef& ref = engine.plan.weights[damaged];
    {
      std::fstream file(engine.folder.path() / "weights.bin", std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(ref.offset + weight_bytes(ref) - 1);
      file.put(static_cast<char>(~static_cast<int>(engine.bytes[ref.offset + weight_bytes(ref) - 1])));
    }
    LateDevice device;
    const fs::path& folder = engine.folder.path();
    expect_error(ErrorCode::corrupt, ref.name + " ", [&] { read_engine_weights(folder, engine.plan, device); });
  }
}

TEST(Loader, RefusesATruncatedFile) {
  const EngineFile engine({5000, 5000});
  fs::resize_file(engine.folder.path() / "weights.bin", 4096);
  LateDevice device;
  expect_error(ErrorCode::corrupt, "truncated",
               [&] { read_engine_weights(engine.folder.path(), engine.plan, device); });
}

TEST(Loader, PassesOnTheFirstErrorOfAnyThread) {
  const EngineFile engine(kSizes);
  for (int copies = 0; copies < 10; ++copies) {
    LateDevice device;
    device.copies_left = copies;
    expect_error(ErrorCode::device, "injected",
                 [&] { read_engine_weights(engine.folder.path(), engine.plan, device); });
  }
}

TEST(Loader, TakesTheBiggestWeightsFirstAndEachOnce) {
  Plan plan;
  for (const std::int64_t size : {3, 9, 1, 9}) plan.weights.push_back({.format = DType::f32, .shape = Shape({size})});
  WeightQueue queue(plan);
  std::vector<std::size_t> order;
  while (const auto next = queue.next()) order.push_back(*next);
  EXPECT_EQ(order, (std::vector<std::size_t>{1, 3, 0, 2}));

  WeightQueue stopped(plan);
  stopped.stop();
  EXPECT_EQ(stopped.next(), std::nullopt);
}

TEST(Loader, LanesLendBytesOnlyForTheCall) {
  LateDevice device;
  constexpr std::int64_t kBytes = 1000, kSlot = 64;
  std::vector<std::byte> to(kBytes);
  Lane lane(device, kSlot);
  for (std::int64_t i = 0; i < kBytes; i += 100) {
    std::vector<std::byte> piece(100, static_cast<std::byte>(i / 100));
    lane.write(to.data() + i, piece);
    std::fill(piece.begin(), piece.end(), std::byte{0xff});
  }
  lane.finish();
  for (std::int64_t i = 0; i < kBytes; ++i) ASSERT_EQ(to[i], static_cast<std::byte>(i / 100)) << i;
}

// --- Models ----------------------------------------------------------------------------------------------------------

struct Models {
  Models() { register_reference(catalogs); }
  LoadedModel load(const fs::path& path, const LoadOptions& options) {
    return load_model(path, options, catalogs, *device);
  }
  Catalogs catalogs;
  std::unique_ptr<Device> device = make_cpu_device(1);
};

TEST(LoadModel, PacksTheSameOnALateDevice) {
  Models models;
  const LoadedModel model = models.load(kTiny, {});
  LateDevice late;
  const Weights packed = pack(Checkpoint::open(kTiny), model.plan, late);
  EXPECT_EQ(std::memcmp(packed.data(), model.weights.data(), model.plan.weight_bytes()), 0);
}

TEST(LoadModel, ReportsWhatItDid) {
  Models models;
  const TemporaryDirectory folder;
  build_engine(kTiny, folder.path() / "engine", {});
  EXPECT_EQ(models.load(kTiny, {.dtype = "float32"}).report.source, "checkpoint");
  EXPECT_EQ(models.load(kTiny, {.load_format = "dummy"}).report.source, "dummy");
  const LoadReport report = models.load(folder.path() / "engine", {}).report;
  EXPECT_EQ(report.source, "engine");
  EXPECT_EQ(report.bytes, models.load(kTiny, {}).plan.weight_bytes());
  EXPECT_GT(report.threads, 0);
  EXPECT_GT(report.seconds, 0);
}

// --- Dummy weights ---------------------------------------------------------------------------------------------------

std::vector<float> values_of(const LoadedModel& model, const WeightRef& ref) {
  std::vector<float> values(ref.shape.elements());
  convert(model.weights.data() + ref.offset, ref.format.element, values.data(), DType::f32, ref.shape.elements());
  return values;
}

TEST(DummyWeights, NeedTheConfigAlone) {
  const TemporaryDirectory folder;
  fs::copy_file(kTiny / "config.json", folder.path() / "config.json");
  Models models;
  const LoadedModel model = models.load(folder.path(), {.load_format = "dummy"});
  EXPECT_EQ(model.plan.weight_bytes(), models.load(kTiny, {}).plan.weight_bytes());
  expect_error(ErrorCode::io, "model.safetensors", [&] { models.load(folder.path(), {}); });
}

TEST(DummyWeights, AreOfSensibleScaleAndTheSameEveryTime) {
  for (const char* dtype : {"bfloat16", "float32"}) {
    Models models;
    const LoadedModel model = models.load(kTiny, {.dtype = dtype, .load_format = "dummy"});
    const LoadedModel again = models.load(kTiny, {.dtype = dtype, .load_format = "dummy"});
    EXPECT_EQ(std::memcmp(model.weights.data(), again.weights.data(), model.plan.weight_bytes()), 0);
    for (const WeightRef& ref : model.plan.weights) {
      SCOPED_TRACE(ref.name);
      const std::vector<float> values = values_of(model, ref);
      const auto count = static_cast<double>(values.size());
      if (ref.shape.rank() == 1) {
        EXPECT_EQ(std::count(values.begin(), values.end(), 1.0f), std::ssize(values));
        continue;
      }
      const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
      const double square = std::inner_product(values.begin(), values.end(), values.begin(), 0.0) / count;
      EXPECT_NEAR(mean, 0, 5 * 0.02 / std::sqrt(count));
      EXPECT_NEAR(std::sqrt(square), 0.02, 0.001);
    }
  }
}

TEST(DummyWeights, DifferBetweenWeightsAndBiasesAreZero) {
  Plan plan;
  std::int64_t offset = 0;
  for (const char* name : {"layers.0.qkv", "layers.1.qkv", "layers.0.qkv.bias", "layers.0.norm1"}) {
    const Shape shape = std::string_view(name).ends_with("qkv") ? Shape({64, 64}) : Shape({64});
    plan.weights.push_back({.name = name, .format = DType::f16, .shape = shape, .offset = offset});
    offset = align_up(offset + weight_bytes(plan.weights.back()), kWeightAlignment);
  }
  const auto device = make_cpu_device(1);
  LoadedModel model{.plan = plan, .weights = make_dummy_weights(plan, *device), .report = {}};
  const auto values = [&](int index) { return values_of(model, plan.weights[index]); };
  EXPECT_NE(values(0), values(1));
  EXPECT_EQ(values(2), std::vector<float>(64, 0.0f));
  EXPECT_EQ(values(3), std::vector<float>(64, 1.0f));
}

TEST(DummyWeights, AreRefusedForAnEngine) {
  const TemporaryDirectory folder;
  build_engine(kTiny, folder.path() / "engine", {});
  Models models;
  expect_error(ErrorCode::invalid_argument, "is an engine",
               [&] { models.load(folder.path() / "engine", {.load_format = "dummy"}); });
}

}  // namespace
}  // namespace warpjet
