// Faults by enumeration: a scenario is run once to count the places where something may go wrong, then once for each of
// them, which goes wrong. Whatever it is, every accepted request gets its final outputs, once; either the engine goes
// on and only requests suffer that had to, or it has failed as a whole and says so.
#include <gtest/gtest.h>

#include <iostream>
#include <new>
#include <thread>

#include <warpjet/warpjet.h>

#include "history.h"
#include "history_shortage.h"

namespace warpjet::history {
namespace {

struct Scenario {
  const char* name;
  const char* script;
};

constexpr Scenario kScenarios[] = {
    {"pressure: prompts share beginnings, outputs are preempted and computed anew", R"(
settings blocks=9 block_size=2 batch=8 quantile=0 events=1000 depth=2 preemption=2
submit 1 prompt=3,4,3,4,5,6 max_tokens=9 seed=1
submit 2 prompt=3,4,3,4,5,7 max_tokens=7 seed=2
submit 3 prompt=3,4,8 max_tokens=6 seed=3 logprobs=2 queue=1
step 3
submit 4 prompt=3,4,3,4,5,6,7,8 max_tokens=5 seed=4 prompt_logprobs=1
step 6
cancel 2 -1
submit 5 prompt=9,3 max_tokens=8 seed=5 salt=1 deadline=2000
step 3
reset
read 0
step 4)"},
    {"swap: preempted to the host, evicted to the host, restored", R"(
settings blocks=8 block_size=2 host_blocks=7 batch=6 quantile=0 events=1000 depth=3 preemption=1 seqs=3
submit 1 prompt=3,4,3,4 max_tokens=8 seed=1 ignore_eos=1
submit 2 prompt=3,4,3,5 max_tokens=8 seed=2 ignore_eos=1
submit 3 prompt=5,4,3,5,3 max_tokens=6 seed=3
step 8
pause 1
step 2
submit 4 prompt=3,4,3,4,5 max_tokens=4 seed=4
resume 1
step 8
submit 5 prompt=3,4,3,4,5 max_tokens=4 seed=5)"},
    {"samples and beams: siblings of one prompt, hypotheses that fork", R"(
settings blocks=16 block_size=2 batch=12 seqs=5 depth=2 host_blocks=3 unread=5
submit 1 prompt=3,4,3,4,5 max_tokens=6 n=3 seed=1
submit 2 prompt=3,4,6 max_tokens=5 beams=3 seed=2
step 5
cancel 1 1
submit 3 prompt=3,4,6,5,3 max_tokens=4 beams=2 seed=3 queue=1
step 4
pause 2
step 2
resume 2
submit 4 prompt=7,3,4 max_tokens=6 n=2 seed=4)"},
    {"guides: masks that come late, for samples that were preempted meanwhile", R"(
settings blocks=9 block_size=2 batch=8 quantile=0 depth=2 preemption=1 host_blocks=4 seqs=4
submit 1 prompt=3,4,3,4,5,6 max_tokens=9 n=2 seed=1 guided=1
submit 2 prompt=3,4,3,4,5,7 max_tokens=7 seed=2
submit 3 prompt=3,4,8 max_tokens=6 seed=3 logprobs=2 queue=1 guided=1
step 3
guide 1
submit 4 prompt=3,4,3,4,5,6,7,8 max_tokens=5 seed=4 guided=1
step 3
guide 2
step 2
pause 3
guide 9
cancel 1 0
step 2
resume 3
guide 9
step 3
guide 9
step 3)"},
    {"close: with everything under way", R"(
settings blocks=12 block_size=2 host_blocks=4 batch=8 depth=3 events=100
submit 1 prompt=3,4,3,4,5 max_tokens=6 n=2 seed=1
submit 2 prompt=3,4,6 max_tokens=5 beams=2 seed=2
submit 3 prompt=3,4,6 max_tokens=8 seed=3
step 3
turn 2
submit 4 prompt=3,4,6 max_tokens=8 seed=4
close)"},
};

struct Tally {
  int runs = 0, engine_failed = 0, no_memory = 0;
  void print() const {
    std::cout << runs << " faults: " << engine_failed << " failed engines, " << no_memory << " failed requests alone\n";
  }
};

TEST(Faults, ScenariosAreWellWithoutAny) {
  Totals totals;
  for (const auto& [name, script] : kScenarios) {
    const Report report = run(parse_history(script));
    EXPECT_EQ(report.failure, "") << name;
    totals += report.totals;
  }
  std::cout << to_text(totals) << "\n";
  EXPECT_GT(totals.preemptions, 2);
  EXPECT_GT(totals.swaps, 2);
  EXPECT_GT(totals.restores, 2);
  EXPECT_GT(totals.forks, 2);
  EXPECT_GT(totals.siblings, 2);
}

// The scenarios, all of whose places fail in turn, and random histories, where it is every so many.
struct Subject {
  std::string name;
  History history;
  std::int64_t most;  // places that fail
};
std::vector<Subject> subjects() {
  constexpr std::uint64_t kSeeds = 25;
  constexpr std::int64_t kMost = 16;
  std::vector<Subject> all;
  for (const auto& [name, script] : kScenarios) all.push_back({name, parse_history(script), INT64_MAX});
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) all.push_back({cat("seed ", seed), make_history(seed), kMost});
  return all;
}

// fails(i) runs with the i-th of `count` places failing.
void enumerate(const Subject& subject, std::int64_t count, Tally& tally, const auto& fails) {
  const std::int64_t stride = std::max<std::int64_t>(1, count / subject.most);
  for (std::int64_t i = stride / 2; i < count; i += stride) {
    const Report report = fails(i);
    ASSERT_EQ(report.failure, "") << subject.name << ", place " << i << "\n" << to_text(subject.history);
    ++tally.runs;
    tally.engine_failed += report.engine_failed;
    tally.no_memory += report.totals.no_memory > 0 && !report.engine_failed;
  }
}

// Blocks that are scarce, launches, steps and results that fail.
TEST(Faults, EachOfTheEnginesOwnPlaces) {
  Tally tally;
  for (const Subject& subject : subjects()) {
    FaultPlan none;
    ASSERT_EQ(run(subject.history, {.device = {.plan = &none}}).failure, "") << subject.name;
    enumerate(subject, none.hits(), tally, [&](std::int64_t i) {
      FaultPlan plan(i);
      const Report report = run(subject.history, {.device = {.plan = &plan}, .injected = true});
      // When blocks are scarce once, nobody has to suffer: what can be had is had later.
      EXPECT_TRUE(report.engine_failed || report.totals.no_memory == 0) << subject.name << ", place " << i;
      return report;
    });
    if (HasFailure()) return;
  }
  tally.print();
  EXPECT_GT(tally.engine_failed, 100);
  EXPECT_GT(tally.runs - tally.engine_failed, 50);
}

// Every allocation of the engine's own work, alone and with the next few.
TEST(Faults, EachAllocationOfATurn) {
  Faults faults{.check = false, .injected = true};
  faults.turn = [](StepLoop& loop) {
    shortage().armed = true;
    const bool goes_on = loop.turn();
    shortage().armed = false;
    return goes_on;
  };
  Tally tally;
  for (const Subject& subject : subjects()) {
    shortage() = {};
    ASSERT_EQ(run(subject.history, faults).failure, "") << subject.name;
    const std::int64_t count = shortage().count;
    for (const std::int64_t failures : {1, 4}) {
      enumerate(subject, count, tally, [&](std::int64_t i) {
        shortage() = {.fail_at = i, .failures = failures};
        return run(subject.history, faults);
      });
      if (HasFailure()) return;
    }
  }
  tally.print();
  EXPECT_GT(tally.engine_failed, 500);
  EXPECT_GT(tally.no_memory, 10);
}

// Until the engine has taken back the place of the request before it; false when it never does.
bool accepted_in_the_end(Engine& engine, OutputQueue& queue, const Request& request) {
  for (const auto end = Clock::now() + std::chrono::minutes(5); Clock::now() < end;) {
    try {
      engine.submit(request, queue);
      return true;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::overloaded) throw;
      std::this_thread::yield();
    }
  }
  return false;
}

TEST(Faults, ASubmissionThatRunsOutOfMemoryTakesNoPlace) {
  const auto engine = Engine::open(std::filesystem::path(WARPJET_MODELS) / "tiny",
                                   {.device = "null", .max_num_queued_reqs = 1, .max_num_queued_reqs_per_tenant = 1});
  OutputQueue queue;
  const Request request = {.prompt = {1, 5, 9},
                           .sampling = {.max_tokens = 1},
                           .tenant = "a name that is too long to be kept without an allocation"};
  int failures = 0;
  for (bool accepted = false; !accepted;) {
    Request copy = request;
    shortage() = {.armed = true, .fail_at = failures};
    try {
      engine->submit(std::move(copy), queue);
      accepted = true;
    } catch (const std::bad_alloc&) {
      ++failures;
    } catch (const Error&) {  // the place of the request before is not free yet
    }
    shortage() = {};
    ASSERT_TRUE(accepted_in_the_end(*engine, queue, request)) << "after allocation " << failures << " failed";
  }
  EXPECT_GT(failures, 5);
}

TEST(Faults, ADeviceThatFailsOrFallsSilentAtAnyStep) {
  Tally tally;
  for (const Subject& subject : subjects()) {
    const std::int64_t steps = run(subject.history).totals.steps;
    enumerate(subject, steps, tally, [&](std::int64_t i) {
      return run(subject.history, {.device = {.error_at = static_cast<int>(i) + 1}, .injected = true});
    });
    enumerate(subject, steps, tally, [&](std::int64_t i) {
      const StepwiseExecutor::Faults silent{.silent_from = static_cast<int>(i) + 1};
      return run(subject.history, {.device = silent, .watchdog_s = 0.05, .injected = true});
    });
    if (HasFailure()) return;
  }
  tally.print();
  EXPECT_GT(tally.engine_failed, tally.runs / 2);
}

}  // namespace
}  // namespace warpjet::history
