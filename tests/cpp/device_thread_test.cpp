// The device thread over a runner that only remembers: order, lifetime of results, errors, faults and the end.
#include "error_kit.h"
#include "execute/execute.h"

#include <gtest/gtest.h>

#include <thread>

namespace warpjet {
namespace {

using namespace std::chrono_literals;

// The result tells which step it is of.
class EchoRunner final : public StepRunner {
 public:
  void start(const Batch& batch, StepResult& result) override {
    running.store(true);
    if (hold) gate->wait(0, 1h);
    if (batch.step == fail_at) WJ_FAIL(device, "step ", batch.step, " failed");
    result.us = static_cast<double>(batch.step);
    result.sampled.tokens.assign(1, static_cast<std::int32_t>(batch.words.size()));
    runs->fetch_add(1);
  }
  std::uint64_t fail_at = ~std::uint64_t{0};
  bool hold = false;  // until the gate rings
  std::shared_ptr<Doorbell> gate = std::make_shared<Doorbell>();
  std::shared_ptr<std::atomic<int>> runs = std::make_shared<std::atomic<int>>(0);
  std::atomic<bool> running{false};
};

class DeviceThreadTest : public testing::Test {
 protected:
  void start(int depth, FaultPlan* faults = nullptr) {
    device_ = std::make_unique<DeviceThread>(std::move(runner_), depth, bell_, faults);
  }
  void launch(std::uint64_t step, int tokens = 0) {
    Batch batch;
    batch.step = step;
    batch.words.resize(tokens);
    device_->launch(batch);
  }
  StepResult& next() {
    for (;;) {
      const std::uint32_t seen = bell_->seen();
      if (StepResult* result = device_->poll()) return *result;
      bell_->wait(seen, 1h);
    }
  }

  std::shared_ptr<Doorbell> bell_ = std::make_shared<Doorbell>();
  std::unique_ptr<EchoRunner> runner_ = std::make_unique<EchoRunner>();
  EchoRunner& echo_ = *runner_;
  std::shared_ptr<std::atomic<int>> runs_ = runner_->runs;
  std::unique_ptr<DeviceThread> device_;
};

std::string message_of(const StepResult& result) {
  try {
    if (result.error) std::rethrow_exception(result.error);
  } catch (const Error& error) {
    return std::string(error.message());
  }
  return "";
}

TEST_F(DeviceThreadTest, GivesEveryResultInTheOrderOfLaunch) {
  for (const int depth : {1, 2, 3}) {
    runner_ = std::make_unique<EchoRunner>();
    start(depth);
    std::uint64_t launched = 0, given = 0;
    while (given < 3000) {
      while (launched < given + depth) launch(launched++);
      ASSERT_EQ(next().us, static_cast<double>(given++));
    }
  }
}

TEST_F(DeviceThreadTest, AResultStaysAsItIsUntilTheNextPoll) {
  start(2);
  launch(0, 7);
  StepResult& result = next();
  launch(1, 8);
  launch(2, 9);
  while (runs_->load() < 3) std::this_thread::yield();
  EXPECT_EQ(result.sampled.tokens[0], 7);
  EXPECT_EQ(next().sampled.tokens[0], 8);
  EXPECT_EQ(next().sampled.tokens[0], 9);
  EXPECT_EQ(device_->poll(), nullptr);
}

TEST_F(DeviceThreadTest, GivesBackTheMemoryOfOldBatches) {
  start(1);
  Batch batch;
  for (std::uint64_t step = 0; step < 3; ++step) {  // as many batches as there are
    batch = {};
    batch.words.reserve(100);
    device_->launch(batch);
    next();
  }
  for (std::uint64_t step = 3; step < 8; ++step) {
    device_->launch(batch);
    EXPECT_GE(batch.words.capacity(), 100u);
    next();
  }
}

TEST_F(DeviceThreadTest, RefusesMorePlansThanFit) {
  start(2);
  launch(0);
  launch(1);
  expect_error(ErrorCode::internal, "2 batches are in flight", [&] { launch(2); });
}

TEST_F(DeviceThreadTest, AfterAnErrorNoPlanIsRun) {
  runner_->fail_at = 1;
  start(3);
  for (std::uint64_t step = 0; step < 3; ++step) launch(step);
  EXPECT_EQ(message_of(next()), "");
  EXPECT_EQ(message_of(next()), "step 1 failed");
  EXPECT_EQ(message_of(next()), "step 1 failed");
  EXPECT_EQ(runs_->load(), 1);
}

TEST_F(DeviceThreadTest, AFaultInLaunchLeavesThePlan) {
  FaultPlan faults(0);
  start(1, &faults);
  Batch batch;
  batch.step = 5;
  expect_error(ErrorCode::device, "injected fault: launch", [&] { device_->launch(batch); });
  EXPECT_EQ(batch.step, 5u);
  device_->launch(batch);
  EXPECT_EQ(next().us, 5);
}

TEST_F(DeviceThreadTest, AFaultOfTheDeviceComesAsAResult) {
  FaultPlan faults(1);
  start(1, &faults);
  launch(0);
  EXPECT_EQ(message_of(next()), "injected fault: step");
  EXPECT_EQ(runs_->load(), 0);
}

TEST_F(DeviceThreadTest, EndsAfterTheStepThatIsRunning) {
  runner_->hold = true;
  const std::shared_ptr<Doorbell> gate = runner_->gate;
  start(2);
  launch(0);
  launch(1);
  while (!echo_.running.load()) std::this_thread::yield();
  std::thread opener([&] { gate->ring(); });
  device_.reset();
  opener.join();
  EXPECT_GE(runs_->load(), 1);
  EXPECT_LE(runs_->load(), 2);
}

}  // namespace
}  // namespace warpjet
