// Snapshots, over a device that computes nothing: what they tell of blocks, sequences and steps, and that nothing is
// kept while nobody looks.
#include "counted_allocations.h"
#include "runtime/runtime.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <set>
#include <thread>

namespace warpjet {
namespace {

constexpr int kBlock = 16, kBlocks = 63;
constexpr std::uint8_t kFree = 0, kCached = 255;

StepLoop::Config small_config(std::atomic<Micros>* clock) {
  StepLoop::Config config;
  config.engine.max_model_len = config.model.max_model_len = 512;
  config.engine.max_num_seqs = 8;
  config.engine.max_num_batched_tokens = 64;
  config.engine.block_size = kBlock;
  config.model.vocab_size = 1000;
  config.model.eos_token_ids = {2};
  config.num_blocks = kBlocks + 1;
  config.check = true;
  config.manual = clock != nullptr;
  config.clock = clock;
  return config;
}

std::unique_ptr<StepLoop> make_loop(const StepLoop::Config& config) {
  const int depth = config.engine.max_steps_in_flight;
  const int slots = num_slots(config.engine.max_num_seqs, depth);
  return std::make_unique<StepLoop>(config, std::make_unique<NullExecutor>(depth, slots, config.model),
                                    std::make_shared<Doorbell>());
}

std::vector<std::int32_t> prompt_of(int length, int first = 1) {
  std::vector<std::int32_t> prompt(length);
  std::iota(prompt.begin(), prompt.end(), first);
  return prompt;
}

// Driven by hand; each turn is a millisecond.
struct Loop {
  explicit Loop(StepLoop::Config config) : loop(make_loop(config)) {}
  Loop() : Loop(small_config(&clock)) {}

  RequestId submit(std::vector<std::int32_t> prompt, SamplingParams params) {
    return loop->submit({.prompt = std::move(prompt), .sampling = std::move(params)}, queue);
  }
  void turn(int times = 1) {
    for (int i = 0; i < times; ++i) clock += 1000, loop->turn();
  }
  void finish(std::int64_t requests) {
    for (int turns = 0; loop->stats().finished < requests && turns < 10000; ++turns) turn();
    ASSERT_EQ(loop->stats().finished, requests);
  }
  const Snapshot::Sequence* find(const Snapshot& snapshot, RequestId id, int sample = 0) {
    const auto found = std::ranges::find_if(
        snapshot.sequences, [&](const Snapshot::Sequence& s) { return s.id == id && s.sample == sample; });
    return found == snapshot.sequences.end() ? nullptr : &*found;
  }

  std::atomic<Micros> clock{1'000'000};
  std::shared_ptr<OutputQueue::State> queue = std::make_shared<OutputQueue::State>();
  std::unique_ptr<StepLoop> loop;
};

TEST(Snapshot, AnIdleEngineShowsItsSizesAndFreeBlocks) {
  Loop loop;
  const Snapshot snapshot = loop.loop->snapshot(0);
  EXPECT_EQ(snapshot.kv_blocks, kBlocks);
  EXPECT_EQ(snapshot.block_size, kBlock);
  EXPECT_EQ(snapshot.max_model_len, 512);
  EXPECT_EQ(snapshot.max_num_seqs, 8);
  EXPECT_EQ(snapshot.pool, std::vector<std::uint8_t>(kBlocks, kFree));
  EXPECT_TRUE(snapshot.sequences.empty() && snapshot.steps.empty());
}

TEST(Snapshot, TheBlocksOfARequestAppearAndGo) {
  Loop loop;
  loop.loop->snapshot(0);
  const RequestId id = loop.submit(prompt_of(40), {.max_tokens = 30});
  loop.turn(3);
  const Snapshot running = loop.loop->snapshot(0);
  const Snapshot::Sequence* sequence = loop.find(running, id);
  ASSERT_TRUE(sequence);
  EXPECT_EQ(sequence->state, "running");
  EXPECT_EQ(sequence->prompt, 40);
  EXPECT_GT(sequence->output, 0);
  EXPECT_EQ(sequence->computed, 40 + sequence->output - 1);
  EXPECT_GE(std::ssize(sequence->blocks) * kBlock, sequence->computed);
  for (const std::int32_t block : sequence->blocks) EXPECT_EQ(running.pool.at(block), 1);
  EXPECT_EQ(std::ranges::count(running.pool, 1), std::ssize(sequence->blocks));

  loop.finish(1);
  const Snapshot after = loop.loop->snapshot(running.step);
  EXPECT_TRUE(after.sequences.empty());
  EXPECT_EQ(std::ranges::count(after.pool, kCached), (40 + 29) / kBlock) << "whole blocks are kept for others";
  EXPECT_EQ(std::ranges::count(after.pool, kFree), kBlocks - (40 + 29) / kBlock);
  ASSERT_EQ(after.finished.size(), 1u);
  EXPECT_EQ(after.finished[0].id, id);
  EXPECT_EQ(after.finished[0].reason, FinishReason::length);
  EXPECT_EQ(after.finished[0].output_tokens, 30);
  EXPECT_EQ(after.finished[0].step, after.step);
  EXPECT_GT(after.finished[0].total_ms, 0);
}

TEST(Snapshot, ASharedPrefixIsCountedTwice) {
  Loop loop;
  loop.submit(prompt_of(33), {.max_tokens = 1});
  loop.finish(1);
  std::vector<std::int32_t> other = prompt_of(33);
  other.back() = 999;
  const RequestId a = loop.submit(prompt_of(33), {.max_tokens = 100});
  const RequestId b = loop.submit(other, {.max_tokens = 100});
  loop.turn(3);
  const Snapshot snapshot = loop.loop->snapshot(0);
  const Snapshot::Sequence *first = loop.find(snapshot, a), *second = loop.find(snapshot, b);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->cached, 32);
  EXPECT_EQ(second->cached, 32);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(first->blocks[i], second->blocks[i]);
    EXPECT_EQ(snapshot.pool.at(first->blocks[i]), 2);
  }
  EXPECT_NE(first->blocks[2], second->blocks[2]);
  EXPECT_EQ(snapshot.pool.at(first->blocks[2]), 1);
}

TEST(Snapshot, StepsAddUpToThePromptAndTheOutput) {
  Loop loop;
  Snapshot last = loop.loop->snapshot(0);
  const RequestId id = loop.submit(prompt_of(150), {.n = 2, .max_tokens = 25});
  std::map<int, int> computed;  // tokens, by sample
  std::vector<Snapshot::FirstToken> first_tokens;
  std::set<std::uint64_t> steps;
  while (loop.loop->stats().finished < 2) {
    loop.turn(3);
    const Snapshot next = loop.loop->snapshot(last.step);
    for (const Snapshot::Step& step : next.steps) {
      EXPECT_GT(step.step, last.step);
      EXPECT_TRUE(steps.insert(step.step).second) << "told twice";
      for (const Snapshot::Row& row : step.rows) {
        EXPECT_EQ(row.id, id);
        if (computed[row.sample] == 0) computed[row.sample] = row.start;  // of a sibling: the prompt is there
        EXPECT_EQ(row.start, computed[row.sample]) << "steps go on where the one before ended";
        computed[row.sample] += row.count;
      }
    }
    first_tokens.insert(first_tokens.end(), next.first_tokens.begin(), next.first_tokens.end());
    last = next;
  }
  EXPECT_EQ(computed, (std::map<int, int>{{0, 150 + 24}, {1, 150 + 24}})) << "the last token is never computed";
  EXPECT_EQ(std::ssize(steps), static_cast<std::int64_t>(last.step));
  ASSERT_EQ(first_tokens.size(), 1u);
  EXPECT_EQ(first_tokens[0].id, id);
  EXPECT_GT(first_tokens[0].ttft_ms, 0);
}

TEST(Snapshot, WhoWaitsIsPausedOrWasPreemptedSaysSo) {
  StepLoop::Config config;
  std::atomic<Micros> clock{1'000'000};
  config = small_config(&clock);
  config.num_blocks = 13;
  config.engine.admission_quantile = 0;
  Loop loop(config);
  for (int i = 0; i < 6; ++i) loop.submit(prompt_of(20, 100 * i), {.max_tokens = 80});
  const RequestId paused = loop.submit(prompt_of(20, 700), {.max_tokens = 80});
  loop.loop->pause(paused);
  std::set<std::string_view> seen;
  for (int i = 0; i < 500 && loop.loop->stats().finished < 6; ++i) {
    clock += 1000;
    loop.loop->turn();
    const Snapshot snapshot = loop.loop->snapshot(0);
    int held = 0;
    for (const Snapshot::Sequence& s : snapshot.sequences) {
      seen.insert(s.state);
      held += static_cast<int>(s.blocks.size());
      EXPECT_EQ(s.id == paused, s.state == "paused");
      EXPECT_EQ(s.state == "running", !s.blocks.empty());
    }
    int holders = 0;
    for (const std::uint8_t count : snapshot.pool) holders += count == kCached ? 0 : count;
    EXPECT_EQ(holders, held);
    EXPECT_TRUE(std::ranges::is_partitioned(snapshot.sequences, [](const auto& s) { return s.state == "running"; }));
  }
  EXPECT_EQ(seen, (std::set<std::string_view>{"running", "waiting", "paused", "preempted"}));
}

TEST(Snapshot, AnEndBetweenTwoStepsIsNotLost) {
  Loop loop;
  const RequestId id = loop.submit(prompt_of(20), {.max_tokens = 80});
  loop.turn(5);
  const Snapshot before = loop.loop->snapshot(0);
  loop.loop->cancel(id);
  const Snapshot after = loop.loop->snapshot(before.step);
  ASSERT_EQ(after.finished.size(), 1u);
  EXPECT_EQ(after.finished[0].reason, FinishReason::abort);
  EXPECT_GT(after.finished[0].step, before.step);
}

TEST(Snapshot, NothingIsRecordedWhenNobodyLooks) {
  Loop loop;
  loop.submit(prompt_of(20), {.ignore_eos = true, .max_tokens = 400});
  loop.turn(10);
  const Snapshot first = loop.loop->snapshot(0);
  EXPECT_TRUE(first.steps.empty()) << "nobody had looked";
  loop.turn(10);
  const Snapshot second = loop.loop->snapshot(first.step);
  EXPECT_EQ(second.steps.size(), second.step - first.step);
  loop.clock += 2'000'001;
  loop.turn(10);
  const Snapshot late = loop.loop->snapshot(second.step);
  EXPECT_GT(late.step, second.step);
  EXPECT_TRUE(late.steps.empty()) << "whoever looked had gone away";
  loop.turn(2);
  EXPECT_FALSE(loop.loop->snapshot(late.step).steps.empty());
}

TEST(Snapshot, WhatIsKeptIsBounded) {
  std::atomic<Micros> clock{1'000'000};
  StepLoop::Config config = small_config(&clock);
  config.engine.max_num_seqs = config.engine.max_num_batched_tokens = 300;
  config.engine.max_num_queued_reqs = 1000;
  config.num_blocks = 9000;
  config.check = false;
  Loop loop(config);
  loop.loop->snapshot(0);
  for (int i = 0; i < 700; ++i) loop.submit(prompt_of(1, i), {.max_tokens = 500});
  for (int i = 0; i < 150; ++i) loop.loop->turn();
  const Snapshot snapshot = loop.loop->snapshot(0);
  EXPECT_EQ(snapshot.sequences.size(), Snapshot::kMaxSequences);
  EXPECT_EQ(snapshot.steps.size(), Snapshot::kMaxSteps);
  EXPECT_EQ(snapshot.steps.back().step, snapshot.step);
  EXPECT_EQ(snapshot.steps.back().rows.size(), Snapshot::kMaxRows);
}

TEST(Snapshot, WatchingMakesStepsAllocateNothing) {
  std::atomic<Micros> clock{1'000'000};
  StepLoop::Config config = small_config(&clock);
  config.check = false;
  Loop loop(config);
  for (int i = 0; i < 8; ++i) loop.submit(prompt_of(16, 100 * i), {.max_tokens = 400});
  for (int i = 0; i < 100; ++i) loop.loop->turn(), loop.queue->poll({});
  for (const bool watched : {false, true}) {
    if (watched) loop.loop->snapshot(0);
    const std::int64_t before = allocations;
    for (int i = 0; i < 4; ++i) loop.loop->turn();
    EXPECT_EQ(allocations - before, 0) << "watched: " << watched;
  }
}

TEST(Snapshot, AnyThreadMayLookWhileOthersSubmitAndTheEngineEnds) {
  const std::unique_ptr<StepLoop> loop = make_loop(small_config(nullptr));
  const auto queue = std::make_shared<OutputQueue::State>();
  std::atomic<int> closed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      try {
        for (std::uint64_t step = 0;;) step = loop->snapshot(step).step;
      } catch (const Error& error) {
        closed += error.code() == ErrorCode::closed;
      }
    });
  }
  threads.emplace_back([&] {
    for (int i = 0; i < 200; ++i) {
      const RequestId id = loop->submit({.prompt = prompt_of(40, i), .sampling = {.max_tokens = 40}}, queue);
      if (i % 3 == 0) loop->cancel(id);
    }
  });
  threads.back().join();
  while (loop->stats().finished < 200) queue->poll(std::chrono::milliseconds(10));
  loop->close();
  for (int i = 0; i < 2; ++i) threads[i].join();
  EXPECT_EQ(closed, 2) << "who looks at an engine that has ended is told so";
}

}  // namespace
}  // namespace warpjet
