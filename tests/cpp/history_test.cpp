// The machine that proves the engine: thousands of random histories, the kept ones that once failed, and what must hold
// between histories.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "history.h"
#include "token_ranges.h"

namespace warpjet::history {
namespace {

TEST(Histories, EverySampleEndsOnceWithTheTokensThatItWouldHaveAlone) {
  constexpr std::uint64_t kFirstSeed = 1, kCount = 5000;
  Totals t;
  const std::string failure = run_many(kFirstSeed, kCount, 2, 1e9, t);
  std::cout << "seeds " << kFirstSeed << " to " << kFirstSeed + kCount - 1 << ": " << to_text(t) << "\n";
  ASSERT_TRUE(failure.empty()) << failure;
  // The test is worth something only if it visited what it is about.
  EXPECT_EQ(t.histories, std::int64_t{kCount});
  EXPECT_GT(t.requests, 100'000);
  EXPECT_GT(t.stopped, 50'000);
  EXPECT_GT(t.at_length, 50'000);
  EXPECT_GT(t.aborted, 5'000);
  EXPECT_GT(t.refused, 5'000);
  EXPECT_GT(t.late, 5'000);
  EXPECT_GT(t.too_long, 1'000);
  EXPECT_GT(t.broken, 2'000);
  EXPECT_GT(t.surplus, 20'000);
  EXPECT_GT(t.forks, 20'000);
  EXPECT_GT(t.siblings, 5'000);
  EXPECT_GT(t.rewrites, 20'000);
  EXPECT_GT(t.exchanges, 20'000);
  EXPECT_GT(t.copies, 20'000);
  EXPECT_GT(t.offloads, 50'000);
  EXPECT_GT(t.restores, 10'000);
  EXPECT_GT(t.beyond_window, 50'000);
  EXPECT_GT(t.grouped, 50'000);
  EXPECT_GT(t.cached, 200'000);
  EXPECT_GT(t.masks, 50'000);
  EXPECT_GT(t.completed, 2'000);
  EXPECT_GT(t.dead_ends, 1'000);
  EXPECT_GT(t.preemptions, 8'000);
  EXPECT_GT(t.swaps, 5'000);
  EXPECT_GT(t.pauses, 10'000);
  EXPECT_GT(t.events, 100'000);
  EXPECT_GT(t.closes, 100);
}

TEST(Histories, TheOnesThatOnceFailedPass) {
  for (const auto& entry : std::filesystem::directory_iterator(WARPJET_TEST_HISTORIES)) {
    std::ifstream file(entry.path());
    Totals totals;
    const History history = parse_history({std::istreambuf_iterator<char>(file), {}});
    EXPECT_EQ(run_and_explain(history, entry.path().stem(), totals), "") << entry.path();
  }
}

TEST(Histories, ReadBackAsTheyWerePrinted) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    const std::string text = to_text(make_history(seed));
    EXPECT_EQ(to_text(parse_history(text)), text);
  }
}

TEST(Histories, AreTheSameEveryTime) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    const History history = make_history(seed);
    EXPECT_EQ(to_text(run(history).totals), to_text(run(history).totals)) << "seed " << seed;
  }
}

// Tokens by request of the script, whatever numbers the engine gave them.
std::map<std::pair<int, int>, Tokens> outcomes(const History& history) {
  const Report report = run(history);
  EXPECT_EQ(report.failure, "");
  std::map<std::pair<int, int>, Tokens> tokens;
  for (const auto& [sample, text] : report.results) tokens[{report.labels.at(sample.first), sample.second}] = text;
  return tokens;
}

// Other blocks, batches, policies, tiers and pace: the same tokens (I13).
TEST(Histories, TokensDoNotDependOnHowTheEngineRuns) {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    History one = make_history(seed), two = one;
    const History other = make_history(seed + 1000);
    two.settings = other.settings;
    two.settings.model_len = one.settings.model_len;
    two.settings.rope_original = one.settings.rope_original;
    std::erase_if(two.commands, [](const Command& c) { return c.kind != Command::Kind::submit; });
    for (const Command& command : other.commands) {
      if (command.kind == Command::Kind::step || command.kind == Command::Kind::read) two.commands.push_back(command);
    }
    const auto first = outcomes(one), second = outcomes(two);
    for (const auto& [sample, tokens] : first) {
      const auto found = second.find(sample);
      const Command& submission = *std::ranges::find_if(
          one.commands, [&](const Command& c) { return c.kind == Command::Kind::submit && c.a == sample.first; });
      if (found == second.end() || submission.submission.seed == 0) continue;  // the engine draws seeds by number
      EXPECT_EQ(tokens, found->second) << "seed " << seed << ", request " << sample.first << "." << sample.second;
      ++compared;
    }
  }
  EXPECT_GT(compared, 1500);
}

// The scheduler alone, for what cannot be seen from outside.
class LoneScheduler {
 public:
  explicit LoneScheduler(const Settings& s)
      : kv_({.num_blocks = s.blocks + 1,
             .num_host_blocks = s.host_blocks,
             .block_size = s.block_size,
             .windows = s.windows(),
             .prefix_caching = s.caching != 0,
             .hash_mask = s.queued % 2 == 0 ? 3 : ~std::uint64_t{0}}),
        scheduler_({.max_num_seqs = s.seqs,
                    .max_batched_tokens = s.batch,
                    .max_in_flight = s.depth,
                    .chunked_prefill = s.chunked != 0,
                    .admission_quantile = s.quantile / 100.0,
                    .preemption = s.host_blocks > 0 ? Preemption::swap : Preemption::recompute},
                   kv_) {}

  void add(const Submission& submission, const Settings& settings) {
    auto s = std::make_unique<Sequence>();
    s->id = ++ids_;
    s->tokens.assign(submission.prompt.begin(), submission.prompt.end());
    s->prompt_length = s->length();
    if (s->length() >= settings.model_len) return;
    s->max_length = std::min(settings.model_len, s->length() + std::max(1, submission.max_tokens));
    try {
      scheduler_.add(std::move(s), now_);
    } catch (const Error&) {  // more than fits
    }
    scheduler_.check();
  }

  // Plans as much as may be in flight. Whether nothing could be planned, and nothing else changed.
  bool plan(int depth) {
    while (scheduler_.num_in_flight() < depth) {
      const std::uint64_t before = scheduler_.digest(), blocks = kv_.digest();
      const std::int64_t preemptions = scheduler_.num_preemptions();
      if (scheduler_.schedule(batch_, now_)) {
        samples_.push_back(batch_.num_samples());
        continue;
      }
      // Somebody may have lost its blocks, or have found a prefix that is worth waiting for: that is all there was to
      // do.
      const std::uint64_t after = scheduler_.digest();
      EXPECT_TRUE(kv_.digest() == blocks || scheduler_.num_preemptions() > preemptions);
      EXPECT_FALSE(scheduler_.schedule(batch_, now_));
      EXPECT_EQ(scheduler_.digest(), after);
      return before == after;
    }
    return false;
  }

  void retire() {
    if (samples_.empty()) return;
    const TokenRanges sampled = one_token_each(samples_.front(), 3);
    samples_.pop_front();
    const auto rows = scheduler_.retire(sampled, now_ += 100);
    for (const Scheduler::Row& row : std::vector(rows.begin(), rows.end())) {
      if (row.sequence && row.sequence->length() == row.sequence->max_length) scheduler_.remove(*row.sequence, now_);
    }
    scheduler_.check();
  }

 private:
  KvBlocks kv_;
  Scheduler scheduler_;
  Batch batch_;
  std::deque<int> samples_;
  SequenceId ids_ = 0;
  Micros now_ = 0;
};

TEST(Scheduler, APlanOfNothingChangesNothing) {
  int same = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    const History history = make_history(seed);
    const Settings& settings = history.settings;
    LoneScheduler scheduler(settings);
    for (const Command& command : history.commands) {
      if (command.kind == Command::Kind::submit && !command.submission.prompt.empty()) {
        scheduler.add(command.submission, settings);
      } else {
        same += scheduler.plan(settings.depth);
        if (command.kind != Command::Kind::turn) scheduler.retire();
      }
      ASSERT_FALSE(HasFailure()) << "seed " << seed;
    }
  }
  EXPECT_GT(same, 1000);
}

}  // namespace
}  // namespace warpjet::history
