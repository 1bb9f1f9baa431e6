// The output queue: what becomes one output, wake-ups, read credits, and threads that stream through it.
#include "runtime/output_queue.h"
#include "error_kit.h"

#include <gtest/gtest.h>

#include <poll.h>

#include <cstdlib>
#include <new>
#include <thread>

namespace {
thread_local std::int64_t allocations = 0;
thread_local bool memory_is_short = false;
}  // namespace

// Not inlined: the compiler would see a malloc() that is freed by delete.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  void* const data = memory_is_short ? nullptr : std::malloc(bytes);
  if (!data) throw std::bad_alloc();
  return data;
}
[[gnu::noinline]] void operator delete(void* data) noexcept {
  std::free(data);
}
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept {
  std::free(data);
}

namespace warpjet {
namespace {

using namespace std::chrono_literals;
using Tokens = std::vector<std::int32_t>;

class OutputQueueTest : public testing::Test {
 protected:
  ReadCredit* open(int samples = 1) { return queue_.open(samples, bell_); }

  void push(RequestId id, std::uint32_t sequence, std::int32_t token, ReadCredit* credit, std::int32_t sample = 0) {
    queue_.push({.id = id, .credit = credit, .sample = sample, .token = token, .sequence = sequence});
  }
  void push(Output details, std::int32_t token, ReadCredit* credit) {
    OutputEvent event = {
        .id = details.id, .credit = credit, .sample = details.sample, .token = token, .sequence = details.sequence};
    event.details = std::make_unique<Output>(std::move(details));
    queue_.push(std::move(event));
  }
  void push_final(RequestId id, std::uint32_t sequence, ReadCredit* credit) {
    push({.id = id, .sequence = sequence, .finish = FinishReason::length}, -1, credit);
  }
  std::vector<Output> poll() { return queue_.poll(0ns); }
  bool readable() {
    pollfd fd = {.fd = queue_.event_fd, .events = POLLIN, .revents = 0};
    return ::poll(&fd, 1, 0) == 1;
  }

  OutputQueue::State queue_;
  std::shared_ptr<Doorbell> bell_ = std::make_shared<Doorbell>();
};

// --- Outputs

TEST_F(OutputQueueTest, NothingIsSeenBeforeItIsPublished) {
  ReadCredit* credit = open();
  push(1, 0, 10, credit);
  EXPECT_TRUE(poll().empty());
  EXPECT_FALSE(readable());
  queue_.publish();
  EXPECT_TRUE(readable());
  EXPECT_EQ(poll().size(), 1u);
}

TEST_F(OutputQueueTest, EventsOfOneStepBecomeOneOutput) {
  ReadCredit* credit = open(2);
  push(1, 0, 10, credit);
  push(1, 0, 11, credit);
  push(1, 0, 12, credit, 1);
  push(1, 1, 13, credit, 1);
  queue_.publish();
  const std::vector<Output> outputs = poll();
  ASSERT_EQ(outputs.size(), 3u);
  EXPECT_EQ(outputs[0].tokens, Tokens({10, 11}));
  EXPECT_EQ(outputs[0].sample, 0);
  EXPECT_EQ(outputs[1].tokens, Tokens({12}));
  EXPECT_EQ(outputs[1].sample, 1);
  EXPECT_EQ(outputs[2].tokens, Tokens({13}));
  EXPECT_EQ(outputs[2].sequence, 1u);
  EXPECT_EQ(outputs[2].id, 1u);
}

TEST_F(OutputQueueTest, DetailsJoinTheTokensOfTheirOutput) {
  ReadCredit* credit = open();
  push({.id = 1, .logprobs = {{{10, -1.0f, 1}}}, .prompt_logprobs = {{}, {{5, -2.0f, 1}}}}, 10, credit);
  push({.id = 1, .logprobs = {{{11, -3.0f, 1}}}, .prompt_tokens = 2}, 11, credit);
  push({.id = 1, .finish = FinishReason::stop, .stop_token = 11, .prompt_tokens = 2, .ttft_ms = 7}, -1, credit);
  queue_.publish();
  const std::vector<Output> outputs = poll();
  ASSERT_EQ(outputs.size(), 1u);
  EXPECT_EQ(outputs[0].tokens, Tokens({10, 11}));
  ASSERT_EQ(outputs[0].logprobs.size(), 2u);
  EXPECT_EQ(outputs[0].logprobs[1][0].token, 11);
  EXPECT_EQ(outputs[0].prompt_logprobs.size(), 2u);
  EXPECT_EQ(outputs[0].finish, FinishReason::stop);
  EXPECT_EQ(outputs[0].stop_token, 11);
  EXPECT_EQ(outputs[0].prompt_tokens, 2);
  EXPECT_EQ(outputs[0].ttft_ms, 7);
}

// --- Memory

TEST_F(OutputQueueTest, PushLeavesTheEventWhenMemoryIsShort) {
  ReadCredit* credit = open();
  const auto event_of = [&](int i) {
    OutputEvent event = {.id = 1, .credit = credit, .token = i, .sequence = static_cast<std::uint32_t>(i)};
    event.details = std::make_unique<Output>();
    return event;
  };
  int pushed = 0;
  for (bool refused = false; !refused;) {
    OutputEvent event = event_of(pushed);
    memory_is_short = true;
    try {
      queue_.push(std::move(event));
    } catch (const std::bad_alloc&) {
      refused = true;
    }
    memory_is_short = false;
    if (refused) {
      ASSERT_NE(event.details, nullptr);
      queue_.push(std::move(event));
    }
    ++pushed;
  }
  queue_.publish();
  const std::vector<Output> outputs = poll();
  ASSERT_EQ(std::ssize(outputs), pushed);
  for (int i = 0; i < pushed; ++i) EXPECT_EQ(outputs[i].tokens, Tokens({i}));
}

TEST_F(OutputQueueTest, APollThatFoundNoMemoryLosesNothing) {
  ReadCredit* credit = open();
  push({.id = 1, .logprobs = {{{10, -1.0f, 1}}}}, 10, credit);
  push(1, 0, 11, credit);
  push_final(1, 1, credit);
  queue_.publish();
  memory_is_short = true;
  EXPECT_THROW(poll(), std::bad_alloc);
  memory_is_short = false;
  const std::vector<Output> outputs = poll();
  ASSERT_EQ(outputs.size(), 2u);
  EXPECT_EQ(outputs[0].tokens, Tokens({10, 11}));
  EXPECT_EQ(outputs[0].logprobs.size(), 1u);
  EXPECT_TRUE(outputs[1].is_final());
}

TEST_F(OutputQueueTest, SteadyStreamingAllocatesNothingInTheEngine) {
  ReadCredit* credit = open();
  const auto stream = [&](int steps) {
    std::int64_t engine = 0;
    for (int step = 0; step < steps; ++step) {
      const std::int64_t before = allocations;
      for (int i = 0; i < 100; ++i) push(1, step, i, credit);
      queue_.publish();
      engine += allocations - before;
      poll();
    }
    return engine;
  };
  stream(20);
  EXPECT_EQ(stream(1000), 0);
}

// --- Readers

TEST_F(OutputQueueTest, TheDescriptorIsReadableWhileOutputsWait) {
  ReadCredit* credit = open();
  for (int round = 0; round < 3; ++round) {
    EXPECT_FALSE(readable());
    push(1, 0, 10, credit);
    queue_.publish();
    push(1, 1, 11, credit);
    queue_.publish();
    EXPECT_TRUE(readable());
    EXPECT_EQ(poll().size(), 2u);
  }
}

TEST_F(OutputQueueTest, PollWaitsNoLongerThanItsTimeout) {
  const auto start = Clock::now();
  EXPECT_TRUE(queue_.poll(3ms).empty());
  EXPECT_GE(Clock::now() - start, 3ms);
  EXPECT_TRUE(queue_.poll(-1ns).empty());
}

TEST_F(OutputQueueTest, ReadingCountsTokensAndRingsOnlyWhenTheEngineWaits) {
  ReadCredit* credit = open();
  const std::uint32_t seen = bell_->seen();
  push(1, 0, 10, credit);
  push(1, 1, 11, credit);
  queue_.publish();
  poll();
  EXPECT_EQ(credit->read.load(), 2);
  EXPECT_EQ(bell_->seen(), seen);

  credit->wanted = true;
  push(1, 2, 12, credit);
  push(1, 3, 13, credit);
  queue_.publish();
  poll();
  EXPECT_EQ(credit->read.load(), 4);
  EXPECT_EQ(bell_->seen(), seen + 1);
}

// The credit holds the bell: its uses tell how many credits there are.
TEST_F(OutputQueueTest, ACreditEndsWithTheLastFinalOutput) {
  ReadCredit* credit = open(2);
  ReadCredit* unused = open();
  const long with_both = bell_.use_count();
  queue_.close(unused);
  EXPECT_EQ(bell_.use_count(), with_both - 1);
  push_final(1, 0, credit);
  queue_.publish();
  EXPECT_EQ(poll().size(), 1u);
  EXPECT_EQ(bell_.use_count(), with_both - 1);
  push_final(1, 0, credit);
  queue_.publish();
  EXPECT_EQ(poll().size(), 1u);
  EXPECT_EQ(bell_.use_count(), with_both - 2);
}

TEST_F(OutputQueueTest, BelongsToOneEngineWhileItHasRequests) {
  const auto other = std::make_shared<Doorbell>();
  ReadCredit* credit = open();
  expect_error(ErrorCode::invalid_argument, "another engine", [&] { queue_.open(1, other); });
  push_final(1, 0, credit);
  queue_.publish();
  poll();
  EXPECT_NE(queue_.open(1, other), nullptr);
}

TEST(OutputQueueState, TakesUnreadOutputsWithIt) {
  const auto bell = std::make_shared<Doorbell>();
  {
    OutputQueue::State queue;
    ReadCredit* credit = queue.open(1, bell);
    for (int i = 0; i < 1000; ++i) {
      OutputEvent event = {.id = 1, .credit = credit};
      event.details = std::make_unique<Output>();
      queue.push(std::move(event));
    }
    queue.publish();
  }
  EXPECT_EQ(bell.use_count(), 1);
}

// --- Threads

// A lost wake-up would leave a reader waiting for an hour.
TEST_F(OutputQueueTest, SeveralReadersGetEveryTokenOnceAndInOrder) {
  constexpr int kReaders = 3, kRequests = 8, kSteps = 20'000;
  std::vector<ReadCredit*> credits;
  for (int i = 0; i < kRequests; ++i) credits.push_back(open());
  ReadCredit* late = open();
  std::atomic<int> finals{0}, reading{kReaders};
  std::atomic<std::int64_t> sum{0}, count{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.emplace_back([&] {
      while (finals.load() < kRequests) {
        std::uint32_t last[kRequests + 1] = {};
        for (const Output& output : queue_.poll(1h)) {
          EXPECT_GE(output.sequence, last[output.id]);
          last[output.id] = output.sequence;
          for (const std::int32_t token : output.tokens) sum += token;
          count += std::ssize(output.tokens);
          finals += output.is_final();
        }
      }
      --reading;
    });
  }
  std::int64_t sent = 0;
  for (int step = 0; step < kSteps; ++step) {
    for (int id = step % 2; id < kRequests; id += 2) {
      push(id, step, step, credits[id]);
      sent += step;
    }
    queue_.publish();
    if (step % 64 == 0) std::this_thread::yield();
  }
  for (int id = 0; id < kRequests; ++id) push_final(id, kSteps, credits[id]);
  queue_.publish();
  for (std::uint32_t step = 0; reading.load() > 0; ++step) {  // whoever still waits when all is read
    push(kRequests, step, 0, late);
    queue_.publish();
    std::this_thread::yield();
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(sum.load(), sent);
  EXPECT_GE(count.load(), std::int64_t{kSteps} * kRequests / 2);
}

// The writer waits for the reader after every token, so both sleep all the time.
TEST_F(OutputQueueTest, NoWakeUpIsLostEitherWay) {
  constexpr int kTokens = 20'000;
  ReadCredit* credit = open();
  std::thread engine([&] {
    for (int i = 0; i < kTokens; ++i) {
      push(1, i, i, credit);
      queue_.publish();
      credit->wanted.store(true);
      for (;;) {
        const std::uint32_t seen = bell_->seen();
        if (credit->read.load() > i) break;
        bell_->wait(seen, 1h);
      }
      credit->wanted.store(false);
    }
  });
  for (int i = 0; i < kTokens;) {
    for (const Output& output : queue_.poll(1h)) {
      ASSERT_EQ(output.tokens, Tokens({i}));
      ++i;
    }
  }
  engine.join();
  EXPECT_EQ(credit->read.load(), kTokens);
}

}  // namespace
}  // namespace warpjet
