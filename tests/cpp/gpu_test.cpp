// The GPU as a device, and the loader on it. Without one, what asking for it says.
#include "ops/backend.h"
#include "plan/plan.h"

#include <gtest/gtest.h>

#include <thread>

#include "error_kit.h"
#include "load_kit.h"

namespace warpjet {
namespace {

constexpr std::size_t kBytes = 1 << 20;

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = cuda_status().unavailable_reason;
    if (!reason.empty()) GTEST_SKIP() << reason;
    device_ = make_cuda_device(0);
  }
  char* chars(const Buffer& buffer) { return static_cast<char*>(buffer.data()); }

  std::unique_ptr<Device> device_;
};

TEST(GpuStatus, SaysWhyThereIsNoGpu) {
  const CudaStatus status = cuda_status();
  if (status.unavailable_reason.empty()) GTEST_SKIP() << "there is one";
  expect_error(ErrorCode::device, status.unavailable_reason, [] { make_cuda_device(0); });
}

TEST(GpuStatus, RegistersKernelsOnlyWithTheBackend) {
  Catalogs catalogs;
  register_cuda_backend(catalogs);
  EXPECT_EQ(catalogs.of<Norm>().rows().empty(), cuda_architectures().empty());
  register_reference(catalogs);
}

TEST_F(Gpu, DescribesItself) {
  const DeviceInfo& info = device_->info();
  EXPECT_GE(info.sm, 80);
  EXPECT_GT(info.cores, 1);
  EXPECT_GT(info.free_bytes, 0);
  EXPECT_LE(info.free_bytes, info.memory_bytes);
  EXPECT_NE(cuda_status().gpus.at(0).find(info.name), std::string::npos);
  expect_error(ErrorCode::invalid_argument, "cuda:99", [] { make_cuda_device(99); });
  expect_error(ErrorCode::invalid_argument, "cuda:-1", [] { make_cuda_device(-1); });
}

TEST_F(Gpu, MemoryIsZeroedAndCopiesArrive) {
  const Buffer memory = device_->allocate(kBytes), host = device_->allocate_host(kBytes);
  EXPECT_EQ(std::count(chars(host), chars(host) + kBytes, 0), static_cast<std::ptrdiff_t>(kBytes));
  std::fill_n(chars(host), kBytes, 'x');
  Stream& stream = device_->stream();
  stream.copy(host.data(), memory.data(), kBytes / 2);
  stream.synchronize();
  EXPECT_EQ(std::count(chars(host), chars(host) + kBytes, 0), static_cast<std::ptrdiff_t>(kBytes / 2));
  stream.copy(memory.at(0), host.at(kBytes / 2), kBytes / 2);
  stream.copy(memory.at(kBytes / 2), memory.at(0), kBytes / 2);
  stream.copy(host.data(), memory.data(), kBytes);
  stream.synchronize();
  EXPECT_EQ(std::count(chars(host), chars(host) + kBytes, 'x'), static_cast<std::ptrdiff_t>(kBytes));
}

TEST_F(Gpu, SaysHowMuchMemoryWasAskedForAndIsFree) {
  expect_error(ErrorCode::out_of_memory, "cannot allocate 70368744177664 bytes on cuda:0",
               [&] { device_->allocate(std::size_t{1} << 46); });
  const Buffer memory = device_->allocate(kBytes);  // the failure is forgotten
  device_->stream().copy(memory.data(), memory.at(kBytes / 2), 16);
  device_->stream().synchronize();
}

TEST_F(Gpu, EventsTellWhenWorkIsDoneAndHowLongItTook) {
  constexpr std::size_t kLong = 256 << 20;
  const Buffer memory = device_->allocate(2 * kLong);
  Stream& stream = device_->stream();
  const auto start = device_->make_event(), end = device_->make_event();
  stream.record(*start);
  for (int i = 0; i < 8; ++i) stream.copy(memory.data(), memory.at(kLong), kLong);
  stream.record(*end);
  EXPECT_FALSE(end->done());
  end->wait();
  EXPECT_TRUE(end->done());
  EXPECT_TRUE(start->done());
  EXPECT_GT(end->microseconds_since(*start), 100);
}

TEST_F(Gpu, StreamsWorkFromOtherThreads) {
  const Buffer memory = device_->allocate(kBytes), host = device_->allocate_host(kBytes);
  std::fill_n(chars(host), kBytes, 'y');
  std::thread([&] {
    device_->use_on_this_thread();
    const auto stream = device_->make_stream();
    stream->copy(memory.data(), host.data(), kBytes);
    stream->synchronize();
  }).join();
  std::fill_n(chars(host), kBytes, 0);
  device_->stream().copy(host.data(), memory.data(), kBytes);
  device_->stream().synchronize();
  EXPECT_EQ(std::count(chars(host), chars(host) + kBytes, 'y'), static_cast<std::ptrdiff_t>(kBytes));
}

TEST_F(Gpu, GraphsDoTheirWorkWhenTheyAreLaunched) {
  const Buffer memory = device_->allocate(kBytes), host = device_->allocate_host(2);
  Stream& stream = device_->stream();
  chars(host)[0] = 'a';
  ASSERT_TRUE(stream.begin_capture());
  stream.copy(memory.data(), host.data(), 1);
  stream.copy(host.at(1), memory.data(), 1);
  const auto graph = stream.end_capture();
  stream.synchronize();
  EXPECT_EQ(chars(host)[1], 0);
  for (const char value : {'a', 'b'}) {
    chars(host)[0] = value;
    stream.launch(*graph);
    stream.synchronize();
    EXPECT_EQ(chars(host)[1], value);
  }
}

// The weights on the device are those that the CPU has.
TEST_F(Gpu, LoadsTheSameWeightsAsTheCpu) {
  const std::filesystem::path tiny = std::filesystem::path(WARPJET_MODELS) / "tiny";
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "warpjet_gpu_test";
  build_engine(tiny, folder, {.overwrite = true});
  Catalogs catalogs;
  register_reference(catalogs);
  const auto cpu = make_cpu_device(1);
  for (const LoadOptions& options : {LoadOptions{}, LoadOptions{.load_format = "dummy"}}) {
    const LoadedModel expected = load_model(tiny, options, catalogs, *cpu);
    const bool dummy = options.load_format == "dummy";
    const Weights weights =
        dummy ? make_dummy_weights(expected.plan, *device_) : pack(Checkpoint::open(tiny), expected.plan, *device_);
    const Weights read = read_engine_weights(folder, read_engine_plan(folder), *device_);
    const std::size_t bytes = weights.owned.bytes();
    const Buffer host = device_->allocate_host(bytes);
    for (const Weights* loaded : {&weights, &read}) {
      if (dummy && loaded == &read) continue;
      device_->stream().copy(host.data(), loaded->data(), bytes);
      device_->stream().synchronize();
      EXPECT_EQ(std::memcmp(host.data(), expected.weights.data(), bytes), 0);
    }
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace warpjet
